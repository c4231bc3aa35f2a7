//! The host for an operator's eyes: everything that VMs compete for, read twice.
//!
//! ```text
//!  /proc, /sys --> Snapshot --.
//!                             |--> Report: shares and rates of the time between, amounts of the second
//!  /proc, /sys --> Snapshot --'
//! ```
//!
//! Nothing here is the planner's input, and nothing is written. A source that is not there is named with the reason in
//! [`Report::absent`]; its part of the report is `None`, never 0.

mod counters;
mod disks;
mod storage;
#[cfg(test)]
mod tests;

pub use counters::reading;
pub use disks::{Disk, Latency};
pub use storage::FileSystem;

use super::cpu::Ticks;
use super::pressure::Totals;
use crate::plan::Millis;
use disks::Counters;
use procfs::{FromRead, Meminfo};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// One look at the host.
#[derive(Debug)]
pub struct Snapshot {
    at_ms: Millis,
    absent: Vec<String>,
    cpus: Option<u64>,
    ticks: Option<Ticks>,
    pressure: [Option<Totals>; 3],
    memory: Option<Memory>,
    ksm: Option<Ksm>,
    huge_pages: Vec<HugePages>,
    disks: BTreeMap<String, Counters>,
    storage: Vec<FileSystem>,
}

/// The host over a short time.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The time between the two looks.
    pub window_ms: u64,
    /// Its CPUs.
    pub cpu: Option<Cpu>,
    /// Share of the time in which tasks waited (PSI).
    pub pressure: Waits,
    /// Its memory and swap.
    pub memory: Option<Memory>,
    /// Pages that it shares between processes.
    pub ksm: Option<Ksm>,
    /// Its huge pages, by their size.
    pub huge_pages: Vec<HugePages>,
    /// Its disks that did something since boot.
    pub disks: Vec<Disk>,
    /// The file systems that hold images of running VMs, and those that were asked for.
    pub storage: Vec<FileSystem>,
    /// What could not be read, and why.
    pub absent: Vec<String>,
}

/// Shares of all CPUs' time, thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// How many are online.
    pub cpus: u64,
    /// Not idle; what was stolen counts as used.
    pub used_permille: u32,
    /// Wanted, and had by another guest of a hypervisor below this host.
    pub steal_permille: u32,
}

/// PSI of each resource; `None` where the kernel does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// For memory.
    pub memory: Option<Wait>,
    /// For a CPU.
    pub cpu: Option<Wait>,
    /// For block I/O.
    pub io: Option<Wait>,
}

/// Share of the time in which tasks waited, thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// Some.
    pub some_permille: u32,
    /// All; of CPU always 0, for the kernel does not count it.
    pub full_permille: u32,
}

/// Amounts of `/proc/meminfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// MemTotal.
    pub total_bytes: u64,
    /// MemAvailable.
    pub available_bytes: Option<u64>,
    /// SwapTotal.
    pub swap_total_bytes: u64,
    /// Swap in use.
    pub swap_used_bytes: u64,
}

/// `/sys/kernel/mm/ksm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ksm {
    /// 0 off, 1 on, 2 off and everything unshared.
    pub run: u64,
    /// Pages that stand for several.
    pub pages_shared: u64,
    /// Pages that they save.
    pub pages_sharing: u64,
    /// Pages that change too fast.
    pub pages_volatile: u64,
    /// What it saves, bytes.
    pub saved_bytes: u64,
}

/// Huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct HugePages {
    /// Of one.
    pub size_bytes: u64,
    /// Set aside.
    pub total: u64,
    /// Of those, unused.
    pub free: u64,
}

impl Snapshot {
    /// Looks at the host below `root`, and at the file systems of `paths` beside those of running VMs' images.
    pub fn read(root: &Path, at_ms: Millis, paths: &[PathBuf]) -> Self {
        let mut absent = Absent::default();
        let stat = absent.text(root, "proc/stat");
        let ticks = stat.as_deref().and_then(|text| absent.unless(Ticks::parse(text), "proc/stat: no line cpu"));
        let cpus = stat.map(|text| text.lines().filter(|line| is_one_cpu(line)).count() as u64);
        let pressure = ["memory", "cpu", "io"].map(|resource| {
            let path = format!("proc/pressure/{resource}");
            let text = absent.text(root, &path)?;
            absent.unless(Totals::parse(&text), &format!("{path}: no line some with a total"))
        });
        let memory = match Meminfo::from_file(root.join("proc/meminfo")) {
            Ok(meminfo) => Some(Memory {
                total_bytes: meminfo.mem_total,
                available_bytes: meminfo.mem_available,
                swap_total_bytes: meminfo.swap_total,
                swap_used_bytes: meminfo.swap_total.saturating_sub(meminfo.swap_free),
            }),
            Err(error) => absent.unless(None, &format!("proc/meminfo: {error}")),
        };
        let diskstats = absent.text(root, "proc/diskstats").unwrap_or_default();
        let storage = storage::read(root, paths, &mut absent);
        Self {
            at_ms,
            cpus,
            ticks,
            pressure,
            memory,
            ksm: absent.ksm(root),
            huge_pages: absent.huge_pages(root),
            disks: disks::parse(root, &diskstats),
            storage,
            absent: absent.0,
        }
    }
}

