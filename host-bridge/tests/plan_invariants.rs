//! What holds for every single plan, tried on random hosts.

mod plan_support;

use plan_support::arbitrary::{NOW_MS, any_host, demand, quiet_host};
use plan_support::{bounds, sum};
use proptest::prelude::*;
use vmtide_bridge::plan::{Demand, Direction, HostState, HostView, Plan, Policy, Reach, VmView, active_bytes, memory};

fn plan(host: &HostView, vms: &[VmView]) -> Plan {
    memory::plan(NOW_MS, host, vms, &Policy::default())
}

/// What `vm` would have if everybody who reports wanted everything: no report changes it.
fn own_share(budget: u128, vms: &[VmView], index: usize) -> u128 {
    let share = |level: u64, vm: &VmView| {
        let bytes = u128::from(level) * u128::from(vm.limits.shares.max(1)) / 1024;
        bytes.max(u128::from(bounds(vm).0))
    };
    let fits = |level: u64| vms.iter().map(|vm| share(level, vm)).sum::<u128>() <= budget;
    let (mut low, mut high) = (0, u64::MAX);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    share(low, &vms[index])
}

/// What of its own share a guest keeps by its own report: it pays the tax on bytes that it calls idle itself, down to its floor.
fn own_share_taxed(own_share: u128, vm: &VmView) -> u128 {
    let (Demand::Fresh(demand), Some(idle)) = (vm.demand, &vm.shown.idle) else { return own_share };
    let need_bytes = demand.need_bytes.min(bounds(vm).1);
    let active = active_bytes(&vmtide_bridge::plan::MemoryDemand { need_bytes, ..demand }, Some(idle));
    let beyond = own_share.saturating_sub(active.into());
    let left = beyond * u128::from(100 - Policy::default().idle_tax_percent) / 100;
    (own_share - beyond + left).max(own_share.min(demand.floor_bytes.into()))
}

