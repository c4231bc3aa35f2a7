//! Every knob on a fixture tree: what it should be in which guest, and when it is left alone.

use super::*;
use crate::sense::MemorySample;
use crate::sense::fixture::write;
use std::collections::BTreeSet;
use tempfile::TempDir;
use vmtide_protocol::bridge::Host;
use vmtide_tuning::assess::{Action, Standing};
use vmtide_tuning::catalogue::Risk;
use vmtide_tuning::claims::Claims;
use vmtide_tuning::journal::Ledger;
use vmtide_tuning::value::Value;
use vmtide_tuning::{Facts, Mode, Row, Survey};

const GIB: i64 = 1 << 30;

/// A guest and what is known of it.
struct Guest {
    dir: TempDir,
    catalogue: Catalogue,
    facts: Facts,
    ledger: Ledger,
    claims: Claims,
}

impl Guest {
    /// A quiet guest of 1 GiB on Linux 6.12, whose facts are as `facts` says.
    fn new(facts: &[(&'static str, Value)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (catalogue, errors) = Catalogue::load(&DOMAIN, Path::new("/no/such/folder"));
        assert!(errors.is_empty());
        let mut known = facts::read(dir.path(), &MemorySample::default(), None, Host::default());
        for (name, value) in [
            ("memory_now_bytes", Value::Number(GIB)),
            ("mem_total_bytes", Value::Number(GIB)),
            ("kernel", Value::Number(6_012)),
            ("thp", "always".into()),
        ] {
            known.set(name, value);
        }
        for (name, value) in facts {
            known.set(name, value.clone());
        }
        Self { dir, catalogue, facts: known, ledger: Ledger::default(), claims: Claims::default() }
    }

    fn rows(&self, id: &str) -> Vec<Row> {
        let survey = Survey {
            root: self.dir.path(),
            catalogue: &self.catalogue,
            facts: &self.facts,
            ledger: &self.ledger,
            claims: &self.claims,
            mode: Mode::Adaptive,
            held: &BTreeSet::new(),
            now_ms: 0,
        };
        survey.rows_of(self.catalogue.knobs.iter().find(|knob| knob.id == id).unwrap())
    }

    fn row(&self, id: &str) -> Row {
        self.rows(id).remove(0)
    }
}

#[test]
fn what_is_built_in_is_right_and_cautious() {
    let (catalogue, errors) = Catalogue::load(&DOMAIN, Path::new("/no/such/folder"));
    assert!(errors.is_empty(), "{errors:?}");
    assert!(catalogue.knobs.len() >= 32, "{}", catalogue.knobs.len());
    for knob in &catalogue.knobs {
        assert!(knob.why.len() > 20 && !knob.source.is_empty(), "{}", knob.id);
        assert!(!knob.mode.writes() || knob.risk == Risk::Low, "{} is written by default", knob.id);
        assert!(knob.value.is_some() || !knob.mode.writes(), "{}", knob.id);
        assert!(knob.twin.is_none() || knob.twin_default.is_some(), "{}", knob.id);
        assert_eq!(catalogue.knobs.iter().filter(|other| other.id == knob.id).count(), 1, "{}", knob.id);
    }
}

fn n(number: i64) -> Value {
    Value::Number(number)
}

/// Knob, its file, what the file holds, facts, and what it should hold: `None` where it does not apply.
type Case = (&'static str, &'static str, &'static str, Vec<(&'static str, Value)>, Option<Value>);

#[allow(clippy::too_many_lines)] // a table
fn memory() -> Vec<Case> {
    let vm = |name| -> &'static str { Box::leak(format!("proc/sys/vm/{name}").into_boxed_str()) };
    let thp = "sys/kernel/mm/transparent_hugepage";
    let thp = |name| -> &'static str { Box::leak(format!("{thp}/{name}").into_boxed_str()) };
    let short = |what| vec![(what, true.into())];
    vec![
        ("thp_enabled", thp("enabled"), "[always] madvise never", vec![], Some("madvise".into())),
        ("thp_enabled", thp("enabled"), "[always] madvise never", vec![("memory_now_bytes", n(8 * GIB))], None),
        ("thp_defrag", thp("defrag"), "always defer [madvise]", vec![], Some("defer+madvise".into())),
        ("khugepaged_max_ptes_none", thp("khugepaged/max_ptes_none"), "511", vec![], Some(n(0))),
        ("khugepaged_max_ptes_none", thp("khugepaged/max_ptes_none"), "511", vec![("thp", "never".into())], None),
        ("khugepaged_scan_sleep", thp("khugepaged/scan_sleep_millisecs"), "10000", vec![], None),
        (
            "khugepaged_scan_sleep",
            thp("khugepaged/scan_sleep_millisecs"),
            "10000",
            short("host.cpu_short"),
            Some(n(60_000)),
        ),
        ("swappiness", vm("swappiness"), "60", vec![("swap_kind", "none".into())], None),
        ("swappiness", vm("swappiness"), "60", vec![("swap_kind", "zram".into())], Some(n(140))),
        (
            "swappiness",
            vm("swappiness"),
            "60",
            vec![("swap_kind", "zswap".into()), ("anon_refault_percent", n(100))],
            Some(n(100)),
        ),
        (
            "swappiness",
            vm("swappiness"),
            "60",
            vec![("swap_kind", "zram".into()), ("anon_refault_percent", n(0))],
            Some(n(180)),
        ),
        (
            "swappiness",
            vm("swappiness"),
            "60",
            vec![("swap_kind", "zram".into()), ("host.memory_short", true.into())],
            Some(n(180)),
        ),
        ("swappiness", vm("swappiness"), "60", vec![("swap_kind", "zram".into()), ("kernel", n(5_004))], Some(n(100))),
        ("swappiness", vm("swappiness"), "60", vec![("swap_kind", "disk".into())], Some(n(35))),
        (
            "swappiness",
            vm("swappiness"),
            "60",
            vec![("swap_kind", "disk".into()), ("anon_refault_percent", n(100))],
            Some(n(10)),
        ),
        ("page_cluster", vm("page-cluster"), "3", vec![("swap_kind", "zram".into())], Some(n(0))),
        ("page_cluster", vm("page-cluster"), "3", vec![("swap_kind", "disk".into())], None),
        ("min_free_kbytes", vm("min_free_kbytes"), "38000", vec![], Some(n(4_096))),
        ("min_free_kbytes", vm("min_free_kbytes"), "38000", vec![("memory_now_bytes", n(GIB / 8))], Some(n(2_048))),
        ("min_free_kbytes", vm("min_free_kbytes"), "1500", vec![], Some(n(1_500))),
        ("watermark_scale_factor", vm("watermark_scale_factor"), "10", vec![], Some(n(49))),
        (
            "watermark_scale_factor",
            vm("watermark_scale_factor"),
            "10",
            vec![("memory_now_bytes", n(GIB / 8))],
            Some(n(19)),
        ),
        ("watermark_boost_factor", vm("watermark_boost_factor"), "15000", vec![], Some(n(0))),
        ("watermark_boost_factor", vm("watermark_boost_factor"), "15000", vec![("kernel", n(4_019))], None),
        ("dirty_bytes", vm("dirty_bytes"), "0", vec![("disks", n(0))], None),
        ("dirty_bytes", vm("dirty_bytes"), "0", vec![("disks", n(1))], Some(n(102 << 20))),
        ("dirty_background_bytes", vm("dirty_background_bytes"), "0", vec![("disks", n(1))], Some(n(20 << 20))),
        ("vfs_cache_pressure", vm("vfs_cache_pressure"), "100", vec![], None),
        ("vfs_cache_pressure", vm("vfs_cache_pressure"), "100", short("host.memory_short"), Some(n(200))),
        ("compaction_proactiveness", vm("compaction_proactiveness"), "20", short("host.cpu_short"), Some(n(0))),
        ("overcommit_memory", vm("overcommit_memory"), "0", vec![], None),
        ("mglru", "sys/kernel/mm/lru_gen/enabled", "0x0000", vec![], Some(n(7))),
        ("mglru", "sys/kernel/mm/lru_gen/enabled", "0x0000", vec![("kernel", n(5_010))], None),
        (
            "mglru_min_ttl",
            "sys/kernel/mm/lru_gen/min_ttl_ms",
            "0",
            vec![("mglru", true.into()), ("swap_kind", "zram".into())],
            Some(n(1_000)),
        ),
        ("zswap", "sys/module/zswap/parameters/enabled", "N", vec![("swap_kind", "disk".into())], Some("Y".into())),
        ("ksm", "sys/kernel/mm/ksm/run", "1", short("host.cpu_short"), Some(n(0))),
        ("ksm", "sys/kernel/mm/ksm/run", "0", short("host.cpu_short"), None),
        (
            "page_reporting_order",
            "sys/module/page_reporting/parameters/page_reporting_order",
            "9",
            vec![("page_reporting", true.into()), ("host.memory_short", true.into())],
            Some(n(7)),
        ),
        (
            "page_reporting_order",
            "sys/module/page_reporting/parameters/page_reporting_order",
            "-1",
            vec![("page_reporting", true.into()), ("host.memory_short", true.into())],
            None,
        ),
        (
            "auto_online_blocks",
            "sys/devices/system/memory/auto_online_blocks",
            "online",
            vec![("virtio_mem", true.into())],
            Some("online_movable".into()),
        ),
        (
            "auto_online_blocks",
            "sys/devices/system/memory/auto_online_blocks",
            "offline",
            vec![("virtio_mem", true.into())],
            Some("online_movable".into()),
        ),
        (
            "auto_online_blocks",
            "sys/devices/system/memory/auto_online_blocks",
            "online_kernel",
            vec![("virtio_mem", true.into())],
            None,
        ),
        ("auto_online_blocks", "sys/devices/system/memory/auto_online_blocks", "online", vec![], None),
    ]
}

fn the_rest() -> Vec<Case> {
    let short = |what| vec![(what, true.into())];
    let policy = "sys/devices/system/cpu/cpufreq/policy0/";
    let policy = |name| -> &'static str { Box::leak(format!("{policy}{name}").into_boxed_str()) };
    vec![
        ("guest_halt_poll_ns", "sys/module/haltpoll/parameters/guest_halt_poll_ns", "200000", vec![], None),
        (
            "guest_halt_poll_ns",
            "sys/module/haltpoll/parameters/guest_halt_poll_ns",
            "200000",
            short("host.cpu_short"),
            Some(n(0)),
        ),
        (
            "cpuidle_governor",
            "sys/devices/system/cpu/cpuidle/current_governor",
            "haltpoll",
            short("host.cpu_short"),
            Some("menu".into()),
        ),
        ("cpuidle_governor", "sys/devices/system/cpu/cpuidle/current_governor", "menu", short("host.cpu_short"), None),
        ("cpu_governor", policy("scaling_governor"), "powersave", vec![], Some("schedutil".into())),
        (
            "energy_performance_preference",
            policy("energy_performance_preference"),
            "performance",
            short("host.cpu_short"),
            Some("balance_performance".into()),
        ),
        ("numa_balancing", "proc/sys/kernel/numa_balancing", "1", vec![], Some(n(0))),
        ("numa_balancing", "proc/sys/kernel/numa_balancing", "1", vec![("numa_nodes", n(2))], None),
        ("sched_autogroup", "proc/sys/kernel/sched_autogroup_enabled", "1", vec![], Some(n(0))),
        ("clocksource", "sys/devices/system/clocksource/clocksource0/current_clocksource", "kvm-clock", vec![], None),
        (
            "block_scheduler",
            "sys/block/vda/queue/scheduler",
            "none mq-deadline [bfq]",
            vec![],
            Some("mq-deadline".into()),
        ),
        ("block_scheduler", "sys/block/vda/queue/scheduler", "[none] mq-deadline", vec![], None),
        ("read_ahead_kb", "sys/block/vdb/queue/read_ahead_kb", "128", vec![], Some(n(128))),
        (
            "read_ahead_kb",
            "sys/block/vdb/queue/read_ahead_kb",
            "128",
            vec![("memory_now_bytes", n(GIB / 8))],
            Some(n(64)),
        ),
        (
            "read_ahead_kb",
            "sys/block/vdb/queue/read_ahead_kb",
            "128",
            vec![("memory_now_bytes", n(8 * GIB))],
            Some(n(512)),
        ),
        ("nr_requests", "sys/block/vda/queue/nr_requests", "256", short("host.io_short"), Some(n(128))),
        ("nr_requests", "sys/block/vda/queue/nr_requests", "64", short("host.io_short"), None),
        ("somaxconn", "proc/sys/net/core/somaxconn", "128", vec![], Some(n(4_096))),
        ("busy_poll", "proc/sys/net/core/busy_poll", "50", short("host.cpu_short"), Some(n(0))),
        ("busy_read", "proc/sys/net/core/busy_read", "50", short("host.cpu_short"), Some(n(0))),
    ]
}

#[test]
fn every_knob_follows_its_guest() {
    let mut seen = BTreeSet::new();
    for (id, path, holds, facts, expected) in memory().into_iter().chain(the_rest()) {
        let guest = Guest::new(&facts);
        write(guest.dir.path(), path, &format!("{holds}\n"));
        for (path, ratio) in [("proc/sys/vm/dirty_ratio", "20\n"), ("proc/sys/vm/dirty_background_ratio", "10\n")] {
            write(guest.dir.path(), path, ratio);
        }
        let row = guest.row(id);
        assert_eq!(row.wanted, expected, "{id} with {facts:?}: {}", row.detail);
        assert_eq!(row.current, Some(Value::read(holds)), "{id}");
        let standing = match &expected {
            None if matches!(id, "overcommit_memory" | "clocksource") => Standing::OnlyTold,
            None => Standing::NotApplicable,
            Some(value) if *value == Value::read(holds) => Standing::RightAlready,
            Some(_) if id.starts_with("busy_") => Standing::OtherOwner,
            Some(_) if row.mode == Mode::Observe => Standing::WouldApply,
            Some(_) => Standing::Pending,
        };
        assert_eq!(row.standing, standing, "{id}: {}", row.detail);
        seen.insert(id);
    }
    let (catalogue, _) = Catalogue::load(&DOMAIN, Path::new("/no/such/folder"));
    let unseen: Vec<_> = catalogue.knobs.iter().filter(|knob| !seen.contains(knob.id.as_str())).collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}

#[test]
fn a_guest_without_the_file_says_so() {
    let guest = Guest::new(&[]);
    for knob in &guest.catalogue.knobs {
        let row = guest.row(&knob.id);
        assert_eq!(
            (row.standing, row.action, row.owner.as_str()),
            (Standing::Absent, Action::Leave, "-"),
            "{}",
            knob.id
        );
    }
}

#[test]
fn each_disk_has_a_row() {
    let guest = Guest::new(&[("host.io_short", true.into())]);
    for (disk, requests) in [("vda", "256\n"), ("vdb", "128\n")] {
        write(guest.dir.path(), &format!("sys/block/{disk}/queue/nr_requests"), requests);
    }
    let wanted: Vec<_> = guest.rows("nr_requests").into_iter().map(|row| row.wanted).collect();
    assert_eq!(wanted, [Some(n(128)), Some(n(64))]);
}

#[test]
fn what_somebody_has_set_is_theirs() {
    let mut guest = Guest::new(&[("swap_kind", "zram".into()), ("disks", n(1))]);
    let root = guest.dir.path().to_owned();
    write(&root, "proc/sys/vm/swappiness", "10\n");
    assert_eq!(guest.row("swappiness").standing, Standing::OtherOwner);

    write(&root, "proc/sys/vm/swappiness", "60\n");
    write(&root, "etc/sysctl.d/99-own.conf", "vm.swappiness = 60\n");
    guest.claims = Claims::read(&root);
    let row = guest.row("swappiness");
    assert_eq!((row.standing, row.owner.as_str()), (Standing::OtherOwner, "/etc/sysctl.d/99-own.conf"));

    write(&root, "proc/sys/vm/dirty_bytes", "0\n");
    for (ratio, expected) in [("30\n", Standing::OtherOwner), ("20\n", Standing::Pending)] {
        write(&root, "proc/sys/vm/dirty_ratio", ratio);
        assert_eq!(guest.row("dirty_bytes").standing, expected, "{ratio:?}");
    }
    write(&root, "etc/sysctl.d/99-own.conf", "vm.dirty_ratio = 20\n");
    guest.claims = Claims::read(&root);
    assert_eq!(guest.row("dirty_bytes").standing, Standing::OtherOwner, "the twin is claimed");
}
