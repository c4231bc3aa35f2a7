//! Memory: sizes from `/proc/meminfo`, counters from `/proc/vmstat`, stalls from `/proc/pressure/memory`.

use super::physical::{balloon_deflates_on_oom, firmware_ram_bytes};
use super::pressure::{PressureReader, Stall};
use super::{SenseError, source::Source};
use serde::Serialize;
use std::path::{Path, PathBuf};

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
    /// Asked once there is a balloon: its driver may be loaded after the agent has started.
    deflates_on_oom: Option<bool>,
}

impl MemoryReader {
    /// Opens the files below `root` and measures what the kernel reserved.
    ///
    /// # Errors
    /// [`SenseError`] when meminfo or vmstat cannot be read; the rest is optional.
    pub fn open(root: &Path) -> Result<Self, SenseError> {
        let mut reader = Self {
            root: root.to_owned(),
            meminfo: Source::open(root, "proc/meminfo")?,
            vmstat: Source::open(root, "proc/vmstat")?,
            pressure: PressureReader::open(root, "memory")?,
            page_bytes: procfs::page_size(),
            overhead_bytes: 0,
            balloon_bytes: 0,
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
        let mut counters = counters(&mut self.vmstat)?;
        let sizes = sizes(&mut self.meminfo)?;
        let bytes = |pages: u64| pages.saturating_mul(self.page_bytes);
        if bytes(counters.balloon_pages()) != self.balloon_bytes {
            // The balloon moves, gigabytes a second at best, and the two files are not read at one moment: what
            // it held when meminfo was read lies between two readings of vmstat.
            let before = counters.balloon_pages();
            counters = self::counters(&mut self.vmstat)?;
            self.balloon_bytes = bytes(before.midpoint(counters.balloon_pages()));
        }
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

    /// Whether the kernel says how long tasks waited.
    pub fn has_pressure(&self) -> bool {
        self.pressure.is_present()
    }
}

/// Bytes, of `/proc/meminfo`.
#[derive(Debug, Default)]
struct Sizes {
    total: u64,
    available: u64,
    free: u64,
    anon: u64,
    active_file: u64,
    inactive_file: u64,
    swap_total: u64,
    swap_free: u64,
}

fn sizes(meminfo: &mut Source) -> Result<Sizes, SenseError> {
    let text = meminfo.read()?;
    let mut sizes = Sizes::default();
    let (mut total, mut available, mut free) = (None, None, None);
    for (key, line) in text.lines() {
        let bytes = || Ok::<_, SenseError>(line.number()?.saturating_mul(1024));
        match key {
            "MemTotal:" => total = Some(bytes()?),
            "MemFree:" => free = Some(bytes()?),
            "MemAvailable:" => available = Some(bytes()?),
            "AnonPages:" => sizes.anon = bytes()?,
            "Active(file):" => sizes.active_file = bytes()?,
            "Inactive(file):" => sizes.inactive_file = bytes()?,
            "SwapTotal:" => sizes.swap_total = bytes()?,
            "SwapFree:" => sizes.swap_free = bytes()?,
            _ => {}
        }
    }
    sizes.total = total.ok_or_else(|| text.missing("MemTotal"))?;
    sizes.free = free.ok_or_else(|| text.missing("MemFree"))?;
    sizes.available = available.ok_or_else(|| text.missing("MemAvailable"))?;
    Ok(sizes)
}

/// Counts, of `/proc/vmstat`; 0 for what this kernel was built without.
#[derive(Debug, Default)]
struct Counters {
    refault_file: u64,
    refault_anon: u64,
    swap_in: u64,
    alloc_stalls: u64,
    oom_kills: u64,
    inflated: u64,
    deflated: u64,
}

impl Counters {
    fn balloon_pages(&self) -> u64 {
        self.inflated.saturating_sub(self.deflated)
    }
}

fn counters(vmstat: &mut Source) -> Result<Counters, SenseError> {
    let mut counters = Counters::default();
    for (key, line) in vmstat.read()?.lines() {
        match key {
            "workingset_refault_file" => counters.refault_file = line.number()?,
            "workingset_refault_anon" => counters.refault_anon = line.number()?,
            "pswpin" => counters.swap_in = line.number()?,
            "oom_kill" => counters.oom_kills = line.number()?,
            "balloon_inflate" => counters.inflated = line.number()?,
            "balloon_deflate" => counters.deflated = line.number()?,
            _ if key.starts_with("allocstall_") => {
                counters.alloc_stalls = counters.alloc_stalls.saturating_add(line.number()?);
            }
            _ => {}
        }
    }
    Ok(counters)
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
        set(dir.path(), "proc/meminfo", "MemTotal:", &format!("{} kB", 737_280 - 100 * 1024));
        assert_eq!(running.sample().unwrap().total_bytes, before.total_bytes);
        // An agent that starts with the balloon full sees the same VM.
        assert_eq!(reader(dir.path()).sample().unwrap().total_bytes, before.total_bytes);
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
