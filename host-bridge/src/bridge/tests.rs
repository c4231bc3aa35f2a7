//! The bridge's state from sightings and guests' words, without I/O: time is a number here.

use super::effect::Effect;
use super::state::{Bridge, Now};
use crate::api::Control;
use crate::api::types::{Change, VmState};
use crate::config::{Address, Config, RecordConfig, VmConfig};
use crate::guests::{Demand, GuestEvent, Hello, Memory, MemorySignals, Tally};
use crate::hypervisor::driver::Sighting;
use crate::hypervisor::{Error, MachineState, Makeup};
use crate::plan::actuator::{self, Parts, Speeds};
use crate::plan::{self, HostView, Limits, MIB, MemoryDemand, Planner, Policy, Rule, Urgency};
use crate::record::{Ended, Outcome, Record};
use vmtide_protocol::demand::MemoryReason;

const A: usize = 0;
const B: usize = 1;
const RAM: u64 = 768 * MIB;

fn bridge(capacity_mib: u64) -> Bridge {
    bridge_by(Planner::default(), capacity_mib)
}

fn bridge_by(planner: Planner, capacity_mib: u64) -> Bridge {
    let config = config_by(planner, capacity_mib);
    let host = HostView {
        capacity_bytes: capacity_mib * MIB,
        reserve_bytes: 0,
        available_bytes: None,
        stall_full_permille: 0,
    };
    Bridge::new(&config, host)
}

fn config_by(planner: Planner, capacity_mib: u64) -> Config {
    let limits = Limits { minimum_bytes: 128 * MIB, reservation_bytes: 0, maximum_bytes: RAM, shares: 1000 };
    let vm = |name: &str, cid| VmConfig {
        name: name.to_owned(),
        limits,
        cpu: crate::config::CpuConfig::default(),
        io: crate::config::IoConfig::default(),
        qmp: format!("/{name}").into(),
        address: Address::Cid(cid),
    };
    Config {
        capacity_bytes: Some(capacity_mib * MIB),
        reserve_bytes: Some(0),
        control_socket: "/c".into(),
        planner,
        vms: vec![vm("a", 3), vm("b", 4)],
        ..Config::default()
    }
}

fn state(allocation_mib: u64) -> MachineState {
    let allocation_bytes = allocation_mib * MIB;
    MachineState {
        ram_bytes: RAM,
        allocation_bytes,
        running: true,
        has_balloon: true,
        shown_use_bytes: None,
        shown_free_bytes: None,
        resident_bytes: None,
        memory: Makeup::default(),
    }
}

fn lost() -> Error {
    Error::Timeout { path: "/a".into(), command: "query-balloon", timeout_ms: 2000 }
}

fn absent() -> Error {
    Error::Absent { path: "/a".into(), source: std::io::ErrorKind::ConnectionRefused.into() }
}

/// An agent that can do this begins a session.
fn hello(capabilities: &[&str]) -> GuestEvent {
    let capabilities = capabilities.iter().map(|name| (*name).to_owned()).collect();
    let (agent, kernel, boot_id) = ("0.1".to_owned(), "6.12".to_owned(), "x".to_owned());
    GuestEvent::Connected(Hello { protocol: 1, agent, kernel, boot_id, capabilities })
}

fn report(need_mib: u64, urgency: Urgency, waiting_ms: u64) -> GuestEvent {
    let demand = MemoryDemand { need_bytes: need_mib * MIB, floor_bytes: need_mib * MIB * 9 / 10, urgency };
    let memory = Memory {
        demand,
        reason: MemoryReason::Steady,
        waiting_ms,
        signals: MemorySignals::default(),
        working_set: None,
    };
    let demand = Box::new(Demand { memory: Some(memory), ..Demand::default() });
    GuestEvent::Demand { demand, urgent: urgency >= Urgency::Pressed, tally: Tally::default() }
}

impl Bridge {
    fn time(&mut self, ms: u64) -> &mut Self {
        self.at(Now { ms, unix_ms: 1_000_000 + ms })
    }

