//! Reservations: what a VM gets back whenever it needs it, and lends meanwhile.

mod plan_support;

use plan_support::arbitrary::{NOW_MS, any_host, demand, quiet_host};
use plan_support::{bounds, greedy, host, needs, plan, step, sum, vm};
use proptest::prelude::*;
use vmtide_bridge::plan::{Demand, Direction, HostState, HostView, MIB, Pace, Policy, Reach, Urgency, VmView, memory};

fn reserved(mib: u64, mut vm: VmView) -> VmView {
    vm.limits.reservation_bytes = mib * MIB;
    vm
}

#[test]
fn a_reservation_comes_before_shares() {
    let greedy_at = |has| vm(has, 2000, greedy(Urgency::Critical));
    let entitled = |reservation| {
        let vms = [reserved(reservation, vm(300, 2000, needs(900, Urgency::Critical))), greedy_at(350), greedy_at(350)];
        plan(&host(1000), &vms).verdicts[0].entitled_bytes / MIB
    };
    assert!(entitled(0) < 400, "a third: {}", entitled(0));
    assert_eq!((entitled(600), entitled(800)), (616, 816), "and its third of the pool of 50, for it stalls");
    assert_eq!(entitled(2000), 871, "what it needs, and what the minimums of the others leave");
}

#[test]
fn what_is_not_needed_of_it_is_lent() {
    let vms = [reserved(800, vm(500, 1000, needs(200, Urgency::Idle))), vm(500, 2000, greedy(Urgency::Critical))];
    let lent = plan(&host(1000), &vms);
    assert!(matches!(step(&lent, 0), Some((Direction::Shrink, 200..=240))), "{:?}", step(&lent, 0));
}

#[test]
fn and_comes_back_at_once_although_its_guest_is_calm() {
    let vms = [reserved(800, vm(240, 1000, needs(700, Urgency::Normal))), vm(760, 2000, greedy(Urgency::Critical))];
    let back = plan(&host(1000), &vms);
    let taken = back.verdicts[1].step.expect("it gives");
    assert_eq!((taken.direction(), taken.pace), (Direction::Shrink, Pace::Urgent));
    assert!(back.verdicts[0].entitled_bytes >= 770 * MIB);
    // When those bytes are there.
    let vms = [vms[0].clone(), vm(230, 2000, greedy(Urgency::Critical))];
    assert_eq!(step(&plan(&host(1000), &vms), 0), Some((Direction::Grow, 770)));
}

#[test]
fn a_vm_that_just_booted_on_a_full_host_keeps_its_reservation() {
    let booted = |reservation| {
        let unknown = vm(1000, 1000, Demand::Unknown { shown_use_bytes: None });
        let vms = [reserved(reservation, unknown), vm(600, 1000, needs(500, Urgency::Normal))];
        let plan = plan(&host(1000), &vms);
        assert_eq!(plan.state, HostState::Emergency);
        plan.verdicts[0].entitled_bytes / MIB
    };
    assert!(booted(0) < 500 && booted(550) >= 550, "{} {}", booted(0), booted(550));
}

/// What a guest of a fresh demand claims at least: its need, within its maximum.
fn needed(vm: &VmView) -> Option<u64> {
    match vm.demand {
        Demand::Fresh(demand) => Some(demand.need_bytes.min(vm.limits.maximum_bytes)),
        _ => None,
    }
}

/// Random reservations, thousandths of what each VM may have.
fn with_reservations(
    hosts: impl Strategy<Value = (HostView, Vec<VmView>)>,
) -> impl Strategy<Value = (HostView, Vec<VmView>)> {
    (hosts, prop::collection::vec(0..=1000_u64, 40)).prop_map(|((host, mut vms), permille)| {
        for (vm, permille) in vms.iter_mut().zip(permille) {
            vm.limits.reservation_bytes = vm.limits.maximum_bytes / 1000 * permille;
        }
        (host, vms)
    })
}

/// Lowers reservations until they fit beside the minimums; `false` where minimums alone do not.
fn fit_reservations(vms: &mut [VmView], limit: u64) -> bool {
    let beyond = |vm: &VmView| vm.limits.reservation_bytes.saturating_sub(bounds(vm).0);
    let Some(left) = u128::from(limit).checked_sub(sum(vms.iter().map(|vm| bounds(vm).0))) else { return false };
    let reserved = sum(vms.iter().map(beyond)).max(1);
    for vm in vms {
        let part = u128::from(beyond(vm)) * left.min(reserved) / reserved;
        vm.limits.reservation_bytes = bounds(vm).0 + u64::try_from(part).unwrap_or_default();
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn limits_hold_and_growth_fits_whatever_is_reserved((host, vms) in with_reservations(any_host())) {
        let plan = memory::plan(NOW_MS, &host, &vms, &Policy::default());
        let before = sum(vms.iter().map(VmView::committed_bytes));
        let mut after = 0;
        for (vm, verdict) in vms.iter().zip(&plan.verdicts) {
            let (minimum, maximum) = bounds(vm);
            if let Some(step) = verdict.step {
                prop_assert!((minimum..=maximum).contains(&step.to_bytes), "{:?} {:?}", step, vm.limits);
            }
            if vm.reach == Reach::Ready {
                prop_assert!((minimum..=maximum).contains(&verdict.entitled_bytes), "{:?}", verdict);
            }
            after += u128::from(vm.committed_bytes().max(verdict.step.map_or(0, |step| step.to_bytes)));
        }
        prop_assert!(after <= before.max(u128::from(host.limit_bytes())));
    }

    #[test]
    fn no_report_of_another_reaches_into_a_reservation(
        (host, mut vms) in with_reservations(quiet_host(12)), other in demand(), index: prop::sample::Index,
    ) {
        let liar = index.index(vms.len());
        vms[liar].demand = other;
        if !fit_reservations(&mut vms, host.limit_bytes()) {
            return Ok(());
        }
        let plan = memory::plan(NOW_MS, &host, &vms, &Policy::default());
        for (vm, verdict) in vms.iter().zip(&plan.verdicts) {
            let Some(needed) = needed(vm) else { continue };
            let due = vm.limits.reservation_bytes.min(needed);
            prop_assert!(verdict.entitled_bytes >= due, "{} of {due}", verdict.entitled_bytes);
            let target = verdict.step.map_or(vm.target_bytes, |step| step.to_bytes);
            prop_assert!(target >= due.min(vm.target_bytes), "shrunk to {target}, and {due} are its own");
        }
    }

    #[test]
    fn what_nobody_needs_changes_nothing((host, mut vms) in quiet_host(12)) {
        let without = memory::plan(NOW_MS, &host, &vms, &Policy::default());
        for vm in &mut vms {
            vm.limits.reservation_bytes = bounds(vm).0;
        }
        prop_assert_eq!(without, memory::plan(NOW_MS, &host, &vms, &Policy::default()));
    }
}
