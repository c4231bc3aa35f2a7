//! VMs that are planned for a while, and are afterwards as they were.

use super::*;
use crate::api::optimize::{Progress, RENEW_WITHIN_MS, Wish};
use crate::performance::{Each, Resource, Totals};

fn wish(vms: &[&str], seconds: u64) -> Wish {
    let vms = vms.iter().map(|name| (*name).to_owned()).collect();
    Wish { vms, resources: Resource::ALL.to_vec(), duration_ms: seconds * 1_000, dry_run: false }
}

/// Both VMs need more, and everything is paused.
fn paused() -> Bridge {
    let mut bridge = Bridge::settled(2048, 300, 300);
    bridge.time(100_000).pause(None, true).unwrap();
    for vm in [A, B] {
        bridge.on_guest(vm, &report(500, Urgency::Critical, 0));
    }
    bridge.take_effects();
    assert_eq!(bridge.targets(), []);
    bridge
}

fn grown(targets: &[(usize, u64)]) -> Vec<usize> {
    targets.iter().filter(|(_, mib)| *mib > 300).map(|(vm, _)| *vm).collect()
}

/// Asks after it each second until `until_ms`.
fn follow(bridge: &mut Bridge, id: u64, until_ms: u64) -> Progress {
    while bridge.now.ms + 1_000 <= until_ms {
        bridge.time(bridge.now.ms + 1_000).plan();
        bridge.optimizing(id).unwrap();
    }
    bridge.optimizing(id).unwrap()
}

#[test]
fn a_paused_vm_is_planned_for_a_while_and_is_paused_again() {
    let mut bridge = paused();
    let begun = bridge.optimize(&wish(&["a"], 20)).unwrap();
    assert_eq!((begun.over, begun.vms[0].was_paused), (None, true));
    assert_eq!(grown(&bridge.targets()), [A], "B stays paused");
    assert_eq!((bridge.vm("a").unwrap().paused, bridge.vm("b").unwrap().paused), (false, true));

    let ended = follow(&mut bridge, begun.id, 120_000);
    assert_eq!((ended.over.as_deref(), ended.elapsed_ms), (Some("its time is up"), 20_000));
    assert_eq!(ended.vms[0].changes.len(), 1, "{ended:?}");
    assert!(ended.vms[0].changes[0].reason.contains("Grow at once from 300 MiB"), "{ended:?}");
    assert!(bridge.vm("a").unwrap().paused && bridge.status().paused);
    bridge.time(130_000).on_guest(A, &report(700, Urgency::Critical, 0));
    bridge.take_effects();
    assert_eq!(bridge.targets(), [], "as it was");
    assert_eq!(bridge.optimizing(begun.id).unwrap(), ended, "the summary is kept");
}

#[test]
fn it_ends_when_nobody_asks_after_it() {
    let mut bridge = paused();
    let id = bridge.optimize(&wish(&["a"], 3_600)).unwrap().id;
    bridge.time(100_000 + RENEW_WITHIN_MS).plan();
    assert!(!bridge.vm("a").unwrap().paused);
    bridge.time(100_000 + RENEW_WITHIN_MS + 1).plan();
    assert!(bridge.vm("a").unwrap().paused, "its client died");
    let late = bridge.time(110_000).optimizing(id).unwrap();
    assert_eq!((late.over.as_deref(), late.elapsed_ms), (Some("nobody asked after it any more"), RENEW_WITHIN_MS + 1));
    assert!(bridge.optimize(&wish(&["b"], 20)).is_ok(), "and is in nobody's way");
}

#[test]
fn it_ends_early_when_it_is_told_to_and_when_an_operator_pauses_it() {
    let mut bridge = paused();
    let id = bridge.optimize(&wish(&["a"], 3_600)).unwrap().id;
    let refused = bridge.optimize(&wish(&["b"], 60)).unwrap_err().to_string();
    assert!(refused.contains("for 3600 s more"), "{refused}");
    let ended = bridge.time(103_000).end_optimizing(id).unwrap();
    assert_eq!((ended.over.as_deref(), ended.elapsed_ms), (Some("it was ended early"), 3_000));
    assert!(bridge.optimizing(id + 1).unwrap_err().not_found);

    let id = bridge.optimize(&wish(&["a", "b", "a"], 60)).unwrap().id;
    bridge.pause(Some("b"), true).unwrap();
    let ended = bridge.optimizing(id).unwrap();
    assert_eq!((ended.vms.len(), ended.over.as_deref()), (2, Some("an operator paused it")));
    assert!(bridge.vm("a").unwrap().paused);
}

#[test]
fn others_are_planned_as_before_and_who_was_not_paused_is_not_afterwards() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    bridge.time(100_000);
    let id = bridge.optimize(&wish(&["a"], 10)).unwrap().id;
    bridge.on_guest(B, &report(500, Urgency::Critical, 0));
    assert_eq!(grown(&bridge.targets()), [B]);
    let ended = follow(&mut bridge, id, 110_000);
    assert!(ended.over.is_some() && ended.vms[0].changes.is_empty(), "what B got is no change of A's");
    assert!(!bridge.vm("a").unwrap().paused && !bridge.status().paused);
}

#[test]
fn a_dry_run_says_what_would_be_and_asks_nothing() {
    let mut bridge = paused();
    let tried = bridge.optimize(&Wish { dry_run: true, ..wish(&["a"], 60) }).unwrap();
    let [change] = tried.vms[0].changes.as_slice() else { panic!("{tried:?}") };
    assert!((change.from, change.to > 500 * MIB, &change.outcome) == (300 * MIB, true, &None), "{change:?}");
    assert!(change.reason.contains("needs 500 MiB"), "{change:?}");
    assert_eq!(bridge.take_effects(), []);
    assert_eq!(bridge.targets(), []);
    assert!(bridge.optimizing(tried.id).is_err() && bridge.vm("a").unwrap().paused);
}

