//! The host's knobs, and the tuner on a fixture tree over the life of a host.

use super::*;
use crate::plan::Policy;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use vmtide_tuning::assess::Standing;
use vmtide_tuning::catalogue::Risk;
use vmtide_tuning::claims::Claims;
use vmtide_tuning::control::{Answer, Request};
use vmtide_tuning::engine::CHECK_MS;
use vmtide_tuning::journal::{Ledger, LockError, Outcome};
use vmtide_tuning::value::Value;
use vmtide_tuning::{Facts, Mode, Survey, place};

const KSM: &str = "/sys/kernel/mm/ksm/run";
const SCAN: &str = "/sys/kernel/mm/ksm/pages_to_scan";
const ADVISOR: &str = "/sys/kernel/mm/ksm/advisor_mode";
const HALT_POLL: &str = "/sys/module/kvm/parameters/halt_poll_ns";
const PTES: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none";
const GIB: i64 = 1 << 30;

#[test]
fn what_is_built_in_is_right_and_cautious() {
    let (catalogue, errors) = Catalogue::load(&DOMAIN, Path::new("/no/such/folder"));
    assert!(errors.is_empty(), "{errors:?}");
    assert!(catalogue.knobs.len() >= 20, "{}", catalogue.knobs.len());
    for knob in &catalogue.knobs {
        assert!(knob.why.len() > 20 && !knob.source.is_empty(), "{}", knob.id);
        assert!(!knob.mode.writes() || knob.risk == Risk::Low, "{} is written unasked", knob.id);
        assert!(knob.value.is_some() || !knob.mode.writes(), "{}", knob.id);
        assert!(knob.twin.is_none() || knob.twin_default.is_some(), "{}", knob.id);
        assert_eq!(catalogue.knobs.iter().filter(|other| other.id == knob.id).count(), 1, "{}", knob.id);
    }
}

