//! Memory: sizes from `/proc/meminfo`, counters from `/proc/vmstat`, stalls from `/proc/pressure/memory`.

mod files;

use super::physical::{balloon_deflates_on_oom, firmware_ram_bytes};
use super::pressure::{PressureReader, Stall};
use super::{SenseError, source::Source};
use files::{Counters, Sizes};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Free memory that moves by less stands still.
const STILL_BYTES: u64 = 1024 * 1024;
/// Counters are used again at most so often.
const MOST_REUSES: u32 = 4;

/// The guest's memory at one moment. Counters count since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemorySample {
    /// All that the VM has with its balloon empty: MemTotal and what the kernel reserved at boot.
    pub total_bytes: u64,
    /// MemAvailable.
    pub available_bytes: u64,
    /// MemFree.
    pub free_bytes: u64,
    /// AnonPages.
    pub anon_bytes: u64,
    /// Active(file).
    pub active_file_bytes: u64,
    /// Inactive(file).
    pub inactive_file_bytes: u64,
    /// What the balloon driver holds.
    pub balloon_bytes: u64,
    /// Swap in use.
    pub swap_used_bytes: u64,
    /// Counter: evicted file pages read again.
    pub refault_file_bytes: u64,
    /// Counter: evicted anonymous pages read again.
    pub refault_anon_bytes: u64,
    /// Counter: pages read from swap.
    pub swap_in_bytes: u64,
    /// Counter: allocations that had to reclaim by themselves.
    pub alloc_stalls: u64,
    /// Counter: OOM kills.
    pub oom_kills: u64,
    /// Waiting for memory; `None` without PSI.
    pub stall: Option<Stall>,
}

/// Takes [`MemorySample`]s.
#[derive(Debug)]
pub struct MemoryReader {
    root: PathBuf,
    meminfo: Source,
    vmstat: Source,
    pressure: PressureReader,
    page_bytes: u64,
    overhead_bytes: u64,
    balloon_bytes: u64,
    /// The latest counters.
    counters: Option<Reading>,
    /// Asked once there is a balloon: its driver may be loaded after the agent has started.
    deflates_on_oom: Option<bool>,
}

/// Counters, and the state of the guest in which they were read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    counters: Counters,
    free_bytes: u64,
    stall: Option<Stall>,
    /// How many samples used them again.
    reuses: u32,
}

impl MemoryReader {
    /// Opens the files below `root` and measures what the kernel reserved.
    ///
    /// # Errors
    /// [`SenseError`] when meminfo or vmstat cannot be read; the rest is optional.
    pub fn open(root: &Path) -> Result<Self, SenseError> {
        let mut reader = Self {
            root: root.to_owned(),
            meminfo: Source::open_one_record(root, "proc/meminfo")?,
            vmstat: Source::open(root, "proc/vmstat")?,
            pressure: PressureReader::open(root, "memory")?,
            page_bytes: procfs::page_size(),
            overhead_bytes: 0,
            balloon_bytes: 0,
            counters: None,
            deflates_on_oom: None,
        };
        // Once: memory that is plugged in later shows in MemTotal alone, and has no such share.
        let managed_bytes = reader.sample()?.total_bytes;
        reader.overhead_bytes = firmware_ram_bytes(root).unwrap_or(0).saturating_sub(managed_bytes);
        Ok(reader)
    }

    /// The guest's memory now.
    ///
    /// # Errors
    /// [`SenseError`] with file and line.
    pub fn sample(&mut self) -> Result<MemorySample, SenseError> {
        let stall = self.pressure.sample()?;
        let mut sizes = Sizes::read(&mut self.meminfo)?;
        let counters = match self.still_valid(sizes.free, stall) {
            Some(counters) => counters,
            None => self.read_counters(&mut sizes, stall)?,
        };
        let bytes = |pages: u64| pages.saturating_mul(self.page_bytes);
        let ballooned_out_of_total = if self.balloon_bytes == 0
            || *self.deflates_on_oom.get_or_insert_with(|| balloon_deflates_on_oom(&self.root))
        {
            0
        } else {
            self.balloon_bytes
        };
        Ok(MemorySample {
            total_bytes: sizes.total.saturating_add(ballooned_out_of_total).saturating_add(self.overhead_bytes),
            available_bytes: sizes.available,
            free_bytes: sizes.free,
            anon_bytes: sizes.anon,
            active_file_bytes: sizes.active_file,
            inactive_file_bytes: sizes.inactive_file,
            balloon_bytes: self.balloon_bytes,
            swap_used_bytes: sizes.swap_total.saturating_sub(sizes.swap_free),
            refault_file_bytes: bytes(counters.refault_file),
            refault_anon_bytes: bytes(counters.refault_anon),
            swap_in_bytes: bytes(counters.swap_in),
            alloc_stalls: counters.alloc_stalls,
            oom_kills: counters.oom_kills,
            stall,
        })
    }