    /// Plans, and gives the targets that the shell would set.
    fn targets(&mut self) -> Vec<(usize, u64)> {
        self.plan();
        let target = |effect| match effect {
            Effect::SetTarget { vm, bytes } => Some((vm, bytes / MIB)),
            _ => None,
        };
        self.take_effects().into_iter().filter_map(target).collect()
    }

    fn sees(&mut self, vm: usize, allocation_mib: u64) {
        let accepted_bytes = Some(self.vms[vm].target_bytes);
        self.on_sighting(vm, Sighting::State { state: state(allocation_mib), accepted_bytes });
    }

    /// Both VMs attached and idle at these sizes, their agents heard.
    fn settled(capacity_mib: u64, a_mib: u64, b_mib: u64) -> Self {
        let mut bridge = bridge(capacity_mib);
        for (vm, mib) in [(A, a_mib), (B, b_mib)] {
            bridge.on_sighting(vm, Sighting::Attached(state(mib)));
            bridge.sees(vm, mib);
            bridge.on_guest(vm, &report(mib - (mib / 11).max(32), Urgency::Normal, 0));
        }
        bridge.take_effects();
        bridge
    }
}

#[test]
fn nothing_is_planned_before_every_hypervisor_was_heard() {
    let mut bridge = bridge(1024);
    bridge.on_sighting(A, Sighting::Attached(state(300)));
    bridge.on_guest(A, &report(500, Urgency::Critical, 0));
    bridge.take_effects();
    assert_eq!(bridge.targets(), [], "B may have all the rest");
    bridge.on_sighting(B, Sighting::Absent(absent()));
    assert!(!bridge.targets().is_empty());
}

#[test]
fn an_attached_vm_is_held_where_it_is() {
    let mut bridge = bridge(2048);
    bridge.on_sighting(A, Sighting::Attached(state(611)));
    let held = Effect::SetTarget { vm: A, bytes: 611 * MIB };
    assert!(bridge.take_effects().contains(&held), "a move of an earlier bridge may be under way");
}

#[test]
fn growth_waits_until_the_hypervisor_confirmed_the_others_shrink() {
    let mut bridge = Bridge::settled(1024, 700, 300);
    bridge.time(100_000).on_guest(A, &report(200, Urgency::Idle, 0));
    bridge.on_guest(B, &report(600, Urgency::Critical, 20));
    assert!(bridge.replan_after().is_some());
    let committed = |bridge: &Bridge| bridge.status().committed_bytes / MIB;
    for (vm, target) in bridge.targets() {
        assert!(vm != B || target <= 1024 - 700, "B gets {target} MiB while A still has its 700");
    }
    assert!(committed(&bridge) <= 1024);
    let target_a = bridge.vm("a").unwrap().target_bytes / MIB;
    assert!(target_a < 500, "A shrinks, to {target_a}");
    bridge.time(100_200).sees(A, target_a);
    assert!(bridge.replan_after().is_some(), "freed bytes are what B waits for");
    bridge.targets();
    assert!(bridge.vm("b").unwrap().target_bytes >= 600 * MIB);
    assert!(committed(&bridge) <= 1024);
}

#[test]
fn every_view_decision_and_outcome_is_kept_for_the_record_when_that_is_asked_for() {
    let mut silent = Bridge::settled(1024, 300, 300);
    silent.time(5_000).plan();
    assert_eq!(silent.take_records(), [], "nothing piles up where nothing is recorded");

    let mut bridge = Bridge::settled(1024, 300, 300);
    bridge.keep_records();
    bridge.time(5_000).on_guest(B, &report(500, Urgency::Critical, 40));
    let targets = bridge.targets();
    let target_bytes = bridge.vms[B].target_bytes;
    let records = bridge.take_records();
    let [Record::Tick(tick)] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!((tick.ms, tick.unix_ms, tick.numbers.as_slice()), (5_000, 1_005_000, &[A, B][..]));
    assert_eq!(tick.plan, plan::memory::plan(tick.ms, &tick.host, &tick.views, &Policy::default()));
    assert_eq!(tick.plan.verdicts[B].step.map(|step| step.to_bytes / MIB), targets.last().map(|(_, mib)| *mib));

    let state = MachineState { allocation_bytes: target_bytes, ..state(0) };
    bridge.time(5_060).on_sighting(B, Sighting::State { state, accepted_bytes: Some(target_bytes) });
    let outcome = Outcome::Confirmed { after_ms: 60 };
    let ended = Ended { ms: 5_060, vm: "b".into(), from_bytes: 300 * MIB, to_bytes: target_bytes, outcome };
    assert_eq!(bridge.take_records(), [Record::Ended(ended)]);
}

