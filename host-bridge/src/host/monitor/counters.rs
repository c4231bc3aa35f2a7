//! What the host's kernel counted until now, as trials of its knobs compare it.

use super::super::{cpu::Ticks, pressure::Totals};
use super::disks;
use procfs::{FromRead, Meminfo};
use std::fs;
use std::path::Path;
use vmtide_tuning::windows::Reading;

/// Reads the host below `root` at `now_ms`; `None` where its memory or its CPUs cannot be read.
pub fn reading(root: &Path, now_ms: u64) -> Option<Reading> {
    let text = |path: &str| fs::read_to_string(root.join(path)).ok();
    let meminfo = Meminfo::from_file(root.join("proc/meminfo")).ok()?;
    let stat = text("proc/stat")?;
    let ticks = Ticks::parse(&stat)?;
    let vmstat = text("proc/vmstat").unwrap_or_default();
    let pages = |name: &str| number_after(&vmstat, name).saturating_mul(procfs::page_size());
    let stall_us = |resource| Some(Totals::parse(&text(&format!("proc/pressure/{resource}"))?)?.some_us());
    let disks = disks::parse(root, &text("proc/diskstats").unwrap_or_default());
    let (disk_ops, disk_wait_ms) = disks.values().fold((0, 0), |(ops, ms): (u64, u64), disk| {
        let (more_ops, more_ms) = disk.done();
        (ops.saturating_add(more_ops), ms.saturating_add(more_ms))
    });
    // Before Linux 5.9 both kinds are counted as one.
    let refaults = ["workingset_refault_anon", "workingset_refault_file", "workingset_refault"];
    Some(Reading {
        read_ms: now_ms,
        memory_bytes: meminfo.mem_total,
        anon_bytes: meminfo.anon_pages.unwrap_or(0),
        refault_bytes: refaults.iter().map(|name| pages(name)).fold(0, u64::saturating_add),
        swap_in_bytes: pages("pswpin"),
        memory_stall_us: stall_us("memory"),
        cpu_stall_us: stall_us("cpu"),
        io_stall_us: stall_us("io"),
        online_cpus: stat.lines().filter(|line| super::is_one_cpu(line)).count() as u64,
        cpu_used_ms: ticks.used_ms(),
        steal_ms: ticks.steal_ms(),
        disk_ops,
        disk_wait_ms,
    })
}

/// The number in the line that begins with just this name.
fn number_after(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_come_from_where_the_kernel_has_them() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(reading(dir.path(), 0), None);
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=7000\n";
        for (path, holds) in [
            ("proc/meminfo", include_str!("../fixtures/meminfo").replace("@AVAILABLE@", "10").as_str()),
            ("proc/stat", "cpu  100 0 0 50 0 0 0 20 0 0\ncpu0 1 0 0 0\ncpu1 1 0 0 0\n"),
            (
                "proc/vmstat",
                "workingset_refault_anon 3\nworkingset_refault_file 4\nworkingset_refault_x 9\npswpin 2\npswpout 9\n",
            ),
            ("proc/pressure/io", pressure),
            ("proc/diskstats", "8 0 sda 10 0 80 30 5 0 40 60 0 0 0\n8 1 sda1 10 0 80 30 5 0 40 60 0 0 0\n"),
            ("sys/block/sda/size", "1\n"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, holds).unwrap();
        }
        let page_bytes = procfs::page_size();
        let reading = reading(dir.path(), 5).unwrap();
        assert_eq!((reading.read_ms, reading.memory_bytes), (5, 16 << 30));
        assert_eq!((reading.refault_bytes, reading.swap_in_bytes), (7 * page_bytes, 2 * page_bytes));
        assert_eq!((reading.memory_stall_us, reading.io_stall_us), (None, Some(7000)));
        let tick_ms = 1000 / procfs::ticks_per_second();
        assert_eq!((reading.online_cpus, reading.cpu_used_ms, reading.steal_ms), (2, 120 * tick_ms, 20 * tick_ms));
        assert_eq!((reading.disk_ops, reading.disk_wait_ms), (15, 90));
    }
}
