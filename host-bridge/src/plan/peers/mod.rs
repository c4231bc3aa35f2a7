//! How other resource managers would plan, for comparison only: `cargo lab compare` runs them on the same VMs.
//!
//! The same views as [`super::memory::plan`] takes in, a [`Plan`] out. Each file is written from the published rules of
//! its peer and names them. The rules stay as they are, good or bad: none of them keeps a spike pool, and where the
//! original lets VMs have more than the host's budget, so does this. What a peer's own agent or driver would report is
//! taken from the balloon's statistics ([`super::Shown`]), not from what vmtide's agent asks for.
//!
//! The host of a peer is the capacity, and nothing but its VMs is on it; they take what their processes hold of it.

mod hyperv;
mod mom;
mod proxmox;
mod static_split;
#[cfg(test)]
mod tests;

pub(super) use hyperv::HyperV;
pub(super) use mom::Mom;
pub(super) use proxmox::Proxmox;
pub(super) use static_split::StaticSplit;

use super::{HostState, HostView, Pace, Plan, Reach, Rule, Step, Verdict, VmView};

/// The plan that gives each VM of `targets` that, as far as its limits allow; `None` leaves a VM alone.
fn plan_of(host: &HostView, vms: &[VmView], targets: &[Option<u64>]) -> Plan {
    let verdict = |(vm, target): (&VmView, &Option<u64>)| {
        let fixed = |rule| {
            let held = vm.committed_bytes();
            Verdict { wanted_bytes: held, entitled_bytes: held, step: None, rule, idle_tax: None }
        };
        match vm.reach {
            Reach::Ready => {}
            Reach::Unreachable => return fixed(Rule::Unreachable),
            Reach::Fixed => return fixed(Rule::Fixed),
            Reach::Paused => return fixed(Rule::Paused),
        }
        let from_bytes = vm.target_bytes;
        let to_bytes = target.map_or(from_bytes, |target| within_limits(vm, target));
        let step = (to_bytes != from_bytes).then_some(Step { from_bytes, to_bytes, pace: Pace::Calm });
        Verdict { wanted_bytes: to_bytes, entitled_bytes: to_bytes, step, rule: Rule::Peer, idle_tax: None }
    };
    Plan {
        state: HostState::Calm,
        limit_bytes: host.limit_bytes(),
        committed_bytes: sum(vms, VmView::committed_bytes),
        spike_pool_bytes: 0,
        verdicts: vms.iter().zip(targets).map(verdict).collect(),
    }
}

fn within_limits(vm: &VmView, bytes: u64) -> u64 {
    bytes.max(vm.limits.minimum_bytes).min(vm.limits.maximum_bytes)
}

/// `bytes` times `numerator / denominator`, rounded down.
fn part(bytes: u64, numerator: u64, denominator: u64) -> u64 {
    super::policy::narrow(u128::from(bytes) * u128::from(numerator) / u128::from(denominator.max(1)))
}

fn sum(vms: &[VmView], amount: impl Fn(&VmView) -> u64) -> u64 {
    vms.iter().map(amount).fold(0, u64::saturating_add)
}

/// What the VMs take of the host, as its `/proc/meminfo` would show it: what a guest has and never touched does not count.
/// So a peer may give out more than there is, and sees it when the guests use it.
fn used_bytes(vms: &[VmView]) -> u64 {
    let used = |vm: &VmView| vm.shown.resident_bytes.map_or(vm.allocation_bytes, |held| held.min(vm.allocation_bytes));
    sum(vms, used)
}

/// Comes due at once and then after each interval, however often it is asked.
#[derive(Clone, Debug, Default)]
struct Clock {
    next_ms: super::Millis,
}

impl Clock {
    fn is_due(&mut self, now_ms: super::Millis, interval_ms: super::Millis) -> bool {
        let is_due = now_ms >= self.next_ms;
        if is_due {
            // From the due time on, so that being asked late does not stretch the intervals.
            let late = now_ms - self.next_ms;
            self.next_ms = if late < interval_ms { self.next_ms } else { now_ms } + interval_ms;
        }
        is_due
    }
}
