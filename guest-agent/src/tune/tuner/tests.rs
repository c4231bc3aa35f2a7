//! The engine on a fixture tree, over the life of a guest.

use super::*;
use crate::sense::fixture::write as fixture;
use crate::sense::{CpuSample, Stall};
use std::fs;
use tempfile::TempDir;
use vmtide_tuning::catalogue::Risk;
use vmtide_tuning::engine::{FULL_MS, REFUSED_MS};
use vmtide_tuning::journal::{self, Outcome};
use vmtide_tuning::place;

const MIB: u64 = 1 << 20;
const SWAPPINESS: &str = "proc/sys/vm/swappiness";
const MIN_FREE: &str = "proc/sys/vm/min_free_kbytes";
const HALTPOLL: &str = "sys/module/haltpoll/parameters/guest_halt_poll_ns";

/// What all of them hold at boot.
const KNOBS: [(&str, &str); 9] = [
    (SWAPPINESS, "60\n"),
    (MIN_FREE, "38000\n"),
    (HALTPOLL, "200000\n"),
    ("proc/sys/vm/page-cluster", "3\n"),
    ("proc/sys/vm/dirty_bytes", "0\n"),
    ("proc/sys/vm/dirty_background_bytes", "0\n"),
    ("proc/sys/vm/dirty_background_ratio", "10\n"),
    ("proc/sys/vm/dirty_ratio", "20\n"),
    ("sys/block/vda/queue/nr_requests", "256\n"),
];

/// A guest, and an engine that looks after it.
struct Guest {
    dir: TempDir,
    tuner: Option<Tuner>,
    now_ms: u64,
    samples: Samples,
}

fn guest(more: &str) -> Guest {
    let dir = tempfile::tempdir().unwrap();
    for (path, holds) in KNOBS {
        fixture(dir.path(), path, holds);
    }
    fixture(dir.path(), "proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n");
    fixture(dir.path(), "proc/sys/kernel/osrelease", "6.12.43\n");
    fixture(dir.path(), "proc/zoneinfo", "  present 1000\n");
    fixture(dir.path(), "tuning.d/own.toml", more);
    let memory = MemorySample { total_bytes: 768 * MIB, stall: Some(Stall::default()), ..MemorySample::default() };
    let cpu = CpuSample { online_cpus: 1, ..CpuSample::default() };
    let samples = Samples { memory: Some(memory), cpu: Some(cpu), storage: None, rest_at_ms: Some(0) };
    let mut guest = Guest { dir, tuner: None, now_ms: 1_000, samples };
    guest.start();
    guest
}

impl Guest {
    fn tuning(&self) -> Tuning {
        let journal = self.dir.path().join("run/tuning.journal");
        Tuning { mode: Mode::Adaptive, catalogue: self.dir.path().join("tuning.d"), journal, zram: None }
    }

    fn start(&mut self) {
        self.tuner = Some(Tuner::start(self.dir.path(), &self.tuning(), self.now_ms).unwrap());
    }

    /// SIGKILL: nobody cleans up, the kernel takes the lock back.
    fn killed(&mut self) {
        self.tuner = None;
    }

    fn tuner(&mut self) -> &mut Tuner {
        self.tuner.as_mut().unwrap()
    }

    /// So much later; returns what the engine says.
    fn after_ms(&mut self, ms: u64) -> Vec<Event> {
        self.now_ms += ms;
        self.samples.rest_at_ms = Some(self.now_ms);
        let (now_ms, samples) = (self.now_ms, self.samples);
        self.tuner().tend(now_ms, &samples)
    }

