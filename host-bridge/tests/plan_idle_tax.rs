//! The tax on idle memory (Waldspurger 2002, §5.3), by what guests report of their working sets.

mod plan_support;

use plan_support::arbitrary::{NOW_MS, quiet_host};
use plan_support::sim::{Sim, guest};
use plan_support::{host, needs, vm};
use proptest::prelude::*;
use vmtide_bridge::plan::{
    Demand, Direction, HostState, HostView, IdleAges, MIB, MemoryDemand, Plan, Policy, Rule, Urgency, VmView, memory,
};
use vmtide_bridge::record::standing;

const HAS: u64 = 950;

/// A VM that has 950 MiB, all in use, and needs 1200, safe down to `floor`; `idle` of it were not used for a minute.
fn with_idle(idle: Option<u64>, floor: u64) -> VmView {
    let demand = MemoryDemand { need_bytes: 1200 * MIB, floor_bytes: floor * MIB, urgency: Urgency::Normal };
    let mut vm = vm(HAS, 2000, Demand::Fresh(demand));
    vm.shown.idle = idle.map(|idle| ages(HAS, idle));
    vm
}

fn ages(in_use: u64, idle: u64) -> IdleAges {
    IdleAges {
        in_use_bytes: in_use * MIB,
        over_10_s_bytes: idle * MIB,
        over_60_s_bytes: idle * MIB,
        over_300_s_bytes: 0,
    }
}

fn plan_taxed(host: &HostView, vms: &[VmView], idle_tax_percent: u32) -> Plan {
    memory::plan(NOW_MS, host, vms, &Policy { idle_tax_percent, ..Policy::default() })
}

/// What each of `vms` is entitled to, MiB, on a host where 1900 are shared out.
fn entitled(vms: &[VmView], idle_tax_percent: u32) -> Vec<u64> {
    let plan = plan_taxed(&host(2000), vms, idle_tax_percent);
    assert_eq!(plan.state, HostState::Short);
    plan.verdicts.iter().map(|verdict| (verdict.entitled_bytes + MIB / 2) / MIB).collect()
}

#[test]
fn of_two_equal_vms_the_idle_one_pays() {
    let vms = [with_idle(Some(0), 100), with_idle(Some(800), 100)];
    // 400 of its 1200 are active. Out of 950 it could pay for 400 and a fourth of the rest.
    assert_eq!(entitled(&vms, 75), [1200, 700]);
    // Twice as dear as active ones: 1133 cost as much as 400 and twice 367.
    assert_eq!(entitled(&vms, 50), [1133, 767]);
    let plan = plan_taxed(&host(2000), &vms, 75);
    let step = plan.verdicts[1].step.unwrap();
    assert_eq!(step.direction(), Direction::Shrink);
    assert!(matches!(plan.verdicts[0].rule, Rule::AwaitBytes { .. }), "{:?}", plan.verdicts[0]);
    let tax = plan.verdicts[1].idle_tax.unwrap();
    assert_eq!((tax.active_bytes / MIB, tax.active_permille, tax.tax_percent), (400, 421, 75));
    let told = standing(&vms[1].demand, &plan.verdicts[1]);
    let figures = "Of that 400 MiB are active, 42.1 % of what it has; an idle byte weighs 4.0 times (tax: 75 %).";
    assert!(told.contains(figures), "{told}");
}

#[test]
fn without_a_tax_idle_bytes_cost_what_others_do() {
    assert_eq!(entitled(&[with_idle(Some(0), 100), with_idle(Some(800), 100)], 0), [HAS, HAS]);
}

#[test]
fn who_says_nothing_of_its_working_set_is_charged_by_its_need() {
    for silent in [with_idle(None, 100), with_idle(Some(0), 100)] {
        assert_eq!(entitled(&[with_idle(None, 100), silent.clone()], 75), [HAS, HAS]);
        assert_eq!(entitled(&[silent, with_idle(Some(800), 100)], 75), [1200, 700]);
    }
}

#[test]
fn the_tax_takes_nothing_of_the_own_share_that_a_guest_cannot_spare() {
    assert_eq!(entitled(&[with_idle(Some(0), 900), with_idle(Some(800), 900)], 75), [1000, 900]);
    assert_eq!(entitled(&[with_idle(Some(0), 1200), with_idle(Some(800), 1200)], 75), [HAS, HAS], "nor beyond");
}

#[test]
fn a_guest_that_is_pressed_is_not_taxed() {
    let mut pressed = with_idle(Some(800), 100);
    let Demand::Fresh(demand) = &mut pressed.demand else { unreachable!() };
    demand.urgency = Urgency::Critical;
    let untaxed = VmView { shown: with_idle(None, 0).shown, ..pressed.clone() };
    let other = || with_idle(Some(0), 100);
    assert_eq!(entitled(&[other(), pressed], 75), entitled(&[other(), untaxed], 75));
}

#[test]
fn where_there_is_enough_nobody_is_taxed() {
    let vms = [with_idle(Some(0), 100), with_idle(Some(800), 100)];
    let plan = plan_taxed(&host(4000), &vms, 75);
    assert_eq!(plan.state, HostState::Calm);
    assert_eq!(plan.verdicts[0].entitled_bytes, plan.verdicts[1].entitled_bytes);
}

/// Samples of a working set differ by up to 15 percent, as those of its sources do.
#[test]
fn samples_that_waver_move_nobody() {
    let view = || vm(HAS, 2000, needs(1200, Urgency::Normal));
    let mut sim = Sim::new(host(2000), vec![guest(view()), guest(view())]);
    let mut sample = 0_u64;
    let mut moved_in = |sim: &mut Sim, seconds: u64| {
        sim.forget_moves();
        for _ in 0..seconds {
            sample += 1;
            for (index, guest) in sim.guests.iter_mut().enumerate() {
                // A new one each minute; one of the two is idle.
                let noise = (sample / 60 * 7 + index as u64 * 3) % 15;
                let idle = if index == 0 { noise } else { 600 + 4 * noise };
                let in_use = guest.view.allocation_bytes / MIB;
                guest.view.shown.idle = Some(ages(in_use, idle));
            }
            sim.run(1);
        }
        sim.steps
    };
    assert!(moved_in(&mut sim, 900) > 0, "the idle one pays at first");
    assert!(sim.allocation_mib(0) > sim.allocation_mib(1), "{} {}", sim.allocation_mib(0), sim.allocation_mib(1));
    assert_eq!(moved_in(&mut sim, 1800), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever a guest says of its idle bytes, it gets no more than by saying nothing.
    #[test]
    fn no_tale_of_idle_bytes_gains_a_guest_anything(
        (host, mut vms) in quiet_host(20),
        liar in any::<prop::sample::Index>(),
        in_use in 0..8000_u64,
        idle in prop_oneof![0..8000_u64, Just(u64::MAX >> 21)],
        tax in 0..100_u32,
    ) {
        let liar = liar.index(vms.len());
        vms[liar].shown.idle = None;
        let honest = plan_taxed(&host, &vms, tax).verdicts[liar].entitled_bytes;
        vms[liar].shown.idle = Some(ages(in_use, idle));
        let told = plan_taxed(&host, &vms, tax).verdicts[liar].entitled_bytes;
        // Levels are rounded down: some bytes at most.
        prop_assert!(told <= honest + 4096, "{told} of {honest}");
        vms[liar].shown.idle = Some(ages(in_use, 0));
        prop_assert_eq!(plan_taxed(&host, &vms, tax).verdicts[liar].entitled_bytes, honest, "all is active");
    }
}
