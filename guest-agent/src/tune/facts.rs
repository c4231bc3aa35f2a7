//! What the catalogue's expressions may name: the guest as it is now, and what its host is short of.
//!
//! In: files below a root path, the latest memory sample and the bridge's hints. Out: [`Facts`].

use crate::sense::{MemorySample, balloon_reports_free_pages};
use std::fs;
use std::io::Read;
use std::path::Path;
use vmtide_protocol::bridge::Host;
use vmtide_tuning::Facts;
use vmtide_tuning::facts::{counted, disks, huge_pages, kernel, rounded, swap_kind};
use vmtide_tuning::value::Value;

/// The guest's facts, and what each says.
pub(super) const KNOWN: &[(&str, &str)] = &[
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
];

/// Fewer refaulted bytes say nothing about a balance.
const FEW_REFAULTS_BYTES: u64 = 1024 * 1024;

/// Reads the guest below `root`. `memory` and an earlier sample say how large it is and what it reads again.
pub fn read(root: &Path, memory: &MemorySample, before: Option<&MemorySample>, host: Host) -> Facts {
    let text = |path: &str| fs::read_to_string(root.join(path)).ok();
    let mut facts = Facts::default();
    let now_bytes = memory.total_bytes.saturating_sub(memory.balloon_bytes);
    facts.set("memory_now_bytes", memory_now(memory));
    let total_kib = text("proc/meminfo").and_then(|text| number_after(&text, "MemTotal:"));
    facts.set("mem_total_bytes", rounded(total_kib.map_or(now_bytes, |kib| kib.saturating_mul(1024))));
    let present = text("proc/zoneinfo").map(|text| present_pages(&text).saturating_mul(procfs::page_size()));
    facts.set("present_bytes", present.unwrap_or(0));
    facts.set("cpus", counted(root, "sys/devices/system/cpu/online"));
    facts.set("numa_nodes", counted(root, "sys/devices/system/node/online"));
    facts.set("kernel", kernel(root));
    facts.set("virtual", is_vm(root));
    facts.set("swap_kind", swap_kind(root));
    facts.set("anon_refault_percent", anon_percent(memory, before));
    facts.set("disks", disks(root));
    facts.set("thp", huge_pages(root));
    let mglru = text("sys/kernel/mm/lru_gen/enabled");
    facts.set("mglru", mglru.is_some_and(|text| Value::read(&text) != Value::Number(0)));
    facts.set("page_reporting", balloon_reports_free_pages(root));
    facts.set("virtio_mem", has_device(root, "virtio_mem"));
    facts.set("host.cpu_short", host.cpu_short);
    facts.set("host.memory_short", host.memory_short);
    facts.set("host.io_short", host.io_short);
    facts
}

/// The fact `memory_now_bytes` of a sample.
pub fn memory_now(memory: &MemorySample) -> Value {
    rounded(memory.total_bytes.saturating_sub(memory.balloon_bytes)).into()
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn present_pages(zoneinfo: &str) -> u64 {
    let pages = zoneinfo.lines().filter_map(|line| line.trim_start().strip_prefix("present")?.trim().parse().ok());
    pages.fold(0, u64::saturating_add)
}

/// The first CPU is enough: the kernel interrupts each CPU to tell its frequency.
fn beginning_of(path: &Path) -> String {
    let mut bytes = [0; 4096];
    let length = fs::File::open(path).and_then(|mut file| file.read(&mut bytes)).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// Whether the guest below `root` is one: its CPU says that there is a hypervisor.
pub(crate) fn is_vm(root: &Path) -> bool {
    let cpuinfo = beginning_of(&root.join("proc/cpuinfo"));
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split_ascii_whitespace().any(|flag| flag == "hypervisor"))
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

fn has_device(root: &Path, driver: &str) -> bool {
    let Ok(entries) = fs::read_dir(root.join("sys/bus/virtio/drivers").join(driver)) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("virtio"))
}

#[cfg(test)]
mod tests;