#[test]
fn without_memory_among_the_resources_nothing_is_moved() {
    let mut bridge = paused();
    let only_cpu = Wish { resources: vec![Resource::Cpu], ..wish(&["a"], 60) };
    let begun = bridge.optimize(&only_cpu).unwrap();
    assert_eq!(begun.measured_only, [Resource::Cpu]);
    assert_eq!(bridge.targets(), []);
    assert!(bridge.vm("a").unwrap().paused);
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let mut bridge = paused();
    for (wish, not_found, part) in [
        (wish(&["a", "c"], 60), true, "there is no VM \"c\"; there are: a, b"),
        (wish(&[], 60), false, "name one of each"),
        (Wish { resources: Vec::new(), ..wish(&["a"], 60) }, false, "name one of each"),
        (wish(&["a"], 0), false, "0 cannot be; allowed is 1s to 24h"),
        (Wish { duration_ms: u64::MAX, ..wish(&["a"], 1) }, false, "allowed is 1s to 24h"),
    ] {
        let refusal = bridge.optimize(&wish).unwrap_err();
        assert!(refusal.not_found == not_found && refusal.message.contains(part), "{refusal:?}");
    }
    assert!(bridge.vm("a").unwrap().paused);
}

#[test]
fn p_before_is_that_of_the_time_before_and_p_after_of_the_time_since() {
    let mut bridge = Bridge::settled(2048, 384, 384);
    let mut waited_ms = 0;
    let mut second = |bridge: &mut Bridge, at_s: u64, waits: bool| {
        waited_ms += if waits { 500 } else { 0 };
        let totals = Totals { at_ms: at_s * 1_000, full_us: waited_ms * 1_000, ..Totals::default() };
        let stalls = Each { memory: Some(totals), cpu: None, io: None };
        let demand = Box::new(Demand { stalls, ..Demand::default() });
        bridge.time(at_s * 1_000).on_guest(A, &GuestEvent::Demand { demand, urgent: false, tally: Tally::default() });
        bridge.sees(A, 384);
    };
    (0..=20).for_each(|at_s| second(&mut bridge, at_s, true));
    let id = bridge.optimize(&wish(&["a"], 10)).unwrap().id;
    (21..=29).for_each(|at_s| {
        second(&mut bridge, at_s, false);
        bridge.optimizing(id).unwrap();
    });
    let ended = bridge.time(29_000).end_optimizing(id).unwrap();
    let p = |indices: &crate::performance::Indices| indices.overall.unwrap().p_ppm;
    assert_eq!((p(&ended.vms[0].before), p(&ended.vms[0].after)), (250_000, 500_000));
}

/// Both VMs want all of two CPUs, in groups of their own.
fn contending() -> Bridge {
    let mut bridge = Bridge::settled(2048, 300, 300);
    for vm in [A, B] {
        bridge.on_group(vm, Ok(format!("/group/{vm}")));
    }
    bridge.time(100_000).on_cpu(2, &[None, None]);
    bridge.take_effects();
    bridge
}

fn weights(bridge: &mut Bridge) -> Vec<usize> {
    let set = |effect| match effect {
        Effect::SetCpuTime { vm, .. } => Some(vm),
        _ => None,
    };
    bridge.take_effects().into_iter().filter_map(set).collect()
}

#[test]
fn cpu_time_of_a_paused_vm_is_moved_while_it_is_optimized_and_told_as_a_change() {
    let mut bridge = contending();
    bridge.pause(None, true).unwrap();
    for vm in [A, B] {
        // Another group, with nothing set in it.
        bridge.on_group(vm, Ok(format!("/other/{vm}")));
        bridge.vms[vm].config.cpu.maximum_millicpus = Some(500);
    }
    bridge.time(101_000).on_cpu(2, &[None, None]);
    assert_eq!(weights(&mut bridge), [0_usize; 0]);

    let only_cpu = Wish { resources: vec![Resource::Cpu], ..wish(&["a"], 60) };
    let tried = bridge.optimize(&Wish { dry_run: true, ..only_cpu.clone() }).unwrap();
    let [change] = tried.vms[0].changes.as_slice() else { panic!("{tried:?}") };
    assert_eq!((change.unit.as_str(), change.from, change.to), ("millicpus", 0, 750), "with room for the VMM");
    assert_eq!(weights(&mut bridge), [0_usize; 0], "nothing was asked");

    let begun = bridge.optimize(&only_cpu).unwrap();
    assert_eq!(begun.measured_only, []);
    bridge.time(102_000).on_cpu(2, &[None, None]);
    assert_eq!(weights(&mut bridge), [A], "B stays paused");
    assert_eq!(bridge.targets(), [], "and so does A's memory");
    let progress = bridge.optimizing(begun.id).unwrap();
    let [change] = progress.vms[0].changes.as_slice() else { panic!("{progress:?}") };
    assert_eq!((change.resource, change.to), (Resource::Cpu, 750));
    assert!(change.reason.contains("a quota of 0.75 CPUs"), "{change:?}");

    bridge.end_optimizing(begun.id).unwrap();
    bridge.vms[A].config.cpu.maximum_millicpus = Some(600);
    bridge.time(103_000).on_cpu(2, &[None, None]);
    assert_eq!(weights(&mut bridge), [0_usize; 0], "as it was");
}
