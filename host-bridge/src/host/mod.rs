//! The host, read and never written: how much memory it has, how much is available, how long its tasks wait for
//! memory, CPUs and I/O.
//!
//! `/proc` in, a [`HostReading`] out, and from that the planner's [`HostView`] and [`HostLoad`]. Every path hangs below
//! a root, so that a fixture tree serves in tests.
//!
//! A configured capacity makes the bridge's part a *slice*: others use the rest of the host. What is available on
//! the host and how long its tasks wait for memory then tell nothing about the slice, and no VM of the slice is to give
//! way because of a neighbour, so the planner does not see them. CPUs and disks have no slices: what the neighbours
//! wait for, the VMs wait for too.

mod cpu;
mod memory;
pub mod monitor;
pub mod pools;
mod pressure;

use crate::plan::{HostLoad, HostView, MIB, Millis};
use cpu::Cpu;
use memory::Memory;
use pressure::Pressure;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A window shorter than this says too little; the share before it holds.
const SHORTEST_WINDOW_MS: u64 = 100;

/// Why the host cannot be read or used as configured.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// `/proc/meminfo` cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: procfs::ProcError,
    },
    /// More is to be given out than there is.
    #[error("host.capacity: {capacity_bytes} bytes are more than the host's {total_bytes} (MemTotal)")]
    Capacity {
        /// As configured.
        capacity_bytes: u64,
        /// What there is.
        total_bytes: u64,
    },
    /// Nothing is left to give out.
    #[error("host.reserve: {reserve_bytes} bytes leave nothing of the capacity of {capacity_bytes}")]
    Reserve {
        /// As configured.
        reserve_bytes: u64,
        /// As configured, or what there is.
        capacity_bytes: u64,
    },
}

/// The host at one moment. Shares are of the time since the reading before, in thousandths; 0 at the first reading and
/// where the kernel does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HostReading {
    /// MemTotal.
    pub total_bytes: u64,
    /// MemAvailable; `None` before Linux 3.14.
    pub available_bytes: Option<u64>,
    /// In which some task waited for memory (PSI).
    pub memory_stall_some_permille: u32,
    /// In which all tasks waited for memory (PSI).
    pub memory_stall_full_permille: u32,
    /// In which some task waited for a CPU (PSI); the kernel has no `full` of a whole system.
    pub cpu_stall_some_permille: u32,
    /// Of all CPUs' time, what a hypervisor below the host gave to others.
    pub cpu_steal_permille: u32,
    /// Of all CPUs' time, what was not idle.
    pub cpu_used_permille: u32,
    /// In which some task waited for I/O (PSI).
    pub io_stall_some_permille: u32,
    /// In which all tasks waited for I/O (PSI).
    pub io_stall_full_permille: u32,
}

/// The reader, and what the VMs may have of the host.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    memory_pressure: Pressure,
    cpu_pressure: Pressure,
    io_pressure: Pressure,
    cpu: Cpu,
    capacity_bytes: u64,
    reserve_bytes: u64,
    slice: bool,
}

impl Host {
    /// The host below `root` (`/`). Without a capacity it is MemTotal, without a reserve [`default_reserve_bytes`].
    ///
    /// # Errors
    /// [`HostError`] when memory cannot be read, or when what is configured does not fit what there is.
    pub fn new(root: &Path, capacity_bytes: Option<u64>, reserve_bytes: Option<u64>) -> Result<Self, HostError> {
        let total_bytes = Memory::read(root)?.total_bytes;
        let slice = capacity_bytes.is_some();
        let capacity_bytes = capacity_bytes.unwrap_or(total_bytes);
        if capacity_bytes > total_bytes {
            return Err(HostError::Capacity { capacity_bytes, total_bytes });
        }
        let reserve_bytes = reserve_bytes.unwrap_or_else(|| default_reserve_bytes(capacity_bytes));
        if reserve_bytes >= capacity_bytes {
            return Err(HostError::Reserve { reserve_bytes, capacity_bytes });
        }
        Ok(Self {
            root: root.to_owned(),
            memory_pressure: Pressure::of("memory"),
            cpu_pressure: Pressure::of("cpu"),
            io_pressure: Pressure::of("io"),
            cpu: Cpu::default(),
            capacity_bytes,
            reserve_bytes,
            slice,
        })
    }

