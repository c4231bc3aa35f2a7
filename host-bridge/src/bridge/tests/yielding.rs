//! Guests that are asked before their balloons inflate, and what becomes of those that do not keep their word.

use super::*;
use crate::guests::{End, Reply};
use vmtide_protocol::agent::ReplyStatus;
use vmtide_protocol::bridge::YieldMemory;

/// A VM of 640 MiB whose guest needs 200, with so much free and the rest in its cache.
fn idle(free_mib: u64) -> GuestEvent {
    let mut event = report(200, Urgency::Idle, 0);
    let GuestEvent::Demand { demand, .. } = &mut event else { panic!("a report is a demand") };
    let Some(memory) = &mut demand.memory else { panic!("it has memory") };
    memory.signals.total_bytes = RAM;
    memory.signals.balloon_bytes = RAM - 640 * MIB;
    memory.signals.free_bytes = free_mib * MIB;
    memory.signals.available_bytes = 480 * MIB;
    memory.signals.inactive_file_bytes = (480 - free_mib) * MIB;
    event
}

fn says(id: u64, status: ReplyStatus, mib: u64) -> GuestEvent {
    GuestEvent::Reply(Reply { id, status, amount: mib.saturating_mul(MIB), detail: None })
}

impl Bridge {
    /// A has 640 MiB, uses little for longer than a minute, and B nothing.
    fn with_an_idle_a(capabilities: &[&str], free_mib: u64) -> Self {
        let mut bridge = Bridge::settled(1024, 640, 300);
        bridge.on_guest(A, &hello(capabilities));
        for second in 0..=80 {
            bridge.time(second * 1000).on_guest(A, &idle(free_mib));
        }
        bridge.take_effects();
        bridge
    }

    /// Plans; what is asked of guests, and the targets.
    fn asks(&mut self) -> (Vec<YieldMemory>, Vec<(usize, u64)>) {
        self.plan();
        let (mut asked, mut targets) = (Vec::new(), Vec::new());
        for effect in self.take_effects() {
            match effect {
                Effect::Yield { vm: A, request } => asked.push(request),
                Effect::SetTarget { vm, bytes } => targets.push((vm, bytes / MIB)),
                _ => {}
            }
        }
        (asked, targets)
    }

    fn a(&self) -> crate::api::types::Vm {
        self.vm("a").unwrap()
    }
}

const ABLE: &[&str] = &["memory", "yield_memory"];

#[test]
fn a_guest_is_asked_for_its_cache_and_gives_what_it_can_spare() {
    let mut bridge = Bridge::with_an_idle_a(ABLE, 100);
    let (asked, targets) = bridge.asks();
    let [request] = asked[..] else { panic!("{asked:?} {targets:?}") };
    assert_eq!(targets, [], "first the answer");
    assert!(request.bytes > 100 * MIB && request.bytes < 400 * MIB, "{request:?}");
    assert_eq!(bridge.a().yields.open_bytes, Some(request.bytes));
    assert_eq!(bridge.time(81_000).asks(), (vec![], vec![]), "one request at a time");

    bridge.time(81_500).on_guest(A, &says(request.id, ReplyStatus::Partial, 90));
    assert!(bridge.replan_after().is_some(), "an answer is not kept waiting");
    assert_eq!(bridge.asks(), (vec![], vec![(A, 640 - 90)]));
    let decision = bridge.decisions(Some("a"), 1).unwrap().remove(0);
    assert!(crate::record::sentence(&decision).contains("the guest had 90 MiB spare after 1500 ms"));

    bridge.time(82_000).sees(A, 550);
    assert_eq!((bridge.a().yields.asked, bridge.a().yields.kept), (1, 1));
    assert_eq!(bridge.time(83_000).asks(), (vec![], vec![]), "it rests");
}

#[test]
fn what_a_guest_has_free_is_not_asked_for() {
    let mut bridge = Bridge::with_an_idle_a(ABLE, 470);
    let (asked, targets) = bridge.asks();
    assert_eq!(asked, []);
    assert!(matches!(targets[..], [(A, 200..=350)]), "{targets:?}");
}

#[test]
fn somebody_who_stalls_waits_for_no_answer() {
    let mut bridge = Bridge::with_an_idle_a(ABLE, 100);
    bridge.asks();
    bridge.time(80_100).on_guest(B, &report(700, Urgency::Critical, 20));
    let (asked, targets) = bridge.asks();
    assert_eq!(asked, []);
    assert!(targets.iter().any(|&(vm, mib)| vm == A && mib < 500), "{targets:?}");
    let before = bridge.a().target_bytes;
    bridge.time(80_200).on_guest(A, &says(1, ReplyStatus::Done, 300));
    bridge.asks();
    assert!(bridge.a().target_bytes >= before, "what it said was about what it had before");
}