#[test]
fn a_decision_is_explained_from_what_was_seen_to_what_came_of_it() {
    let mut bridge = Bridge::settled(1024, 300, 300);
    bridge.time(5_000).on_guest(B, &report(500, Urgency::Critical, 40));
    bridge.targets();
    let moving = bridge.decisions(Some("b"), 1).unwrap().remove(0);
    assert_eq!((moving.vm.as_str(), moving.step.from_bytes, &moving.outcome), ("b", 300 * MIB, &Outcome::Moving));
    bridge.time(5_060).sees(B, moving.step.to_bytes / MIB);
    // The planner may aim between two mebibytes; the hypervisor confirms what was asked.
    let accepted_bytes = Some(moving.step.to_bytes);
    let state = MachineState { allocation_bytes: moving.step.to_bytes, ..state(0) };
    bridge.on_sighting(B, Sighting::State { state, accepted_bytes });
    let confirmed = bridge.decisions(Some("b"), 1).unwrap().remove(0);
    assert_eq!(confirmed.outcome, Outcome::Confirmed { after_ms: 60 });
    assert_eq!(bridge.status().reaction_ms.p50, 100, "40 ms in the guest, 60 ms here");
    let text = crate::record::sentence(&confirmed);
    for part in ["Grow at once from 300 MiB", "critical", "needs 500 MiB", "Confirmed after 60 ms"] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn a_silent_hypervisor_keeps_its_bytes_and_a_gone_one_gives_them_back() {
    let mut bridge = Bridge::settled(1024, 700, 300);
    bridge.on_sighting(A, Sighting::Unreachable(lost()));
    bridge.time(100_000).on_guest(B, &report(600, Urgency::Critical, 0));
    bridge.targets();
    assert!(bridge.vm("b").unwrap().target_bytes <= 324 * MIB, "A's 700 MiB still count");
    assert_eq!(bridge.vm("a").unwrap().state, VmState::Unreachable);
    assert_eq!(bridge.vm("a").unwrap().verdict.unwrap().rule, Rule::Unreachable);

    bridge.time(101_000).on_sighting(A, Sighting::Absent(absent()));
    assert_eq!(bridge.vm("a").unwrap().state, VmState::Off);
    bridge.targets();
    assert!(bridge.vm("b").unwrap().target_bytes >= 600 * MIB);
    assert!(bridge.events(0).iter().any(|event| event.message.contains("700 MiB return to the pool")));
}

#[test]
fn what_happened_is_said_once_however_often_it_is_seen() {
    let mut bridge = bridge(1024);
    for _ in 0..50 {
        bridge.on_sighting(A, Sighting::Absent(absent()));
        bridge.on_sighting(B, Sighting::Unreachable(lost()));
    }
    assert_eq!(bridge.events(0).len(), 2);
}

#[test]
fn memory_that_a_guest_takes_back_itself_counts_and_is_said() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    bridge.sees(A, 340);
    assert_eq!(bridge.status().committed_bytes, 640 * MIB);
    assert!(bridge.events(0).iter().any(|event| event.message.contains("gave 40 MiB back without being asked")));
}

#[test]
fn paused_means_that_nothing_is_asked() {
    let mut bridge = Bridge::settled(1024, 300, 300);
    bridge.pause(Some("b"), true).unwrap();
    bridge.time(5_000).on_guest(B, &report(500, Urgency::Critical, 0));
    assert_eq!(bridge.targets(), []);
    assert_eq!(bridge.vm("b").unwrap().verdict.unwrap().rule, Rule::Paused);
    bridge.pause(Some("b"), false).unwrap();
    bridge.pause(None, true).unwrap();
    bridge.take_effects();
    assert_eq!(bridge.targets(), []);
    assert_eq!(bridge.vm("a").unwrap().verdict.unwrap().rule, Rule::Paused);
    bridge.pause(None, false).unwrap();
    assert!(!bridge.targets().is_empty());
}