/// What a knob should hold that holds `holds`, on a host of 64 GiB with two VMs that lacks nothing but for `facts`; `None`
/// where it is left alone.
fn wanted(id: &str, path: &str, holds: &str, facts: &[(&'static str, Value)]) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), path, holds);
    if let Some(disk) = path.strip_prefix("/sys/block/").and_then(|rest| rest.split('/').next()) {
        let turns = if disk == "sda" { "1\n" } else { "0\n" };
        write(dir.path(), &format!("/sys/block/{disk}/queue/rotational"), turns);
    }
    let lasting = facts::Lasting { memory_total_bytes: 64 << 30, vms: 2, ..facts::Lasting::default() };
    let mut known = facts::read(dir.path(), &lasting);
    for (name, value) in [("kernel", Value::Number(6_012)), ("thp", "always".into())] {
        known.set(name, value);
    }
    for (name, value) in facts {
        assert!(DOMAIN.knows(name), "{name}");
        known.set(name, value.clone());
    }
    let catalogue = built_in();
    let survey = Survey {
        root: dir.path(),
        catalogue: &catalogue,
        facts: &known,
        ledger: &Ledger::default(),
        claims: &Claims::default(),
        mode: Mode::Adaptive,
        held: &std::collections::BTreeSet::new(),
        now_ms: 0,
    };
    let knob = catalogue.knobs.iter().find(|knob| knob.id == id).unwrap_or_else(|| panic!("{id}"));
    let row = survey.rows_of(knob).remove(0);
    assert_eq!(row.path, path, "{id}");
    let expected = if row.mode == Mode::Observe { Standing::WouldApply } else { Standing::Pending };
    match row.standing {
        standing if standing == expected => row.wanted.map(|value| value.to_string()),
        Standing::NotApplicable | Standing::RightAlready | Standing::OnlyTold | Standing::OtherOwner => None,
        standing => panic!("{id} {holds:?}: {standing:?}, {}", row.detail),
    }
}

fn yes(name: &'static str) -> (&'static str, Value) {
    (name, true.into())
}

#[test]
fn every_knob_has_a_host_that_it_suits_and_one_that_it_does_not() {
    const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    const DEFRAG: &str = "/sys/kernel/mm/transparent_hugepage/defrag";
    const SCAN_SLEEP: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs";
    type Case<'a> = (&'a str, &'a str, &'a str, Vec<(&'static str, Value)>, Option<&'a str>);
    let short = || vec![yes("host.memory_short")];
    let swap = |kind: &str| vec![("swap_kind", kind.into())];
    let cases: Vec<Case<'_>> = vec![
        ("ksm", KSM, "0\n", short(), Some("1")),
        ("ksm", KSM, "0\n", vec![], None),
        ("ksm", KSM, "0\n", [short(), vec![yes("host.cpu_short")]].concat(), None),
        ("ksm", KSM, "0\n", [short(), vec![("vms", Value::Number(1))]].concat(), None),
        ("ksm", KSM, "0\n", [short(), vec![("ksm_pays", "no".into())]].concat(), None),
        ("ksm", KSM, "2\n", short(), None),
        ("ksm_advisor", ADVISOR, "[none] scan-time\n", vec![yes("ksm")], Some("scan-time")),
        ("ksm_advisor", ADVISOR, "[none] scan-time\n", vec![], None),
        ("ksm_pages_to_scan", SCAN, "100\n", vec![yes("ksm"), ("kernel", Value::Number(6_001))], Some("200")),
        (
            "ksm_pages_to_scan",
            SCAN,
            "100\n",
            vec![yes("ksm"), ("kernel", Value::Number(6_001)), yes("host.cpu_spare")],
            Some("1000"),
        ),
        ("ksm_pages_to_scan", SCAN, "100\n", vec![yes("ksm")], None),
        ("thp_enabled", THP, "[always] madvise never\n", vec![], Some("madvise")),
        ("thp_enabled", THP, "always madvise [never]\n", vec![], None),
        ("thp_defrag", DEFRAG, "always defer defer+madvise [madvise] never\n", vec![], Some("defer+madvise")),
        ("khugepaged_max_ptes_none", PTES, "511\n", vec![], Some("0")),
        ("khugepaged_max_ptes_none", PTES, "511\n", vec![("thp", "never".into())], None),
        ("khugepaged_scan_sleep", SCAN_SLEEP, "10000\n", vec![yes("host.cpu_short")], Some("60000")),
        ("swappiness", "/proc/sys/vm/swappiness", "60\n", swap("disk"), Some("10")),
        ("swappiness", "/proc/sys/vm/swappiness", "60\n", swap("zswap"), Some("100")),
        ("swappiness", "/proc/sys/vm/swappiness", "60\n", vec![], None),
        ("swappiness", "/proc/sys/vm/swappiness", "1\n", swap("disk"), None),
        ("slice_swappiness", "/sys/fs/cgroup/memory/qemu.slice/memory.swappiness", "60\n", swap("disk"), Some("10")),
        ("zswap", "/sys/module/zswap/parameters/enabled", "N\n", swap("disk"), Some("Y")),
        ("zswap", "/sys/module/zswap/parameters/enabled", "N\n", swap("zram"), None),
        ("zswap_shrinker", "/sys/module/zswap/parameters/shrinker_enabled", "N\n", swap("zswap"), Some("Y")),
        ("slice_zswap_max", "/sys/fs/cgroup/machine.slice/memory.zswap.max", "0\n", swap("zswap"), None),
        ("slice_zswap_writeback", "/sys/fs/cgroup/machine.slice/memory.zswap.writeback", "0\n", vec![], None),
        ("page_cluster", "/proc/sys/vm/page-cluster", "3\n", swap("zram"), Some("0")),
        ("page_cluster", "/proc/sys/vm/page-cluster", "3\n", swap("disk"), None),
        ("watermark_scale_factor", "/proc/sys/vm/watermark_scale_factor", "10\n", vec![], Some("100")),
        (
            "watermark_scale_factor",
            "/proc/sys/vm/watermark_scale_factor",
            "10\n",
            vec![("memory_total_bytes", Value::Number(512 * GIB))],
            Some("19"),
        ),
        (
            "compaction_proactiveness",
            "/proc/sys/vm/compaction_proactiveness",
            "20\n",
            vec![yes("host.cpu_short")],
            Some("0"),
        ),
        ("overcommit_memory", "/proc/sys/vm/overcommit_memory", "2\n", vec![], None),
        ("kvm_halt_poll_ns", HALT_POLL, "200000\n", vec![yes("host.cpu_short")], Some("0")),
        ("kvm_halt_poll_ns", HALT_POLL, "200000\n", vec![], None),
        ("kvm_halt_poll_ns", HALT_POLL, "50000\n", vec![yes("host.cpu_short")], None),
        (
            "cpu_governor",
            "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor",
            "powersave\n",
            vec![yes("host.cpu_short")],
            Some("performance"),
        ),
        ("numa_balancing", "/proc/sys/kernel/numa_balancing", "1\n", vec![], Some("0")),
        ("numa_balancing", "/proc/sys/kernel/numa_balancing", "1\n", vec![("numa_nodes", Value::Number(2))], None),
        ("io_scheduler", "/sys/block/sda/queue/scheduler", "none mq-deadline [bfq]\n", vec![], Some("mq-deadline")),
        ("io_scheduler", "/sys/block/sda/queue/scheduler", "[none] mq-deadline\n", vec![], Some("mq-deadline")),
        ("io_scheduler", "/sys/block/sdb/queue/scheduler", "[none] mq-deadline\n", vec![], None),
        ("io_scheduler", "/sys/block/nvme0n1/queue/scheduler", "none [mq-deadline]\n", vec![], Some("none")),
        ("nr_requests", "/sys/block/sda/queue/nr_requests", "256\n", vec![yes("host.io_short")], Some("128")),
        ("nr_requests", "/sys/block/sdb/queue/nr_requests", "256\n", vec![yes("host.io_short")], None),
    ];
    for (id, path, holds, facts, expected) in &cases {
        let found = wanted(id, path, holds, facts);
        assert_eq!(found.as_deref(), *expected, "{id} {holds:?} {facts:?}");
    }
    // The dirty limits are a pair with twins: driven in the next test.
    let untested: Vec<_> = built_in()
        .knobs
        .into_iter()
        .map(|knob| knob.id)
        .filter(|id| !id.starts_with("dirty_") && cases.iter().all(|case| case.0 != id))
        .collect();
    assert!(untested.is_empty(), "{untested:?}");
}

fn write(root: &Path, path: &str, holds: &str) {
    let path = root.join(&path[1..]);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, holds).unwrap();
}

