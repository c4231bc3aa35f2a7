//! Each rule of the planner by one host with readable figures, all in MiB.

mod plan_support;

use plan_support::sim::{Guest, Sim, guest};
use plan_support::{greedy, host, needs, plan, step, vm};
use vmtide_bridge::plan::{
    Demand, Direction, History, HostState, HostView, MIB, MemoryDemand, Pace, Policy, Reach, Rule, Step, Urgency,
    VmView, memory,
};

const NOW: u64 = 600_000;

fn moved(from: u64, to: u64, pace: Pace, ms_ago: u64) -> History {
    History::default().after_step(NOW - ms_ago, &Step { from_bytes: from * MIB, to_bytes: to * MIB, pace })
}

/// Needs that were reported: seconds ago, MiB.
fn seen(needs: &[(u64, u64)]) -> History {
    needs.iter().fold(History::default(), |history, (ago, mib)| history.after_demand(NOW - ago * 1000, mib * MIB))
}

#[test]
fn an_empty_host_has_a_plan() {
    let plan = plan(&host(0), &[]);
    assert_eq!((plan.state, plan.committed_bytes, plan.verdicts.len()), (HostState::Calm, 0, 0));
}

#[test]
fn a_vm_grows_to_need_and_headroom() {
    let plan = plan(&host(2000), &[vm(300, 1000, needs(500, Urgency::Normal))]);
    assert_eq!(step(&plan, 0), Some((Direction::Grow, 550)));
    assert_eq!((plan.state, plan.verdicts[0].rule), (HostState::Calm, Rule::Grant));
}

#[test]
fn headroom_has_a_least_and_the_maximum_holds() {
    let vms = [vm(64, 1000, needs(100, Urgency::Normal)), vm(300, 512, greedy(Urgency::Critical))];
    let plan = plan(&host(4000), &vms);
    assert_eq!(plan.verdicts[0].wanted_bytes, 132 * MIB);
    assert_eq!(step(&plan, 1), Some((Direction::Grow, 512)));
}

#[test]
fn small_differences_are_left_alone() {
    let plan =
        plan(&host(4000), &[vm(540, 1000, needs(500, Urgency::Normal)), vm(565, 1000, needs(500, Urgency::Idle))]);
    assert_eq!((step(&plan, 0), step(&plan, 1)), (None, None));
    assert_eq!(plan.verdicts[0].rule, Rule::Satisfied);
}

#[test]
fn surplus_goes_back_only_below_the_peak_of_the_last_minute() {
    let mut idle = vm(800, 1000, needs(200, Urgency::Idle));
    assert_eq!(step(&plan(&host(2000), std::slice::from_ref(&idle)), 0), Some((Direction::Shrink, 232)));
    idle.history = seen(&[(75, 200), (30, 600), (0, 200)]);
    let after_peak = plan(&host(2000), &[idle]);
    assert_eq!(step(&after_peak, 0), Some((Direction::Shrink, 660)));
    assert_eq!(after_peak.verdicts[0].rule, Rule::ReturnSurplus);
}

#[test]
fn free_pages_go_back_at_once_and_page_cache_in_slices() {
    let mut reads = vm(800, 1000, needs(200, Urgency::Idle));
    reads.shown.cached_bytes = Some(500 * MIB);
    let plan_of = |vm: &VmView| step(&plan(&host(2000), std::slice::from_ref(vm)), 0);
    // Its floor is 150 and its cache 500; a slice of cache is 50.
    assert_eq!(plan_of(&reads), Some((Direction::Shrink, 600)));
    (reads.allocation_bytes, reads.target_bytes) = (600 * MIB, 600 * MIB);
    reads.history = moved(800, 600, Pace::Calm, 20_000);
    assert_eq!(plan_of(&reads), None, "a slice a minute");
    reads.history = moved(800, 600, Pace::Calm, 61_000);
    assert_eq!(plan_of(&reads), Some((Direction::Shrink, 562)));
    let stalls = plan(&host(1000), &[reads, vm(100, 1000, needs(700, Urgency::Critical))]);
    assert_eq!(stalls.verdicts[0].rule, Rule::Revoke, "cache is nobody's need");
}

