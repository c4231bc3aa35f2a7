//! One plan for the memory of all VMs.

use super::demand::{self, Want};
use super::fairness::{self, Prices};
use super::grant::{self, Free};
use super::policy::{narrow, permille};
use super::revoke::{self, Cause};
use super::seat::{Moment, Seat};
use super::{Demand, HostState, HostView, Millis, Plan, Policy, Reach, Rule, Urgency, Verdict, VmView};

/// The plan for `vms` on `host` at `now_ms`. It is a function of what is: nothing is queued, what cannot be done now is
/// planned anew when the hypervisor confirmed more.
///
/// 1. What each VM wants: need and headroom within its limits ([`Policy::headroom_permille`]). A VM that cannot be
///    changed counts in full.
/// 2. All wants fit beside the spike pool: each VM is entitled to what it wants.
/// 3. They do not: who claims its reservation gets it. Of the rest shares decide, idle bytes taxed; urgent VMs may also draw the pool, each its shares' part of it. What
///    a guest keeps by silence is worth its own share too.
/// 4. The host itself is in trouble, or more is committed than there is, or the minimums do not fit: emergency. Blocks
///    and the rest after a stall give way, minimums hold; only urgent growth goes on. Where too much is committed, a VM
///    that just booted is the first to give and floors hold as long as they fit (see `fairness::give_way`).
/// 5. Shrink at once: surplus, then for those who stall, then for those who are short and for the pool.
/// 6. Grow only into what is free now.
pub fn plan(now_ms: Millis, host: &HostView, vms: &[VmView], policy: &Policy) -> Plan {
    let prices = Prices::with_tax(policy.idle_tax_percent);
    let ready: Vec<&VmView> = vms.iter().filter(|vm| vm.reach == Reach::Ready).collect();
    let mut wants: Vec<Want> = ready.iter().map(|vm| demand::resolve(now_ms, vm, policy)).collect();
    let books = Books::new(host, vms, policy);

    let minimums = sum(&wants, |want| want.minimum);
    let is_emergency = books.host_in_trouble || books.committed > books.limit || minimums > books.available;
    fairness::reserve(&mut wants, books.available);
    let reserved = sum(&wants, |want| want.reserved);
    let pool = spike_pool(now_ms, &ready, books.limit, policy).min(books.available.saturating_sub(reserved));
    let budget = (books.available - pool).min(books.fit);
    if is_emergency {
        let is_known: Vec<bool> = ready.iter().map(|vm| !matches!(vm.demand, Demand::Unknown { .. })).collect();
        fairness::give_way(&mut wants, &is_known, budget, books.host_in_trouble, prices);
    } else {
        fairness::hold_to_own_share(&mut wants, budget, prices);
    }
    let mut entitled = fairness::entitlements(budget, &wants, prices);
    let drawn = if is_emergency { 0 } else { draw_pool(pool, &wants, &mut entitled) };
    let kept_free = pool - drawn;

    let is_short = sum(&wants, |want| want.claim) > budget;
    let state = match (is_emergency, is_short) {
        (true, _) => HostState::Emergency,
        (false, true) => HostState::Short,
        (false, false) => HostState::Calm,
    };
    let moment = Moment { now_ms, state, policy };
    let mut seats: Vec<Seat<'_>> =
        ready.iter().zip(wants).zip(entitled).map(|((vm, want), entitled)| Seat::new(vm, want, entitled)).collect();

    shrink(&mut seats, &books, kept_free, prices, &moment);
    grant::grant(&mut seats, books.free(host, kept_free, policy), prices, &moment);
    Plan {
        state,
        limit_bytes: books.limit,
        committed_bytes: books.committed,
        spike_pool_bytes: kept_free,
        verdicts: verdicts(vms, &seats, &moment),
    }
}

/// What is kept free for urgent grants: as much as the largest burst of any VM in the last minutes, for bursts seldom fall
/// together and donors refill the pool meanwhile. Where a VM's bursts are not known yet, the most.
fn spike_pool(now_ms: Millis, ready: &[&VmView], limit: u64, policy: &Policy) -> u64 {
    let most = permille(limit, policy.spike_pool_permille);
    let least = permille(limit, policy.least_spike_pool_permille).min(most);
    let burst = |vm: &&VmView| {
        let history = &vm.history;
        if history.knows_bursts(now_ms) { history.burst_bytes(now_ms) } else { most }
    };
    ready.iter().map(burst).max().unwrap_or(most).clamp(least, most)
}

/// Step 3, second half: what each urgent VM may draw from the pool beyond its entitlement. Its shares' part and no more:
/// a guest that always cries leaves the others theirs. Returns what all draw.
fn draw_pool(pool: u64, wants: &[Want], entitled: &mut [u64]) -> u64 {
    let shares: u128 = wants.iter().map(|want| u128::from(want.shares)).sum();
    let mut drawn = 0;
    for (want, entitled) in wants.iter().zip(entitled).filter(|(want, _)| want.urgency >= Urgency::Pressed) {
        let part = narrow(u128::from(pool) * u128::from(want.shares) / shares.max(1));
        let more = want.claim.saturating_sub(*entitled).min(part);
        *entitled += more;
        drawn += more;
    }
    drawn
}