#[test]
fn limits_that_cannot_be_meant_change_nothing() {
    let mut bridge = Bridge::settled(1024, 300, 300);
    let refusal = bridge.set("a", Change { maximum_bytes: Some(MIB), ..Change::default() }).unwrap_err();
    assert_eq!(refusal.message, "maximum: 1 MiB is less than the minimum of 128 MiB");
    assert_eq!(bridge.vm("a").unwrap().maximum_bytes, RAM);
    let refusal = bridge.set("c", Change::default()).unwrap_err();
    assert!(refusal.not_found);
    assert_eq!(refusal.message, "there is no VM \"c\"; there are: a, b");

    bridge.set("a", Change { maximum_bytes: Some(256 * MIB), ..Change::default() }).unwrap();
    bridge.time(100_000);
    assert_eq!(bridge.targets(), [(A, 256)], "a lower maximum is carried out");
}

#[test]
fn no_more_is_reserved_than_there_is() {
    let mut bridge = Bridge::settled(1024, 300, 300);
    let reserves = |mib: u64| Change { reservation_bytes: Some(mib * MIB), ..Change::default() };
    bridge.set("a", reserves(700)).unwrap();
    let refusal = bridge.set("b", reserves(400)).unwrap_err();
    assert!(
        refusal.message.contains("have 1100 MiB reserved, and capacity less reserve is 1024 MiB"),
        "{}",
        refusal.message
    );
    assert_eq!(bridge.vm("b").unwrap().reservation_bytes, 0);
    assert!(bridge.set("a", reserves(800)).unwrap_err().message.starts_with("reservation: 800 MiB is more than"));
    assert_eq!(bridge.set("a", reserves(600)).unwrap().reservation_bytes, 600 * MIB);
    bridge.set("b", reserves(400)).unwrap();
}

#[test]
fn a_vm_that_was_never_read_counts_with_its_maximum_and_one_without_balloon_with_all_it_has() {
    let mut bridge = bridge(2048);
    bridge.on_sighting(A, Sighting::Unreachable(lost()));
    bridge.on_sighting(B, Sighting::Attached(MachineState { has_balloon: false, ..state(768) }));
    assert_eq!(bridge.status().committed_bytes, 2 * RAM);
    assert_eq!(bridge.targets(), [], "nothing to move, nobody to ask");
    assert_eq!(bridge.vm("b").unwrap().verdict.unwrap().rule, Rule::Fixed);
}

#[test]
fn a_larger_target_counts_until_the_hypervisor_has_taken_the_smaller_one() {
    let mut bridge = Bridge::settled(1024, 300, 300);
    bridge.time(5_000).on_guest(B, &report(500, Urgency::Critical, 0));
    bridge.targets();
    let grown = bridge.vm("b").unwrap().target_bytes;
    bridge.on_sighting(B, Sighting::State { state: state(310), accepted_bytes: Some(grown) });
    bridge.set("b", Change { maximum_bytes: Some(320 * MIB), ..Change::default() }).unwrap();
    bridge.time(6_000).targets();
    assert_eq!(bridge.vm("b").unwrap().target_bytes, 320 * MIB);
    assert_eq!(bridge.status().committed_bytes, 300 * MIB + grown, "QEMU may still go there");
    bridge.on_sighting(B, Sighting::State { state: state(320), accepted_bytes: Some(320 * MIB) });
    assert_eq!(bridge.status().committed_bytes, 620 * MIB);
}

#[test]
fn another_hand_at_the_balloon_is_seen_and_taken_as_it_is() {
    let mut bridge = Bridge::settled(2048, 700, 300);
    bridge.time(100_000).sees(A, 300);
    assert_eq!(bridge.vm("a").unwrap().target_bytes, 300 * MIB);
    bridge.on_guest(A, &report(600, Urgency::Pressed, 0));
    assert!(bridge.targets().iter().any(|(vm, mib)| *vm == A && *mib >= 600), "it does not starve there");
}