    /// What the VMs could have together with another capacity and reserve.
    ///
    /// # Errors
    /// As [`Host::new`].
    pub fn limit_with(&self, capacity_bytes: Option<u64>, reserve_bytes: Option<u64>) -> Result<u64, HostError> {
        Ok(Self::new(&self.root, capacity_bytes, reserve_bytes)?.limit_bytes())
    }

    /// Takes in what is configured now; what was read before still counts.
    ///
    /// # Errors
    /// As [`Host::new`]; then nothing is changed.
    pub fn resize(&mut self, capacity_bytes: Option<u64>, reserve_bytes: Option<u64>) -> Result<(), HostError> {
        let Self { capacity_bytes, reserve_bytes, slice, .. } = Self::new(&self.root, capacity_bytes, reserve_bytes)?;
        (self.capacity_bytes, self.reserve_bytes, self.slice) = (capacity_bytes, reserve_bytes, slice);
        Ok(())
    }

    /// What the VMs may have together, reserve included.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// What is never given out.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// What the VMs may have together: capacity less reserve.
    pub fn limit_bytes(&self) -> u64 {
        self.capacity_bytes - self.reserve_bytes
    }

    /// The host at `now_ms`.
    ///
    /// # Errors
    /// [`HostError::Read`] for its memory; a kernel that does not say how long tasks wait is no error.
    pub fn read(&mut self, now_ms: Millis) -> Result<HostReading, HostError> {
        let Memory { total_bytes, available_bytes } = Memory::read(&self.root)?;
        let memory = self.memory_pressure.read(&self.root, now_ms);
        let cpu = self.cpu_pressure.read(&self.root, now_ms);
        let io = self.io_pressure.read(&self.root, now_ms);
        let cpus = self.cpu.read(&self.root, now_ms);
        Ok(HostReading {
            total_bytes,
            available_bytes,
            memory_stall_some_permille: memory.some_permille,
            memory_stall_full_permille: memory.full_permille,
            cpu_stall_some_permille: cpu.some_permille,
            cpu_steal_permille: cpus.steal_permille,
            cpu_used_permille: cpus.used_permille,
            io_stall_some_permille: io.some_permille,
            io_stall_full_permille: io.full_permille,
        })
    }

    /// What the planner sees of a reading's memory.
    pub fn view(&self, reading: &HostReading) -> HostView {
        HostView {
            capacity_bytes: self.capacity_bytes,
            reserve_bytes: self.reserve_bytes,
            available_bytes: reading.available_bytes.filter(|_| !self.slice),
            stall_full_permille: if self.slice { 0 } else { reading.memory_stall_full_permille },
        }
    }
}

impl HostReading {
    /// What tells whether CPUs and disks keep up: the whole host's, slice or not.
    pub fn load(&self) -> HostLoad {
        HostLoad {
            cpu_stall_some_permille: self.cpu_stall_some_permille,
            cpu_steal_permille: self.cpu_steal_permille,
            cpu_used_permille: self.cpu_used_permille,
            io_stall_full_permille: self.io_stall_full_permille,
        }
    }
}

