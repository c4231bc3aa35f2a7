//! What is learned of a VM's speed from moves that ended, and what is not.

use super::*;
use crate::plan::progress::Rates;

impl Bridge {
    /// A is to have no more than this, asked for at this second.
    fn caps_a(&mut self, second: u64, mib: u64) {
        self.time(second * 1000);
        self.set("a", Change { maximum_bytes: Some(mib * MIB), ..Change::default() }).unwrap();
        assert_eq!(self.targets(), [(A, mib)]);
    }

    /// What A has at this second.
    fn sees_a(&mut self, second: u64, mib: u64) {
        self.time(second * 1000).sees(A, mib);
    }

    /// In MiB/s.
    fn rates_of_a(&self) -> (Option<u64>, Option<u64>) {
        let Rates { shrink_bytes_per_s, grow_bytes_per_s } = self.vm("a").unwrap().rates;
        (shrink_bytes_per_s.map(|bytes| bytes / MIB), grow_bytes_per_s.map(|bytes| bytes / MIB))
    }
}

#[test]
fn moves_that_were_confirmed_teach_how_fast_memory_leaves_and_comes() {
    let mut bridge = Bridge::settled(2048, 700, 300);
    assert_eq!(bridge.rates_of_a(), (None, None));
    bridge.caps_a(10, 500);
    bridge.sees_a(11, 600);
    assert_eq!(bridge.rates_of_a(), (None, None), "not before it is there");
    bridge.sees_a(12, 500);
    assert_eq!(bridge.rates_of_a(), (Some(100), None));

    bridge.set("a", Change { maximum_bytes: Some(RAM), ..Change::default() }).unwrap();
    bridge.time(20_000).on_guest(A, &report(600, Urgency::Critical, 0));
    let (_, mib) = bridge.targets()[0];
    let target_bytes = bridge.vm("a").unwrap().target_bytes;
    assert!(mib >= 600);
    let state = MachineState { allocation_bytes: target_bytes, ..state(0) };
    bridge.time(20_500).on_sighting(A, Sighting::State { state, accepted_bytes: Some(target_bytes) });
    assert_eq!(bridge.rates_of_a(), (Some(100), Some((target_bytes / MIB - 500) * 2)));
}

#[test]
fn what_came_of_a_move_before_the_next_one_counts_too() {
    let mut bridge = Bridge::settled(2048, 700, 300);
    bridge.caps_a(10, 500);
    bridge.sees_a(12, 600);
    bridge.caps_a(12, 400);
    assert_eq!(bridge.rates_of_a(), (Some(50), None), "100 MiB in 2 s");
}

#[test]
fn a_stall_teaches_nothing_whatever_ends_it() {
    // Somebody else's need, and a guest that cannot give: some is given back.
    let mut bridge = Bridge::settled(1024, 700, 300);
    bridge.time(100_000).on_guest(A, &report(200, Urgency::Idle, 0));
    bridge.on_guest(B, &report(600, Urgency::Critical, 20));
    bridge.targets();
    for second in 101..=106 {
        bridge.sees_a(second, 700 - (second - 100) * 9);
        bridge.targets();
    }
    let rule = bridge.decisions(Some("a"), 1).unwrap()[0].rule;
    assert_eq!(rule, Rule::StalledBalloon);
    assert_eq!(bridge.rates_of_a(), (None, None), "45 MiB in 5 s");

    // What an operator ordered is not given back, and comes in the end.
    let mut bridge = Bridge::settled(2048, 700, 300);
    bridge.caps_a(10, 500);
    for second in 10..=16 {
        bridge.sees_a(second, 700);
    }
    bridge.sees_a(17, 500);
    assert_eq!(bridge.vm("a").unwrap().allocation_bytes, 500 * MIB);
    assert_eq!(bridge.rates_of_a(), (None, None));
    bridge.caps_a(20, 400);
    bridge.sees_a(21, 400);
    assert_eq!(bridge.rates_of_a(), (Some(100), None), "that is over");
}

#[test]
fn a_move_that_went_elsewhere_teaches_nothing() {
    let mut bridge = Bridge::settled(2048, 700, 300);
    bridge.caps_a(10, 500);
    bridge.sees_a(11, 690);
    bridge.pause(Some("a"), true).unwrap();
    bridge.pause(Some("a"), false).unwrap();
    bridge.sees_a(12, 690);
    assert_eq!(bridge.rates_of_a(), (None, None), "it is held at 690 MiB, and was to come to 500");
}

#[test]
fn a_vm_that_is_new_at_its_place_was_never_seen_to_move() {
    let mut bridge = Bridge::settled(2048, 700, 300);
    bridge.caps_a(10, 500);
    bridge.sees_a(11, 500);
    bridge.on_sighting(A, Sighting::Unreachable(lost()));
    bridge.on_sighting(A, Sighting::Attached(state(500)));
    assert_eq!(bridge.rates_of_a(), (Some(200), None), "a silence forgets nothing");
    bridge.on_sighting(A, Sighting::Absent(absent()));
    bridge.on_sighting(A, Sighting::Attached(state(500)));
    assert_eq!(bridge.rates_of_a(), (None, None));
}