#[test]
fn a_short_silence_of_the_hypervisor_forgets_nothing() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    bridge.time(100_000).on_guest(A, &report(600, Urgency::Critical, 0));
    bridge.targets();
    let history = bridge.vms[A].history;
    bridge.on_sighting(A, Sighting::Unreachable(lost()));
    bridge.on_sighting(A, Sighting::Attached(state(664)));
    assert_eq!(bridge.vms[A].history, history);
    bridge.on_sighting(A, Sighting::Absent(absent()));
    bridge.on_sighting(A, Sighting::Attached(state(768)));
    assert_eq!(bridge.vms[A].history, plan::History::default(), "another VM in its place has no past");
}

#[test]
fn a_vm_that_died_waiting_leaves_no_wait_behind() {
    let mut bridge = Bridge::settled(620, 300, 300);
    bridge.time(5_000).on_guest(A, &report(500, Urgency::Critical, 10));
    bridge.targets();
    bridge.on_sighting(A, Sighting::Absent(absent()));
    assert!(bridge.take_effects().contains(&Effect::ForgetAllocation { vm: A }));
    bridge.time(9_000_000).on_sighting(A, Sighting::Attached(state(768)));
    bridge.sees(A, 768);
    assert_eq!(bridge.status().reaction_ms.count, 0);
}

#[test]
fn nothing_is_asked_of_a_vm_that_attaches_while_paused() {
    let mut bridge = bridge(2048);
    bridge.pause(None, true).unwrap();
    bridge.on_sighting(A, Sighting::Attached(state(400)));
    assert!(!bridge.take_effects().iter().any(|effect| matches!(effect, Effect::SetTarget { .. })));
    bridge.pause(None, false).unwrap();
    assert!(bridge.take_effects().contains(&Effect::SetTarget { vm: A, bytes: 400 * MIB }));
}

#[test]
fn a_vm_at_rest_asks_for_no_plan() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    bridge.plan();
    bridge.sees(A, 300);
    assert_eq!(bridge.replan_after(), None);
}

#[test]
fn a_refused_target_is_no_promise() {
    let mut bridge = Bridge::settled(1024, 300, 300);
    bridge.time(5_000).on_guest(B, &report(500, Urgency::Critical, 0));
    bridge.targets();
    let error = Error::Refused { path: "/b".into(), command: "balloon", message: "no balloon".into() };
    let target_bytes = bridge.vm("b").unwrap().target_bytes;
    bridge.on_sighting(B, Sighting::Refused { target_bytes, error });
    assert_eq!(bridge.status().committed_bytes, 600 * MIB);
    let decision = bridge.decisions(Some("b"), 1).unwrap().remove(0);
    assert!(matches!(decision.outcome, Outcome::Refused { .. }));
}

#[test]
fn what_virtio_mem_was_asked_for_is_promised_and_a_dead_driver_s_is_not() {
    let mut bridge = Bridge::settled(4096, 300, 300);
    let parts = Parts {
        boot_bytes: RAM,
        balloon_bytes: Some(468 * MIB),
        requested_bytes: 200 * MIB,
        pluggable_bytes: RAM,
        block_bytes: 2 * MIB,
        ..Parts::default()
    };
    // Rebooted with 200 MiB asked for: it will have them without another word.
    let seen = |parts, is_plug_dead| {
        let memory = Makeup { parts, is_plug_dead, ..Makeup::default() };
        Sighting::State { state: MachineState { memory, ..state(300) }, accepted_bytes: None }
    };
    bridge.on_sighting(A, seen(parts, false));
    assert_eq!(bridge.status().committed_bytes, 800 * MIB);
    for _ in 0..3 {
        bridge.on_sighting(A, seen(Parts { requested_bytes: 0, pluggable_bytes: 0, ..parts }, true));
    }
    assert_eq!(bridge.status().committed_bytes, 600 * MIB);
    let said = bridge.events(0).iter().filter(|event| event.message.contains("nobody in its guest answers")).count();
    assert_eq!(said, 1, "once");
}