    /// `seconds` of a guest that stalls so many millionths of the time.
    fn stalls(&mut self, seconds: u64, ppm: u64) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..seconds / 2 {
            let stall = self.samples.memory.as_mut().and_then(|memory| memory.stall.as_mut()).unwrap();
            stall.some_us += ppm * 2;
            events.extend(self.after_ms(2_000));
        }
        events
    }

    fn hear(&mut self, host: Host) {
        assert!(self.tuner().hear(host));
    }

    fn holds(&self, path: &str) -> String {
        place::value(self.dir.path(), path).unwrap().to_string()
    }

    fn set(&self, path: &str, holds: &str) {
        fixture(self.dir.path(), path, holds);
    }

    /// What a kernel does, and a tree of files does not.
    fn twins_are_zeroed(&self) {
        for ratio in ["proc/sys/vm/dirty_ratio", "proc/sys/vm/dirty_background_ratio"] {
            self.set(ratio, "0\n");
        }
    }

    fn is_as_at_boot(&self) -> bool {
        KNOBS.iter().all(|(path, holds)| path.ends_with("_bytes") || self.holds(path) == holds.trim())
    }

    fn bytes_hold(&self) -> [String; 2] {
        ["dirty_background_bytes", "dirty_bytes"].map(|name| self.holds(&format!("proc/sys/vm/{name}")))
    }
}

#[test]
fn sets_what_is_of_low_risk_follows_the_guest_and_puts_all_back() {
    let mut guest = guest("");
    fixture(guest.dir.path(), "sys/block/vda/size", "1\n");
    let events = guest.after_ms(0);
    assert!(events.len() == 1 && events[0].starts_with("set swappiness=140, page_cluster=0, min_free"), "{events:?}");
    assert_eq!((guest.holds(SWAPPINESS).as_str(), guest.holds(MIN_FREE).as_str()), ("140", "3547"));
    assert_eq!(guest.bytes_hold(), ["15", "76"].map(|mib| (mib.parse::<u64>().unwrap() * MIB).to_string()));

    guest.samples.memory.as_mut().unwrap().balloon_bytes = 512 * MIB;
    assert!(guest.after_ms(1_000).is_empty(), "memory moves: soon, not at once");
    assert_eq!(guest.holds(MIN_FREE), "3547");
    guest.after_ms(1_000);
    assert_eq!(guest.holds(MIN_FREE), "2048");

    guest.twins_are_zeroed();
    let now_ms = guest.now_ms;
    // The kernel sets the bytes to 0 when the ratio is written; here it has to be done beforehand.
    let undone = guest.tuner().stop(now_ms);
    assert_eq!(undone.len(), 5);
    assert!(guest.is_as_at_boot());
}

#[test]
fn a_killed_agent_s_changes_are_put_back_by_the_next() {
    let mut guest = guest("[[knob]]\nid = \"dirty_bytes\"\nmode = \"off\"\n");
    guest.after_ms(0);
    assert_eq!(guest.holds(SWAPPINESS), "140");
    guest.killed();
    guest.start();
    assert!(guest.is_as_at_boot());
    let events = guest.after_ms(0);
    assert!(events[0].starts_with("put back 3 files that a killed agent had left"), "{events:?}");
    assert_eq!(guest.holds(SWAPPINESS), "140", "and set again");
}

#[test]
fn the_balance_of_refaults_moves_swappiness_and_does_not_flap() {
    let mut guest = guest("[[knob]]\nid = \"swappiness\"\nsignal = \"steal\"\n");
    guest.after_ms(0);
    let mut seen = Vec::new();
    for _ in 0..20 {
        guest.samples.memory.as_mut().unwrap().refault_anon_bytes += 64 * MIB;
        guest.after_ms(CHECK_MS);
        seen.push(guest.holds(SWAPPINESS));
    }
    assert!(seen[2..].iter().all(|value| value == "100"), "{seen:?}");
}

