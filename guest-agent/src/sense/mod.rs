//! Reads the guest: memory, CPU, block I/O and their pressure. Never writes, but for what makes the kernel look: the
//! stall trigger, and [`working_set`].
//!
//! In: the files of `/proc` and `/sys` below a root path, so that a fixture tree serves in tests. Out: one sample
//! per resource, counters as the kernel counts them; what they mean is `demand`'s business. Files that every
//! sample needs stay open and are read from their start into a buffer that is used again.
//!
//! `/proc/stat` and `/proc/diskstats` are parsed by the procfs crate. The files of keys and values have a small
//! scanner of their own: a dozen keys of two hundred are wanted, many times a second at worst, and an
//! error has to name the line.

pub mod cpu;
pub mod memory;
mod physical;
pub mod pressure;
mod source;
pub mod storage;
mod trigger;
pub mod working_set;

use std::{io, path::PathBuf};

pub use cpu::{CpuReader, CpuSample};
pub use memory::{MemoryReader, MemorySample};
pub(crate) use physical::{balloon_deflates_on_oom, balloon_reports_free_pages, offline_bytes};
pub(crate) use pressure::PressureReader;
pub use pressure::Stall;
pub use storage::{StorageReader, StorageSample};
pub use trigger::{StallTrigger, WINDOW_MS};
pub use working_set::WorkingSet;

/// Why the guest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SenseError {
    /// The file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line that is not what the kernel writes there.
    #[error("{}, line {line}: {expected}, found {found:?}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What should be there.
        expected: &'static str,
        /// What is there, shortened.
        found: String,
    },
    /// A key that this agent cannot do without.
    #[error("{} has no {key}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
    },
    /// The procfs crate could not make sense of it.
    #[error("cannot parse {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What procfs says.
        source: procfs::ProcError,
    },
}

#[cfg(test)]
pub(crate) mod fixture {
    //! Trees of files that look like a guest.
    use std::{fs, path::Path};

    /// Writes `text` to `path` below `root`, with its folders.
    pub(crate) fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A guest of 768 MiB with every file an agent reads.
    pub(crate) fn guest() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("proc/meminfo", include_str!("../../tests/guest/meminfo")),
            ("proc/vmstat", include_str!("../../tests/guest/vmstat")),
            ("proc/stat", include_str!("../../tests/guest/stat")),
            ("proc/diskstats", include_str!("../../tests/guest/diskstats")),
            ("proc/pressure/memory", include_str!("../../tests/guest/pressure")),
            ("proc/pressure/cpu", include_str!("../../tests/guest/pressure")),
            ("proc/pressure/io", include_str!("../../tests/guest/pressure")),
            ("sys/block/vda/size", "1\n"),
            ("sys/block/vdb/size", "1\n"),
            ("sys/block/dm-0/size", "1\n"),
            ("sys/block/loop0/size", "1\n"),
            ("sys/firmware/memmap/0/start", "0x0\n"),
            ("sys/firmware/memmap/0/end", "0x9fbff\n"),
            ("sys/firmware/memmap/0/type", "System RAM\n"),
            ("sys/firmware/memmap/1/start", "0x9fc00\n"),
            ("sys/firmware/memmap/1/end", "0x9ffff\n"),
            ("sys/firmware/memmap/1/type", "Reserved\n"),
            ("sys/firmware/memmap/2/start", "0x100000\n"),
            ("sys/firmware/memmap/2/end", "0x2fffffff\n"),
            ("sys/firmware/memmap/2/type", "System RAM\n"),
        ] {
            write(dir.path(), path, text);
        }
        dir
    }
}
