//! Throttles from what the hypervisors counted.

use super::*;
use crate::hypervisor::{Held, IoSeen};
use crate::plan::HostLoad;
use crate::plan::storage::Throttle;

/// What a VM's disks did by now: `ops` a second of 4 KiB, each of which took so long.
fn counted(second: u64, ops: u64, latency_us: u64) -> Sighting {
    let ops = second * ops;
    Sighting::Io(IoSeen { ops, bytes: ops * 4096, timed_ops: ops, timed_us: ops * latency_us, images: Vec::new() })
}

impl Bridge {
    /// One second; the throttles that the shell would set.
    fn second(&mut self, second: u64, a: Sighting, b: Sighting) -> Vec<(usize, Option<Throttle>)> {
        self.time(second * 1000);
        self.on_sighting(A, a);
        self.on_sighting(B, b);
        self.on_host(self.host, &HostLoad::default());
        let throttle = |effect| match effect {
            Effect::SetThrottle { vm, throttle } => Some((vm, throttle)),
            _ => None,
        };
        self.take_effects().into_iter().filter_map(throttle).collect()
    }

    fn seconds(
        &mut self,
        seconds: std::ops::Range<u64>,
        a: (u64, u64),
        b: (u64, u64),
    ) -> Vec<(usize, Option<Throttle>)> {
        seconds.flat_map(|second| self.second(second, counted(second, a.0, a.1), counted(second, b.0, b.1))).collect()
    }
}

const FLOOD: (u64, u64) = (8_000, 60_000);
const WAITS: (u64, u64) = (20, 50_000);

#[test]
fn a_flood_is_held_while_another_waits_and_nobody_is_told_anything_new_without_need() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    assert_eq!(bridge.seconds(1..30, FLOOD, (0, 0)), []);
    let asked = bridge.seconds(30..36, FLOOD, WAITS);
    assert!(asked.iter().all(|(vm, throttle)| *vm == A && throttle.is_some()) && !asked.is_empty(), "{asked:?}");
    let events = Control::events(&bridge, 0);
    let told = events.iter().find(|event| event.message.contains("its disks are held to")).unwrap();
    assert!(told.message.contains("its share is") && told.vm.as_deref() == Some("a"), "{told:?}");
}

#[test]
fn a_pause_lets_go_and_so_does_a_vm_that_is_gone() {
    for leave in [
        |bridge: &mut Bridge| bridge.pause(Some("a"), true).unwrap(),
        |bridge: &mut Bridge| {
            bridge.on_sighting(A, Sighting::Absent(absent()));
        },
    ] {
        let mut bridge = Bridge::settled(2048, 300, 300);
        assert!(!bridge.seconds(1..20, FLOOD, WAITS).is_empty());
        leave(&mut bridge);
        assert_eq!(bridge.seconds(20..22, FLOOD, WAITS), [(A, None)]);
        assert_eq!(bridge.seconds(22..30, FLOOD, WAITS), []);
    }
}

#[test]
fn who_refuses_is_left_alone_for_a_while_and_what_cannot_be_held_is_said_once() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    assert!(!bridge.seconds(1..20, FLOOD, WAITS).is_empty());
    let held = || Held { disks: 1, changed: 1, left: vec!["cd: an empty drive".to_owned()] };
    for _ in 0..3 {
        bridge.on_sighting(
            A,
            Sighting::Throttled { throttle: Some(Throttle { bytes_per_s: 1, ops_per_s: 1 }), held: held() },
        );
    }
    let error = Error::Refused { path: "/a".into(), command: "block_set_io_throttle", message: "no".into() };
    bridge.on_sighting(A, Sighting::ThrottleRefused { throttle: None, error });
    assert_eq!(bridge.seconds(20..70, FLOOD, WAITS), [(A, None)]);
    assert!(!bridge.seconds(70..100, FLOOD, WAITS).is_empty(), "tried again");
    let said = |what: &str| Control::events(&bridge, 0).iter().filter(|event| event.message.contains(what)).count();
    assert_eq!((said("an empty drive"), said("cannot be held")), (1, 1));
}

#[test]
fn counters_that_begin_anew_are_no_flood() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    bridge.seconds(1..10, (10, 900), WAITS);
    bridge.time(10_000).on_sighting(A, counted(0, 0, 0));
    assert_eq!(bridge.storage.vms[A].done(10_000).ops_per_s, 0);
    assert_eq!(bridge.storage.vms[B].done(18_000).ops_per_s, 0, "too old to tell");
}
