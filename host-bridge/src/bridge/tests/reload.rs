//! Another configuration while VMs run.

use super::*;
use crate::api::types::Reload;
use crate::bridge::cpu::CpuUse;

fn running() -> (Bridge, Config) {
    let mut bridge = bridge(2048);
    bridge.at(now(0)).on_sighting(A, Sighting::Attached(state(512)));
    bridge.on_sighting(B, Sighting::Attached(state(256)));
    bridge.take_effects();
    (bridge, config_by(Planner::default(), 2048))
}

fn now(ms: u64) -> Now {
    Now { ms, unix_ms: ms }
}

fn names(bridge: &Bridge) -> Vec<String> {
    bridge.vms().into_iter().map(|vm| vm.name).collect()
}

fn said(bridge: &Bridge) -> String {
    bridge.events(0).into_iter().map(|event| event.message + "\n").collect()
}

#[test]
fn the_same_again_changes_nothing() {
    let (mut bridge, config) = running();
    let changes = bridge.at(now(5)).reload(&config, &config.clone());
    assert_eq!((changes.removed.len(), changes.added.len(), changes.is_another_run), (0, 0, false));
    assert_eq!(bridge.take_effects(), []);
    assert_eq!(bridge.status().reload, Some(Reload { at_unix_ms: 5, error: None, at_next_start: Vec::new() }));
}

#[test]
fn a_new_vm_gets_a_number_of_its_own_and_is_planned_for() {
    let (mut bridge, config) = running();
    let mut new = config.clone();
    new.vms
        .insert(0, VmConfig { name: "c".into(), qmp: "/c".into(), address: Address::Cid(5), ..config.vms[A].clone() });
    let changes = bridge.reload(&config, &new);
    assert_eq!((changes.added.len(), changes.is_another_run), (1, true));
    assert_eq!((names(&bridge), bridge.status().vms), (["a", "b", "c"].map(String::from).to_vec(), 3));
    bridge.on_sighting(2, Sighting::Attached(state(300)));
    bridge.at(now(1_000)).plan();
    bridge.on_cpu(4, &[None, None, Some(CpuUse { used_millicpus: 30, ..CpuUse::default() })]);
    bridge.plan_storage();
    let c = bridge.vm("c").unwrap();
    assert_eq!(c.allocation_bytes, 300 * MIB);
    assert!(c.verdict.is_some() && c.io.is_some() && bridge.cpu.seats.len() == 3, "all three planners know it");
    assert_eq!(bridge.vm("a").unwrap().allocation_bytes, 512 * MIB, "who stays keeps what is known of it");
}

#[test]
fn a_vm_that_is_gone_keeps_its_balloon_and_is_not_heard_any_more() {
    let (mut bridge, config) = running();
    let new = Config { vms: vec![config.vms[B].clone()], ..config.clone() };
    assert_eq!(bridge.status().committed_bytes, 768 * MIB);
    let changes = bridge.reload(&config, &new);
    assert_eq!(changes.removed, [A]);
    assert!(said(&bridge).contains("its balloon stays where it is: 512 MiB are not counted any more"));
    // What was underway for it, and what its guest still says, reaches nobody.
    bridge.on_sighting(A, Sighting::Attached(state(700)));
    bridge.on_guest(A, &report(700, Urgency::Critical, 5));
    bridge.plan();
    assert!(bridge.take_effects().iter().all(|effect| effect.vm() != Some(A)), "nothing is asked of it");
    assert_eq!((names(&bridge), bridge.status().committed_bytes), (vec!["b".to_owned()], 256 * MIB));
    assert!(bridge.vm("a").unwrap_err().message.contains("there is no VM \"a\"; there are: b"));
    // It may come back, as another.
    let changes = bridge.reload(&new, &config);
    assert_eq!(changes.added.len(), 1);
    assert_eq!(bridge.numbers["a"], 2);
}

#[test]
fn another_monitor_is_another_vm() {
    let (mut bridge, config) = running();
    let mut new = config.clone();
    new.vms[A].qmp = "/elsewhere".into();
    let changes = bridge.reload(&config, &new);
    assert_eq!((changes.removed, changes.added), (vec![A], vec![new.vms[A].clone()]));
    assert_eq!(bridge.vm("a").unwrap().state, VmState::Starting);
}

#[test]
fn limits_set_by_hand_hold_until_the_files_say_something_new() {
    let (mut bridge, config) = running();
    let by_hand =
        Change { maximum_bytes: Some(600 * MIB), cpu_shares: Some(7), io_shares: Some(8), ..Change::default() };
    bridge.set("a", by_hand).unwrap();
    bridge.reload(&config, &config.clone());
    let limits = |bridge: &Bridge| {
        let vm = bridge.vm("a").unwrap();
        (vm.maximum_bytes, vm.cpu.shares, vm.disks.shares)
    };
    assert_eq!(limits(&bridge), (600 * MIB, 7, 8));
    let mut new = config.clone();
    new.vms[A].limits.maximum_bytes = 400 * MIB;
    new.vms[A].io.shares = Some(9);
    bridge.reload(&config, &new);
    assert_eq!(limits(&bridge), (400 * MIB, 7, 9));
    assert!(said(&bridge).contains("the configuration sets minimum 128 MiB, maximum 400 MiB, shares 1000"));
    let told = |effect: &Effect| matches!(effect, Effect::TellAllocation { vm: A, allocation } if allocation.maximum_bytes == 400 * MIB);
    assert!(bridge.take_effects().iter().any(told), "its guest is told");
}

#[test]
fn another_policy_holds_from_the_next_plan_on_and_what_needs_a_start_is_said() {
    let (mut bridge, config) = running();
    let policy = Policy { headroom_permille: 500, ..Policy::default() };
    let record = RecordConfig { size_bytes: 0, ..RecordConfig::default() };
    let new = Config { policy, record, control_socket: "/other".into(), ..config.clone() };
    assert!(bridge.reload(&config, &new).is_another_run);
    assert_eq!(bridge.policy.headroom_permille, 500);
    assert_eq!(bridge.status().reload.unwrap().at_next_start, ["control.socket", "record"]);
}

#[test]
fn a_configuration_that_cannot_be_used_is_shown_and_changes_nothing() {
    let (mut bridge, _) = running();
    bridge.at(now(7)).refuse_reload("bridge.toml: no".to_owned());
    let reload = bridge.status().reload.unwrap();
    assert_eq!((reload.at_unix_ms, reload.error.as_deref()), (7, Some("bridge.toml: no")));
    assert_eq!(names(&bridge), ["a", "b"]);
    assert_eq!(bridge.take_effects(), []);
}
