//! What the planner's tests share: hosts and VMs in MiB, and a host that carries plans out.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod arbitrary;
pub mod sim;

use vmtide_bridge::plan::{
    Demand, Direction, History, HostView, Limits, MIB, MemoryDemand, Plan, Policy, Reach, Shown, Step, Urgency, VmView,
    memory,
};

/// A host of `mib` for its VMs that says nothing of its own memory.
pub fn host(mib: u64) -> HostView {
    HostView { capacity_bytes: mib * MIB, reserve_bytes: 0, available_bytes: None, stall_full_permille: 0 }
}

/// A VM with `has` MiB of at most `maximum`, at least 64.
pub fn vm(has: u64, maximum: u64, demand: Demand) -> VmView {
    VmView {
        limits: Limits { minimum_bytes: 64 * MIB, reservation_bytes: 0, maximum_bytes: maximum * MIB, shares: 1000 },
        allocation_bytes: has * MIB,
        target_bytes: has * MIB,
        reach: Reach::Ready,
        demand,
        history: History::default(),
        shown: Shown::default(),
    }
}

/// A fresh demand in MiB, floor at three quarters of the need.
pub fn needs(need: u64, urgency: Urgency) -> Demand {
    Demand::Fresh(MemoryDemand { need_bytes: need * MIB, floor_bytes: need * MIB * 3 / 4, urgency })
}

/// A demand that will have all it can get, and says that all of it is floor.
pub fn greedy(urgency: Urgency) -> Demand {
    Demand::Fresh(MemoryDemand { need_bytes: u64::MAX, floor_bytes: u64::MAX, urgency })
}

/// The plan with the default numbers, at ten minutes.
pub fn plan(host: &HostView, vms: &[VmView]) -> Plan {
    // The figures of these tests are written for it.
    let policy = Policy { minimum_headroom_bytes: 32 * MIB, ..Policy::default() };
    memory::plan(600_000, host, vms, &policy)
}

/// The step of VM `index`: direction and target in MiB.
pub fn step(plan: &Plan, index: usize) -> Option<(Direction, u64)> {
    plan.verdicts[index].step.map(|step: Step| (step.direction(), step.to_bytes / MIB))
}

/// The limits as the planner takes them: a minimum above the maximum counts as the maximum.
pub fn bounds(vm: &VmView) -> (u64, u64) {
    (vm.limits.minimum_bytes.min(vm.limits.maximum_bytes), vm.limits.maximum_bytes)
}

/// The sum of bytes, wide enough for any.
pub fn sum(bytes: impl Iterator<Item = u64>) -> u128 {
    bytes.map(u128::from).sum()
}