#[test]
fn follows_the_host_at_once_and_back() {
    let mut guest = guest("");
    guest.after_ms(0);
    assert_eq!(guest.holds(HALTPOLL), "200000");
    guest.hear(Host { cpu_short: true, io_short: true, ..Host::default() });
    guest.after_ms(10);
    assert_eq!((guest.holds(HALTPOLL).as_str(), guest.holds("sys/block/vda/queue/nr_requests").as_str()), ("0", "128"));
    guest.hear(Host { memory_short: true, ..Host::default() });
    let events = guest.after_ms(10);
    for told in ["put back guest_halt_poll_ns", "put back nr_requests", "set swappiness=180"] {
        assert!(events.iter().any(|event| event.starts_with(told)), "{told:?} is not in {events:?}");
    }
    assert_eq!((guest.holds(HALTPOLL).as_str(), guest.holds(SWAPPINESS).as_str()), ("200000", "180"));
    assert!(!guest.tuner().hear(Host { memory_short: true, ..Host::default() }), "nothing new");
}

#[test]
fn where_nothing_moves_other_facts_wait_for_the_look_at_everything() {
    let mut guest = guest("");
    guest.after_ms(0);
    guest.set("proc/swaps", "Filename Type Size Used Priority\n/dev/vda partition 1 0 -2\n");
    guest.after_ms(CHECK_MS);
    assert_eq!(guest.holds("proc/sys/vm/page-cluster"), "0", "not read yet");
    guest.after_ms(FULL_MS);
    assert_eq!(guest.holds("proc/sys/vm/page-cluster"), "3", "right for zram only");
    guest.set("proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n");
    guest.samples.memory.as_mut().unwrap().refault_file_bytes += MIB;
    guest.after_ms(CHECK_MS);
    assert_eq!(guest.holds("proc/sys/vm/page-cluster"), "0", "somebody misses memory: all facts are read");
}

#[test]
fn what_someone_else_changed_is_theirs_for_good() {
    let mut guest = guest("");
    guest.after_ms(0);
    guest.set(SWAPPINESS, "10\n");
    let events = guest.after_ms(CHECK_MS);
    assert_eq!(events, ["swappiness: taken by someone else, /proc/sys/vm/swappiness is now 10"]);
    guest.killed();
    guest.start();
    for path in [SWAPPINESS, "proc/sys/vm/page-cluster"] {
        guest.set(path, "60\n");
    }
    guest.after_ms(0);
    assert_eq!(guest.holds(SWAPPINESS), "60", "not even when it is the original again");
}

#[test]
fn what_the_kernel_computes_anew_when_memory_is_plugged_is_set_again() {
    let mut guest = guest("");
    guest.after_ms(0);
    guest.set("proc/zoneinfo", "  present 2000\n");
    guest.set(MIN_FREE, "45000\n");
    guest.after_ms(CHECK_MS);
    assert_eq!(guest.holds(MIN_FREE), "3547");
    let now_ms = guest.now_ms;
    guest.tuner().stop(now_ms);
    assert_eq!(guest.holds(MIN_FREE), "45000", "the kernel's newest value is the original");
}

#[test]
fn a_knob_that_is_another_s_fact_does_not_hide_who_changed_it() {
    let mut guest = guest("[[knob]]\nid = \"thp_enabled\"\nmode = \"static\"\n");
    let thp = "sys/kernel/mm/transparent_hugepage/enabled";
    guest.set(thp, "[always] madvise never\n");
    guest.after_ms(0);
    assert_eq!((guest.holds(thp).as_str(), guest.holds(MIN_FREE).as_str()), ("madvise", "3547"));
    guest.set(MIN_FREE, "9999\n");
    assert!(guest.after_ms(CHECK_MS)[0].starts_with("min_free_kbytes: taken by someone else"));
    assert_eq!(guest.holds(MIN_FREE), "9999");
}

#[test]
fn a_pair_is_changed_together_or_not_at_all() {
    let mut guest = guest("");
    fixture(guest.dir.path(), "sys/block/vda/size", "1\n");
    guest.set("proc/sys/vm/dirty_ratio", "30\n");
    guest.after_ms(0);
    assert_eq!(guest.bytes_hold(), ["0", "0"], "one of them is somebody else's");
    guest.set("proc/sys/vm/dirty_ratio", "20\n");
    guest.after_ms(FULL_MS);
    assert_ne!(guest.bytes_hold(), ["0", "0"]);
    guest.twins_are_zeroed();
    guest.set("proc/sys/vm/dirty_bytes", "1234\n");
    guest.after_ms(CHECK_MS);
    assert_eq!(guest.holds("proc/sys/vm/dirty_background_ratio"), "10", "the other half is put back");
    assert_eq!(guest.holds("proc/sys/vm/dirty_bytes"), "1234");
}

