//! What vmtide knows of a kernel's knobs: data, not code.
//!
//! In: a [`Domain`]'s TOML files, and an operator's in a folder such as `/etc/vmtide/tuning.d`, which change or add knobs.
//! Out: a [`Catalogue`], and an error for each entry that is wrong; the others go on. Documentation is written from it.

mod document;
mod knob;
mod read;

pub use document::document;
pub use knob::{Knob, Mode, Risk, Signal};

use crate::domain::Domain;
use crate::suggest::Explained;
use crate::trust::distrust;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Why an entry, or a file of them, is not in the catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file or its folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else than root and the agent's own user could have written it.
    #[error("{} is not trusted: {reason}", path.display())]
    Untrusted {
        /// The file or folder.
        path: PathBuf,
        /// Who could, and what makes it right.
        reason: String,
    },
    /// The file is no list of knobs.
    #[error("{file} is no list of knobs")]
    Toml {
        /// The file.
        file: String,
        /// Where and why.
        source: Explained,
    },
    /// One of its knobs is wrong.
    #[error("{file}, line {line}, knob {id:?}: {what}")]
    Knob {
        /// The file.
        file: String,
        /// Counted from 1.
        line: usize,
        /// The knob.
        id: String,
        /// What is wrong, and what is allowed.
        what: String,
    },
}

/// All knobs, in the order in which they are applied.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// Whose they are.
    pub domain: &'static Domain,
    /// The knobs; no id is there twice.
    pub knobs: Vec<Knob>,
}

impl Catalogue {
    /// The domain's own knobs, and what the files `*.toml` in `overrides` change of them, in the order of their names.
    pub fn load(domain: &'static Domain, overrides: &Path) -> (Self, Vec<CatalogueError>) {
        let mut knobs = Vec::new();
        let mut errors = Vec::new();
        for (file, text) in domain.files {
            errors.extend(read::add(domain, &mut knobs, file, text));
        }
        let files = files_of(overrides).unwrap_or_else(|error| {
            errors.push(error);
            Vec::new()
        });
        for path in files {
            match text_of(&path) {
                Ok(text) => errors.extend(read::add(domain, &mut knobs, &path.display().to_string(), &text)),
                Err(error) => errors.push(error),
            }
        }
        (Self { domain, knobs }, errors)
    }

    /// The mode of a unit: the least of its knobs', for they are changed as one.
    pub fn mode_of(&self, unit: &str) -> Mode {
        let modes = self.knobs.iter().filter(|knob| knob.unit() == unit).map(|knob| knob.mode);
        modes.min().unwrap_or(Mode::Off)
    }

    /// The knob of that name, and those that go with it; or the group's.
    pub fn unit(&self, name: &str) -> Vec<&Knob> {
        let unit = self.knobs.iter().find(|knob| knob.id == name).map_or(name, Knob::unit);
        self.knobs.iter().filter(|knob| knob.unit() == unit).collect()
    }
}

/// What a trusted file says.
fn text_of(path: &Path) -> Result<String, CatalogueError> {
    let unreadable = |source| CatalogueError::Read { path: path.into(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    // Of the open file: the path may lead elsewhere by now.
    trusted(path, &file.metadata().map_err(unreadable)?)?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn trusted(path: &Path, metadata: &Metadata) -> Result<(), CatalogueError> {
    let refuse = |reason| Err(CatalogueError::Untrusted { path: path.into(), reason });
    distrust(metadata).map_or(Ok(()), refuse)
}

/// The `*.toml` in `folder`; none when there is no such folder.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, CatalogueError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(CatalogueError::Read { path: folder.into(), source }),
    };
    trusted(folder, &fs::metadata(folder).map_err(|source| CatalogueError::Read { path: folder.into(), source })?)?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
