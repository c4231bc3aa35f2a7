//! PSI triggers: the kernel wakes the agent when tasks wait for memory, or for a CPU, so that a quiet agent can sleep.

use super::pressure::is_absence;
use crate::watched::watched;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use tokio::io::{Interest, unix::AsyncFd};

/// Over this time the kernel adds stalls for memory up, with the privilege for a short window.
pub const WINDOW_MS: u64 = 500;

/// Stalled for 5 % of half a second; and what a process without `CAP_SYS_RESOURCE` may ask for, whose window
/// has to be a multiple of two seconds. The NUL at the end is part of the kernel's interface.
const MEMORY: [&[u8]; 2] = [b"some 25000 500000\0", b"some 100000 2000000\0"];

/// Waited for half a second of two: more than an ordinary burst, and half a second after work came that one CPU too few is
/// there for. The window is one that everybody may ask for, and a long one: while tasks wait, the kernel adds up ten times in it.
const CPU: [&[u8]; 1] = [b"some 500000 2000000\0"];

/// Tells when tasks begin to wait.
#[derive(Debug)]
pub struct StallTrigger(Option<AsyncFd<File>>);

impl StallTrigger {
    /// Registers the trigger for memory; a kernel without PSI gives one that never fires.
    ///
    /// # Errors
    /// The kernel's, when it has PSI and does not accept the trigger.
    pub fn memory(root: &Path) -> io::Result<Self> {
        Self::register(&root.join("proc/pressure/memory"), &MEMORY)
    }

    /// The same for CPUs.
    ///
    /// # Errors
    /// As [`Self::memory`].
    pub fn cpu(root: &Path) -> io::Result<Self> {
        Self::register(&root.join("proc/pressure/cpu"), &CPU)
    }

    /// The first of `triggers` that the kernel accepts.
    fn register(path: &Path, triggers: &[&[u8]]) -> io::Result<Self> {
        let mut refusal = None;
        for trigger in triggers {
            let registered = OpenOptions::new().read(true).write(true).open(path).and_then(|mut file| {
                file.write_all(trigger)?;
                watched(file, Interest::PRIORITY)
            });
            match registered {
                Ok(fd) => return Ok(Self(Some(fd))),
                Err(error) if is_absence(&error) => return Ok(Self(None)),
                Err(error) => refusal = Some(error),
            }
        }
        refusal.map_or(Ok(Self(None)), Err)
    }

    /// A trigger that never fires.
    pub fn absent() -> Self {
        Self(None)
    }

    /// Whether the kernel will tell.
    pub fn is_registered(&self) -> bool {
        self.0.is_some()
    }

    /// Returns when tasks waited; at most once per window.
    pub async fn fired(&self) {
        let Some(fd) = &self.0 else { return std::future::pending().await };
        match fd.ready(Interest::PRIORITY).await {
            Ok(mut guard) => guard.clear_ready(),
            // The runtime shuts down.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kernel_without_psi_gives_a_silent_trigger() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!StallTrigger::memory(dir.path()).unwrap().is_registered());
        assert!(!StallTrigger::cpu(dir.path()).unwrap().is_registered());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_watched_is_an_error() {
        let dir = crate::sense::fixture::guest();
        StallTrigger::memory(dir.path()).unwrap_err();
    }
}
