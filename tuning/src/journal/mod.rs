//! The journal: what vmtide changed in this boot, so that it can be undone whatever happens.
//!
//! ```text
//! write to a knob:   Write record -> fsync -> the knob -> read back      no record, no write
//! put back:          the knob -> read back -> Closed record
//! killed anywhere:   the file holds the original or what a Write record names: either way it is known
//! ```
//!
//! In: [`Record`]s. Out: a [`Ledger`], what they add up to. One process writes, under a lock; others may read. It lives in
//! `/run`, as long as the values that it tells of.

mod lock;
mod record;

pub use lock::{Lock, LockError};
pub use record::{Ledger, Outcome, Owned, Record, Tried, Twin};

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tracing::warn;

/// Of the format; a journal of another version is not touched.
const VERSION: u32 = 1;
/// A longer journal is written anew with what still counts.
const MOST_BYTES: u64 = 256 * 1024;

/// Why there is no journal, or a record is not in it.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read.
    #[error("cannot read the journal {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written: without a record there is no write.
    #[error("cannot write the journal {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Of a newer agent.
    #[error("the journal {} has version {found}, this agent knows {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    boot_id: String,
    ledger: Ledger,
}

impl Journal {
    /// Opens the journal at `path` for the boot `boot_id`, or begins it. The caller holds its [`Lock`].
    ///
    /// # Errors
    /// [`JournalError`] when it can be neither read nor written, or is of another version.
    pub fn open(path: &Path, boot_id: &str) -> Result<Self, JournalError> {
        let records = read(path, boot_id)?;
        let ledger = Ledger::of_records(&records);
        // Written anew: without a line that was cut, and without another boot's.
        let keeps = if is_long(path) { ledger.records().collect() } else { records };
        let (file, bytes) = begin(path, boot_id, &keeps)?;
        Ok(Self { path: path.into(), file, bytes, boot_id: boot_id.into(), ledger })
    }

    /// What the records add up to.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Adds a record; once this returns it is on the disk that `/run` is.
    ///
    /// # Errors
    /// [`JournalError::Write`]; then the journal is as it was.
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        if self.bytes > MOST_BYTES {
            let keeps: Vec<_> = self.ledger.records().collect();
            (self.file, self.bytes) = begin(&self.path, &self.boot_id, &keeps)?;
        }
        let line = line(record).map_err(|source| self.refused(source))?;
        if let Err(source) = self.file.write_all(&line).and_then(|()| self.file.sync_data()) {
            // A part of the line may be there, and the next record must not be glued to it.
            self.file.set_len(self.bytes).ok();
            return Err(self.refused(source));
        }
        self.bytes += line.len() as u64;
        self.ledger.add(record);
        Ok(())
    }

    /// Does as if a record had been added: for what was put back while the journal cannot be written.
    pub fn forget(&mut self, record: &Record) {
        self.ledger.add(record);
    }

    fn refused(&self, source: io::Error) -> JournalError {
        JournalError::Write { path: self.path.clone(), source }
    }

    /// A journal on a disk that is full.
    ///
    /// # Panics
    /// Where there is no `/dev/full`.
    #[cfg(any(test, feature = "testing"))]
    #[expect(clippy::unwrap_used, reason = "for tests")]
    pub fn full() -> Self {
        let path = PathBuf::from("/dev/full");
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        Self { path, file, bytes: 0, boot_id: String::new(), ledger: Ledger::default() }
    }
}

/// The records of the boot `boot_id` in the journal at `path`; none when there is no journal.
///
/// # Errors
/// [`JournalError`] when it cannot be read, or is of another version. A line that makes no sense is skipped: the last one
/// may have been cut.
pub fn read(path: &Path, boot_id: &str) -> Result<Vec<Record>, JournalError> {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(JournalError::Read { path: path.into(), source }),
    };
    let mut lines = text.lines().enumerate().filter_map(|(index, line)| match serde_json::from_str(line) {
        Ok(record) => Some(record),
        Err(error) => {
            warn!("{}, line {}: skipped: {error}", path.display(), index + 1);
            None
        }
    });
    match lines.next() {
        Some(Record::Began { version, .. }) if version != VERSION => {
            Err(JournalError::Version { path: path.into(), found: version })
        }
        Some(Record::Began { boot_id: found, .. }) if found == boot_id => Ok(lines.collect()),
        _ => Ok(Vec::new()),
    }
}

/// Replaces the journal by one that holds `records`, at once or not at all.
fn begin(path: &Path, boot_id: &str, records: &[Record]) -> Result<(File, u64), JournalError> {
    let written = || {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let began = Record::Began { version: VERSION, boot_id: boot_id.into() };
        let mut text = Vec::new();
        for record in std::iter::once(&began).chain(records) {
            text.extend(line(record)?);
        }
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()?;
        Ok((OpenOptions::new().append(true).open(path)?, text.len() as u64))
    };
    written().map_err(|source| JournalError::Write { path: path.into(), source })
}

fn line(record: &Record) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    Ok(line)
}

fn is_long(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() > MOST_BYTES)
}

#[cfg(test)]
mod tests;