/// A host of 16 GiB with two VMs, and its tuner.
struct Machine {
    dir: TempDir,
    tuner: Option<Tuner>,
    now_ms: u64,
    waited_us: u64,
    used_ticks: u64,
}

/// What its knobs hold at boot.
const KNOBS: [(&str, &str); 5] = [
    (KSM, "0\n"),
    (SCAN, "100\n"),
    (HALT_POLL, "200000\n"),
    (PTES, "511\n"),
    ("/proc/sys/vm/watermark_scale_factor", "10\n"),
];

fn host() -> Machine {
    let dir = tempfile::tempdir().unwrap();
    for (path, holds) in KNOBS {
        write(dir.path(), path, holds);
    }
    write(dir.path(), "/proc/sys/kernel/osrelease", "6.1.0\n");
    write(dir.path(), "/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
    write(dir.path(), "/proc/10/cmdline", "/usr/bin/qemu-system-x86_64\0-name\0a\0");
    write(dir.path(), "/proc/11/cmdline", "/usr/bin/qemu-system-x86_64\0-name\0b\0");
    write(dir.path(), "/tuning.d/own.toml", "[[knob]]\nid = \"ksm\"\nmode = \"adaptive\"\n");
    let mut host = Machine { dir, tuner: None, now_ms: 1_000, waited_us: 0, used_ticks: 0 };
    host.merges(0, 0);
    host.has(8 << 20);
    host.start();
    host
}

impl Machine {
    fn config(&self) -> TuningConfig {
        let below = |path: &str| -> PathBuf { self.dir.path().join(path) };
        TuningConfig { mode: Mode::Adaptive, catalogue: below("tuning.d"), journal: below("run/host.journal") }
    }

    fn start(&mut self) {
        self.runs(0, 1_000);
        self.tuner = Some(Tuner::start(self.dir.path(), &self.config(), Policy::default(), self.now_ms).unwrap());
    }

    /// So many of its CPUs' thousandths were used for a second, and somebody waited for one.
    fn runs(&mut self, used_permille: u64, ms: u64) {
        self.used_ticks += used_permille * ms / 1_000 / 10;
        self.now_ms += ms;
        let idle = self.now_ms / 10 - self.used_ticks;
        write(
            self.dir.path(),
            "/proc/stat",
            &format!("cpu  {} 0 0 {idle} 0 0 0 0 0 0\ncpu0 0 0 0 0\n", self.used_ticks),
        );
        self.waited_us += if used_permille > 900 { ms * 990 } else { 0 };
        let line = format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={}\n", self.waited_us);
        write(self.dir.path(), "/proc/pressure/cpu", &line);
    }

    /// So much memory is available.
    fn has(&self, available_kib: u64) {
        let meminfo = include_str!("../host/fixtures/meminfo").replace("@AVAILABLE@", &available_kib.to_string());
        write(self.dir.path(), "/proc/meminfo", &meminfo);
    }

    fn merges(&self, full_scans: u64, pages: u64) {
        for (name, holds) in
            [("full_scans", full_scans), ("pages_shared", pages), ("pages_sharing", pages), ("pages_unshared", 10)]
        {
            write(self.dir.path(), &format!("/sys/kernel/mm/ksm/{name}"), &format!("{holds}\n"));
        }
    }

    /// What happens in so many seconds of such use.
    fn goes_on(&mut self, used_permille: u64, seconds: u64) -> Vec<String> {
        let mut events = Vec::new();
        for _ in 0..seconds {
            self.runs(used_permille, 1_000);
            let now_ms = self.now_ms;
            events.extend(self.tuner().tend(now_ms).unwrap());
        }
        events
    }

    fn tuner(&mut self) -> &mut Tuner {
        self.tuner.as_mut().unwrap()
    }

    fn holds(&self, path: &str) -> String {
        place::value(self.dir.path(), path).unwrap().to_string()
    }

    fn is_as_at_boot(&self) -> bool {
        KNOBS.iter().all(|(path, holds)| self.holds(path) == holds.trim())
    }
}

#[test]
fn the_tuner_follows_the_host_and_puts_all_back() {
    let mut host = host();
    host.goes_on(100, 5);
    assert_eq!([host.holds(PTES), host.holds(KSM), host.holds(HALT_POLL)], ["0", "0", "200000"]);
    host.has(2 << 20);
    let events = host.goes_on(100, 2);
    assert!(events.iter().any(|event| event.contains("ksm=1")), "{events:?}");
    assert_eq!([host.holds(KSM), host.holds(SCAN)], ["1", "1000"], "memory is short, CPU time is not");
    host.goes_on(1_000, 30);
    assert_eq!([host.holds(KSM), host.holds(SCAN), host.holds(HALT_POLL)], ["0", "100", "0"]);
    host.goes_on(100, 60);
    assert_eq!([host.holds(KSM), host.holds(HALT_POLL)], ["1", "200000"]);
    let now_ms = host.now_ms;
    let undone = host.tuner().stop(now_ms);
    assert!(undone.iter().all(|file| file.outcome == Some(Outcome::Restored)), "{undone:?}");
    assert!(host.is_as_at_boot() && host.tuner().applied() == 0);
}

#[test]
fn merging_that_saves_nothing_stops_and_merging_that_saves_goes_on() {
    for (pages, expected) in [(100, "0"), (100_000, "1")] {
        let mut host = host();
        host.has(2 << 20);
        host.goes_on(100, 3);
        assert_eq!(host.holds(KSM), "1");
        host.merges(1, 0);
        host.goes_on(100, 2);
        assert_eq!(host.holds(KSM), "1", "one scan tells nothing");
        host.merges(2, pages);
        host.goes_on(100, 2);
        assert_eq!(host.holds(KSM), expected, "{pages} pages");
        host.goes_on(100, 600);
        assert_eq!(host.holds(KSM), expected, "{pages} pages, and it stays so");
    }
}

#[test]
fn memory_on_the_line_does_not_start_and_stop_anything() {
    let mut host = host();
    let mut seen = Vec::new();
    for round in 0..60 {
        // Between 19 and 29 % of 16 GiB.
        host.has(if round % 2 == 0 { 3_180_000 } else { 4_860_000 });
        host.goes_on(100, 2);
        seen.push(host.holds(KSM));
    }
    assert!(seen.iter().all(|run| run == "1"), "{seen:?}");
}

#[test]
fn a_killed_tuner_s_changes_are_put_back_by_the_next_and_only_one_runs() {
    let mut host = host();
    host.goes_on(100, 2);
    assert!(!host.is_as_at_boot());
    let second = Tuner::start(host.dir.path(), &host.config(), Policy::default(), 0);
    assert!(matches!(second, Err(TunerError::Locked(LockError::Held { .. }))));
    host.tuner = None;
    let observing = TuningConfig { mode: Mode::Observe, ..host.config() };
    let mut next = Tuner::start(host.dir.path(), &observing, Policy::default(), host.now_ms).unwrap();
    assert!(host.is_as_at_boot(), "also by a mode that sets nothing");
    let now_ms = host.now_ms + 1_000;
    let events = next.tend(now_ms).unwrap();
    assert!(events.len() == 1 && events[0].contains("a killed tuner had left"), "{events:?}");
    assert!(host.is_as_at_boot(), "nothing is set");
}

#[test]
fn an_operator_s_value_and_an_operator_s_revert_hold() {
    let mut host = host();
    write(host.dir.path(), "/proc/sys/vm/watermark_scale_factor", "50\n");
    host.goes_on(100, 2);
    assert_eq!(host.holds("/proc/sys/vm/watermark_scale_factor"), "50", "it was somebody's choice");
    let now_ms = host.now_ms;
    let name = Some("khugepaged_max_ptes_none".to_owned());
    let answer = host.tuner().serve(&Request::Revert { name }, now_ms);
    assert!(matches!(&answer, Answer::Undone { files } if files.len() == 1), "{answer:?}");
    host.goes_on(100, 2 * CHECK_MS / 1_000);
    assert_eq!(host.holds(PTES), "511");
    let Answer::Stands { held, facts } = host.tuner().serve(&Request::Status, now_ms) else { panic!("no answer") };
    assert!(held.contains("khugepaged_max_ptes_none"));
    assert_eq!(Facts::told(&DOMAIN, &facts).get("vms"), Some(Value::Number(2)));
}
