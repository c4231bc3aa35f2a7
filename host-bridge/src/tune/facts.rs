//! What the catalogue's expressions may name: the host as it is now.

use super::ksm::Pays;
use std::fs;
use std::path::Path;
use vmtide_tuning::Facts;
use vmtide_tuning::facts::{counted, huge_pages, kernel, rounded, swap_kind};

/// The host's facts, and what each says.
pub(super) const KNOWN: &[(&str, &str)] = &[
    ("memory_total_bytes", "MemTotal, in steps of a 64th"),
    ("cpus", "CPUs online"),
    ("numa_nodes", "NUMA nodes online"),
    ("kernel", "version × 1000 + patch level: 6.12 is 6012"),
    ("vms", "processes of QEMU, Firecracker and Cloud Hypervisor that are VMs"),
    ("swap_kind", "of the swap that is used first: `none`, `zram`, `zswap` or `disk`"),
    ("thp", "transparent huge pages: `always`, `madvise`, `never`, or `absent`"),
    ("ksm", "whether equal pages are being merged"),
    ("ksm_pays", "whether merging saves a hundredth of the host's memory: `unknown`, `yes` or `no`"),
    ("host.cpu_short", "the host is short of CPU time, as guests are told"),
    ("host.cpu_spare", "CPUs idle for 40 % of the time or more, until it is less than 20 %"),
    ("host.memory_short", "less than 20 % of memory is available, until it is 30 %"),
    ("host.io_short", "the host's disks are behind, as guests are told"),
];

/// What lasts, or does not, beside the files.
#[expect(clippy::struct_excessive_bools, reason = "independent of each other, each a fact")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lasting {
    pub(super) memory_total_bytes: u64,
    pub(super) vms: u64,
    pub(super) cpu_short: bool,
    pub(super) cpu_spare: bool,
    pub(super) memory_short: bool,
    pub(super) io_short: bool,
    pub(super) ksm_pays: Pays,
}

/// Reads the rest of the host below `root`.
pub(super) fn read(root: &Path, lasting: &Lasting) -> Facts {
    let mut facts = Facts::default();
    facts.set("memory_total_bytes", rounded(lasting.memory_total_bytes));
    facts.set("cpus", counted(root, "sys/devices/system/cpu/online"));
    facts.set("numa_nodes", counted(root, "sys/devices/system/node/online"));
    facts.set("kernel", kernel(root));
    facts.set("vms", lasting.vms);
    facts.set("swap_kind", swap_kind(root));
    facts.set("thp", huge_pages(root));
    let ksm = fs::read_to_string(root.join("sys/kernel/mm/ksm/run"));
    facts.set("ksm", ksm.is_ok_and(|text| text.trim() == "1"));
    facts.set("ksm_pays", lasting.ksm_pays.word());
    facts.set("host.cpu_short", lasting.cpu_short);
    facts.set("host.cpu_spare", lasting.cpu_spare);
    facts.set("host.memory_short", lasting.memory_short);
    facts.set("host.io_short", lasting.io_short);
    facts
}
