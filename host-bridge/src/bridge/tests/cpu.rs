//! CPU time, from what guests report to what is asked of cgroups, guests and hypervisors.

use super::*;
use crate::bridge::cpu::CpuUse;
use crate::guests::{Cpu, CpuSignals, Hello, Reply};
use crate::plan::cpu::{CpuRule, Vcpus};
use vmtide_protocol::agent::ReplyStatus;
use vmtide_protocol::bridge::SetOnlineCpus;
use vmtide_protocol::demand::CpuReason;

impl Bridge {
    /// Both VMs attached, of four vCPUs, three of which can go, each in a cgroup of its own.
    fn of_four_vcpus() -> Self {
        let mut bridge = Bridge::settled(2048, 300, 300);
        for vm in [A, B] {
            bridge.on_guest(vm, &hello(&["set_online_cpus"]));
            bridge.has_vcpus(vm, 4);
            bridge.on_group(vm, Ok(format!("/vms/{vm}")));
        }
        bridge
    }

    fn has_vcpus(&mut self, vm: usize, plugged: u32) {
        let vcpus = Vcpus { plugged, possible: 4, removable: plugged - 1, is_removing: false };
        self.on_sighting(vm, Sighting::Vcpus(Some(vcpus)));
    }

    fn wants_cpu(&mut self, vm: usize, need_millicpus: u64, online_cpus: u64) {
        let cpu = Cpu {
            need_millicpus,
            floor_millicpus: 0,
            urgency: Urgency::Normal,
            reason: CpuReason::Steady,
            signals: CpuSignals { online_cpus, ..CpuSignals::default() },
        };
        let demand = Box::new(Demand { cpu: Some(cpu), ..Demand::default() });
        self.on_guest(vm, &GuestEvent::Demand { demand, urgent: false, tally: Tally::default() });
    }

    /// Ticks on a host of two CPUs; what was asked for CPU time.
    fn ticks(&mut self, from_ms: u64, seconds: u64) -> Vec<Effect> {
        for second in 0..seconds {
            self.time(from_ms + second * 1000).on_cpu(2, &[None, None]);
        }
        let about_cpu = |effect: &Effect| {
            matches!(effect, Effect::SetCpuTime { .. } | Effect::SetOnlineCpus { .. } | Effect::SetVcpus { .. })
        };
        self.take_effects().into_iter().filter(about_cpu).collect()
    }

    fn replies(&mut self, vm: usize, id: u64, status: ReplyStatus, online: u64, detail: Option<&str>) {
        let reply = Reply { id, status, amount: online, detail: detail.map(str::to_owned) };
        self.on_guest(vm, &GuestEvent::Reply(reply));
    }

    fn told_about_cpu(&self) -> Vec<String> {
        let events = self.events(0).into_iter().map(|event| event.message);
        events.filter(|message| message.starts_with("CPU: its guest") || message.starts_with("CPU: asked")).collect()
    }
}

fn asked(effects: &[Effect]) -> Vec<(usize, SetOnlineCpus)> {
    let asked = |effect: &Effect| match effect {
        Effect::SetOnlineCpus { vm, request } => Some((*vm, *request)),
        _ => None,
    };
    effects.iter().filter_map(asked).collect()
}

#[test]
fn groups_get_their_weight_once_and_again_when_they_are_others() {
    let mut bridge = Bridge::of_four_vcpus();
    let weight = |vm| Effect::SetCpuTime { vm, shares: 1000, quota_millicpus: None };
    assert_eq!(bridge.ticks(0, 5), [weight(A), weight(B)]);
    bridge.on_group(A, Err("foreign".to_owned()));
    bridge.on_group(A, Err("foreign".to_owned()));
    assert_eq!(bridge.ticks(5_000, 5), []);
    assert_eq!(bridge.events(0).iter().filter(|event| event.message.contains("foreign")).count(), 1, "said once");
    bridge.on_group(A, Ok("/other".to_owned()));
    assert_eq!(bridge.ticks(10_000, 5), [weight(A)]);
    assert_eq!(bridge.vm("a").unwrap().cpu.group.as_deref(), Some("/other"));
}

#[test]
fn a_guest_that_runs_on_more_than_it_is_entitled_to_is_asked_once_and_the_answer_is_told() {
    let mut bridge = Bridge::of_four_vcpus();
    bridge.wants_cpu(A, 4000, 4);
    bridge.wants_cpu(B, 4000, 4);
    let effects = bridge.ticks(0, 8);
    let [(A, a), (B, b)] = asked(&effects)[..] else { panic!("each once: {effects:?}") };
    assert!((a.cpus, b.cpus) == (2, 2) && a.id != b.id);
    assert_eq!(bridge.vm("a").unwrap().cpu.verdict.unwrap().rule, CpuRule::NotNow, "it is under way");

    bridge.replies(A, a.id, ReplyStatus::Done, 2, None);
    bridge.replies(A, a.id, ReplyStatus::Done, 1, None);
    assert_eq!(bridge.vm("a").unwrap().cpu.online, Some(2), "one reply is all there is to a request");
    bridge.replies(B, b.id, ReplyStatus::Partial, 3, Some("task 7 (db) needs CPU 3"));
    assert_eq!(asked(&bridge.ticks(8_000, 20)), [], "neither again");
    let told = bridge.told_about_cpu();
    assert!(
        told[0].starts_with("CPU: its guest runs on 2 vCPUs, before 4, after 2000 ms: it is entitled to 1 CPUs"),
        "{told:?}"
    );
    assert_eq!(told[1], "CPU: asked to run on 2 vCPUs, its guest runs on 3: task 7 (db) needs CPU 3");
    assert_eq!(told.len(), 2);
}

