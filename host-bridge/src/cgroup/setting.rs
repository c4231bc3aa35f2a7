//! One value of a group: what it was before, what was written, and who wrote what is there now.

use super::note::Note;
use super::{Error, read};
use std::path::{Path, PathBuf};

/// A file of the group, or one line of a file that has a line for each device.
#[derive(Debug)]
pub(super) struct Setting {
    path: PathBuf,
    line: Option<Line>,
    original: String,
    /// What we wrote last; `None` while the original holds.
    written: Option<String>,
    is_taken: bool,
}

/// Which line of its file a value is in.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Its first word.
    pub key: String,
    /// What holds where there is no such line.
    pub absent: &'static str,
}

impl Setting {
    /// The value in the file `name` of the group at `directory`, as its note knows it or as it is now.
    pub(super) fn find(directory: &Path, name: &str, line: Option<Line>, note: &Note) -> Result<Self, Error> {
        let mut setting =
            Self { path: directory.join(name), line, original: String::new(), written: None, is_taken: false };
        let found = setting.found()?;
        // A bridge that was killed left its value.
        (setting.original, setting.written) = match note.read(&setting.name()) {
            Some((original, written)) if written == found => (original, Some(written)),
            _ => (found, None),
        };
        Ok(setting)
    }

    /// What was there before.
    pub(super) fn original(&self) -> &str {
        &self.original
    }

    /// Whether what holds is of vmtide.
    pub(super) fn is_ours(&self) -> bool {
        self.written.is_some()
    }

    /// Writes a value, or the original.
    pub(super) fn set(&mut self, note: &Note, value: Option<&str>) -> Result<(), Error> {
        if self.is_taken || self.written.as_deref() == value {
            return Ok(());
        }
        let found = self.found()?;
        if found != *self.written.as_ref().unwrap_or(&self.original) {
            self.is_taken = true;
            self.written = None;
            note.forget(&self.name())?;
            return Err(Error::Taken { path: self.path.clone(), found });
        }
        if let Some(value) = value {
            // Noted first: killed between the two, the next bridge finds the original in the file or in the note.
            note.write(&self.name(), &self.original, value)?;
        }
        if let Err(error) = self.write(value.unwrap_or(&self.original)) {
            note.write(&self.name(), &self.original, self.written.as_ref().unwrap_or(&self.original))?;
            return Err(error);
        }
        if value.is_none() {
            note.forget(&self.name())?;
            self.written = None;
        } else {
            // What the kernel made of it is what will be found.
            let made = self.found()?;
            note.write(&self.name(), &self.original, &made)?;
            self.written = Some(made);
        }
        Ok(())
    }

    /// Drops the note about a group that is gone.
    pub(super) fn forget(&self, note: &Note) {
        if !self.path.exists()
            && let Err(error) = note.forget(&self.name())
        {
            tracing::warn!(%error, "a note cannot be removed");
        }
    }

    fn write(&self, value: &str) -> Result<(), Error> {
        let text = self.line.as_ref().map(|line| format!("{} {value}", line.key));
        std::fs::write(&self.path, text.as_deref().unwrap_or(value))
            .map_err(|source| Error::File { path: self.path.clone(), source })
    }

    fn found(&self) -> Result<String, Error> {
        let text = read(&self.path)?;
        let Some(Line { key, absent }) = &self.line else { return Ok(text) };
        let mut values = text.lines().filter_map(|line| line.trim().strip_prefix(key.as_str())?.strip_prefix(' '));
        Ok(values.next().unwrap_or(absent).trim().to_owned())
    }

    /// What its note is called.
    fn name(&self) -> String {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        match &self.line {
            Some(line) => format!("{file} {}", line.key),
            None => file.into_owned(),
        }
    }
}