#[test]
fn an_operator_s_revert_holds_until_the_agent_starts_again() {
    let mut guest = guest("");
    guest.after_ms(0);
    let now_ms = guest.now_ms;
    let unknown = guest.tuner().serve(&Request::Revert { name: Some("moon".into()) }, now_ms);
    assert!(matches!(unknown, Answer::Failed { .. }));
    let answer = guest.tuner().serve(&Request::Revert { name: Some("swappiness".into()) }, now_ms);
    assert!(matches!(&answer, Answer::Undone { files } if files.len() == 1), "{answer:?}");
    guest.after_ms(CHECK_MS);
    assert_eq!((guest.holds(SWAPPINESS).as_str(), guest.holds(MIN_FREE).as_str()), ("60", "3547"));
    guest.tuner().serve(&Request::Revert { name: None }, now_ms);
    guest.after_ms(CHECK_MS);
    assert!(guest.is_as_at_boot());
    guest.killed();
    guest.start();
    guest.after_ms(0);
    assert_eq!(guest.holds(SWAPPINESS), "140");
}

#[test]
fn a_pause_leaves_everything_as_it_is() {
    let mut guest = guest("");
    let until_ms = guest.now_ms + 5_000;
    guest.tuner().pause(until_ms);
    guest.after_ms(4_999);
    assert_eq!(guest.holds(SWAPPINESS), "60");
    guest.after_ms(1);
    assert_eq!(guest.holds(SWAPPINESS), "140");
}

#[test]
fn modes_hold_back() {
    for (mode, expected) in [(Mode::Off, "60"), (Mode::Observe, "60"), (Mode::Static, "140")] {
        let mut guest = guest("");
        guest.killed();
        let tuning = Tuning { mode, ..guest.tuning() };
        guest.tuner = Some(Tuner::start(guest.dir.path(), &tuning, 0).unwrap());
        guest.after_ms(0);
        assert_eq!(guest.holds(SWAPPINESS), expected, "{mode:?}");
        if mode == Mode::Static {
            guest.hear(Host { memory_short: true, ..Host::default() });
            guest.after_ms(0);
            assert_eq!(guest.holds(SWAPPINESS), "140", "it does not follow");
        }
    }
}

#[test]
fn what_cannot_be_written_is_said_once_and_the_rest_goes_on() {
    let mut guest = guest(
        "[[knob]]\nid = \"null\"\npath = \"/sys/null\"\nvalue = '1'\nrisk = \"low\"\nwhy = \"w\"\nsource = \"s\"\n",
    );
    std::os::unix::fs::symlink("/dev/null", guest.dir.path().join("sys/null")).unwrap();
    let events = guest.after_ms(0);
    assert!(events[0].contains("/sys/null still holds"), "{events:?}");
    assert_eq!(guest.holds(SWAPPINESS), "140");
    assert!(guest.after_ms(CHECK_MS).is_empty());
    assert!(
        guest.after_ms(REFUSED_MS).iter().any(|event| event.contains("/sys/null")),
        "after a while it is tried again"
    );
}

#[test]
fn a_disk_that_is_unplugged_takes_its_knobs_with_it() {
    let mut guest = guest("");
    guest.hear(Host { io_short: true, ..Host::default() });
    guest.after_ms(0);
    assert_eq!(guest.holds("sys/block/vda/queue/nr_requests"), "128");
    fs::remove_dir_all(guest.dir.path().join("sys/block/vda")).unwrap();
    guest.after_ms(CHECK_MS);
    let records = journal::read(&guest.tuning().journal, "").unwrap();
    assert!(records.iter().any(|record| matches!(record, journal::Record::Closed { outcome: Outcome::Gone, .. })));
}

