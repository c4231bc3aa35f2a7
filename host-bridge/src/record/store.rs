//! The segments of a recording: files in one folder, numbered, the oldest deleted so that all together stay under a cap.
//!
//! A segment is only ever appended to, by one process, and never again after that process ended or a write failed. It is
//! synced when it is full and when the owner says so; a crash of the process loses nothing that was appended, one of
//! the host what was appended since the last sync.

use nix::fcntl::{Flock, FlockArg};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The cap in segments: a deleted one is an eighth of the history.
const SEGMENTS: u64 = 8;
const EXTENSION: &str = "record";

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or the folder cannot be made, written or deleted.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process records there.
    #[error("{}: another process records here", path.display())]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// One record is more than the cap.
    #[error("{}: a record of {bytes} bytes is more than the {cap_bytes} bytes that all may have", path.display())]
    TooLarge {
        /// The folder.
        path: PathBuf,
        /// The record.
        bytes: u64,
        /// The cap.
        cap_bytes: u64,
    },
    /// A record cannot be written as JSON.
    #[error("a record cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// A folder of segments that this process appends to.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    cap_bytes: u64,
    /// Number and length, oldest first; the last may be `open`.
    segments: VecDeque<(u64, u64)>,
    open: Option<File>,
    _lock: Flock<File>,
}

/// The segments in `folder`, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn segments(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(numbered(folder)?.into_iter().map(|number| path(folder, number)).collect())
}

fn numbered(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_segment = path.extension().is_some_and(|extension| extension == EXTENSION);
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        numbers.extend(number.filter(|_| is_segment));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:010}.{EXTENSION}"))
}

impl Store {
    /// The store in `folder`, which is made if it is not there. Nothing is written yet.
    pub fn open(folder: &Path, cap_bytes: u64) -> Result<Self, StoreError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o750).create(folder).map_err(error(folder))?;
        let lock = folder.join("lock");
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(&lock).map_err(error(&lock))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StoreError::Taken { path: folder.to_owned() })?;
        let mut segments = VecDeque::new();
        for number in numbered(folder).map_err(error(folder))? {
            let path = path(folder, number);
            segments.push_back((number, fs::metadata(&path).map_err(error(&path))?.len()));
        }
        Ok(Self { folder: folder.to_owned(), cap_bytes, segments, open: None, _lock: lock })
    }

    /// The length of the segment that is open; 0 when none is.
    pub fn open_bytes(&self) -> u64 {
        self.segments.back().filter(|_| self.open.is_some()).map_or(0, |(_, length)| *length)
    }

    /// Whether a line of `bytes` that builds on the last one belongs into the segment that is open.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.open_bytes() > 0 && self.open_bytes().saturating_add(bytes as u64) <= self.cap_bytes / SEGMENTS
    }

    /// Begins a segment, for a line that makes sense by itself.
    pub fn begin(&mut self) -> Result<(), StoreError> {
        if self.open.is_some() && self.open_bytes() == 0 {
            return Ok(());
        }
        self.sync()?;
        self.open = None;
        let number = self.segments.back().map_or(1, |(number, _)| number + 1);
        let path = path(&self.folder, number);
        let file = OpenOptions::new().create_new(true).append(true).mode(0o640).open(&path);
        let file = file.map_err(|source| StoreError::Io { path, source })?;
        self.segments.push_back((number, 0));
        // The name has to survive a crash, as what is in the file.
        self.in_folder(|folder| File::open(folder)?.sync_all())?;
        self.open = Some(file);
        Ok(())
    }

    /// Appends `line` to the open segment, after the oldest were deleted as far as that takes.
    pub fn append(&mut self, line: &[u8]) -> Result<(), StoreError> {
        let bytes = line.len() as u64;
        while self.total_bytes().saturating_add(bytes) > self.cap_bytes {
            if self.segments.len() <= 1 {
                return Err(StoreError::TooLarge { path: self.folder.clone(), bytes, cap_bytes: self.cap_bytes });
            }
            self.delete_oldest()?;
        }
        let (Some(file), Some((number, length))) = (&mut self.open, self.segments.back_mut()) else { return Ok(()) };
        let (written, path) = (file.write_all(line), path(&self.folder, *number));
        if written.is_ok() {
            *length += bytes;
        } else if file.set_len(*length).is_err() {
            // Half a line stays there: what comes next begins a segment.
            self.open = None;
        }
        written.map_err(|source| StoreError::Io { path, source })
    }

    /// Puts on the disk what was appended.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        let Some(file) = &self.open else { return Ok(()) };
        self.in_folder(|_| file.sync_data())
    }

    /// What all segments have together.
    pub fn total_bytes(&self) -> u64 {
        self.segments.iter().map(|(_, length)| *length).fold(0, u64::saturating_add)
    }

    fn delete_oldest(&mut self) -> Result<(), StoreError> {
        let Some((number, _)) = self.segments.front() else { return Ok(()) };
        let path = path(&self.folder, *number);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => return Err(StoreError::Io { path, source }),
            Ok(()) | Err(_) => {}
        }
        self.segments.pop_front();
        Ok(())
    }

    fn in_folder(&self, act: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), StoreError> {
        act(&self.folder).map_err(|source| StoreError::Io { path: self.folder.clone(), source })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure.
        let _ = self.sync();
    }
}