/// The reserve that a capacity has unless it is configured: 5 %, at least 512 MiB for the host's own processes and
/// page tables, yet at most a quarter, so that a small slice is still of use.
pub fn default_reserve_bytes(capacity_bytes: u64) -> u64 {
    (capacity_bytes / 20).max(512 * MIB).min(capacity_bytes / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const GIB: u64 = 1024 * MIB;

    fn host(available_kib: u64) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/pressure")).unwrap();
        let meminfo = include_str!("fixtures/meminfo").replace("@AVAILABLE@", &available_kib.to_string());
        std::fs::write(root.path().join("proc/meminfo"), meminfo).unwrap();
        for resource in ["memory", "cpu", "io"] {
            stalled(&root, resource, 0, 0);
        }
        ran(&root, 0, 0, 0);
        root
    }

    fn stalled(root: &TempDir, resource: &str, some_us: u64, full_us: u64) {
        let line = |kind, total| format!("{kind} avg10=0.00 avg60=0.00 avg300=0.00 total={total}\n");
        let text = line("some", some_us) + &line("full", full_us);
        std::fs::write(root.path().join("proc/pressure").join(resource), text).unwrap();
    }

    fn ran(root: &TempDir, user: u64, idle: u64, steal: u64) {
        std::fs::write(root.path().join("proc/stat"), format!("cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0\n")).unwrap();
    }

    #[test]
    fn the_whole_host_is_seen_with_what_is_available_and_how_it_stalls() {
        let root = host(5 << 20);
        let mut host = Host::new(root.path(), None, None).unwrap();
        host.read(1_000).unwrap();
        stalled(&root, "memory", 500_000, 100_000);
        let reading = host.read(2_000).unwrap();
        assert_eq!((reading.memory_stall_some_permille, reading.memory_stall_full_permille), (500, 100));
        let view = host.view(&reading);
        assert_eq!((view.capacity_bytes, view.reserve_bytes), (16 * GIB, 16 * GIB / 20));
        assert_eq!((view.available_bytes, view.stall_full_permille), (Some(5 * GIB), 100));
    }

    #[test]
    fn a_slice_is_not_blamed_for_its_neighbours() {
        let root = host(10);
        let mut host = Host::new(root.path(), Some(GIB), None).unwrap();
        host.read(1_000).unwrap();
        stalled(&root, "memory", 900_000, 900_000);
        let reading = host.read(2_000).unwrap();
        assert_eq!(reading.memory_stall_full_permille, 900);
        let view = host.view(&reading);
        assert_eq!((view.capacity_bytes, view.reserve_bytes), (GIB, GIB / 4));
        assert_eq!((view.available_bytes, view.stall_full_permille), (None, 0));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_key() {
        let root = host(10);
        let error = |capacity, reserve| Host::new(root.path(), capacity, reserve).unwrap_err().to_string();
        assert!(error(Some(17 * GIB), None).starts_with("host.capacity: "));
        assert!(error(None, Some(16 * GIB)).starts_with("host.reserve: "));
        let missing = Host::new(Path::new("/nowhere"), None, None).unwrap_err();
        assert_eq!(missing.to_string(), "/nowhere/proc/meminfo: cannot be read");
    }

    #[test]
    fn waiting_for_cpus_and_disks_is_seen_of_a_slice_too() {
        let root = host(10);
        let mut host = Host::new(root.path(), Some(GIB), None).unwrap();
        host.read(1_000).unwrap();
        stalled(&root, "cpu", 600_000, 0);
        stalled(&root, "io", 300_000, 200_000);
        ran(&root, 120, 60, 20);
        let reading = host.read(2_000).unwrap();
        assert_eq!((reading.io_stall_some_permille, reading.memory_stall_some_permille), (300, 0));
        let load = HostLoad {
            cpu_stall_some_permille: 600,
            cpu_steal_permille: 100,
            cpu_used_permille: 700,
            io_stall_full_permille: 200,
        };
        assert_eq!(reading.load(), load);
    }

    #[test]
    fn a_kernel_that_does_not_say_how_long_tasks_wait_is_no_error() {
        let root = host(10);
        std::fs::remove_dir_all(root.path().join("proc/pressure")).unwrap();
        std::fs::remove_file(root.path().join("proc/stat")).unwrap();
        let mut host = Host::new(root.path(), None, None).unwrap();
        for now_ms in [1_000, 2_000] {
            let reading = host.read(now_ms).unwrap();
            assert_eq!((reading.memory_stall_full_permille, reading.load()), (0, HostLoad::default()));
        }
    }

    #[test]
    fn a_source_that_goes_away_takes_its_last_share_along() {
        let root = host(10);
        let mut host = Host::new(root.path(), None, None).unwrap();
        host.read(1_000).unwrap();
        stalled(&root, "io", 900_000, 900_000);
        assert_eq!(host.read(2_000).unwrap().io_stall_full_permille, 900);
        std::fs::remove_file(root.path().join("proc/pressure/io")).unwrap();
        assert_eq!(host.read(3_000).unwrap().io_stall_full_permille, 0);
    }

    #[test]
    fn the_reserve_follows_the_capacity() {
        for (capacity, reserve) in [(GIB, 256 * MIB), (4 * GIB, 512 * MIB), (100 * GIB, 5 * GIB)] {
            assert_eq!(default_reserve_bytes(capacity), reserve);
        }
    }
}