impl Report {
    /// What happened between two looks.
    pub fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let window_ms = after.at_ms.saturating_sub(before.at_ms);
        let wait = |which: usize| {
            let (before, after) = (before.pressure[which]?, after.pressure[which]?);
            let shares = before.shares(&after, window_ms);
            Some(Wait { some_permille: shares.some_permille, full_permille: shares.full_permille })
        };
        let cpu = before.ticks.zip(after.ticks).zip(after.cpus).and_then(|((before, after), cpus)| {
            let shares = before.shares(&after)?;
            Some(Cpu { cpus, used_permille: shares.used_permille, steal_permille: shares.steal_permille })
        });
        let disks = after.disks.iter().filter_map(|(name, now)| {
            let before = before.disks.get(name)?;
            now.ever_used().then(|| before.disk(now, name, window_ms))
        });
        Self {
            window_ms,
            cpu,
            pressure: Waits { memory: wait(0), cpu: wait(1), io: wait(2) },
            memory: after.memory,
            ksm: after.ksm,
            huge_pages: after.huge_pages.clone(),
            disks: disks.collect(),
            storage: after.storage.clone(),
            absent: after.absent.clone(),
        }
    }
}

/// A line such as `cpu12 …`.
fn is_one_cpu(line: &str) -> bool {
    line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// What is not there, each with its reason.
#[derive(Debug, Default)]
struct Absent(Vec<String>);

impl Absent {
    fn say(&mut self, what: &str, why: &dyn std::fmt::Display) {
        self.0.push(format!("{what}: {why}"));
    }

    fn unless<T>(&mut self, found: Option<T>, otherwise: &str) -> Option<T> {
        if found.is_none() {
            self.0.push(otherwise.to_owned());
        }
        found
    }

    fn text(&mut self, root: &Path, path: &str) -> Option<String> {
        std::fs::read_to_string(root.join(path)).inspect_err(|error| self.say(path, error)).ok()
    }

    fn number(&mut self, root: &Path, path: &str) -> Option<u64> {
        let text = self.text(root, path)?;
        self.unless(u64::from_str(text.trim()).ok(), &format!("{path}: {:?} is no number", text.trim()))
    }

    fn ksm(&mut self, root: &Path) -> Option<Ksm> {
        let mut file = |name: &str| self.number(root, &format!("sys/kernel/mm/ksm/{name}"));
        // Where there is no KSM its first file says so; the others need not.
        let run = file("run")?;
        let pages_sharing = file("pages_sharing")?;
        Some(Ksm {
            run,
            pages_shared: file("pages_shared")?,
            pages_sharing,
            pages_volatile: file("pages_volatile")?,
            saved_bytes: pages_sharing.saturating_mul(procfs::page_size()),
        })
    }

    fn huge_pages(&mut self, root: &Path) -> Vec<HugePages> {
        const FOLDER: &str = "sys/kernel/mm/hugepages";
        let folders = match std::fs::read_dir(root.join(FOLDER)) {
            Ok(folders) => folders,
            Err(error) => {
                self.say(FOLDER, &error);
                return Vec::new();
            }
        };
        let mut sizes: Vec<HugePages> = folders
            .filter_map(|folder: io::Result<std::fs::DirEntry>| {
                let name = folder.ok()?.file_name().into_string().ok()?;
                let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
                let mut file = |file: &str| self.number(root, &format!("{FOLDER}/{name}/{file}"));
                Some(HugePages {
                    size_bytes: kib.saturating_mul(1024),
                    total: file("nr_hugepages")?,
                    free: file("free_hugepages")?,
                })
            })
            .collect();
        sizes.sort_unstable();
        sizes
    }
}