#[test]
fn nobody_is_shrunk_calmly_before_a_minute_of_reports() {
    let mut idle = vm(800, 1000, needs(200, Urgency::Idle));
    idle.history = seen(&[(40, 200), (20, 200), (0, 200)]);
    assert_eq!(step(&plan(&host(2000), std::slice::from_ref(&idle)), 0), None);
    let stalls = plan(&host(900), &[idle.clone(), vm(64, 1000, needs(400, Urgency::Critical))]);
    assert_eq!(stalls.verdicts[0].rule, Rule::Revoke);
    idle.history = seen(&[(70, 200), (40, 200), (20, 200), (0, 200)]);
    assert_eq!(step(&plan(&host(2000), &[idle]), 0), Some((Direction::Shrink, 232)));
}

#[test]
fn somebody_who_stalls_takes_from_what_is_not_needed_now() {
    let mut idle = vm(900, 1000, needs(200, Urgency::Idle));
    idle.history = seen(&[(75, 200), (30, 850), (0, 200)]);
    let plan = plan(&host(1000), &[idle, vm(100, 1000, needs(400, Urgency::Critical))]);
    assert_eq!(plan.verdicts[0].rule, Rule::Revoke);
    assert_eq!(plan.verdicts[0].step.map(|step| step.pace), Some(Pace::Urgent));
    assert_eq!(plan.verdicts[1].rule, Rule::AwaitBytes { short_bytes: 340 * MIB, expected_ms: None });
}

#[test]
fn an_urgent_grant_comes_from_the_pool_at_once_and_donors_refill_it() {
    let vms = [vm(1900, 2000, needs(1000, Urgency::Idle)), vm(50 + 64, 1000, needs(160, Urgency::Critical))];
    let plan = plan(&host(2100), &vms);
    assert_eq!(plan.spike_pool_bytes, 105 * MIB);
    assert_eq!((step(&plan, 1), plan.verdicts[1].rule), (Some((Direction::Grow, 192)), Rule::SpikeGrant));
    assert_eq!(step(&plan, 0), Some((Direction::Shrink, 1100)));
}

#[test]
fn calm_growth_leaves_the_pool_alone() {
    let vms = [vm(800, 1000, needs(750, Urgency::Normal)), vm(64, 1000, needs(150, Urgency::Normal))];
    let plan = plan(&host(1000), &vms);
    // 136 free, 50 of it the pool, 118 wanted.
    assert_eq!((plan.spike_pool_bytes, step(&plan, 1)), (50 * MIB, Some((Direction::Grow, 150))));
}

#[test]
fn two_who_want_everything_share_two_to_one() {
    let mut sim = Sim::new(
        host(3000),
        vec![guest(vm(600, 3000, greedy(Urgency::Critical))), guest(vm(1800, 3000, greedy(Urgency::Critical)))],
    );
    sim.guests[0].view.limits.shares = 2000;
    sim.run(300);
    let (first, second) = (sim.allocation_mib(0), sim.allocation_mib(1));
    assert!(first.abs_diff(2000) <= 20 && second.abs_diff(1000) <= 16, "{first} to {second}");
}

#[test]
fn who_is_within_its_own_share_keeps_it_whatever_a_liar_says() {
    let liar = vm(700, 3000, greedy(Urgency::Critical));
    let honest = vm(500, 1000, needs(450, Urgency::Normal));
    let plan = plan(&host(1200), &[liar, honest]);
    // Its need; headroom gives way before anybody's need does.
    assert_eq!((plan.state, plan.verdicts[1].entitled_bytes), (HostState::Short, 450 * MIB));
    assert_eq!(step(&plan, 1), Some((Direction::Shrink, 450)));
}

#[test]
fn below_its_floor_a_guest_is_taken_in_slices() {
    let mut sim = Sim::new(
        host(2000),
        vec![guest(vm(1600, 3000, greedy(Urgency::Normal))), guest(vm(300, 3000, greedy(Urgency::Critical)))],
    );
    let plan = sim.tick(|_| 1000);
    assert_eq!((step(&plan, 0), plan.verdicts[0].rule), (Some((Direction::Shrink, 1500)), Rule::Revoke));
    sim.run(200);
    assert!(sim.allocation_mib(0) < 1000 && sim.allocation_mib(1) > 950, "{}", sim.allocation_mib(0));
}