#[test]
fn a_guest_without_a_session_that_can_be_asked_gives_a_slice_at_a_time() {
    for capabilities in [&["memory"][..], ABLE] {
        let mut bridge = Bridge::with_an_idle_a(capabilities, 20);
        if capabilities == ABLE {
            bridge.on_guest(A, &GuestEvent::Disconnected { end: End::Closed, tally: Tally::default() });
        }
        assert_eq!(bridge.asks(), (vec![], vec![(A, 600)]), "a sixteenth of 640, in whole pages");
        bridge.time(81_000).on_guest(A, &idle(20));
        assert_eq!(bridge.asks(), (vec![], vec![]), "then it rests");
    }
}

#[test]
fn a_lie_costs_the_liar_only() {
    let mut bridge = Bridge::with_an_idle_a(ABLE, 20);
    let (asked, _) = bridge.asks();
    let b = bridge.vm("b").unwrap().target_bytes;
    for (id, mib) in [(0, 1 << 40), (asked[0].id + 1, 1 << 40), (u64::MAX, 5), (asked[0].id, u64::MAX)] {
        bridge.on_guest(A, &says(id, ReplyStatus::Done, mib));
    }
    let (_, targets) = bridge.asks();
    assert!(matches!(targets[..], [(A, _)]), "{targets:?}");
    let taken = 640 * MIB - bridge.a().target_bytes;
    assert!(taken <= asked[0].bytes && taken + 4096 > asked[0].bytes, "no more than it was asked for: {taken}");
    // Its balloon does not move.
    for second in 81..130 {
        bridge.time(second * 1000).sees(A, 640);
        bridge.on_guest(A, &idle(20));
        bridge.asks();
    }
    let yields = bridge.a().yields;
    assert_eq!((yields.broken, yields.kept), (1, 0));
    assert!(yields.untrusted_for_ms.is_some_and(|ms| ms > 500_000), "{yields:?}");
    assert!(bridge.events_about("a", 9).unwrap().iter().any(|event| event.message.contains("did not keep its word")));
    assert_eq!(bridge.vm("b").unwrap().target_bytes, b, "nothing of it is anybody else's");

    // When it would be shrunk again, it is not asked.
    for second in 130..200 {
        bridge.time(second * 1000).sees(A, 640);
        bridge.on_guest(A, &idle(20));
        let (asked, _) = bridge.asks();
        assert_eq!(asked, []);
    }
}

#[test]
fn another_vm_at_the_same_place_begins_with_a_clean_slate() {
    let mut bridge = Bridge::with_an_idle_a(ABLE, 20);
    let (asked, _) = bridge.asks();
    bridge.on_sighting(A, Sighting::Absent(absent()));
    bridge.on_sighting(A, Sighting::Attached(state(768)));
    bridge.on_guest(A, &says(asked[0].id, ReplyStatus::Done, 300));
    assert_eq!(bridge.a().yields, plan::asking::Yields::default());
    let (_, targets) = bridge.asks();
    assert!(targets.iter().all(|(vm, mib)| *vm != A || *mib >= 600), "{targets:?}");
}

#[test]
fn the_record_of_a_plan_is_the_plans_whatever_the_guest_says() {
    let mut bridge = Bridge::with_an_idle_a(ABLE, 100);
    bridge.keep_records();
    bridge.asks();
    let records = bridge.take_records();
    let [Record::Tick(tick)] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(tick.plan, plan::memory::plan(tick.ms, &tick.host, &tick.views, &Policy::default()));
    assert!(tick.plan.verdicts[A].step.is_some(), "the step is planned, and asked about");
}

#[test]
fn a_guest_that_a_new_bridge_has_not_heard_yet_loses_nothing_to_anothers_calm_wish() {
    let mut bridge = bridge(1024);
    for (vm, mib) in [(A, 600), (B, 380)] {
        bridge.on_sighting(vm, Sighting::Attached(state(mib)));
        bridge.sees(vm, mib);
    }
    let mut taken_s = None;
    for second in 1..=60 {
        bridge.time(second * 1_000).on_guest(B, &report(480, Urgency::Normal, 0));
        let (_, targets) = bridge.asks();
        if taken_s.is_none() && targets.iter().any(|(vm, mib)| *vm == A && *mib < 600) {
            taken_s = Some(second);
        }
    }
    assert_eq!(taken_s, Some(15), "its agent had the time to dial");
}