#[test]
fn a_decision_tells_which_actuator_moves_how_much_and_why() {
    let mut bridge = Bridge::settled(1024, 300, 300);
    bridge.time(5_000).on_guest(B, &report(600, Urgency::Critical, 0));
    bridge.targets();
    let target_bytes = bridge.vms[B].target_bytes;
    let parts = Parts {
        boot_bytes: 300 * MIB,
        pluggable_bytes: RAM,
        block_bytes: MIB,
        balloon_bytes: Some(0),
        ..Parts::default()
    };
    let split = actuator::split(&parts, target_bytes, &Speeds::default(), false);
    let memory = Makeup { parts, split: Some(split), ..Makeup::default() };
    bridge.on_sighting(B, Sighting::State { state: MachineState { memory, ..state(300) }, accepted_bytes: None });
    let text = crate::record::sentence(&bridge.decisions(Some("b"), 1).unwrap()[0]);
    let expected = "Virtio-mem 364 MiB: virtio-mem is 5.7 times as fast (4096 MiB/s, by others' figures, against 707 MiB/s, \
                    by others' figures); 6 MiB of it describe the new memory.";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn targets_are_whole_pages_and_fit_together() {
    let mut bridge = bridge(1000);
    for vm in [A, B] {
        bridge.on_sighting(vm, Sighting::Attached(state(768)));
    }
    bridge.set("a", Change { shares: Some(1777), ..Change::default() }).unwrap();
    bridge.take_effects();
    bridge.plan();
    let targets: Vec<u64> = bridge.vms().iter().map(|vm| vm.target_bytes).collect();
    assert!(targets.iter().all(|bytes| bytes % 4096 == 0), "{targets:?}");
    assert!((990 * MIB..=1000 * MIB).contains(&targets.iter().sum()), "{targets:?}");
}

#[test]
fn guests_learn_their_allocation_and_what_the_host_is_short_of() {
    let mut bridge = Bridge::settled(640, 300, 300);
    bridge.time(100_000).on_guest(A, &report(500, Urgency::Pressed, 0));
    bridge.on_guest(B, &report(500, Urgency::Pressed, 0));
    bridge.plan();
    let effects = bridge.take_effects();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::TellHost(host) if host.memory_short)));
    let demand = bridge.demand(A);
    assert!(matches!(demand, plan::Demand::Fresh(_)));
}

#[test]
fn a_peer_that_is_configured_plans_by_what_the_statistics_show() {
    let mut bridge = bridge_by(Planner::ProxmoxRules, 1000);
    for vm in [A, B] {
        bridge.on_sighting(vm, Sighting::Attached(state(380)));
        // Nobody has asked for anything, and 40 MiB are left to 80 % of the host.
        let shown_free_bytes = (vm == B).then_some(300 * MIB);
        let state = MachineState { shown_free_bytes, ..state(380) };
        bridge.on_sighting(vm, Sighting::State { state, accepted_bytes: Some(380 * MIB) });
    }
    bridge.take_effects();
    assert_eq!(bridge.time(1_000).targets(), [(A, 420)], "A has nothing free, as far as is known");
    assert_eq!(bridge.vm("a").unwrap().verdict.unwrap().rule, Rule::Peer);
}

#[test]
fn hyper_v_goes_by_what_a_guest_has_committed() {
    let mut bridge = bridge_by(Planner::HypervRules, 2000);
    for vm in [A, B] {
        bridge.on_sighting(vm, Sighting::Attached(state(700)));
        bridge.sees(vm, 700);
    }
    let mut event = report(700, Urgency::Critical, 0);
    let GuestEvent::Demand { demand, .. } = &mut event else { panic!("a report is a demand") };
    let Some(memory) = &mut demand.memory else { panic!("it has memory") };
    (memory.signals.anon_bytes, memory.signals.swap_used_bytes) = (100 * MIB, 50 * MIB);
    bridge.on_guest(A, &event);
    bridge.take_effects();
    // (150 + 104 + 768 / 8) * 1.2, in whole chunks of 2 MiB; its need is nothing that Hyper-V's driver would say.
    assert_eq!(bridge.time(1_000).targets(), [(A, 420)]);
}

mod counts;
mod cpu;
mod doubt;
mod hints;
mod levers;
mod optimize;
mod performance;
mod rates;
mod reload;
mod storage;
mod trim;
mod yielding;