#[test]
fn too_much_committed_is_an_emergency_that_ends_when_it_fits() {
    let boot = Demand::Unknown { shown_use_bytes: None };
    let mut sim = Sim::new(host(1280), (0..3).map(|_| guest(vm(768, 768, boot))).collect());
    let plan = sim.tick(|_| 1000);
    assert_eq!((plan.state, plan.verdicts[2].rule), (HostState::Emergency, Rule::EmergencyRevoke));
    sim.run(5);
    assert!(sim.committed() <= sim.limit());
    assert_eq!(sim.run(1).map(|plan| plan.verdicts[0].rule), Some(Rule::NotYet));
}

#[test]
fn minimums_hold_when_not_even_they_fit() {
    let plan = plan(&host(100), &[vm(500, 500, greedy(Urgency::Critical)), vm(500, 500, needs(100, Urgency::Idle))]);
    assert_eq!(plan.state, HostState::Emergency);
    assert_eq!((step(&plan, 0), step(&plan, 1)), (Some((Direction::Shrink, 64)), Some((Direction::Shrink, 64))));
}

#[test]
fn a_host_under_its_hard_line_takes_what_it_lacks_and_no_more() {
    let low = HostView { available_bytes: Some(10 * MIB), ..host(2000) };
    let vms = [vm(800, 1000, needs(700, Urgency::Normal)), vm(800, 1000, needs(700, Urgency::Pressed))];
    let plan = plan(&low, &vms);
    // The line is 40: 70 are to come back until twice the line is free.
    let given: u64 = plan.verdicts.iter().filter_map(|verdict| verdict.step).map(|s| s.from_bytes - s.to_bytes).sum();
    assert_eq!((plan.state, given), (HostState::Emergency, 70 * MIB));
}

#[test]
fn a_host_that_stalls_takes_a_slice_at_a_time() {
    let stalls = HostView { stall_full_permille: 300, ..host(2000) };
    let mut vms = vec![vm(900, 1000, needs(820, Urgency::Normal)), vm(900, 1000, needs(820, Urgency::Critical))];
    let first = plan(&stalls, &vms);
    let steps: Vec<Step> = first.verdicts.iter().filter_map(|verdict| verdict.step).collect();
    assert_eq!(steps.iter().map(|step| step.from_bytes - step.to_bytes).sum::<u64>(), 20 * MIB);
    for (vm, verdict) in vms.iter_mut().zip(&first.verdicts) {
        vm.target_bytes = verdict.step.map_or(vm.target_bytes, |step| step.to_bytes);
    }
    let second = plan(&stalls, &vms);
    assert!(second.verdicts.iter().all(|verdict| verdict.step.is_none()), "the slice is still on its way");
}

#[test]
fn a_grown_vm_keeps_its_bytes_for_a_minute_or_ten_seconds() {
    let mut idle = vm(800, 1000, needs(200, Urgency::Idle));
    idle.history = moved(700, 800, Pace::Calm, 20_000);
    let calm = plan(&host(2000), std::slice::from_ref(&idle));
    assert_eq!(calm.verdicts[0].rule, Rule::DirectionBlocked { until_ms: NOW + 40_000 });
    let stalls = plan(&host(1000), &[idle, vm(190, 1000, needs(500, Urgency::Critical))]);
    assert_eq!(stalls.verdicts[0].rule, Rule::Revoke);
}

#[test]
fn growth_after_a_shrink_waits_unless_the_guest_is_pressed() {
    let mut normal = vm(300, 1000, needs(500, Urgency::Normal));
    normal.history = moved(400, 300, Pace::Calm, 20_000);
    let mut pressed = normal.clone();
    pressed.demand = needs(500, Urgency::Pressed);
    let plan = plan(&host(2000), &[normal, pressed]);
    assert_eq!(plan.verdicts[0].rule, Rule::DirectionBlocked { until_ms: NOW + 40_000 });
    assert_eq!(plan.verdicts[1].rule, Rule::Grant);
}

