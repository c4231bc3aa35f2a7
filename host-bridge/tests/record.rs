//! A recording gives back what was recorded, whatever happened to its files: never anything else.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

mod plan_support;

use plan_support::arbitrary::any_host;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use vmtide_bridge::plan::{HostView, Planner, Policy, Shown, VmView, memory};
use vmtide_bridge::record::{
    Ended, Entry, Header, Lever, LeverChange, LeverEntry, LeverOutcome, Losses, Outcome, ReadError, StoreError, Tick,
    Used, Writer, read,
};

const MIB: u64 = 1 << 20;
const RUN: u64 = 1_800_000_000_000;

fn header(run_unix_ms: u64) -> Header {
    Header::new(run_unix_ms, Planner::Vmtide, Policy::default(), (0..40).map(|number| format!("vm-{number}")).collect())
}

fn tick(ms: u64, host: HostView, numbers: Vec<usize>, views: Vec<VmView>) -> Tick {
    let plan = memory::plan(ms, &host, &views, &Policy::default());
    let used = Used { cpu_millicpus: ms, io_bytes_per_s: 7, io_ops_per_s: 0 };
    let used = numbers.iter().filter(|_| ms.is_multiple_of(3_000)).map(|number| (*number, used)).collect();
    let levers = if ms.is_multiple_of(4_000) { levers(ms) } else { Vec::new() };
    Tick { ms, unix_ms: RUN + ms, host, numbers, views, plan, used, levers }
}

/// A change that was decided and one that ended.
fn levers(id: u64) -> Vec<LeverEntry> {
    let change = LeverChange {
        id,
        at_unix_ms: RUN + id,
        vm: "vm-1".to_owned(),
        lever: Lever::IoRate,
        from: 0,
        to: MIB,
        rule: "over_share".to_owned(),
        reason: "others wait".to_owned(),
        outcome: LeverOutcome::Asked,
    };
    vec![LeverEntry::Decided(change), LeverEntry::Ended { id, outcome: LeverOutcome::Done { after_ms: 3 } }]
}

/// A host whose VMs come and go at random, one tick each second.
fn ticks(count: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<Tick>> {
    proptest::collection::vec((any_host(), any::<u64>()), count).prop_map(|hosts| {
        let one = |(second, ((host, views), there)): (usize, ((HostView, Vec<VmView>), u64))| {
            let is_there = |number: &usize| there >> number & 1 == 1;
            let (numbers, views) = views.into_iter().enumerate().filter(|(number, _)| is_there(number)).unzip();
            tick(600_000 + 1_000 * second as u64, host, numbers, views)
        };
        hosts.into_iter().enumerate().map(one).collect()
    })
}

/// The same host all the time: what changes from tick to tick is little, as it is in life.
fn steady_ticks(seconds: u64) -> Vec<Tick> {
    let vm =
        |index: u64| plan_support::vm(300, 600, plan_support::needs(200 + index, vmtide_bridge::plan::Urgency::Normal));
    (0..seconds)
        .map(|second| {
            let views: Vec<VmView> = (0..3).map(|index| vm(index + second % 7)).collect();
            tick(second * 1_000, plan_support::host(1_000), vec![0, 1, 2], views)
        })
        .collect()
}

fn write(folder: &Path, cap_bytes: u64, ticks: &[Tick]) {
    let mut writer = Writer::open(folder, cap_bytes, header(RUN)).unwrap();
    for tick in ticks {
        writer.tick(tick.clone()).unwrap();
    }
}

fn read_ticks(path: &Path) -> (Vec<Tick>, Losses) {
    let mut ticks = Vec::new();
    let losses = read(path, |entry| {
        if let Entry::Tick(_, tick) = entry {
            ticks.push(tick.clone());
        }
    });
    (ticks, losses.unwrap())
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "record");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(is_segment).collect();
    paths.sort();
    paths
}

