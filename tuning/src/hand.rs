//! Writes knobs and puts them back: the only part that does. Each write is in the journal before it happens, and read
//! back after it.

use crate::catalogue::Knob;
use crate::domain::Domain;
use crate::facts::Facts;
use crate::journal::{Journal, JournalError, Outcome, Owned, Record, Twin};
use crate::place;
use crate::value::Value;

use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use tracing::warn;

/// Why a knob was not set, or not put back.
#[derive(Debug, thiserror::Error)]
pub enum HandError {
    /// Nothing is written without a record.
    #[error("{path} stays as it is")]
    Journal {
        /// The knob's file.
        path: String,
        /// Why there is no record.
        source: JournalError,
    },
    /// The kernel did not take the value.
    #[error("cannot write {value} to {path}")]
    Refused {
        /// The knob's file.
        path: String,
        /// The value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel said yes and did not change it.
    #[error("{path} still holds {found} after {value} was written")]
    Ignored {
        /// The knob's file.
        path: String,
        /// The value.
        value: String,
        /// What it holds.
        found: String,
    },
}

impl HandError {
    /// Whether it is over soon: the journal has room again, what was busy is free, and what was unplugged is back.
    pub fn passes(&self) -> bool {
        match self {
            Self::Journal { .. } => true,
            Self::Refused { source, .. } => source.kind() == io::ErrorKind::ResourceBusy || place::is_gone(source),
            Self::Ignored { .. } => false,
        }
    }
}

/// What came of putting one file back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Undone {
    /// The knob.
    pub knob: String,
    /// Its file.
    pub path: String,
    /// How it ended; `None` when it holds vmtide's value still.
    pub outcome: Option<Outcome>,
    /// What it holds, or why it could not be put back.
    pub detail: String,
}

/// Writes below a root, and in a journal.
#[derive(Debug)]
pub struct Hand {
    domain: &'static Domain,
    root: PathBuf,
    journal: Journal,
}

impl Hand {
    /// Writes the machine below `root`.
    pub fn new(domain: &'static Domain, root: &Path, journal: Journal) -> Self {
        Self { domain, root: root.into(), journal }
    }

    /// What it did.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Adds a record that is no write.
    ///
    /// # Errors
    /// [`JournalError`] when it is not in the journal.
    pub fn note(&mut self, record: &Record) -> Result<(), JournalError> {
        self.journal.append(record)
    }

    /// Sets the file at `path` of `knob` to `value`.
    ///
    /// # Errors
    /// [`HandError`]; then the file holds what it held.
    pub fn write(
        &mut self,
        knob: &Knob,
        path: &str,
        value: &Value,
        facts: &Facts,
        now_ms: u64,
    ) -> Result<(), HandError> {
        let refused = |source| HandError::Refused { path: path.into(), value: value.to_string(), source };
        let before = place::value(&self.root, path).map_err(refused)?;
        let earlier = self.journal.ledger().of(path).cloned();
        let mut record = Owned {
            at_ms: now_ms,
            knob: knob.id.clone(),
            path: path.into(),
            original: before.to_string(),
            written: value.to_string(),
            replaced: None,
            twin: None,
            why: knob.why.clone(),
            facts: facts.some(&knob.kernel_resets_on),
        };
        match &earlier {
            Some(earlier) => {
                record.original.clone_from(&earlier.original);
                record.twin.clone_from(&earlier.twin);
                record.replaced = Some(before.to_string());
            }
            None if before == Value::Number(0) => record.twin = self.twin_of(knob),
            None => {}
        }
        let append = |journal: &mut Journal, record: &Owned| {
            let appended = journal.append(&Record::Write(record.clone()));
            appended.map_err(|source| HandError::Journal { path: path.into(), source })
        };
        append(&mut self.journal, &record)?;
        let written = place::write(&self.root, path, value);
        let found = place::value(&self.root, path);
        let error = match (written, found) {
            (Ok(()), Ok(found)) if found == *value => return Ok(()),
            (Ok(()), Ok(found)) if found != before => {
                // The kernel rounds some values: what it made of ours is ours.
                record.written = found.to_string();
                record.replaced = None;
                return append(&mut self.journal, &record);
            }
            (Ok(()), Ok(found)) => {
                HandError::Ignored { path: path.into(), value: value.to_string(), found: found.to_string() }
            }
            (Err(source), _) | (Ok(()), Err(source)) => refused(source),
        };
        match earlier {
            Some(earlier) => self.append_or_forget(&Record::Write(earlier)),
            None => self.close(&knob.id, path, Outcome::Refused, &before.to_string(), now_ms),
        }
        Err(error)
    }

    /// Puts back what `owned` says, if vmtide's value is still there.
    pub fn restore(&mut self, owned: &Owned, now_ms: u64) -> Undone {
        let undone =
            |outcome, detail: String| Undone { knob: owned.knob.clone(), path: owned.path.clone(), outcome, detail };
        let result = match self.put_back(owned) {
            Ok((outcome, found)) => undone(Some(outcome), found),
            Err(error) if place::is_gone(&error) => undone(Some(Outcome::Gone), String::new()),
            Err(error) => undone(None, error.to_string()),
        };
        if let Some(outcome) = result.outcome {
            self.close(&owned.knob, &owned.path, outcome, &result.detail, now_ms);
        }
        result
    }

    /// Puts back, in reverse order, all files of the knobs that `whose` names.
    pub fn restore_all(&mut self, whose: impl Fn(&str) -> bool, now_ms: u64) -> Vec<Undone> {
        let owned: Vec<_> = self.journal.ledger().owned.iter().filter(|owned| whose(&owned.knob)).cloned().collect();
        owned.iter().rev().map(|owned| self.restore(owned, now_ms)).collect()
    }

    /// Lets go of a file that does not hold vmtide's value any more.
    pub fn close(&mut self, knob: &str, path: &str, outcome: Outcome, found: &str, at_ms: u64) {
        let (knob, path, found) = (knob.into(), path.into(), found.into());
        self.append_or_forget(&Record::Closed { at_ms, knob, path, outcome, found });
    }

    fn put_back(&self, owned: &Owned) -> io::Result<(Outcome, String)> {
        if let Some(undone) = (self.domain.undo)(&self.root, owned) {
            return undone;
        }
        let found = place::value(&self.root, &owned.path)?;
        if !owned.is_ours(&found) {
            let outcome = if owned.is_original(&found) { Outcome::Restored } else { Outcome::Taken };
            return Ok((outcome, found.to_string()));
        }
        let (path, original) = owned.restore();
        place::write(&self.root, path, &original)?;
        let (back, found) = (place::value(&self.root, path)?, place::value(&self.root, &owned.path)?);
        if back == original && owned.is_original(&found) {
            return Ok((Outcome::Restored, found.to_string()));
        }
        Err(io::Error::other(format!("{path} holds {back} after {original} was written")))
    }

    /// The twin's value, when that is the one that counts.
    fn twin_of(&self, knob: &Knob) -> Option<Twin> {
        let path = knob.twin.clone()?;
        let original = place::value(&self.root, &path).ok().filter(|original| *original != Value::Number(0))?;
        Some(Twin { path, original: original.to_string() })
    }

    /// What is not in the journal is found out by the next one that reads it: the file holds its original.
    fn append_or_forget(&mut self, record: &Record) {
        if let Err(error) = self.journal.append(record) {
            warn!("{}", crate::full_text(&error));
            self.journal.forget(record);
        }
    }
}

#[cfg(test)]
mod tests;
