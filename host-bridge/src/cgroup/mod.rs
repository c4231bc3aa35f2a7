//! The host's control groups: how much CPU time a VM's processes get.
//!
//! ```text
//! pid --> find (/proc/PID/cgroup, /proc/mounts) --> Group --> weight, quota --> the kernel
//!                                                    |
//!                                                    +--> note: what was there before, in /run
//! ```
//!
//! In: the process of a VM, its shares and its quota. Out: the kernel's files, v2 (`cpu.weight`, `cpu.max`) or v1
//! (`cpu.shares`, `cpu.cfs_quota_us`) behind the same calls, each read back.
//!
//! Only a group that holds this VM alone is touched: what weighs on others is not ours to change. A value that somebody
//! else changes meanwhile is theirs from then on. What was there before is noted first, so that it is put back when the VM
//! is let go, when the bridge stops, and by the next bridge after a crash. A quota that was there before stays where it is the
//! tighter one.
//!
//! Every path hangs below a root, so that a fixture tree serves in tests.

mod find;
mod group;
mod note;

pub use group::Group;

use std::io;
use std::path::{Path, PathBuf};

/// Which interface a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `cpu.shares`, `cpu.cfs_quota_us`.
    V1,
    /// `cpu.weight`, `cpu.max`.
    V2,
}

/// Why a VM's CPU time cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither version has the controller.
    #[error("no cpu controller in either cgroup version; CPU time stays as the kernel shares it")]
    NoController,
    /// Others would be changed too.
    #[error("{path}: foreign cgroup without delegation: {why}")]
    Foreign {
        /// The group, as the kernel names it.
        path: String,
        /// Who else is in it, or what it is.
        why: String,
    },
    /// Somebody set another value since.
    #[error("{}: somebody else set {found:?}; it is theirs", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// A file that cannot be read or written, or does not take the value.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The group that holds process `pid` below `root` alone, and the file of its weight; looks, and touches nothing.
///
/// # Errors
/// [`Error`]: there is no controller, or the group is not the VM's alone.
pub fn of(root: &Path, pid: i32) -> Result<(PathBuf, PathBuf), Error> {
    let find::Place { version, directory } = find::find(root, pid)?;
    let weight = directory.join(if version == Version::V1 { "cpu.shares" } else { "cpu.weight" });
    Ok((directory, weight))
}

/// How many CPUs of the host below `root` are online; `None` where the kernel does not say.
pub fn host_cpus(root: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(root.join("sys/devices/system/cpu/online")).ok()?;
    text.trim().split(',').try_fold(0_u32, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

fn read(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests;
