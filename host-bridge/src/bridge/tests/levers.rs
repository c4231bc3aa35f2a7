//! What is kept and recorded of changes of CPU time and disks.

use super::*;
use crate::cgroup::IoCount;
use crate::hypervisor::{Held, IoSeen};
use crate::plan::HostLoad;
use crate::plan::cpu::Vcpus;
use crate::plan::storage::Throttle;
use crate::record::{Lever, LeverChange, LeverEntry, LeverOutcome};

fn io(second: u64, ops: u64, latency_us: u64) -> Sighting {
    let ops = second * ops;
    let (bytes, timed_us) = (ops * 4096, ops * latency_us);
    Sighting::Io(IoSeen { disks: 1, ops, bytes, timed_ops: ops, timed_us, images: Vec::new() })
}

impl Bridge {
    /// A bridge that records, in which A floods the store beside B, which waits.
    fn recording() -> Self {
        let mut bridge = Bridge::settled(2048, 300, 300);
        bridge.keep_records();
        bridge.disks(1..20);
        bridge
    }

    fn disks(&mut self, seconds: std::ops::Range<u64>) {
        for second in seconds {
            self.time(second * 1000);
            self.on_sighting(A, io(second, 8_000, 60_000));
            self.on_sighting(B, io(second, 20, 50_000));
            self.on_host(self.host, &HostLoad::default());
        }
    }

    /// What was recorded of them since it was asked last.
    fn recorded(&mut self) -> Vec<LeverEntry> {
        self.plan();
        let records = self.take_records();
        records
            .into_iter()
            .filter_map(|record| if let Record::Tick(tick) = record { Some(tick.levers) } else { None })
            .flatten()
            .collect()
    }

    fn last(&self, vm: &str, lever: Lever) -> LeverChange {
        let all = self.levers(vm, usize::MAX).unwrap();
        all.into_iter().rev().find(|change| change.lever == lever).unwrap()
    }
}

#[test]
fn a_throttle_is_kept_with_its_rule_and_what_came_of_it_and_recorded_with_the_next_plan() {
    let mut bridge = Bridge::recording();
    let open = bridge.last("a", Lever::IoRate);
    assert_eq!((open.rule.as_str(), &open.outcome), ("over_share", &LeverOutcome::Asked));
    assert!(open.reason.starts_with("its disks are held to ") && open.to > 0 && open.from > open.to, "{open:?}");
    let before = bridge.levers("a", 1000).unwrap();
    assert!(before.len() > 1, "it was tightened step by step");
    assert!(before[..before.len() - 1].iter().all(|change| change.outcome == LeverOutcome::Superseded), "{before:?}");

    let held = || Held { disks: 1, changed: 1, left: Vec::new() };
    let other = Some(Throttle { bytes_per_s: open.to + 1, ops_per_s: 1 });
    bridge.on_sighting(A, Sighting::Throttled { throttle: other, held: held() });
    assert_eq!(bridge.last("a", Lever::IoRate).outcome, LeverOutcome::Asked, "that was about an earlier one");
    let throttle = Some(Throttle { bytes_per_s: open.to, ops_per_s: 1 });
    bridge.on_sighting(A, Sighting::Throttled { throttle, held: held() });
    let LeverOutcome::Done { after_ms } = bridge.last("a", Lever::IoRate).outcome else { panic!() };
    assert!(after_ms <= 20_000);

    let recorded = bridge.recorded();
    let decided =
        recorded.iter().filter(|entry| matches!(entry, LeverEntry::Decided(change) if change.vm == "a")).count();
    assert_eq!(decided, before.len());
    let ended = LeverEntry::Ended { id: open.id, outcome: LeverOutcome::Done { after_ms } };
    assert_eq!(recorded.last(), Some(&ended));
    assert_eq!(bridge.recorded(), [], "once");
    assert_eq!(bridge.levers("c", 1).unwrap_err().message, "there is no VM \"c\"; there are: a, b");
}