/// A recording in one segment, and that segment.
fn one_segment(ticks: &[Tick]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 1 << 30, ticks);
    let segments = segments(folder.path());
    assert_eq!(segments.len(), 1);
    (folder, segments[0].clone())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_is_recorded_is_read(ticks in ticks(1..12)) {
        let (folder, _) = one_segment(&ticks);
        let (read, losses) = read_ticks(folder.path());
        prop_assert_eq!(read, ticks);
        prop_assert_eq!(losses, Losses::default());
    }

    /// Also when a whole tick is changed and everything behind it builds on it.
    #[test]
    fn a_changed_byte_never_makes_up_a_tick(at in any::<prop::sample::Index>(), to: u8) {
        let ticks = steady_ticks(150);
        let (_folder, segment) = one_segment(&ticks);
        let mut bytes = std::fs::read(&segment).unwrap();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        std::fs::write(&segment, bytes).unwrap();
        let (read, losses) = read_ticks(&segment);
        prop_assert!(read.iter().all(|tick| ticks.contains(tick)));
        // A full picture comes each minute, so at most that much is lost, and it is said how much.
        prop_assert!(read.len() >= ticks.len() - 61, "{} ticks are left", read.len());
        prop_assert_eq!(read.is_empty() || read.len() < ticks.len(), losses.damaged_bytes > 1);
    }
}

/// What a guest has touched changes all the time and vmtide does not go by it; a peer does.
#[test]
fn what_only_peers_go_by_is_recorded_with_the_next_change_or_for_a_peer_at_once() {
    let ticks: Vec<Tick> = (0..20_u64)
        .map(|second| {
            let mut tick = steady_ticks(1).remove(0);
            (tick.ms, tick.unix_ms) = (second * 1_000, RUN + second * 1_000);
            tick.views[0].shown = Shown { resident_bytes: Some(second), ..Shown::default() };
            tick.views[0].allocation_bytes += second / 5;
            tick
        })
        .collect();
    for (planner, expected) in [(Planner::Vmtide, [0, 0, 5, 15]), (Planner::MomRules, [0, 3, 7, 19])] {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(folder.path(), 1 << 30, Header { planner, ..header(RUN) }).unwrap();
        for tick in &ticks {
            writer.tick(tick.clone()).unwrap();
        }
        let (read, losses) = read_ticks(folder.path());
        let resident = |second: usize| read[second].views[0].shown.resident_bytes.unwrap();
        assert_eq!([0, 3, 7, 19].map(resident), expected, "{planner}");
        assert_eq!(losses, Losses::default());
    }
}

#[test]
fn a_tail_torn_at_any_byte_costs_the_last_tick_only() {
    let ticks = steady_ticks(5);
    let (_folder, segment) = one_segment(&ticks);
    let bytes = std::fs::read(&segment).unwrap();
    let last = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for end in last..bytes.len() {
        std::fs::write(&segment, &bytes[..end]).unwrap();
        let (read, losses) = read_ticks(&segment);
        // The newline alone is no loss.
        let is_whole = end == bytes.len() - 1;
        assert_eq!(read, ticks[..if is_whole { 5 } else { 4 }], "torn at {end}");
        assert_eq!(losses.damaged_bytes, if is_whole { 0 } else { (end - last) as u64 }, "torn at {end}");
    }
}

#[test]
fn a_hole_is_measured_and_what_builds_on_it_is_not_used() {
    let ticks = steady_ticks(150);
    let (_folder, segment) = one_segment(&ticks);
    let text = std::fs::read_to_string(&segment).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    std::fs::write(&segment, [&lines[..30], &["what is this"], &lines[31..]].concat().join("\n")).unwrap();
    let (read, losses) = read_ticks(&segment);
    assert_eq!(read, [&ticks[..30], &ticks[60..]].concat());
    let expected = Losses { damaged_stretches: 1, damaged_bytes: 13, unusable_records: 29, lost_ms: 31_000 };
    assert_eq!(losses, expected);
}

