//! Who gives: surplus first, then the VMs with the fewest shares per byte (Waldspurger 2002, min-funding revocation),
//! nobody more than is lacking and nobody below what it is entitled to.

use super::fairness::Prices;
use super::progress::GUESS_BYTES_PER_S;
use super::seat::{Moment, Seat};
use super::{Demand, Millis, Pace, Rule};
use std::cmp::Reverse;

/// For whom bytes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The host itself: at once, floors give way.
    Emergency,
    /// Somebody who stalls: by what is needed now.
    Stall,
    /// Somebody who is short, or the pool: by what was needed at the peak of the last minute.
    Shares,
}

impl Cause {
    fn pace(self) -> Pace {
        if self == Self::Shares { Pace::Calm } else { Pace::Urgent }
    }

    fn rule(self) -> Rule {
        if self == Self::Emergency { Rule::EmergencyRevoke } else { Rule::Revoke }
    }
}

/// Takes what lies above a maximum that the operator lowered.
pub(super) fn hold_to_maximum(seat: &mut Seat<'_>) {
    if seat.to > seat.want.maximum {
        seat.move_to(seat.want.maximum, Pace::Calm, Rule::ReturnSurplus);
    }
}

/// Returns to the pool what a VM did not want at any time in the last minute.
pub(super) fn return_surplus(seat: &mut Seat<'_>, moment: &Moment<'_>) {
    let line = seat.want.surplus_from.max(cached_line(seat, moment));
    let surplus = seat.to.saturating_sub(line);
    let is_blocked = must_rest(seat, moment) || seat.shrink_blocked_until(Pace::Calm, moment).is_some();
    if surplus >= moment.policy.dead_band(seat.vm.allocation_bytes) && !is_blocked {
        seat.move_to(line, Pace::Calm, Rule::ReturnSurplus);
    }
}

/// How far a calm shrink goes into a guest's page cache. Free pages are of no use to it, but whether cache is shows only when it
/// is gone: a guest that reads its files through `read(2)` says as little about them as one that never reads them again.
/// So cache goes a slice at a time, and what was in use comes back before much of it is lost.
fn cached_line(seat: &Seat<'_>, moment: &Moment<'_>) -> u64 {
    let (Demand::Fresh(_), Some(cached)) = (seat.vm.demand, seat.vm.shown.cached_bytes) else { return 0 };
    let with_cache = seat.want.floor.saturating_add(cached);
    if seat.vm.history.growth_blocked_until(moment.now_ms, moment.policy).is_some() {
        return with_cache; // it shrank not long ago
    }
    let allocation = seat.vm.allocation_bytes;
    let slice = moment.policy.slice_bytes(allocation).max(moment.policy.dead_band(allocation));
    with_cache.min(seat.to).saturating_sub(slice)
}

/// How long those who give will take, all at once and each as fast as it was seen to be; `None` where nobody gives, or one's
/// speed is not known.
pub(super) fn expected_ms(seats: &[Seat<'_>]) -> Option<Millis> {
    let to_go = |seat: &Seat<'_>| seat.vm.allocation_bytes.saturating_sub(seat.to);
    let giving = seats.iter().filter(|seat| to_go(seat) > 0);
    let each: Option<Vec<Millis>> = giving.map(|seat| seat.vm.history.leaves().expected_ms(to_go(seat))).collect();
    each?.into_iter().max()
}

/// Takes `lack_bytes` for `cause`, as far as VMs have them to give: first from who has most per share, of equals from the faster.
pub(super) fn revoke(seats: &mut [Seat<'_>], lack_bytes: u64, cause: Cause, prices: Prices, moment: &Moment<'_>) {
    if lack_bytes == 0 {
        return;
    }
    let giver = |(index, seat): (usize, &Seat<'_>)| {
        let order = || {
            let bytes_per_s = seat.vm.history.leaves().bytes_per_s().unwrap_or(GUESS_BYTES_PER_S);
            (Reverse(prices.level(seat.to, &seat.want)), Reverse(bytes_per_s), index)
        };
        (spare(seat, cause, moment) > 0).then(order)
    };
    let mut givers: Vec<_> = seats.iter().enumerate().filter_map(giver).collect();
    givers.sort_unstable();
    let mut lack = lack_bytes;
    for (.., index) in givers {
        if lack == 0 {
            break;
        }
        let seat = &mut seats[index];
        let taken = lack.max(least(seat, cause, moment)).min(spare(seat, cause, moment));
        lack = lack.saturating_sub(taken);
        let is_urgent = cause.pace() == Pace::Urgent || matches!(seat.moved, Some((Pace::Urgent, _)));
        seat.move_to(seat.to - taken, if is_urgent { Pace::Urgent } else { Pace::Calm }, cause.rule());
    }
}

/// What `seat` can give for `cause` now, 0 when that is not worth a move.
fn spare(seat: &Seat<'_>, cause: Cause, moment: &Moment<'_>) -> u64 {
    if must_rest(seat, moment) {
        return 0;
    }
    let is_blocked = seat.shrink_blocked_until(cause.pace(), moment).is_some();
    let line = match cause {
        // A block keeps what the VM grew for. What it says that it does not need is not that.
        Cause::Stall if is_blocked => seat.entitled.max(seat.want.wanted),
        Cause::Emergency | Cause::Stall => seat.entitled,
        Cause::Shares if is_blocked => return 0,
        Cause::Shares => seat.entitled.max(seat.want.calm_hold),
    };
    let above = seat.to.saturating_sub(line);
    let least = least(seat, cause, moment);
    if above < least {
        return 0;
    }
    if cause == Cause::Emergency {
        return above;
    }
    let (slice, part) = slice(seat, moment);
    let spare = seat.to.saturating_sub(line.max(lowest_in_one_step(seat, slice)));
    if spare < least.min(part) { 0 } else { spare }
}

/// How far below its floor one step takes a guest, and the least of it that is worth a step. The floor of a guest that reports
/// now is never passed by more than its slice, however small. That of a silent one is old: no move of it is smaller than others.
fn slice(seat: &Seat<'_>, moment: &Moment<'_>) -> (u64, u64) {
    let slice = moment.policy.slice_bytes(seat.vm.allocation_bytes);
    match seat.vm.demand {
        Demand::Fresh(_) => (slice, slice.div_ceil(2)),
        Demand::Stale { .. } | Demand::Unknown { .. } => {
            let slice = slice.max(moment.policy.urgent_step_bytes);
            (slice, slice.div_ceil(2).max(moment.policy.urgent_step_bytes))
        }
    }
}

/// How far one step goes: to the guest's floor, and a slice below what it is known to have got by with.
fn lowest_in_one_step(seat: &Seat<'_>, slice: u64) -> u64 {
    seat.want.floor.min(seat.vm.allocation_bytes).saturating_sub(slice)
}

fn least(seat: &Seat<'_>, cause: Cause, moment: &Moment<'_>) -> u64 {
    match cause {
        Cause::Emergency => 1,
        Cause::Stall => moment.policy.urgent_step_bytes.max(1),
        Cause::Shares => moment.policy.dead_band(seat.vm.allocation_bytes),
    }
}

/// Whether its balloon is stalled, or was a moment ago.
fn must_rest(seat: &Seat<'_>, moment: &Moment<'_>) -> bool {
    seat.is_stalled(moment) || seat.resting_until(moment).is_some()
}