/// What is shared out of `available` bytes: all but the pool, which minimums go before.
fn budget(available: u128, limit: u64, vms: &[VmView]) -> u128 {
    let minimums = sum(vms.iter().map(|vm| bounds(vm).0));
    available - available.saturating_sub(minimums).min(u128::from(limit) / 20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_target_is_within_its_limits((host, vms) in any_host()) {
        for (vm, verdict) in vms.iter().zip(plan(&host, &vms).verdicts) {
            let (minimum, maximum) = bounds(vm);
            if let Some(step) = verdict.step {
                prop_assert_eq!(step.from_bytes, vm.target_bytes);
                prop_assert_ne!(step.from_bytes, step.to_bytes);
                prop_assert!((minimum..=maximum).contains(&step.to_bytes), "{:?} {:?}", step, vm.limits);
            }
            if vm.reach == Reach::Ready {
                prop_assert!((minimum..=maximum).contains(&verdict.entitled_bytes), "{:?}", verdict);
            }
        }
    }

    #[test]
    fn growth_fits_into_what_is_free_now((host, vms) in any_host()) {
        let plan = plan(&host, &vms);
        let before = sum(vms.iter().map(VmView::committed_bytes));
        let after = sum(vms.iter().zip(&plan.verdicts).map(|(vm, verdict)| {
            let target = verdict.step.map_or(vm.target_bytes, |step| step.to_bytes);
            // Nothing that shrinks is free yet, not even the part of a target that was never reached.
            vm.committed_bytes().max(target)
        }));
        prop_assert!(after <= before.max(u128::from(host.limit_bytes())));
        prop_assert_eq!(u128::from(plan.committed_bytes), before);
    }

    #[test]
    fn calm_growth_leaves_the_pool((host, vms) in any_host()) {
        let plan = plan(&host, &vms);
        let grows_calmly = plan.verdicts.iter().filter_map(|verdict| verdict.step).any(|step| {
            step.direction() == Direction::Grow && step.pace == vmtide_bridge::plan::Pace::Calm
        });
        let after = sum(vms.iter().zip(&plan.verdicts).map(|(vm, verdict)| {
            vm.committed_bytes().max(verdict.step.map_or(0, |step| step.to_bytes))
        }));
        let takes_bytes = after > u128::from(plan.committed_bytes);
        if grows_calmly && takes_bytes && plan.verdicts.iter().all(|v| v.step.is_none_or(|s| s.pace == vmtide_bridge::plan::Pace::Calm)) {
            prop_assert!(after + u128::from(plan.spike_pool_bytes) <= u128::from(host.limit_bytes()));
        }
    }

    #[test]
    fn who_cannot_be_changed_is_not_shrunk_and_who_is_silent_keeps_its_own_share((host, vms) in any_host()) {
        let plan = plan(&host, &vms);
        let ready: Vec<VmView> = vms.iter().filter(|vm| vm.reach == Reach::Ready).cloned().collect();
        let fixed = sum(vms.iter().filter(|vm| vm.reach != Reach::Ready).map(VmView::committed_bytes));
        let budget = budget(u128::from(host.limit_bytes()).saturating_sub(fixed), host.limit_bytes(), &ready);
        let mut ready_index = 0;
        for (vm, verdict) in vms.iter().zip(&plan.verdicts) {
            let index = ready_index;
            ready_index += usize::from(vm.reach == Reach::Ready);
            let Some(step) = verdict.step else { continue };
            prop_assert_eq!(vm.reach, Reach::Ready);
            if plan.state == HostState::Emergency || step.direction() == Direction::Grow {
                continue;
            }
            let kept = match vm.demand {
                Demand::Stale { floor_bytes, .. } => floor_bytes.min(vm.target_bytes).min(bounds(vm).1),
                Demand::Unknown { .. } => vm.target_bytes.min(bounds(vm).1),
                Demand::Fresh(_) => continue,
            };
            let due = if plan.state == HostState::Short { own_share(budget, &ready, index) } else { u128::MAX };
            prop_assert!(u128::from(step.to_bytes) + 4096 >= due.min(u128::from(kept)), "{:?} {}", step, kept);
        }
    }

    #[test]
    fn a_step_goes_a_slice_below_a_floor_at_most((host, vms) in any_host()) {
        let plan = plan(&host, &vms);
        for (vm, verdict) in vms.iter().zip(&plan.verdicts) {
            if let (Some(step), Demand::Fresh(demand)) = (verdict.step, vm.demand)
                && plan.state != HostState::Emergency
                && step.direction() == Direction::Shrink
            {
                let floor = demand.floor_bytes.min(vm.allocation_bytes).min(bounds(vm).1);
                prop_assert!(step.to_bytes + vm.allocation_bytes / 16 >= floor);
            }
        }
    }

    #[test]
    fn nobody_moves_by_less_than_a_step_is_worth((host, vms) in any_host()) {
        let plan = plan(&host, &vms);
        for (vm, step) in vms.iter().zip(&plan.verdicts).filter_map(|(vm, verdict)| Some((vm, verdict.step?))) {
            let is_in_slices = matches!(vm.demand, Demand::Fresh(_)) && step.direction() == Direction::Shrink;
            let is_to_a_bound = step.to_bytes == bounds(vm).0 || step.to_bytes == bounds(vm).1;
            if plan.state != HostState::Emergency && !is_in_slices && !is_to_a_bound {
                prop_assert!(step.from_bytes.abs_diff(step.to_bytes) >= 4 << 20, "{:?}", step);
            }
        }
    }

    #[test]
    fn the_sum_of_entitlements_fits_or_all_are_at_their_minimum((host, vms) in any_host()) {
        let plan = plan(&host, &vms);
        let is_ready = |vm: &VmView| vm.reach == Reach::Ready;
        let fixed = sum(vms.iter().filter(|vm| !is_ready(vm)).map(VmView::committed_bytes));
        let ready = || vms.iter().zip(&plan.verdicts).filter(|(vm, _)| is_ready(vm));
        let entitled = sum(ready().map(|(_, verdict)| verdict.entitled_bytes));
        let all_at_minimum = ready().all(|(vm, verdict)| verdict.entitled_bytes == bounds(vm).0);
        prop_assert!(all_at_minimum || fixed + entitled <= u128::from(plan.limit_bytes));
    }

    #[test]
    fn the_same_views_give_the_same_plan((host, vms) in any_host()) {
        prop_assert_eq!(plan(&host, &vms), plan(&host, &vms));
    }

    #[test]
    fn no_report_takes_another_vm_below_its_own_share(
        (host, mut vms) in quiet_host(20),
        liar in any::<prop::sample::Index>(),
        lie in demand(),
    ) {
        // Every kind: silence must not win what a lie cannot.
        let liar = liar.index(vms.len());
        vms[liar].demand = lie;
        let plan = plan(&host, &vms);
        let minimums = sum(vms.iter().map(|vm| bounds(vm).0));
        let limit = host.limit_bytes();
        let budget = budget(limit.into(), limit, &vms);
        for (index, verdict) in plan.verdicts.iter().enumerate() {
            if plan.state == HostState::Emergency && matches!(vms[index].demand, Demand::Unknown { .. }) {
                continue; // just booted on a full host: gives first
            }
            // Needs come before headroom, everybody's: what it needs is sacred, up to its own share.
            let need = match vms[index].demand {
                Demand::Fresh(demand) => demand.need_bytes,
                Demand::Stale { floor_bytes, .. } => floor_bytes.min(vms[index].target_bytes),
                Demand::Unknown { .. } => vms[index].target_bytes,
            };
            let need = need.max(bounds(&vms[index]).0);
            let own_share = own_share_taxed(own_share(budget, &vms, index), &vms[index]);
            let due = own_share.min(u128::from(verdict.wanted_bytes.min(need)));
            // Levels are rounded down: some bytes at most.
            prop_assert!(
                minimums > u128::from(limit) || u128::from(verdict.entitled_bytes) + 4096 >= due,
                "VM {}: {} of {}", index, verdict.entitled_bytes, due
            );
        }
    }

    #[test]
    fn equal_wants_get_equal_bytes_per_share((host, mut vms) in quiet_host(12)) {
        let first = vms[0].clone();
        for vm in &mut vms {
            let shares = vm.limits.shares;
            *vm = first.clone();
            vm.limits.shares = shares;
            vm.limits.minimum_bytes = 0;
        }
        let plan = plan(&host, &vms);
        for pair in plan.verdicts.windows(2).zip(vms.windows(2)) {
            let ([a, b], [x, y]) = pair else { unreachable!() };
            let richer_has_more = (a.entitled_bytes > b.entitled_bytes + 4096) <= (x.limits.shares > y.limits.shares);
            prop_assert!(richer_has_more, "{:?} {:?}", a, b);
        }
    }
}