#[test]
fn all_segments_together_stay_under_the_cap_and_hold_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let cap_bytes = 64 << 10;
    let ticks = steady_ticks(2_000);
    let mut writer = Writer::open(folder.path(), cap_bytes, header(RUN)).unwrap();
    let mut most = 0;
    for tick in &ticks {
        writer.tick(tick.clone()).unwrap();
        let total: u64 = segments(folder.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(total <= cap_bytes, "{total} bytes at {} s", tick.ms / 1000);
        most = most.max(total);
    }
    assert!(most > cap_bytes / 8 * 7, "the cap is made use of: {most} bytes");
    let (read, losses) = read_ticks(folder.path());
    assert_eq!((read.as_slice(), losses), (&ticks[ticks.len() - read.len()..], Losses::default()));
}

#[test]
fn a_record_that_is_more_than_the_cap_is_refused_and_the_next_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let ticks = steady_ticks(2);
    let empty = tick(5_000, plan_support::host(1_000), Vec::new(), Vec::new());
    let mut writer = Writer::open(folder.path(), 2_000, header(RUN)).unwrap();
    let error = writer.tick(ticks[0].clone()).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { cap_bytes: 2_000, .. }), "{error}");
    writer.tick(empty.clone()).unwrap();
    assert_eq!(read_ticks(folder.path()).0, [empty]);
}

#[test]
fn runs_follow_each_other_although_the_wall_clock_went_back() {
    let folder = tempfile::tempdir().unwrap();
    let names = |run| header(run);
    for run in [RUN, RUN - 3_600_000] {
        let mut writer = Writer::open(folder.path(), MIB, names(run)).unwrap();
        writer.tick(steady_ticks(1).remove(0)).unwrap();
        writer
            .ended(Ended {
                ms: 7,
                vm: "vm-1".into(),
                from_bytes: 5,
                to_bytes: 6,
                outcome: Outcome::Confirmed { after_ms: 9 },
            })
            .unwrap();
    }
    let mut seen = Vec::new();
    read(folder.path(), |entry| {
        seen.push(match entry {
            Entry::Tick(header, _) => (header.run_unix_ms, "tick"),
            Entry::Ended(header, _) => (header.run_unix_ms, "ended"),
        });
    })
    .unwrap();
    assert_eq!(seen, [(RUN, "tick"), (RUN, "ended"), (RUN - 3_600_000, "tick"), (RUN - 3_600_000, "ended")]);
}

#[test]
fn two_processes_do_not_record_in_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = Writer::open(folder.path(), MIB, header(RUN)).unwrap();
    let second = Writer::open(folder.path(), MIB, header(RUN));
    assert!(matches!(second, Err(StoreError::Taken { .. })));
    drop(first);
    assert!(Writer::open(folder.path(), MIB, header(RUN)).is_ok());
}

#[test]
fn what_is_no_recording_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| read(path, |_| ()).unwrap_err().to_string();
    assert!(error(folder.path()).ends_with("holds no recording"));
    assert!(error(&folder.path().join("none")).contains("none: cannot be read: No such file"));
    let file = folder.path().join("1.record");
    std::fs::write(&file, "not a line of ours\n").unwrap();
    assert!(error(&file).ends_with("holds no recording"));
}

/// The line of a full picture, written by hand: `crc` of the JSON is taken from the writer's own form.
fn framed(json: &str) -> String {
    let crc = !json.bytes().fold(!0_u32, |mut crc, byte| {
        crc ^= u32::from(byte);
        (0..8).for_each(|_| crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 });
        crc
    });
    format!("{crc:08x} {} {json}\n", json.len())
}