    /// The counters of an earlier sample, as long as nobody waited and free memory stands still. Reading vmstat is most
    /// of what a sample costs, and little that it counts happens in such a while; what does is seen a few samples on.
    fn still_valid(&mut self, free_bytes: u64, stall: Option<Stall>) -> Option<Counters> {
        let last = self.counters.as_mut()?;
        let unmoved = last.stall == stall && last.free_bytes.abs_diff(free_bytes) < STILL_BYTES;
        last.reuses += 1;
        (unmoved && last.reuses <= MOST_REUSES).then_some(last.counters)
    }

    /// The counters now, and sizes of the same moment.
    fn read_counters(&mut self, sizes: &mut Sizes, stall: Option<Stall>) -> Result<Counters, SenseError> {
        let mut counters = Counters::read(&mut self.vmstat)?;
        let of_pages = |pages: u64| pages.saturating_mul(self.page_bytes);
        if of_pages(counters.balloon_pages()) != self.balloon_bytes {
            // The balloon moves, gigabytes a second at best, and the two files are not read at one moment: what
            // it held when meminfo was read lies between two readings of vmstat.
            let before = counters.balloon_pages();
            *sizes = Sizes::read(&mut self.meminfo)?;
            counters = Counters::read(&mut self.vmstat)?;
            self.balloon_bytes = of_pages(before.midpoint(counters.balloon_pages()));
        }
        self.counters = Some(Reading { counters, free_bytes: sizes.free, stall, reuses: 0 });
        Ok(counters)
    }

