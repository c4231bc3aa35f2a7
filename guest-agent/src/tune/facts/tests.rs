//! Facts of fixture trees.

use super::*;
use crate::sense::fixture::{guest, write};
use crate::tune::DOMAIN;

const GIB: u64 = 1 << 30;

fn sample(total_bytes: u64, balloon_bytes: u64) -> MemorySample {
    MemorySample { total_bytes, balloon_bytes, ..MemorySample::default() }
}

#[test]
fn a_guest_says_what_it_is() {
    let dir = guest();
    for (path, text) in [
        (
            "proc/zoneinfo",
            "Node 0, zone DMA\n  pages free 1\n        present  3998\n        managed  3840\n  present 192512\n",
        ),
        ("sys/devices/system/cpu/online", "0-2,5\n"),
        ("sys/devices/system/node/online", "0\n"),
        ("proc/sys/kernel/osrelease", "6.12.43+deb12-cloud-amd64\n"),
        ("proc/cpuinfo", "processor : 0\nflags\t\t: fpu vme hypervisor lahf_lm\n"),
        ("proc/swaps", "Filename Type Size Used Priority\n/dev/vda2 partition 1 0 -2\n/dev/zram0 partition 1 0 100\n"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ("sys/kernel/mm/lru_gen/enabled", "0x0007\n"),
        ("sys/bus/virtio/drivers/virtio_balloon/virtio3/features", "011001\n"),
        ("sys/bus/virtio/drivers/virtio_mem/virtio4/features", "0\n"),
    ] {
        write(dir.path(), path, text);
    }
    let host = Host { io_short: true, ..Host::default() };
    let facts = read(dir.path(), &sample(2 * GIB, GIB), None, host);
    for (name, expected) in [
        ("memory_now_bytes", GIB.into()),
        ("mem_total_bytes", rounded(737_280 * 1024).into()),
        ("present_bytes", ((3_998 + 192_512) * procfs::page_size()).into()),
        ("cpus", Value::Number(4)),
        ("numa_nodes", Value::Number(1)),
        ("kernel", Value::Number(6_012)),
        ("virtual", true.into()),
        ("swap_kind", "zram".into()),
        ("anon_refault_percent", Value::Number(50)),
        ("disks", Value::Number(2)),
        ("thp", "madvise".into()),
        ("mglru", true.into()),
        ("page_reporting", true.into()),
        ("virtio_mem", true.into()),
        ("host.cpu_short", false.into()),
        ("host.io_short", true.into()),
    ] {
        assert_eq!(facts.get(name), Some(expected), "{name}");
    }
    assert!(facts.all().keys().all(|name| DOMAIN.knows(name)));
}

#[test]
fn an_empty_tree_says_little_and_breaks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let facts = read(dir.path(), &sample(GIB, 2 * GIB), None, Host::default());
    assert_eq!(facts.get("memory_now_bytes"), Some(Value::Number(0)));
    assert_eq!(facts.get("swap_kind"), Some("none".into()));
    assert_eq!(facts.get("kernel"), Some(Value::Number(0)));
    assert!(KNOWN.iter().all(|(name, _)| facts.get(name).is_some()));
}

#[test]
fn the_balance_of_refaults_moves_in_steps() {
    let refaults = |anon_mib: u64, file_mib: u64| MemorySample {
        refault_anon_bytes: anon_mib << 20,
        refault_file_bytes: file_mib << 20,
        ..MemorySample::default()
    };
    for (anon, file, expected) in [(0, 0, 50), (0, 100, 0), (100, 0, 100), (30, 70, 25), (40, 60, 50), (95, 5, 100)] {
        assert_eq!(anon_percent(&refaults(anon, file), Some(&refaults(0, 0))), expected, "{anon} {file}");
    }
    assert_eq!(anon_percent(&refaults(0, 0), Some(&refaults(9, 9))), 50, "counters that went backwards");
}
