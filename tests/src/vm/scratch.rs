//! Directories for one VM's sockets, logs and disk.

use std::{env, fs, path::Path};

use anyhow::{Context, Result};
use tempfile::TempDir;

const PREFIX: &str = "vmtide-lab-";

/// A directory that is removed when dropped. Its name carries the process id, so that `sweep` finds what a lab
/// that was killed left behind. It is in the system's temporary directory because socket paths must be short.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// Creates one.
    ///
    /// # Errors
    /// When the temporary directory cannot be written.
    pub fn new() -> Result<Self> {
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir().context("cannot make a scratch directory")?;
        Ok(Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Removes the directories of labs that no longer run.
pub(crate) fn sweep() {
    let Ok(entries) = fs::read_dir(env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            // Another lab may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
