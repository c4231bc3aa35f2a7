//! What a group's files held before vmtide, kept where a reboot forgets it as it forgets the groups.
//!
//! A file for each value of a group: the original and what was written, a line each.

use super::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The groups of which there are notes about their file of this name.
pub(super) fn directories(folder: &Path, file: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("cgroup")).into_iter().flatten().flatten();
    let decode = |name: String| Some(name.strip_suffix(&format!("%2F{file}"))?.replace("%2F", "/").replace("%25", "%"));
    entries.filter_map(|entry| decode(entry.file_name().into_string().ok()?)).map(PathBuf::from).collect()
}

/// The notes about one group.
#[derive(Debug)]
pub(super) struct Note {
    folder: PathBuf,
    name: String,
}

impl Note {
    /// Of the group at `directory`, in `folder`.
    pub(super) fn of(folder: &Path, directory: &Path) -> Self {
        // A path is a name without its slashes; an underscore could make two of them the same.
        let name = directory.display().to_string().replace('%', "%25").replace('/', "%2F");
        Self { folder: folder.join("cgroup"), name }
    }

    /// The original and what was written to the group's value of this name.
    pub(super) fn read(&self, name: &str) -> Option<(String, String)> {
        let text = std::fs::read_to_string(self.path(name)).ok()?;
        let (original, written) = text.split_once('\n')?;
        Some((original.to_owned(), written.trim_end().to_owned()))
    }

    pub(super) fn write(&self, name: &str, original: &str, written: &str) -> Result<(), Error> {
        let path = self.path(name);
        let new = self.folder.join("new");
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| std::fs::write(&new, format!("{original}\n{written}\n")))
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|source| Error::File { path, source })
    }

    pub(super) fn forget(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::File { path, source }),
            _ => Ok(()),
        }
    }

    /// Drops all notes about a group that is gone.
    pub(super) fn forget_all(&self) -> Result<(), Error> {
        let names = |entry: std::fs::DirEntry| entry.file_name().into_string().ok();
        let start = format!("{}%2F", self.name);
        for name in std::fs::read_dir(&self.folder).into_iter().flatten().flatten().filter_map(names) {
            if let Some(file) = name.strip_prefix(&start).filter(|file| !file.contains("%2F")) {
                self.forget(file)?;
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}%2F{name}", self.name))
    }
}
