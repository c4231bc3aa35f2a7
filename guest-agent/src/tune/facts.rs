//! What expressions may name: the guest as it is now, and what its host is short of.
//!
//! In: files below a root path, the latest memory sample and the bridge's hints. Out: [`Facts`], which compare equal
//! as long as no value of the catalogue can have changed.

use super::value::Value;
use crate::sense::{MemorySample, balloon_reports_free_pages};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use vmtide_protocol::bridge::Host;

/// Every fact, and what it says.
pub const KNOWN: [(&str, &str); 23] = [
    ("memory_now_bytes", "what the guest has without what its balloon holds, in steps of a 64th"),
    ("mem_total_bytes", "MemTotal, in steps of a 64th: does not follow every balloon"),
    ("present_bytes", "memory that is plugged in (zoneinfo)"),
    ("cpus", "virtual CPUs online"),
    ("numa_nodes", "NUMA nodes online"),
    ("kernel", "version × 1000 + patch level: 6.12 is 6012"),
    ("virtual", "whether the CPU says that this is a VM"),
    ("swap_kind", "of the swap that is used first: `none`, `zram`, `zswap` or `disk`"),
    (
        "anon_refault_percent",
        "anonymous among the evicted pages that were read again, in steps of 25; 50 when none were",
    ),
    ("disks", "whole disks"),
    ("thp", "transparent huge pages: `always`, `madvise`, `never`, or `absent`"),
    ("mglru", "whether the multi-generational LRU is on"),
    ("page_reporting", "whether the balloon tells the host which memory is free"),
    ("virtio_mem", "whether memory can be plugged in by virtio-mem"),
    ("host.cpu_short", "the host is short of CPU time"),
    ("host.memory_short", "the host is short of memory"),
    ("host.io_short", "the host's disks are behind"),
    ("original", "what the knob held before vmtide changed it"),
    ("current", "what the knob holds"),
    ("device.kind", "of a disk: `virtio`, `nvme`, `scsi` or `other`"),
    ("device.queues", "of a disk: hardware queues"),
    ("device.rotational", "of a disk: whether it says that it turns"),
    ("device.scheduler", "of a disk: its I/O scheduler"),
];

/// Sizes are rounded to this share of themselves, so that a byte more is no reason to write.
const SIZE_STEPS: u64 = 64;
/// Fewer refaulted bytes say nothing about a balance.
const FEW_REFAULTS_BYTES: u64 = 1024 * 1024;

/// Whether an expression may name it.
pub fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|(known, _)| *known == name)
}

/// The guest at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts(BTreeMap<&'static str, Value>);

impl Facts {
    /// Reads the guest below `root`. `memory` and an earlier sample say how large it is and what it reads again.
    pub fn read(root: &Path, memory: &MemorySample, before: Option<&MemorySample>, host: Host) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).ok();
        let mut facts = BTreeMap::new();
        let now_bytes = memory.total_bytes.saturating_sub(memory.balloon_bytes);
        facts.insert("memory_now_bytes", Self::memory_now(memory));
        let total_kib = text("proc/meminfo").and_then(|text| number_after(&text, "MemTotal:"));
        facts.insert("mem_total_bytes", rounded(total_kib.map_or(now_bytes, |kib| kib.saturating_mul(1024))).into());
        let present = text("proc/zoneinfo").map(|text| present_pages(&text).saturating_mul(procfs::page_size()));
        facts.insert("present_bytes", present.unwrap_or(0).into());
        facts.insert("cpus", counted(text("sys/devices/system/cpu/online")).into());
        facts.insert("numa_nodes", counted(text("sys/devices/system/node/online")).into());
        facts.insert("kernel", text("proc/sys/kernel/osrelease").map_or(0, |release| version(&release)).into());
        facts.insert("virtual", is_virtual(&beginning_of(&root.join("proc/cpuinfo"))).into());
        let zswap = text("sys/module/zswap/parameters/enabled").is_some_and(|text| text.trim() == "Y");
        facts.insert("swap_kind", swap_kind(&text("proc/swaps").unwrap_or_default(), zswap).into());
        facts.insert("anon_refault_percent", anon_percent(memory, before).into());
        facts.insert("disks", disks(root).into());
        let thp = text("sys/kernel/mm/transparent_hugepage/enabled");
        facts.insert("thp", thp.map_or_else(|| "absent".into(), |text| Value::read(&text)));
        let mglru = text("sys/kernel/mm/lru_gen/enabled");
        facts.insert("mglru", mglru.is_some_and(|text| Value::read(&text) != Value::Number(0)).into());
        facts.insert("page_reporting", balloon_reports_free_pages(root).into());
        facts.insert("virtio_mem", has_device(root, "virtio_mem").into());
        let mut facts = Self(facts);
        facts.set_host(host);
        facts
    }

    /// The fact `memory_now_bytes` of a sample.
    pub fn memory_now(memory: &MemorySample) -> Value {
        rounded(memory.total_bytes.saturating_sub(memory.balloon_bytes)).into()
    }

    /// Takes over what the bridge says.
    pub fn set_host(&mut self, host: Host) {
        self.0.insert("host.cpu_short", host.cpu_short.into());
        self.0.insert("host.memory_short", host.memory_short.into());
        self.0.insert("host.io_short", host.io_short.into());
    }

    /// What is known under `name`, but for a knob's and a disk's own facts.
    pub fn get(&self, name: &str) -> Option<Value> {
        self.0.get(name).cloned()
    }

    /// Says something else than the guest does.
    #[cfg(test)]
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.insert(name, value.into());
    }

    /// Those of `names` that are known, as text.
    pub fn some(&self, names: &[String]) -> BTreeMap<String, String> {
        names.iter().filter_map(|name| Some((name.clone(), self.get(name)?.to_string()))).collect()
    }

    /// Every fact by its name.
    pub fn all(&self) -> &BTreeMap<&'static str, Value> {
        &self.0
    }
}

