//! The performance index that the bridge tells, from what it saw and heard.

use super::*;
use crate::guests::Hello;
use crate::performance::{Each, Totals};

/// A report of a guest whose tasks waited for memory for so long in all.
fn waited(at_ms: u64, waited_ms: u64) -> GuestEvent {
    let totals = Totals { at_ms, full_us: waited_ms * 1000, some_us: waited_ms * 1000, ..Totals::default() };
    let stalls = Each { memory: Some(totals), cpu: None, io: None };
    let demand = Box::new(Demand { stalls, ..Demand::default() });
    GuestEvent::Demand { demand, urgent: false, tally: Tally::default() }
}

fn memory(bridge: &Bridge, vm: &str) -> Option<(u64, u64)> {
    bridge.vm(vm).unwrap().performance.each.memory.map(|index| (index.r_ppm, index.p_ppm))
}

#[test]
fn a_vm_with_half_its_maximum_that_waits_half_the_time_has_a_quarter() {
    let mut bridge = Bridge::settled(2048, 384, 384);
    assert_eq!(memory(&bridge, "a"), None, "not yet");
    for second in 0..=10 {
        bridge.time(second * 1_000).on_guest(A, &waited(second * 1_000, second * 500));
        bridge.sees(A, 384);
    }
    assert_eq!(memory(&bridge, "a"), Some((500_000, 250_000)));
    assert_eq!(memory(&bridge, "b"), None, "its agent does not tell");
    let host = bridge.status().performance.each.memory.unwrap();
    assert_eq!((host.p_ppm, host.t_permille), (250_000, Some(2_000)), "of those that are known");
}

#[test]
fn a_guest_that_fell_silent_has_no_index_a_minute_later_and_another_agent_counts_anew() {
    let mut bridge = Bridge::settled(2048, 384, 384);
    for second in 0..=10 {
        bridge.time(second * 1_000).on_guest(A, &waited(second * 1_000, 0));
    }
    bridge.time(70_000).plan();
    assert_eq!(memory(&bridge, "a"), None);
    let text = String::new;
    let hello = Hello { protocol: 1, agent: text(), kernel: text(), boot_id: text(), capabilities: Vec::new() };
    bridge.on_guest(A, &GuestEvent::Connected(hello));
    bridge.on_guest(A, &waited(1_000_000, 900_000));
    bridge.time(80_000).plan();
    assert_eq!(memory(&bridge, "a"), None, "what another agent counted is no share of this minute");
}

#[test]
fn a_vm_that_runs_on_half_of_its_cpus_or_is_held_to_half_a_cpu_has_that_part_of_them() {
    use crate::plan::cpu::Vcpus;
    let mut bridge = Bridge::settled(2048, 300, 300);
    assert_eq!(bridge.cpu_part_ppm(A), 1_000_000, "nobody knows");
    bridge.on_vcpus(A, Some(Vcpus { plugged: 4, possible: 4, removable: 0, is_removing: false }));
    bridge.on_online_report(A, 2);
    assert_eq!(bridge.cpu_part_ppm(A), 500_000);
    bridge.vms[A].config.cpu.maximum_millicpus = Some(500);
    bridge.on_group(A, Ok("/group".to_owned()));
    bridge.time(1_000).on_cpu(2, &[None, None]);
    assert_eq!(bridge.cpu_part_ppm(A), 1_000_000, "all of what its maximum is");
}
