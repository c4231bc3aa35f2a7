//! `static`: what most hosts do. The budget is split by shares when the VMs are first seen, and nothing moves after.

use super::{Plan, plan_of, sum};
use crate::plan::{HostView, VmView, fairness};

/// The split.
#[derive(Clone, Debug, Default)]
pub(in crate::plan) struct StaticSplit {
    split_bytes: Vec<u64>,
}

impl StaticSplit {
    pub(in crate::plan) fn plan(&mut self, host: &HostView, vms: &[VmView]) -> Plan {
        if self.split_bytes.len() != vms.len() {
            self.split_bytes = split(host.limit_bytes(), vms);
        }
        let mut free = host.limit_bytes().saturating_sub(sum(vms, VmView::committed_bytes));
        // A VM that is to have less gives first; only what is confirmed free is given on.
        let target = |(vm, split): (&VmView, &u64)| {
            let more = split.saturating_sub(vm.committed_bytes()).min(free);
            free -= more;
            Some((*split).min(vm.committed_bytes().saturating_add(more)))
        };
        let targets: Vec<_> = vms.iter().zip(&self.split_bytes).map(target).collect();
        plan_of(host, vms, &targets)
    }
}

/// Each its minimum, and of the rest its shares' part up to its maximum.
fn split(limit_bytes: u64, vms: &[VmView]) -> Vec<u64> {
    let rest = limit_bytes.saturating_sub(sum(vms, |vm| vm.limits.minimum_bytes));
    let ask = |vm: &VmView| {
        let more = vm.limits.maximum_bytes.saturating_sub(vm.limits.minimum_bytes);
        (u64::from(vm.limits.shares).max(1), more)
    };
    let parts = fairness::split(rest, &vms.iter().map(ask).collect::<Vec<_>>());
    vms.iter().zip(parts).map(|(vm, part)| vm.limits.minimum_bytes + part).collect()
}