#[test]
fn a_guest_that_never_answers_is_said_once_and_left_alone_for_a_while() {
    let mut bridge = Bridge::of_four_vcpus();
    bridge.wants_cpu(A, 10, 4);
    bridge.wants_cpu(B, 4000, 2);
    let mut count = 0;
    for minute in 0..3 {
        // As often as a quiet agent reports.
        for at_ms in [0, 20_000, 40_000].map(|ms| minute * 60_000 + ms) {
            bridge.time(at_ms).wants_cpu(A, 10, 4);
            bridge.wants_cpu(B, 4000, 2);
            count += asked(&bridge.ticks(at_ms, 20)).iter().filter(|(vm, _)| *vm == A).count();
        }
    }
    assert!((1..=3).contains(&count), "{count} requests in three minutes");
    let silent = bridge.events(0).into_iter().filter(|event| event.message.contains("did not answer")).count();
    assert_eq!(silent, 1);
}

#[test]
fn a_request_that_could_not_be_sent_is_made_again() {
    let mut bridge = Bridge::of_four_vcpus();
    bridge.wants_cpu(A, 10, 4);
    bridge.wants_cpu(B, 4000, 2);
    assert_eq!(asked(&bridge.ticks(0, 3)).len(), 1);
    bridge.on_request_unsent(A);
    assert_eq!(asked(&bridge.ticks(3_000, 2)).len(), 1);
}

#[test]
fn a_need_that_lasts_plugs_one_vcpu_and_a_machine_that_refuses_is_left_alone() {
    let mut bridge = Bridge::of_four_vcpus();
    bridge.has_vcpus(A, 1);
    bridge.wants_cpu(A, 1500, 1);
    bridge.wants_cpu(B, 10, 4);
    let plugs = |effects: Vec<Effect>| {
        let plug = |effect: &Effect| matches!(effect, Effect::SetVcpus { vm: A, vcpus: 2 });
        effects.into_iter().filter(plug).count()
    };
    assert_eq!(plugs(bridge.ticks(0, 25)), 1, "once, until it is read back");
    bridge.on_sighting(A, Sighting::VcpusRefused("device_add was refused: no".to_owned()));
    bridge.on_sighting(A, Sighting::VcpusRefused("device_add was refused: no".to_owned()));
    bridge.time(25_000).wants_cpu(A, 1500, 1);
    assert_eq!(plugs(bridge.ticks(25_000, 25)), 0);
    assert_eq!(bridge.events(0).iter().filter(|event| event.message.contains("refused: no")).count(), 1);
}

#[test]
fn nothing_is_asked_of_whom_an_operator_paused_or_of_agents_that_cannot() {
    let mut bridge = Bridge::of_four_vcpus();
    bridge.ticks(0, 1);
    let hello =
        Hello { protocol: 1, agent: "0.0".into(), kernel: "6.1".into(), boot_id: "y".into(), capabilities: Vec::new() };
    bridge.on_guest(A, &GuestEvent::Connected(hello));
    bridge.pause(Some("b"), true).unwrap();
    bridge.wants_cpu(A, 10, 4);
    bridge.wants_cpu(B, 4000, 4);
    assert_eq!(bridge.ticks(1_000, 25), []);
    bridge.pause(None, true).unwrap();
    bridge.pause(Some("b"), false).unwrap();
    assert_eq!(bridge.ticks(26_000, 10), []);
}

#[test]
fn an_operator_sets_limits_of_cpu_time_and_a_wrong_one_changes_nothing() {
    let mut bridge = Bridge::settled(1024, 300, 300);
    bridge.on_group(A, Ok("/group".to_owned()));
    let change = |maximum, shares| Change {
        shares: Some(7),
        cpu_minimum_millicpus: Some(500),
        cpu_maximum_millicpus: Some(maximum),
        cpu_shares: Some(shares),
        ..Change::default()
    };
    for (wrong, expected) in [
        (change(400, 10), "cpu.maximum: 0.4 is less than the minimum of 0.5"),
        (change(600, 0), "cpu.shares: 0 is out of range; allowed is 1 to 1000000"),
    ] {
        let message = bridge.set("a", wrong).unwrap_err().message;
        assert!(message.starts_with(expected), "{message}");
        let vm = bridge.vm("a").unwrap();
        assert_eq!((vm.shares, vm.cpu.minimum_millicpus, vm.cpu.maximum_millicpus), (1000, 0, None));
    }
    let cpu = bridge.set("a", change(600, 10)).unwrap().cpu;
    assert_eq!((cpu.shares, cpu.minimum_millicpus, cpu.maximum_millicpus), (10, 500, Some(600)));
    bridge.time(1_000).on_cpu(2, &[None, None]);
    let set = Effect::SetCpuTime { vm: A, shares: 10, quota_millicpus: Some(850) };
    assert!(bridge.take_effects().contains(&set));
}

#[test]
fn the_most_of_each_minute_is_recorded_with_the_next_plan() {
    let mut bridge = Bridge::of_four_vcpus();
    bridge.keep_records();
    let using = |used_millicpus| [Some(CpuUse { used_millicpus, ..CpuUse::default() }), None];
    for second in 1..=62 {
        bridge.time(second * 1_000).on_cpu(2, &using(if second == 30 { 1_900 } else { 100 }));
        bridge.plan();
    }
    let used = |record| match record {
        Record::Tick(tick) if !tick.used.is_empty() => Some(tick.used),
        _ => None,
    };
    let recorded: Vec<_> = bridge.take_records().into_iter().filter_map(used).collect();
    let [minute] = recorded.as_slice() else { panic!("{recorded:?}") };
    assert_eq!((minute[&A].cpu_millicpus, minute.len()), (1_900, 2));
}