/// A disk's own fact, for a `path` below `/sys/block`.
pub fn of_device(root: &Path, path: &str, name: &str) -> Option<Value> {
    let disk = path.strip_prefix("/sys/block/")?.split('/').next()?;
    let folder = root.join("sys/block").join(disk);
    match name {
        "device.kind" => Some(kind_of(disk).into()),
        "device.queues" => Some((fs::read_dir(folder.join("mq")).map_or(1, Iterator::count) as u64).into()),
        "device.rotational" => Some((fs::read_to_string(folder.join("queue/rotational")).ok()?.trim() == "1").into()),
        "device.scheduler" => Some(Value::read(&fs::read_to_string(folder.join("queue/scheduler")).ok()?)),
        _ => None,
    }
}

/// To a 64th of the power of two below it.
fn rounded(bytes: u64) -> u64 {
    let step = (bytes.checked_ilog2().map_or(1, |log| 1_u64 << log) / SIZE_STEPS).max(1);
    bytes / step * step
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn present_pages(zoneinfo: &str) -> u64 {
    let pages = zoneinfo.lines().filter_map(|line| line.trim_start().strip_prefix("present")?.trim().parse().ok());
    pages.fold(0, u64::saturating_add)
}

/// How many a list such as `0-3,5` names; 1 where there is none.
fn counted(list: Option<String>) -> u64 {
    let numbers = |range: &str| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to): (u64, u64) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        to.checked_sub(from)?.checked_add(1)
    };
    list.map_or(0, |list| list.trim().split(',').filter_map(numbers).fold(0, u64::saturating_add)).max(1)
}

/// `6.12.43-cloud` is 6012; 0 for what is no release.
pub(crate) fn version(release: &str) -> u64 {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u64>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) if major < 1_000 && minor < 1_000 => major * 1_000 + minor,
        _ => 0,
    }
}

/// The first CPU is enough: the kernel interrupts each CPU to tell its frequency.
fn beginning_of(path: &Path) -> String {
    let mut bytes = [0; 4096];
    let length = fs::File::open(path).and_then(|mut file| file.read(&mut bytes)).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// Whether the guest below `root` is one: its CPU says that there is a hypervisor.
pub(crate) fn is_vm(root: &Path) -> bool {
    is_virtual(&beginning_of(&root.join("proc/cpuinfo")))
}

fn is_virtual(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split_ascii_whitespace().any(|flag| flag == "hypervisor"))
}

/// Of the area with the highest priority.
fn swap_kind(swaps: &str, zswap: bool) -> &'static str {
    let areas = swaps.lines().skip(1).filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        Some((words.last()?.parse::<i64>().ok()?, name))
    });
    match areas.max_by_key(|(priority, _)| *priority) {
        None => "none",
        Some((_, name)) if name.trim_start_matches("/dev/").starts_with("zram") => "zram",
        Some(_) if zswap => "zswap",
        Some(_) => "disk",
    }
}

fn anon_percent(now: &MemorySample, before: Option<&MemorySample>) -> u64 {
    let Some(before) = before else { return 50 };
    let anon = now.refault_anon_bytes.saturating_sub(before.refault_anon_bytes);
    let all = now.refault_file_bytes.saturating_sub(before.refault_file_bytes).saturating_add(anon);
    if all < FEW_REFAULTS_BYTES {
        return 50;
    }
    // Steps of 25, and each begins halfway to it.
    (anon / (all / 100)).min(100).saturating_add(12) / 25 * 25
}

fn disks(root: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(root.join("sys/block")) else { return 0 };
    entries.flatten().filter(|entry| kind_of(&entry.file_name().to_string_lossy()) != "other").count() as u64
}

fn kind_of(disk: &str) -> &'static str {
    let kinds = [("vd", "virtio"), ("nvme", "nvme"), ("sd", "scsi")];
    kinds.iter().find(|(prefix, _)| disk.starts_with(prefix)).map_or("other", |(_, kind)| kind)
}

fn has_device(root: &Path, driver: &str) -> bool {
    let Ok(entries) = fs::read_dir(root.join("sys/bus/virtio/drivers").join(driver)) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("virtio"))
}

#[cfg(test)]
mod tests;
