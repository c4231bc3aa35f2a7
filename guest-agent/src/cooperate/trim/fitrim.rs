//! The ioctl, and who may use it.

use super::FileSystem;
use nix::errno::Errno;
use nix::sys::stat::{fstat, major, minor};
use nix::sys::statvfs::fstatvfs;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;

/// `CAP_SYS_ADMIN`, of linux/capability.h.
const SYS_ADMIN: u32 = 21;

/// `struct fstrim_range` of linux/fs.h.
#[repr(C)]
#[derive(Debug)]
struct Range {
    /// Bytes, as all of them.
    start: u64,
    length: u64,
    /// Shorter runs of free blocks stay.
    shortest: u64,
}

#[allow(unsafe_code, missing_docs)] // nix makes an unsafe function of it
mod ioctl {
    // FITRIM of linux/fs.h.
    nix::ioctl_readwrite!(fitrim, b'X', 121, super::Range);
}

/// Whether the process below `root` may give blocks back.
pub(super) fn is_allowed(root: &Path) -> bool {
    let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> SYS_ADMIN & 1 == 1)
}

/// A file system that was found again where it was seen.
#[derive(Debug)]
pub(super) struct Opened {
    folder: File,
    /// Its size; the kernel knows blocks beyond it.
    pub size_bytes: u64,
}

impl Opened {
    /// Opens it; the text says why not.
    pub(super) fn open(file_system: &FileSystem) -> Result<Self, String> {
        let folder = File::open(&file_system.mounted_at).map_err(|error| error.to_string())?;
        let device = fstat(&folder).map_err(|error| error.to_string())?.st_dev;
        // Another one is mounted over it, or the supervisor hides it from this service.
        if file_system.device.is_some_and(|expected| expected != (major(device), minor(device))) {
            return Err("the agent does not see it".to_owned());
        }
        let space = fstatvfs(&folder).map_err(|error| error.to_string())?;
        Ok(Self { folder, size_bytes: space.blocks().saturating_mul(space.fragment_size()) })
    }

    /// Discards what is unused of this range; returns how much that was.
    pub(super) fn trim(&self, start_bytes: u64, length_bytes: u64) -> Result<u64, Errno> {
        let mut range = Range { start: start_bytes, length: length_bytes, shortest: 0 };
        #[allow(unsafe_code)] // an ioctl
        // SAFETY: the descriptor is open, and the kernel reads and writes one `fstrim_range`, which `Range` is, and nothing
        // else of this process.
        unsafe { ioctl::fitrim(self.folder.as_raw_fd(), &raw mut range) }?;
        Ok(range.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::write;

    #[test]
    fn only_the_effective_set_counts() {
        for (status, allowed) in [
            ("CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\n", false),
            ("CapEff:\t0000000000200000\n", true),
            ("CapEff:\t0000000001000000\n", false),
            ("CapEff:\tx\n", false),
            ("", false),
        ] {
            let root = tempfile::tempdir().unwrap();
            write(root.path(), "proc/self/status", status);
            assert_eq!(is_allowed(root.path()), allowed, "{status:?}");
        }
    }

    #[test]
    fn what_was_mounted_over_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file_system = FileSystem { mounted_at: dir.path().to_owned(), device: Some((1, 1)) };
        assert_eq!(Opened::open(&file_system).unwrap_err(), "the agent does not see it");
    }

    #[test]
    fn the_kernels_own_file_systems_have_nothing_to_discard() {
        let opened = Opened::open(&FileSystem { mounted_at: "/proc".into(), device: None }).unwrap();
        assert!(matches!(opened.trim(0, u64::MAX), Err(Errno::ENOTTY | Errno::EPERM)));
    }
}