#[test]
fn a_stalled_balloon_gets_some_back_and_rest() {
    let idle = vm(900, 1000, needs(200, Urgency::Idle));
    let mut sim = Sim::new(host(2000), vec![Guest { inflate_bytes_per_s: 2 * MIB, ..guest(idle) }]);
    let stalled = (0..80).map(|_| sim.tick(|_| 1000)).find(|plan| plan.verdicts[0].rule == Rule::StalledBalloon);
    let given = stalled.and_then(|plan| plan.verdicts[0].step).map(|step| (step.pace, step.to_bytes / MIB));
    assert_eq!(given, Some((Pace::GiveBack, 1000)), "128 more, held to the maximum");
    let rest = sim.tick(|_| 1000);
    assert!(matches!(rest.verdicts[0].rule, Rule::StalledRest { .. }), "{:?}", rest.verdicts[0].rule);
}

#[test]
fn a_guest_without_a_report_is_not_shrunk_and_grows_by_what_is_shown() {
    let quiet = vm(400, 1000, Demand::Unknown { shown_use_bytes: Some(100 * MIB) });
    let busy = vm(400, 1000, Demand::Unknown { shown_use_bytes: Some(400 * MIB) });
    let plan = plan(&host(1300), &[quiet, busy, vm(100, 1000, needs(900, Urgency::Normal))]);
    assert_eq!((step(&plan, 0), plan.verdicts[0].rule), (None, Rule::NotYet));
    assert_eq!(plan.verdicts[1].wanted_bytes, 440 * MIB);
}

#[test]
fn a_stale_guest_gives_down_to_its_last_floor_and_beyond_its_own_share_in_slices() {
    let stale = vm(900, 1000, Demand::Stale { floor_bytes: 600 * MIB, shown_use_bytes: None });
    assert_eq!(plan(&host(2000), std::slice::from_ref(&stale)).verdicts[0].rule, Rule::Stale);
    // Its own share is 475 of the 950 beside the pool: silence must not keep more. A slice is 56.
    let contended = plan(&host(1000), &[stale.clone(), vm(64, 1000, greedy(Urgency::Critical))]);
    assert_eq!(step(&contended, 0), Some((Direction::Shrink, 544)));
    let safe = vm(400, 1000, Demand::Stale { floor_bytes: 400 * MIB, shown_use_bytes: None });
    let contended = plan(&host(1000), &[safe, vm(64, 1000, greedy(Urgency::Critical))]);
    assert_eq!(step(&contended, 0), None, "a floor within its own share holds");
}

#[test]
fn what_a_small_silent_guest_gives_is_worth_a_step() {
    // It has more than its own share by more than a slice. A slice of 60 is 3.7, less than the least step, 4; of 100 it is 6.2.
    for (has, given_bytes) in [(60, 4 * MIB), (100, 100 * MIB * 62 / 1000)] {
        let mut stale = vm(has, 1000, Demand::Stale { floor_bytes: has * MIB, shown_use_bytes: None });
        let mut greedy = vm(30, 1000, greedy(Urgency::Critical));
        (stale.limits.minimum_bytes, greedy.limits.minimum_bytes) = (16 * MIB, 16 * MIB);
        let step = plan(&host(has + 30), &[stale, greedy]).verdicts[0].step.unwrap();
        assert_eq!(step.from_bytes - step.to_bytes, given_bytes, "{has}");
    }
}

#[test]
fn a_vm_started_on_a_full_host_gives_before_those_who_live_there() {
    let resident = |floor| {
        let demand = MemoryDemand { need_bytes: 500 * MIB, floor_bytes: floor * MIB, urgency: Urgency::Normal };
        vm(550, 768, Demand::Fresh(demand))
    };
    let started = vm(768, 768, Demand::Unknown { shown_use_bytes: None });
    let plan = plan(&host(1280), &[resident(460), resident(300), started]);
    assert_eq!(plan.state, HostState::Emergency);
    let to: Vec<u64> = (0..3).map(|index| step(&plan, index).map_or(550, |(_, mib)| mib)).collect();
    // By shares alone each would be down to 405. The first calls 460 safe, the second may keep 405 and has to give
    // only what is lacking then; who booted a moment ago gives most.
    assert_eq!(to, [460, 469, 350]);
}

