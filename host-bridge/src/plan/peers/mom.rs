//! `mom-rules`: the published rules of oVirt's Memory Overcommitment Manager (`doc/balloon.rules`, `mom-balloon.conf`).
//!
//! A sample each 5 s, averages of the last ten, a decision each 10 s. While less than 20 % of the host is free, every
//! guest shrinks by at most 5 %, not under its used memory and H of its size, H being the free share of the host; from
//! 5 % down that margin is H − 5 %, negative: the guest is to swap. Else every guest grows by 5 %, or to its used memory
//! and 20 % of its size if that is more. Used is what is not free: cache counts.

use super::{Clock, Plan, part, plan_of, used_bytes};
use crate::plan::{HostView, Millis, VmView};
use std::collections::VecDeque;

const SAMPLE_MS: Millis = 5_000;
const SAMPLES: usize = 10;
const DECISION_MS: Millis = 10_000;

/// What it remembers.
#[derive(Clone, Debug, Default)]
pub(in crate::plan) struct Mom {
    sampling: Clock,
    deciding: Clock,
    host_free: Average,
    guests: Vec<Guest>,
}

#[derive(Clone, Debug, Default)]
struct Guest {
    size: Average,
    unused: Average,
}

impl Mom {
    pub(in crate::plan) fn plan(&mut self, now_ms: Millis, host: &HostView, vms: &[VmView]) -> Plan {
        if self.guests.len() != vms.len() {
            *self = Self { guests: vec![Guest::default(); vms.len()], ..Self::default() };
        }
        if self.sampling.is_due(now_ms, SAMPLE_MS) {
            self.host_free.push(host.capacity_bytes.saturating_sub(used_bytes(vms)));
            for (guest, vm) in self.guests.iter_mut().zip(vms) {
                if let Some(free_bytes) = vm.shown.free_bytes {
                    guest.size.push(vm.allocation_bytes);
                    guest.unused.push(free_bytes);
                }
            }
        }
        let mut targets = vec![None; vms.len()];
        if self.deciding.is_due(now_ms, DECISION_MS) {
            let free = self.host_free.get().unwrap_or(host.capacity_bytes);
            let is_short = free < part(host.capacity_bytes, 20, 100);
            let target = |(guest, vm): (&Guest, &VmView)| {
                let used = guest.used()?;
                if is_short { shrunk(vm, used, free, host.capacity_bytes) } else { grown(vm, used) }
            };
            targets = self.guests.iter().zip(vms).map(target).collect();
        }
        plan_of(host, vms, &targets)
    }
}

impl Guest {
    fn used(&self) -> Option<u64> {
        Some(self.size.get()?.saturating_sub(self.unused.get()?))
    }
}

/// A twentieth less, not under what is used and the host's free share of its size.
fn shrunk(vm: &VmView, used: u64, host_free: u64, host_total: u64) -> Option<u64> {
    let size = vm.allocation_bytes;
    let with_margin = used.saturating_add(part(size, host_free, host_total));
    let is_critical = host_free <= part(host_total, 5, 100);
    let floor = if is_critical { with_margin.saturating_sub(part(size, 5, 100)) } else { with_margin };
    let to = part(size, 95, 100).max(floor).max(vm.limits.minimum_bytes);
    (to < size && is_big_enough(size, to)).then_some(to)
}

/// A twentieth more, or as much as it takes to have a fifth of its size free.
fn grown(vm: &VmView, used: u64) -> Option<u64> {
    let (size, maximum) = (vm.allocation_bytes, vm.limits.maximum_bytes);
    let to = part(size, 105, 100).min(maximum).max(used.saturating_add(part(size, 20, 100)));
    (size < maximum && is_big_enough(size, to)).then_some(to)
}

/// A move of more than a quarter of a percent.
fn is_big_enough(size: u64, to: u64) -> bool {
    size.abs_diff(to) > part(size, 25, 10_000)
}

/// The mean of the last samples.
#[derive(Clone, Debug, Default)]
struct Average(VecDeque<u64>);

impl Average {
    fn push(&mut self, sample: u64) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    fn get(&self) -> Option<u64> {
        let sum: u128 = self.0.iter().copied().map(u128::from).sum();
        sum.checked_div(self.0.len() as u128).map(crate::plan::policy::narrow)
    }
}
