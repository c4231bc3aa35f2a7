//! One agent tunes a guest; a second one learns which process the first is.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The right to write the journal, as long as it is held. The kernel takes it back from a process that is killed.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("process {pid} holds {}", path.display())]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// The other process, or `?` when it did not say yet.
        pid: String,
    },
    /// The file cannot be made.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock that goes with `journal`.
    ///
    /// # Errors
    /// [`LockError::Held`] with the process that has it; else why the file cannot be made.
    pub fn take(journal: &Path) -> Result<Self, LockError> {
        let path = journal.with_extension("lock");
        let failed = |source| LockError::Io { path: path.clone(), source };
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let told = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                told.map(|()| Self(file)).map_err(failed)
            }
            Err((_, Errno::EWOULDBLOCK)) => Err(LockError::Held { pid: pid_in(&path).unwrap_or("?".into()), path }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// The process that has the lock that goes with `journal`; `None` when it is free, or nobody may ask.
    pub fn holder(journal: &Path) -> Option<String> {
        let path = journal.with_extension("lock");
        match Flock::lock(File::open(&path).ok()?, FlockArg::LockSharedNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => pid_in(&path),
            _ => None,
        }
    }
}

fn pid_in(path: &Path) -> Option<String> {
    let pid = fs::read_to_string(path).ok()?.trim().to_owned();
    (!pid.is_empty()).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_learns_who_is_first_and_may_follow() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("vmtide/tuning.journal");
        let first = Lock::take(&journal).unwrap();
        let error = Lock::take(&journal).unwrap_err().to_string();
        assert!(error.starts_with(&format!("process {} holds ", std::process::id())), "{error}");
        assert_eq!(Lock::holder(&journal), Some(std::process::id().to_string()));
        drop(first);
        assert_eq!(Lock::holder(&journal), None);
        Lock::take(&journal).unwrap();
        assert!(matches!(Lock::take(Path::new("/proc/no/journal")), Err(LockError::Io { .. })));
    }
}
