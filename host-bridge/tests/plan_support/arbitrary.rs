//! Random hosts.

use proptest::collection::vec;
use proptest::prelude::*;
use vmtide_bridge::plan::{
    Demand, History, HostView, IdleAges, Limits, MIB, MemoryDemand, Pace, Reach, Shown, Step, Urgency, VmView,
};

/// The time of every random view.
pub const NOW_MS: u64 = 600_000;

pub fn urgency() -> impl Strategy<Value = Urgency> {
    prop_oneof![Just(Urgency::Idle), Just(Urgency::Normal), Just(Urgency::Pressed), Just(Urgency::Critical)]
}

/// A fresh demand; one in eight claims everything.
pub fn fresh() -> impl Strategy<Value = Demand> {
    let need = prop_oneof![7 => (0..6000 * MIB).boxed(), 1 => Just(u64::MAX).boxed()];
    (need, 0..=1000_u64, urgency()).prop_map(|(need_bytes, floor, urgency)| {
        Demand::Fresh(MemoryDemand { need_bytes, floor_bytes: need_bytes / 1000 * floor, urgency })
    })
}

pub fn demand() -> impl Strategy<Value = Demand> {
    let shown = || proptest::option::of(0..6000 * MIB);
    prop_oneof![
        6 => fresh(),
        1 => (0..6000 * MIB, shown()).prop_map(|(floor_bytes, shown_use_bytes)| Demand::Stale { floor_bytes, shown_use_bytes }),
        1 => shown().prop_map(|shown_use_bytes| Demand::Unknown { shown_use_bytes }),
    ]
}

pub fn reach() -> impl Strategy<Value = Reach> {
    prop_oneof![8 => Just(Reach::Ready), 1 => Just(Reach::Unreachable), 1 => Just(Reach::Paused), 1 => Just(Reach::Fixed)]
}

/// A past: a move some time ago, needs of the last minutes, a balloon on its way.
fn history() -> impl Strategy<Value = History> {
    let step = (0..120_000_u64, any::<bool>(), prop_oneof![Just(Pace::Calm), Just(Pace::Urgent), Just(Pace::GiveBack)]);
    (vec(step, 0..3), vec((0..120_000_u64, 0..4000 * MIB), 0..4), proptest::option::of(0..200_u64)).prop_map(
        |(mut steps, mut needs, speed)| {
            steps.sort_unstable_by_key(|(ago, ..)| std::cmp::Reverse(*ago));
            needs.sort_unstable_by_key(|(ago, _)| std::cmp::Reverse(*ago));
            let mut history = History::default();
            for (ago, grows, pace) in steps {
                let (from_bytes, to_bytes) = if grows { (0, MIB) } else { (MIB, 0) };
                history = history.after_step(NOW_MS - ago, &Step { from_bytes, to_bytes, pace });
            }
            for (ago, need) in needs {
                history = history.after_demand(NOW_MS - ago, need);
            }
            if let Some(speed) = speed {
                history = history.after_observation(NOW_MS - 10_000, 4096 * MIB, 0);
                history = history.after_observation(NOW_MS, (4096 - speed) * MIB, 0);
            }
            history
        },
    )
}

/// What of its memory lies idle, as half of the guests say; some of them lie.
fn idle() -> impl Strategy<Value = Option<IdleAges>> {
    let ages =
        (0..6000 * MIB, prop_oneof![7 => 0..6000 * MIB, 1 => Just(u64::MAX)]).prop_map(|(in_use_bytes, idle)| {
            IdleAges { in_use_bytes, over_10_s_bytes: idle, over_60_s_bytes: idle, over_300_s_bytes: idle / 2 }
        });
    proptest::option::of(ages)
}

/// A VM with limits between 16 MiB and 4 GiB and an allocation within them, its target the same or elsewhere.
pub fn vm(demand: impl Strategy<Value = Demand>, reach: impl Strategy<Value = Reach>) -> impl Strategy<Value = VmView> {
    let figures = (16..512_u64, 0..4000_u64, 1..4000_u32, 0..=1000_u64, proptest::option::of(0..=1000_u64));
    let parts = (figures, demand, reach, history(), idle());
    parts.prop_map(|((minimum, more, shares, has, other), demand, reach, history, idle)| {
        let within = |permille: u64| minimum * MIB + more * MIB / 1000 * permille;
        VmView {
            limits: Limits {
                minimum_bytes: minimum * MIB,
                reservation_bytes: 0,
                maximum_bytes: (minimum + more) * MIB,
                shares,
            },
            allocation_bytes: within(has),
            target_bytes: within(other.unwrap_or(has)),
            reach,
            demand,
            history,
            shown: Shown { idle, ..Shown::default() },
        }
    })
}

/// A host with VMs that have from a fifth to one and a half times what they may have together.
pub fn host_of(vms: impl Strategy<Value = Vec<VmView>>) -> impl Strategy<Value = (HostView, Vec<VmView>)> {
    let reserve = 0..256 * MIB;
    (vms, 200..1500_u64, reserve, proptest::option::weighted(0.2, 0..2000_u64), 0..110_u32).prop_map(
        |(vms, percent, reserve_bytes, available, stall_full_permille)| {
            let committed: u64 = vms.iter().map(VmView::committed_bytes).sum();
            let limit = committed / 1000 * percent.max(1) + 1024;
            let host = HostView {
                capacity_bytes: limit + reserve_bytes,
                reserve_bytes,
                available_bytes: available.map(|mib| mib * MIB),
                stall_full_permille,
            };
            (host, vms)
        },
    )
}

/// Any host.
pub fn any_host() -> impl Strategy<Value = (HostView, Vec<VmView>)> {
    host_of(vec(vm(demand(), reach()), 0..40))
}

/// A host that has no trouble of its own, with VMs at rest that report.
pub fn quiet_host(most_vms: usize) -> impl Strategy<Value = (HostView, Vec<VmView>)> {
    host_of(vec(vm(fresh(), Just(Reach::Ready)), 1..most_vms)).prop_map(|(host, mut vms)| {
        for vm in &mut vms {
            vm.target_bytes = vm.allocation_bytes;
            vm.history = History::default();
        }
        (HostView { available_bytes: None, stall_full_permille: 0, ..host }, vms)
    })
}
