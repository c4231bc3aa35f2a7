//! `hyperv-rules`: the published rules of Hyper-V's Dynamic Memory for Linux guests (`hv_balloon.c`, Microsoft's
//! description of buffer and weight).
//!
//! Each second: a guest's demand is the memory it has committed and a floor by its size; the host gives it that and a
//! buffer of 20 %. What does not fit is split by weight. A request is fulfilled as far as there is memory, in chunks
//! of 2 MiB. Page cache is not committed, so it counts as free.
//!
//! The guest would report `Committed_AS`; what stands in for it is its anonymous memory and its swap in use
//! ([`Shown::committed_bytes`](crate::plan::Shown)), which leaves out what was reserved and never touched. How the
//! host orders moves is not published: here bytes are taken where there is too much and given on once confirmed.

use super::{Clock, Plan, part, plan_of, sum};
use crate::plan::{HostView, MIB, Millis, VmView, fairness};

const INTERVAL_MS: Millis = 1_000;
const CHUNK: u64 = 2 * MIB;

/// What it remembers: when it looked last.
#[derive(Clone, Debug, Default)]
pub(in crate::plan) struct HyperV {
    clock: Clock,
}

impl HyperV {
    pub(in crate::plan) fn plan(&mut self, now_ms: Millis, host: &HostView, vms: &[VmView]) -> Plan {
        if !self.clock.is_due(now_ms, INTERVAL_MS) {
            return plan_of(host, vms, &vec![None; vms.len()]);
        }
        let minimums = sum(vms, |vm| vm.limits.minimum_bytes);
        let ask =
            |vm: &VmView| (u64::from(vm.limits.shares).max(1), wanted(vm).saturating_sub(vm.limits.minimum_bytes));
        let asks: Vec<_> = vms.iter().map(ask).collect();
        let parts = fairness::split(host.limit_bytes().saturating_sub(minimums), &asks);
        let mut free = host.limit_bytes().saturating_sub(sum(vms, VmView::committed_bytes));
        let target = |(vm, part): (&VmView, u64)| {
            let goal = (vm.limits.minimum_bytes + part).next_multiple_of(CHUNK).min(vm.limits.maximum_bytes);
            let more = goal.saturating_sub(vm.committed_bytes()).min(free / CHUNK * CHUNK);
            free -= more;
            let to = goal.min(vm.committed_bytes().saturating_add(more));
            (to.abs_diff(vm.target_bytes) >= CHUNK).then_some(to)
        };
        let targets: Vec<_> = vms.iter().zip(parts).map(target).collect();
        plan_of(host, vms, &targets)
    }
}

/// Demand and buffer; a guest that has not reported keeps what it has.
fn wanted(vm: &VmView) -> u64 {
    let demand = vm.shown.committed_bytes.map(|committed| committed.saturating_add(floor(vm.limits.maximum_bytes)));
    demand.map_or(vm.target_bytes, |demand| part(demand, 120, 100)).min(vm.limits.maximum_bytes)
}

/// What the driver adds to the committed memory of a guest of `size` bytes.
fn floor(size: u64) -> u64 {
    match size / MIB {
        0..128 => 8 * MIB + size / 2,
        128..512 => 40 * MIB + size / 4,
        512..2048 => 104 * MIB + size / 8,
        2048..8192 => 232 * MIB + size / 16,
        _ => 488 * MIB + size / 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_follows_the_size_as_the_driver_has_it() {
        for (size, expected) in [(128, 72), (512, 168), (2048, 360), (8192, 744), (32_768, 1512)] {
            assert_eq!(floor(size * MIB), expected * MIB, "{size} MiB");
        }
    }
}
