//! The host's control groups: how much CPU time a VM's processes get, and how much its disks may do.
//!
//! ```text
//! pid --> find (/proc/PID/cgroup, /proc/mounts) --> Group   --> weight, quota ---------------> the kernel
//!                                                   IoGroup --> weight, rate of each device -->     |
//!                                                    |     <--- what it did (io.stat) -------------'
//!                                                    +--> setting --> note: what was there before, in /run
//! ```
//!
//! In: the process of a VM, its shares, its quota and its disks' rate. Out: the kernel's files, v2 (`cpu.weight`, `cpu.max`,
//! `io.weight`, `io.max`) or v1 (`cpu.shares`, `cpu.cfs_quota_us`, `blkio.throttle.*`) behind the same calls, each read back.
//!
//! Only a group that holds this VM alone, with its helpers, is touched: what weighs on others is not ours to change. Where it shares
//! one, it gets one of its own below that for its CPU time, if nobody else has to move for it (`child`). A value that somebody
//! else changes meanwhile is theirs from then on. What was there before is noted first, so that it is put back when the VM
//! is let go, when the bridge stops, and by the next bridge after a crash. A quota that was there before stays where it is the
//! tighter one.
//!
//! Every path hangs below a root, so that a fixture tree serves in tests.

mod child;
mod disks;
mod find;
mod group;
mod note;
mod setting;

pub use child::sweep;
pub use disks::{IoCount, IoGroup};
pub use group::Group;

use std::io;
use std::path::{Path, PathBuf};

/// What a group can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// CPU time.
    Cpu,
    /// Block I/O.
    Io,
}

impl Controller {
    fn name(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Cpu, _) => "cpu",
            (Self::Io, Version::V1) => "blkio",
            (Self::Io, Version::V2) => "io",
        }
    }

    /// A file that every group with it has.
    fn file(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Cpu, Version::V1) => "cpu.shares",
            (Self::Cpu, Version::V2) => "cpu.weight",
            (Self::Io, Version::V1) => "blkio.throttle.read_bps_device",
            (Self::Io, Version::V2) => "io.max",
        }
    }

    /// What goes on without it.
    fn without(self) -> &'static str {
        match self {
            Self::Cpu => "CPU time stays as the kernel shares it",
            Self::Io => "disks are held by their hypervisor alone",
        }
    }
}

/// Which interface a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `cpu.shares`, `cpu.cfs_quota_us`, `blkio.throttle.*`.
    V1,
    /// `cpu.weight`, `cpu.max`, `io.max`.
    V2,
}

/// Why a VM's group cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither version has the controller.
    #[error("no {} controller in either cgroup version; {}", .0.name(Version::V2), .0.without())]
    NoController(Controller),
    /// Others would be changed too.
    #[error("{path}: foreign cgroup without delegation: {why}")]
    Foreign {
        /// The group, as the kernel names it.
        path: String,
        /// Who else is in it, or what it is.
        why: String,
    },
    /// Its I/O goes to no block device of this host, as that of a network's file system.
    #[error("{}: no block device that its I/O is counted on", path.display())]
    NoDevice {
        /// The group.
        path: PathBuf,
    },
    /// It was left to us, and something else is in the way.
    #[error("{}: delegated cgroup, but {why}", path.display())]
    Delegated {
        /// The group.
        path: PathBuf,
        /// What is in the way.
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
    let found = find::find(root, pid, Controller::Cpu);
    let find::Place { version, directory } = found.map_err(|refusal| refusal.error)?;
    let weight = directory.join(Controller::Cpu.file(version));
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
