//! What a VM wants, from what it said and what the hypervisor shows.

use super::policy::permille;
use super::{Demand, MemoryDemand, Millis, Policy, Urgency, VmView, active_bytes};

/// A VM's demand with its limits, headroom and history taken in. All in bytes; every amount that a target may be set to
/// lies within `[minimum, maximum]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// The least that it is left with.
    pub minimum: u64,
    /// What no shares decide about: what it claims of its reservation, and the minimum.
    pub reserved: u64,
    /// The most that it gets.
    pub maximum: u64,
    /// Its weight, at least 1.
    pub shares: u64,
    /// What it uses, noise smoothed away.
    pub need: u64,
    /// What of the need is active: the bytes beyond are idle.
    pub active: u64,
    /// Need and headroom.
    pub wanted: u64,
    /// Need and half the headroom: above this, growth without urgency is not worth a move.
    pub enough: u64,
    /// What it competes with for its share: need and headroom, noise smoothed away.
    pub claim: u64,
    /// Down to here it may be shrunk although nobody waits for the bytes.
    pub surplus_from: u64,
    /// Down to here it may be shrunk for somebody who is short but does not stall; 0 when its share alone decides.
    pub calm_hold: u64,
    /// Shrinking below goes in small steps.
    pub floor: u64,
    /// It is not shrunk below, except in an emergency and beyond its own share.
    pub kept: u64,
    /// How much its need matters.
    pub urgency: Urgency,
}

/// What `vm` wants at `now_ms`.
pub(super) fn resolve(now_ms: Millis, vm: &VmView, policy: &Policy) -> Want {
    let mut want = match vm.demand {
        Demand::Fresh(demand) => {
            let settled = vm.history.settled_need_bytes(now_ms, demand.need_bytes);
            let want = fresh(vm, demand, settled, policy);
            if vm.history.is_new(now_ms) { held(want, vm) } else { want }
        }
        Demand::Stale { floor_bytes, shown_use_bytes } => stale(vm, floor_bytes, shown_use_bytes, policy),
        Demand::Unknown { shown_use_bytes } => unknown(vm, shown_use_bytes, policy),
    };
    want.active = active(now_ms, vm).map_or(want.need, |active| active.min(want.need));
    want.reserved = vm.limits.reservation_bytes.min(want.claim).max(want.minimum);
    // Minimum and reservation are the operator's promise: a VM that lacks of them does not queue behind calm wishes.
    if vm.target_bytes < want.need.min(vm.limits.reservation_bytes).max(want.minimum) {
        want.urgency = want.urgency.max(Urgency::Pressed);
    }
    want
}

/// What is active of what a guest needs, where a report that has not expired tells; noise smoothed away.
fn active(now_ms: Millis, vm: &VmView) -> Option<u64> {
    let (Demand::Fresh(demand), Some(idle)) = (vm.demand, &vm.shown.idle) else { return None };
    Some(vm.history.settled_active_bytes(now_ms, active_bytes(&demand, Some(idle))))
}

/// A report that has not expired. `settled` is what it needed at the peak of the last minute.
fn fresh(vm: &VmView, demand: MemoryDemand, settled: u64, policy: &Policy) -> Want {
    let blank = blank(vm);
    let (low, high) = (blank.minimum, blank.maximum);
    let (now, settled) = (demand.need_bytes.min(high), settled.min(high));
    let has_fallen = now < settled.saturating_sub(permille(settled, policy.need_noise_permille));
    let with_headroom = |need: u64| need.saturating_add(policy.headroom(need)).clamp(low, high);
    let need = if has_fallen { now } else { settled };
    Want {
        need,
        wanted: with_headroom(now),
        enough: now.saturating_add(policy.headroom(now) / 2),
        claim: with_headroom(need),
        surplus_from: with_headroom(settled),
        calm_hold: if has_fallen { with_headroom(settled) } else { 0 },
        floor: demand.floor_bytes.min(now).max(low),
        kept: low,
        urgency: demand.urgency,
        ..blank
    }
}

/// A VM that is shrunk for nobody but those who stall.
fn held(want: Want, vm: &VmView) -> Want {
    let has = vm.target_bytes.min(want.maximum);
    Want { surplus_from: want.surplus_from.max(has), calm_hold: want.calm_hold.max(has), ..want }
}

/// The last report expired. It keeps what it has while nobody is short, gives down to its last floor when somebody is.
fn stale(vm: &VmView, floor: u64, shown: Option<u64>, policy: &Policy) -> Want {
    let blank = blank(vm);
    let kept = floor.min(vm.target_bytes).clamp(blank.minimum, blank.maximum);
    Want {
        need: shown.map_or(kept, |shown| shown.min(blank.maximum).max(kept)),
        floor: kept,
        kept,
        ..shown_growth(vm, shown, policy)
    }
}

/// No report yet. It keeps what it has, and gives beyond its own share slowly, for nobody knows what it lives on.
fn unknown(vm: &VmView, shown: Option<u64>, policy: &Policy) -> Want {
    let blank = blank(vm);
    let need = shown.map_or(blank.kept, |shown| shown.min(blank.maximum));
    Want { need, floor: blank.kept, ..shown_growth(vm, shown, policy) }
}

/// What it has, or more where the hypervisor shows that more is in use.
fn shown_growth(vm: &VmView, shown: Option<u64>, policy: &Policy) -> Want {
    let blank = blank(vm);
    let shown = shown.unwrap_or(0).min(blank.maximum);
    let headroom = policy.headroom(shown);
    let wanted = shown.saturating_add(headroom).min(blank.maximum).max(blank.wanted);
    Want { wanted, enough: shown.saturating_add(headroom / 2), claim: wanted, surplus_from: wanted, ..blank }
}

/// A VM that wants what it has, as far as its limits allow. A minimum above the maximum counts as the maximum.
fn blank(vm: &VmView) -> Want {
    let maximum = vm.limits.maximum_bytes;
    let minimum = vm.limits.minimum_bytes.min(maximum);
    let has = vm.target_bytes.clamp(minimum, maximum);
    Want {
        minimum,
        reserved: minimum,
        maximum,
        shares: u64::from(vm.limits.shares).max(1),
        need: has,
        active: has,
        wanted: has,
        enough: has,
        claim: has,
        surplus_from: has,
        calm_hold: 0,
        floor: minimum,
        kept: has,
        urgency: Urgency::Normal,
    }
}