#[test]
fn refusals_and_vms_that_go_away_are_what_came_of_it() {
    let mut bridge = Bridge::recording();
    let error = Error::Refused { path: "/a".into(), command: "block_set_io_throttle", message: "no".into() };
    bridge.on_sighting(A, Sighting::ThrottleRefused { throttle: None, error });
    let refused = bridge.last("a", Lever::IoRate).outcome;
    assert!(
        matches!(&refused, LeverOutcome::Refused { message } if message.ends_with("was refused: no")),
        "{refused:?}"
    );

    // Its group takes over.
    bridge.on_io_group(A, Ok("/vms/a".into()));
    for second in 20..24 {
        bridge.on_group_io(A, IoCount { ops: second * 8_000, bytes: second * 8_000 * 4096 });
        bridge.disks(second..second + 1);
    }
    let taken = bridge.last("a", Lever::IoRate);
    assert_eq!(taken.outcome, LeverOutcome::Asked);
    assert!(taken.reason.contains("by its cgroup"), "{taken:?}");
    bridge.on_io_group_set(A);
    for lever in [Lever::IoRate, Lever::IoWeight] {
        let outcome = bridge.last("a", lever).outcome;
        assert!(matches!(outcome, LeverOutcome::Done { .. }), "{lever:?}: {outcome:?}");
    }

    let mut bridge = Bridge::recording();
    bridge.on_sighting(A, Sighting::Absent(absent()));
    assert_eq!(bridge.last("a", Lever::IoRate).outcome, LeverOutcome::Lost);
}

#[test]
fn cpu_levers_tell_their_rule_and_outcome_too() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    bridge.keep_records();
    bridge.on_group(A, Ok("/vms/a".into()));
    bridge.set("a", Change { cpu_maximum_millicpus: Some(500), cpu_shares: Some(3000), ..Change::default() }).unwrap();
    bridge.time(2_000).on_cpu(2, &[None, None]);
    let quota = bridge.last("a", Lever::CpuQuota);
    assert_eq!((quota.from, quota.to, quota.outcome), (0, 750, LeverOutcome::Asked));
    bridge.on_group_refused(A, "/vms/a/cpu.max: somebody else set \"max\"; it is theirs");
    let outcome = bridge.last("a", Lever::CpuQuota).outcome;
    assert!(matches!(&outcome, LeverOutcome::Refused { message } if message.contains("theirs")), "{outcome:?}");
    assert!(
        bridge
            .recorded()
            .iter()
            .any(|entry| matches!(entry, LeverEntry::Decided(change) if change.lever == Lever::CpuQuota))
    );

    let vcpus = |plugged: u32| Some(Vcpus { plugged, possible: 4, removable: plugged - 1, is_removing: false });
    bridge.on_sighting(A, Sighting::Vcpus(vcpus(1)));
    let plug = crate::bridge::optimize::Moved {
        lever: Lever::Vcpus,
        from: 1,
        to: 2,
        rule: "plug".into(),
        reason: "it needs 2".into(),
    };
    bridge.decide(A, &plug);
    bridge.on_sighting(A, Sighting::Vcpus(vcpus(3)));
    assert_eq!(bridge.last("a", Lever::Vcpus).outcome, LeverOutcome::Asked, "not what was asked for");
    bridge.time(5_000).on_sighting(A, Sighting::Vcpus(vcpus(2)));
    assert!(matches!(bridge.last("a", Lever::Vcpus).outcome, LeverOutcome::Done { .. }));
    bridge.decide(A, &plug);
    bridge.on_sighting(A, Sighting::VcpusRefused("no slot".into()));
    assert_eq!(bridge.last("a", Lever::Vcpus).outcome, LeverOutcome::Refused { message: "no slot".into() });
}

#[test]
fn what_waits_for_a_plan_is_bounded() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    let moved =
        crate::bridge::optimize::Moved { lever: Lever::IoRate, from: 0, to: 1, rule: "r".into(), reason: "w".into() };
    (0..10).for_each(|_| bridge.decide(A, &moved));
    bridge.keep_records();
    assert_eq!(bridge.recorded(), [], "nobody recorded");
    (0..10_000).for_each(|_| bridge.decide(A, &moved));
    assert_eq!(bridge.recorded().len(), 512);
}