/// Step 5.
fn shrink(seats: &mut [Seat<'_>], books: &Books, kept_free: u64, prices: Prices, moment: &Moment<'_>) {
    for seat in seats.iter_mut() {
        revoke::hold_to_maximum(seat);
        revoke::return_surplus(seat, moment);
    }
    let asked = |seats: &[Seat<'_>], urgent: bool| {
        total(seats.iter().filter(|seat| seat.is_urgent() == urgent).map(|seat| seat.ask(moment)))
    };
    let urgent = asked(seats, true);
    if moment.is_emergency() {
        let lack = beyond(seats, urgent, books.fit);
        return revoke::revoke(seats, lack, Cause::Emergency, prices, moment);
    }
    let lack = beyond(seats, urgent, books.available);
    revoke::revoke(seats, lack, Cause::Stall, prices, moment);

    let (urgent, calm) = (asked(seats, true), asked(seats, false));
    let lack = beyond(seats, urgent.saturating_add(calm).saturating_add(kept_free), books.available);
    // Urgent growth may draw the pool, so a pool that is nearly full is left so as long as nobody else needs bytes:
    // refilling it to the byte would pass one VM's noise on to another.
    let tolerated = if calm == 0 { kept_free / 4 } else { 0 };
    revoke::revoke(seats, if lack > tolerated { lack } else { 0 }, Cause::Shares, prices, moment);
}

/// By how much the targets and `more_bytes` pass `bound_bytes`.
fn beyond(seats: &[Seat<'_>], more_bytes: u64, bound_bytes: u64) -> u64 {
    total(seats.iter().map(|seat| seat.to)).saturating_add(more_bytes).saturating_sub(bound_bytes)
}

/// One verdict for each view.
fn verdicts(vms: &[VmView], seats: &[Seat<'_>], moment: &Moment<'_>) -> Vec<Verdict> {
    let expected_ms = revoke::expected_ms(seats);
    let mut seats = seats.iter();
    let fixed = |vm: &VmView, rule| {
        let held = vm.committed_bytes();
        Verdict { wanted_bytes: held, entitled_bytes: held, step: None, rule, idle_tax: None }
    };
    let verdict = |vm: &VmView| match vm.reach {
        Reach::Ready => {
            seats.next().map_or_else(|| fixed(vm, Rule::Satisfied), |seat| seat.verdict(moment, expected_ms))
        }
        Reach::Unreachable => fixed(vm, Rule::Unreachable),
        Reach::Fixed => fixed(vm, Rule::Fixed),
        Reach::Paused => fixed(vm, Rule::Paused),
    };
    vms.iter().map(verdict).collect()
}

/// What there is and what is taken, bytes.
#[derive(Debug)]
struct Books {
    /// What the VMs may have together.
    limit: u64,
    /// What they have or were promised.
    committed: u64,
    /// The limit less what VMs hold that cannot be changed now.
    available: u64,
    /// Whether the host itself is short of memory.
    host_in_trouble: bool,
    /// What the targets of the VMs that can be changed may add up to at once.
    fit: u64,
}

impl Books {
    fn new(host: &HostView, vms: &[VmView], policy: &Policy) -> Self {
        let is_ready = |vm: &&VmView| vm.reach == Reach::Ready;
        let ready = || vms.iter().filter(is_ready);
        let limit = host.limit_bytes();
        let fixed = total(vms.iter().filter(|vm| !is_ready(vm)).map(VmView::committed_bytes));
        let available = limit.saturating_sub(fixed);
        let deficit = host_deficit(host, policy);
        let fit = deficit.map_or(available, |deficit| {
            let coming = total(ready().map(|vm| vm.allocation_bytes.saturating_sub(vm.target_bytes)));
            let targets = total(ready().map(|vm| vm.target_bytes));
            targets.saturating_sub(deficit.saturating_sub(coming)).min(available)
        });
        let committed = total(vms.iter().map(VmView::committed_bytes));
        Self { limit, committed, available, host_in_trouble: deficit.is_some(), fit }
    }

    /// What is free now. What a shrink is to free does not count until the hypervisor confirmed it.
    fn free(&self, host: &HostView, kept_free: u64, policy: &Policy) -> Free {
        let uncommitted = self.limit.saturating_sub(self.committed);
        let line = hard_line(host, policy);
        let clear_of = |line: u64| host.available_bytes.map_or(u64::MAX, |available| available.saturating_sub(line));
        let urgent = uncommitted.min(clear_of(line));
        let calm = uncommitted.saturating_sub(kept_free).min(clear_of(line.saturating_mul(2)));
        Free { urgent, calm: calm.min(urgent) }
    }
}

/// What the VMs are to give because the host itself is in trouble; `None` when it is not.
///
/// Under the hard line they give until twice the line is available, so that the next wave does not meet the line again.
/// A host that stalls does not say how much it lacks: they give a slice, and the next when that is confirmed.
fn host_deficit(host: &HostView, policy: &Policy) -> Option<u64> {
    let line = hard_line(host, policy);
    let under_line = host.available_bytes.filter(|available| *available < line);
    let to_line = under_line.map(|available| line.saturating_mul(2).saturating_sub(available));
    let is_stalling = host.stall_full_permille > policy.host_stall_permille;
    let slice = is_stalling.then(|| permille(host.limit_bytes(), policy.host_stall_slice_permille));
    to_line.max(slice)
}

/// Less than this available, and the host is in trouble, bytes.
pub(super) fn hard_line(host: &HostView, policy: &Policy) -> u64 {
    permille(host.capacity_bytes, policy.hard_line_permille)
}

fn sum(wants: &[Want], amount: impl Fn(&Want) -> u64) -> u64 {
    total(wants.iter().map(amount))
}

fn total(amounts: impl Iterator<Item = u64>) -> u64 {
    amounts.fold(0, u64::saturating_add)
}