#[test]
fn a_cpu_that_goes_between_look_and_write_and_between_write_and_stop_leaves_nothing() {
    const GOVERNOR: &str = "sys/devices/system/cpu/cpufreq/policy1/scaling_governor";
    let mut guest =
        guest("[[knob]]\nid = \"cpu_governor\"\nmode = \"static\"\n[[knob]]\nid = \"dirty_bytes\"\nmode = \"off\"\n");
    let policy = guest.dir.path().join(GOVERNOR).parent().unwrap().to_owned();
    guest.set(GOVERNOR, "powersave\n");
    let now_ms = guest.now_ms;
    let rows = guest.tuner().engine.rows("cpu_governor", now_ms);
    fs::remove_dir_all(&policy).unwrap();
    guest.tuner().engine.write(&rows[0], now_ms);
    guest.tuner().engine.write(&rows[0], now_ms + CHECK_MS - 1);
    let events = guest.after_ms(0);
    let said = events.iter().filter(|event| event.contains("policy1")).count();
    assert!(said == 1 && events.iter().any(|event| event.starts_with("set swappiness=140")), "{events:?}");
    assert!(guest.tuner().engine.ledger().owned.iter().all(|owned| owned.knob != "cpu_governor"));

    // It comes back, is tuned, and goes again just before the agent stops.
    guest.set(GOVERNOR, "powersave\n");
    guest.after_ms(FULL_MS);
    assert_eq!(guest.holds(GOVERNOR), "schedutil");
    fs::remove_dir_all(&policy).unwrap();
    let now_ms = guest.now_ms;
    let undone = guest.tuner().stop(now_ms);
    assert!(undone.iter().any(|file| file.knob == "cpu_governor" && file.outcome == Some(Outcome::Gone)), "{undone:?}");
    assert_eq!((guest.tuner().applied(), guest.holds(SWAPPINESS).as_str()), (0, "60"));
}

