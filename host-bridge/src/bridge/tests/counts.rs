//! What is counted of a VM.

use super::*;
use crate::api::counts::Counts;
use crate::bridge::cpu::CpuUse;
use crate::hypervisor::IoSeen;

impl Bridge {
    fn counts_of_a(&self) -> Counts {
        self.vm("a").unwrap().counts
    }
}

#[test]
fn each_change_ends_in_one_count() {
    let mut bridge = Bridge::settled(2048, 700, 300);
    let cap_mib = |bridge: &mut Bridge, mib: u64| {
        bridge.set("a", Change { maximum_bytes: Some(mib * MIB), ..Change::default() }).unwrap();
        assert_eq!(bridge.targets(), [(A, mib)]);
    };
    cap_mib(&mut bridge, 600);
    assert_eq!(bridge.counts_of_a(), Counts::default(), "it is under way");
    bridge.time(1_000).sees(A, 600);
    cap_mib(&mut bridge, 500);
    cap_mib(&mut bridge, 400);
    bridge.on_sighting(A, Sighting::Refused { target_bytes: 400 * MIB, error: lost() });
    cap_mib(&mut bridge, 300);
    bridge.on_sighting(A, Sighting::Absent(absent()));
    let counts = Counts { confirmed: 1, superseded: 1, refused: 1, lost: 1, ..Counts::default() };
    assert_eq!(bridge.counts_of_a(), counts);
}

#[test]
fn a_balloon_that_goes_on_giving_back_is_one_rescue() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    for (ms, mib, rescues) in [(1_000, 330, 1), (2_000, 360, 1), (3_000, 300, 1), (4_000, 310, 2)] {
        bridge.time(ms).sees(A, mib);
        assert_eq!(bridge.counts_of_a().balloon_rescues, rescues, "at {mib} MiB");
    }
}

#[test]
fn a_stall_is_counted() {
    let mut bridge = Bridge::settled(1024, 700, 300);
    bridge.time(100_000).on_guest(A, &report(200, Urgency::Idle, 0));
    bridge.on_guest(B, &report(600, Urgency::Critical, 20));
    bridge.targets();
    for second in 101..=106 {
        bridge.time(second * 1000).sees(A, 700 - (second - 100) * 9);
        bridge.targets();
    }
    assert_eq!(bridge.counts_of_a().balloon_stalls, 1);
}

#[test]
fn what_its_process_and_its_disks_did_is_told_while_they_are_there() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    let counts = bridge.counts_of_a();
    assert_eq!((counts.cpu_ms, counts.disk_bytes, counts.disk_operations), (None, None, None));
    bridge.on_cpu(2, &[Some(CpuUse { total_ms: 1_234, ..CpuUse::default() }), None]);
    bridge.on_sighting(A, Sighting::Io(IoSeen { ops: 9, bytes: 4_096, ..IoSeen::default() }));
    let counts = bridge.counts_of_a();
    assert_eq!((counts.cpu_ms, counts.disk_bytes, counts.disk_operations), (Some(1_234), Some(4_096), Some(9)));
    bridge.on_sighting(A, Sighting::Absent(absent()));
    let counts = bridge.counts_of_a();
    assert_eq!((counts.cpu_ms, counts.disk_bytes, counts.disk_operations), (None, None, None));
}