    /// Whether the kernel says how long tasks waited.
    pub fn has_pressure(&self) -> bool {
        self.pressure.is_present()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{guest, write};

    const MIB: u64 = 1024 * 1024;

    fn reader(root: &Path) -> MemoryReader {
        MemoryReader::open(root).unwrap()
    }

    /// Replaces the value of `key` in the fixture's file.
    fn set(root: &Path, path: &str, key: &str, value: &str) {
        let text = std::fs::read_to_string(root.join(path)).unwrap();
        let lines = text.lines().map(|line| {
            if line.split(' ').next() == Some(key) { format!("{key} {value}\n") } else { format!("{line}\n") }
        });
        write(root, path, &lines.collect::<String>());
    }

    #[test]
    fn reads_sizes_counters_and_stalls() {
        let dir = guest();
        let sample = reader(dir.path()).sample().unwrap();
        let page = procfs::page_size();
        assert_eq!(sample.total_bytes, 0x9fc00 + 0x2ff0_0000, "what the firmware handed over");
        assert_eq!(sample.available_bytes, 614_400 * 1024);
        assert_eq!(sample.free_bytes, 563_200 * 1024);
        assert_eq!(sample.anon_bytes, 40_960 * 1024);
        assert_eq!(sample.active_file_bytes, 20_480 * 1024);
        assert_eq!(sample.inactive_file_bytes, 30_720 * 1024);
        assert_eq!(sample.swap_used_bytes, 1_024 * 1024);
        assert_eq!(sample.balloon_bytes, 0);
        assert_eq!(sample.refault_file_bytes, 100 * page);
        assert_eq!(sample.refault_anon_bytes, 10 * page);
        assert_eq!(sample.swap_in_bytes, 20 * page);
        assert_eq!(sample.alloc_stalls, 1 + 2 + 3 + 4);
        assert_eq!(sample.oom_kills, 5);
        assert_eq!(sample.stall, Some(Stall { some_us: 681_245, full_us: 391_926 }));
    }

    #[test]
    fn a_balloon_that_deflates_on_oom_leaves_mem_total_alone() {
        let dir = guest();
        write(dir.path(), "sys/bus/virtio/drivers/virtio_balloon/virtio0/features", "0110");
        let mut reader = reader(dir.path());
        let before = reader.sample().unwrap();
        let pages = 100 * MIB / procfs::page_size();
        set(dir.path(), "proc/vmstat", "balloon_inflate", &(1_000 + pages).to_string());
        set(dir.path(), "proc/meminfo", "MemFree:", &format!("{} kB", 563_200 - 100 * 1024));
        let after = reader.sample().unwrap();
        assert_eq!(after.balloon_bytes, 100 * MIB);
        assert_eq!(after.total_bytes, before.total_bytes);
    }

    #[test]
    fn other_balloons_are_taken_out_of_mem_total() {
        let dir = guest();
        write(dir.path(), "sys/bus/virtio/drivers/virtio_balloon/virtio0/features", "0100");
        let mut running = reader(dir.path());
        let before = running.sample().unwrap();
        let pages = 100 * MIB / procfs::page_size();
        set(dir.path(), "proc/vmstat", "balloon_inflate", &(1_000 + pages).to_string());
        set(dir.path(), "proc/meminfo", "MemFree:", &format!("{} kB", 563_200 - 100 * 1024));
        set(dir.path(), "proc/meminfo", "MemTotal:", &format!("{} kB", 737_280 - 100 * 1024));
        assert_eq!(running.sample().unwrap().total_bytes, before.total_bytes);
        // An agent that starts with the balloon full sees the same VM.
        assert_eq!(reader(dir.path()).sample().unwrap().total_bytes, before.total_bytes);
    }

    #[test]
    fn counters_are_read_when_something_moves_and_each_fifth_time() {
        let dir = guest();
        let mut reader = reader(dir.path());
        let mut kills = |kills: &str| {
            set(dir.path(), "proc/vmstat", "oom_kill", kills);
            (1..=9).find(|_| reader.sample().unwrap().oom_kills.to_string() == kills)
        };
        assert_eq!(kills("6"), Some(5));
        set(dir.path(), "proc/meminfo", "MemFree:", "562000 kB");
        assert_eq!(kills("7"), Some(1));
        write(dir.path(), "proc/pressure/memory", "some total=999999\n");
        assert_eq!(kills("8"), Some(1));
    }

    #[test]
    fn a_bare_kernel_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "proc/meminfo", "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 500 kB\n");
        write(dir.path(), "proc/vmstat", "nr_free_pages 3\n");
        let mut reader = reader(dir.path());
        assert!(!reader.has_pressure());
        let sample = reader.sample().unwrap();
        let expected = MemorySample {
            total_bytes: 1000 * 1024,
            available_bytes: 500 * 1024,
            free_bytes: 10 * 1024,
            ..MemorySample::default()
        };
        assert_eq!(sample, expected);
    }

    #[test]
    fn memory_plugged_in_later_keeps_what_was_reserved_at_boot() {
        let dir = guest();
        let mut reader = reader(dir.path());
        let before = reader.sample().unwrap().total_bytes;
        set(dir.path(), "proc/meminfo", "MemTotal:", &format!("{} kB", 737_280 + 1024 * 1024));
        assert_eq!(reader.sample().unwrap().total_bytes, before + 1024 * MIB);
    }

    #[test]
    fn odd_numbers_are_errors_with_their_line_and_never_a_panic() {
        for (path, key, value, expected) in [
            ("proc/meminfo", "MemAvailable:", "many kB", Some("meminfo, line 3: expected a number")),
            ("proc/meminfo", "MemAvailable:", "-1 kB", Some("meminfo, line 3")),
            ("proc/meminfo", "MemTotal:", "18446744073709551615 kB", None),
            ("proc/vmstat", "pswpin", "99999999999999999999", Some("vmstat, line 3")),
            ("proc/vmstat", "balloon_deflate", "18446744073709551615", None),
            ("proc/vmstat", "balloon_inflate", "18446744073709551615", None),
            ("proc/vmstat", "workingset_refault_file", "18446744073709551615", None),
        ] {
            let dir = guest();
            let mut reader = reader(dir.path());
            set(dir.path(), path, key, value);
            if path.ends_with("vmstat") {
                set(dir.path(), "proc/meminfo", "MemFree:", "0 kB");
            }
            match (reader.sample(), expected) {
                (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (Ok(_), None) => {}
                (result, _) => panic!("{key} {value}: {result:?}"),
            }
        }
        let dir = guest();
        write(dir.path(), "proc/meminfo", "MemTotal: 1000 kB\nMemFree: 10 kB\n");
        assert!(MemoryReader::open(dir.path()).unwrap_err().to_string().ends_with("has no MemAvailable"));
    }
}