#[test]
fn adaptive_writes_what_is_of_low_risk_and_tells_the_rest() {
    let mut guest = guest("[[knob]]\nid = \"dirty_bytes\"\nmode = \"off\"\n");
    let risky = [
        ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
        ("sys/kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never\n"),
        ("proc/sys/vm/vfs_cache_pressure", "100\n"),
        ("proc/sys/kernel/sched_autogroup_enabled", "1\n"),
        ("sys/kernel/mm/lru_gen/min_ttl_ms", "0\n"),
        ("sys/devices/system/cpu/cpuidle/current_governor", "haltpoll\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "powersave\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference", "performance\n"),
        ("sys/block/vda/queue/scheduler", "none mq-deadline [bfq]\n"),
    ];
    for (path, holds) in risky.into_iter().chain([("sys/kernel/mm/lru_gen/enabled", "0x0001\n")]) {
        guest.set(path, holds);
    }
    guest.hear(Host { cpu_short: true, memory_short: true, io_short: true });
    guest.after_ms(0);
    // Long enough for trials, with a signal for each of them.
    guest.stalls(240, 20_000);
    let now_ms = guest.now_ms;
    let mut written = 0;
    for knob in guest.tuner().engine.catalogue().knobs.clone() {
        for row in guest.tuner().engine.rows(&knob.id, now_ms) {
            assert!(row.original.is_none() || knob.risk == Risk::Low, "{row:?}");
            written += usize::from(row.original.is_some());
        }
    }
    for (path, holds) in risky {
        assert_eq!(fs::read_to_string(guest.dir.path().join(path)).unwrap(), holds, "{path}");
    }
    assert!(written >= 4, "{written}");
}

#[test]
fn without_a_place_for_a_journal_nothing_is_written() {
    let guest = guest("");
    let tuning = Tuning { journal: "/proc/no/journal".into(), ..guest.tuning() };
    let mut tuner = Tuner::start(guest.dir.path(), &tuning, 0).unwrap();
    assert!(tuner.tend(0, &guest.samples).is_empty());
    assert!(guest.is_as_at_boot());
    assert!(matches!(Tuner::start(guest.dir.path(), &guest.tuning(), 0), Err(LockError::Held { .. })));
}

#[test]
fn what_does_not_help_goes_back_and_stays_away_for_a_while() {
    // One unit whose signal is memory stall is enough: the others wait for their turn.
    let mut guest = guest("[[knob]]\nid = \"watermark_scale_factor\"\nmode = \"off\"\n");
    guest.after_ms(0);
    let events = guest.stalls(16, 20_000);
    assert!(events.is_empty(), "{events:?}");
    assert_eq!(guest.holds(MIN_FREE), "38000", "with it was seen, now without");
    // Without it there is less waiting: it does harm.
    let events = guest.stalls(20, 1_000);
    assert!(
        events.iter().any(|event| event.starts_with("min_free_kbytes: worse, reverted: memory stall")),
        "{events:?}"
    );
    guest.stalls(120, 20_000);
    assert_eq!(guest.holds(MIN_FREE), "38000");
    guest.killed();
    guest.start();
    guest.after_ms(CHECK_MS);
    assert_eq!(guest.holds(MIN_FREE), "38000", "the back-off outlives the agent");
    guest.after_ms(600_000);
    assert_eq!(guest.holds(MIN_FREE), "3547");
}

#[test]
fn what_helps_stays_and_is_not_tried_again() {
    let mut guest = guest("[[knob]]\nid = \"watermark_scale_factor\"\nmode = \"off\"\n");
    guest.after_ms(0);
    guest.stalls(16, 20_000);
    let events = guest.stalls(20, 90_000);
    assert!(events.iter().any(|event| event.starts_with("min_free_kbytes: better, kept")), "{events:?}");
    assert_eq!(guest.holds(MIN_FREE), "3547");
    assert!(guest.stalls(120, 20_000).is_empty());
    assert_eq!(guest.holds(MIN_FREE), "3547");
}

#[test]
fn what_is_risky_is_tried_before_it_stays() {
    let mut guest = guest(
        "[[knob]]\nid = \"thp_enabled\"\nmode = \"adaptive\"\n[[knob]]\nid = \"min_free_kbytes\"\nmode = \"off\"\n\
         [[knob]]\nid = \"watermark_scale_factor\"\nmode = \"off\"\n",
    );
    let thp = "sys/kernel/mm/transparent_hugepage/enabled";
    guest.set(thp, "[always] madvise never\n");
    guest.after_ms(0);
    assert!(guest.holds(thp) == "always" && guest.stalls(8, 20_000).is_empty());
    guest.stalls(10, 20_000);
    assert_eq!(guest.holds(thp), "madvise", "the trial has begun");
    let events = guest.stalls(20, 20_000);
    assert!(events.iter().any(|event| event.starts_with("thp_enabled: inconclusive, reverted")), "{events:?}");
    assert_eq!(guest.holds(thp), "always");
}

#[test]
fn memory_that_was_plugged_in_and_stays_offline_is_said_once() {
    let mut guest = guest("");
    fixture(guest.dir.path(), "sys/bus/virtio/drivers/virtio_mem/virtio5/features", "1");
    fixture(guest.dir.path(), "sys/devices/system/memory/block_size_bytes", "8000000\n");
    let block = "sys/devices/system/memory/memory9/state";
    fixture(guest.dir.path(), block, "offline\n");
    let said = |guest: &mut Guest| {
        guest.now_ms += FULL_MS;
        let events = guest.tuner.as_mut().unwrap().tend(guest.now_ms, &guest.samples);
        events.iter().filter(|event| event.contains("128 MiB were plugged in and stay offline")).count()
    };
    assert_eq!([said(&mut guest), said(&mut guest)], [1, 0]);
    fixture(guest.dir.path(), block, "online\n");
    assert_eq!(said(&mut guest), 0);
    fixture(guest.dir.path(), block, "offline\n");
    assert_eq!(said(&mut guest), 1);
}