#[test]
fn what_a_vm_grew_for_is_blocked_and_what_it_says_it_does_not_need_is_not() {
    let mut donor = vm(800, 1000, needs(300, Urgency::Idle));
    donor.history = moved(300, 800, Pace::Urgent, 2000);
    let plan = plan(&host(1000), &[donor, vm(200, 1000, greedy(Urgency::Critical))]);
    assert_eq!(step(&plan, 0), Some((Direction::Shrink, 332)), "what it wants with headroom");
}

#[test]
fn who_cannot_be_changed_counts_in_full_and_is_left_alone() {
    let mut gone = vm(400, 1000, needs(100, Urgency::Idle));
    (gone.reach, gone.target_bytes) = (Reach::Unreachable, 300 * MIB);
    let mut paused = vm(500, 1000, greedy(Urgency::Critical));
    paused.reach = Reach::Paused;
    let plan = plan(&host(1000), &[gone, paused, vm(64, 1000, greedy(Urgency::Critical))]);
    assert_eq!((plan.verdicts[0].rule, plan.verdicts[1].rule), (Rule::Unreachable, Rule::Paused));
    assert_eq!(step(&plan, 2), Some((Direction::Grow, 100)));
}

#[test]
fn a_lowered_maximum_and_a_raised_minimum_are_followed() {
    let mut high = vm(900, 500, Demand::Unknown { shown_use_bytes: None });
    high.history = moved(800, 900, Pace::Calm, 1000);
    let mut low = vm(32, 1000, needs(10, Urgency::Idle));
    low.limits.minimum_bytes = 200 * MIB;
    let plan = plan(&host(2000), &[high, low]);
    assert_eq!((step(&plan, 0), step(&plan, 1)), (Some((Direction::Shrink, 500)), Some((Direction::Grow, 200))));
}

#[test]
fn who_is_short_is_told_by_how_much() {
    let vms = [vm(470, 1000, needs(900, Urgency::Normal)), vm(475, 1000, needs(900, Urgency::Normal))];
    let plan = plan(&host(1000), &vms);
    assert_eq!(plan.verdicts[0].rule, Rule::ShortByShares { short_bytes: (990 - 470) * MIB });
}

#[test]
fn extreme_figures_do_not_overflow() {
    let all = HostView {
        capacity_bytes: u64::MAX,
        reserve_bytes: 0,
        available_bytes: Some(u64::MAX),
        stall_full_permille: u32::MAX,
    };
    let mut vms = Vec::new();
    for shares in [0, 1, u32::MAX] {
        for bytes in [0, 1, u64::MAX] {
            for demand in [
                greedy(Urgency::Critical),
                Demand::Fresh(MemoryDemand { need_bytes: 0, floor_bytes: u64::MAX, urgency: Urgency::Idle }),
                Demand::Stale { floor_bytes: u64::MAX, shown_use_bytes: Some(u64::MAX) },
                Demand::Unknown { shown_use_bytes: Some(u64::MAX) },
            ] {
                let mut vm = VmView { allocation_bytes: bytes, target_bytes: u64::MAX - bytes, ..vm(0, 0, demand) };
                (vm.limits.shares, vm.limits.maximum_bytes) = (shares, u64::MAX);
                vms.push(vm);
            }
        }
    }
    let odd = Policy { idle_tax_percent: u32::MAX, headroom_permille: u32::MAX, ..Policy::default() };
    for host in [host(0), host(1), all] {
        for policy in [Policy::default(), odd.clone()] {
            for now in [0, u64::MAX] {
                assert_eq!(memory::plan(now, &host, &vms, &policy).verdicts.len(), vms.len());
                assert_eq!(memory::plan(now, &host, &vms[..1], &policy).verdicts.len(), 1);
            }
        }
    }
}