/// What vmtide-bridge 0.1.0 wrote, to the letter. When a type of the plan gains a field, this has to go on being read:
/// give the field a `serde` default. A reader of today also skips what only a later version would know.
const OF_0_1: &str = r#"{"full":{"number":0,"header":{"format":1,"bridge":"0.1.0","run_unix_ms":1800000000000,"policy":{"headroom_permille":200},"vms":["a","b"]},"state":{"ms":1000,"unix_ms":1800000001000,"host":{"capacity_bytes":1073741824,"reserve_bytes":0,"stall_full_permille":0},"plan":{"state":"calm","limit_bytes":1073741824,"committed_bytes":536870912,"spike_pool_bytes":53687091,"verdicts":[]},"vms":{"b":{"view":{"limits":{"minimum_bytes":134217728,"maximum_bytes":1073741824,"shares":1000},"allocation_bytes":536870912,"target_bytes":536870912,"reach":"ready","demand":{"fresh":{"need_bytes":300000000,"floor_bytes":200000000,"urgency":"normal"}},"history":{"needs":{"slot":0,"highest":[300000000,0,0,0,0,0]},"needs_since_ms":900,"settled_bytes":300000000}},"verdict":{"wanted_bytes":367108864,"entitled_bytes":367108864,"rule":{"rule":"satisfied"}}}}}}}"#;

#[test]
fn a_recording_of_an_older_version_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("1.record");
    let newer = OF_0_1
        .replace(r#""headroom_permille":200"#, r#""headroom_permille":200,"colour_permille":7"#)
        .replace(r#""reach":"ready""#, r#""reach":"ready","colour":{"deep":"blue"}"#);
    for json in [OF_0_1, &newer] {
        std::fs::write(&file, framed(json)).unwrap();
        let mut seen = Vec::new();
        let losses = read(&file, |entry| {
            let Entry::Tick(header, tick) = entry else { panic!("{entry:?}") };
            assert_eq!(header.policy, Policy { headroom_permille: 200, ..Policy::default() });
            assert_eq!((tick.numbers.as_slice(), tick.host.available_bytes), (&[1][..], None));
            seen.push((tick.ms, tick.views[0].allocation_bytes, tick.plan.verdicts[0].entitled_bytes));
        });
        assert_eq!(losses.unwrap(), Losses::default());
        assert_eq!(seen, [(1_000, 512 * MIB, 367_108_864)]);
    }
}

/// What 0.1.0 would have written had it recorded changes of CPU time and disks; the second is of a lever that nobody knows yet.
const LEVERS: &str = r#""levers":[{"decided":{"id":1,"at_unix_ms":5,"vm":"b","lever":"cpu_quota","from":0,"to":1750,"rule":"held","reason":"w","outcome":"asked"}},{"decided":{"id":2,"at_unix_ms":5,"vm":"b","lever":"gpu_quota","from":0,"to":1,"rule":"r","reason":"w","outcome":"asked"}},{"ended":{"id":1,"outcome":{"refused":{"message":"no"}}}}],"vms""#;

#[test]
fn changes_of_levers_that_a_reader_does_not_know_are_left_out_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("1.record");
    std::fs::write(&file, framed(&OF_0_1.replacen(r#""vms":{"b""#, &(LEVERS.to_owned() + r#":{"b""#), 1))).unwrap();
    let (ticks, losses) = read_ticks(&file);
    assert_eq!((losses, ticks.len()), (Losses::default(), 1));
    let [LeverEntry::Decided(change), LeverEntry::Ended { id: 1, outcome }] = ticks[0].levers.as_slice() else {
        panic!("{:?}", ticks[0].levers)
    };
    assert_eq!((change.lever, change.to, change.rule.as_str()), (Lever::CpuQuota, 1750, "held"));
    assert_eq!(outcome, &LeverOutcome::Refused { message: "no".into() });
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("1.record");
    let json = OF_0_1.replace(r#""format":1,"bridge":"0.1.0""#, r#""format":2,"bridge":"3.0.0""#);
    std::fs::write(&file, framed(&json)).unwrap();
    let error = read(&file, |_| ()).unwrap_err();
    assert!(matches!(&error, ReadError::Format { format: 2, bridge, .. } if bridge == "3.0.0"), "{error}");
    assert!(error.to_string().ends_with("which reads formats up to 1"), "{error}");
}
