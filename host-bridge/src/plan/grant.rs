//! Who grows, into what is free now: critical before pressed before calm, by shares within a class.

use super::fairness::{self, Prices};
use super::seat::{Moment, Seat};
use super::{Pace, Rule, Urgency};

/// What is free now, bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Free {
    /// For somebody who stalls.
    pub urgent: u64,
    /// For growth that nobody waits for: less by the pool.
    pub calm: u64,
}

impl Free {
    fn spend(&mut self, bytes: u64) {
        self.urgent = self.urgent.saturating_sub(bytes);
        self.calm = self.calm.saturating_sub(bytes);
    }
}

/// Hands out what is free.
pub(super) fn grant(seats: &mut [Seat<'_>], mut free: Free, prices: Prices, moment: &Moment<'_>) {
    for urgency in [Urgency::Critical, Urgency::Pressed] {
        grant_class(seats, |seat| seat.want.urgency == urgency, &mut free, prices, moment);
    }
    for seat in seats.iter_mut().filter(|seat| seat.is_stalled(moment)) {
        give_back(seat, &mut free, moment);
    }
    grant_class(seats, |seat| !seat.is_urgent(), &mut free, prices, moment);
}

/// Grows the VMs of one class, the one with most shares per byte first. What is too little for one goes to the next.
fn grant_class(
    seats: &mut [Seat<'_>],
    is_in_class: impl Fn(&Seat<'_>) -> bool,
    free: &mut Free,
    prices: Prices,
    moment: &Moment<'_>,
) {
    let asking = |(index, seat): (usize, &Seat<'_>)| {
        (is_in_class(seat) && seat.ask(moment) > 0).then(|| (prices.level(seat.to, &seat.want), index))
    };
    let mut order: Vec<_> = seats.iter().enumerate().filter_map(asking).collect();
    order.sort_unstable();
    let asks: Vec<_> = order.iter().map(|&(_, index)| (seats[index].want.shares, cost(&seats[index]))).collect();
    let Some(&(_, first)) = order.first() else { return };
    let to_share = if seats[first].is_urgent() { free.urgent } else { free.calm };
    let parts = fairness::split(to_share, &asks);
    let mut purse = to_share.saturating_sub(parts.iter().sum());
    for (&(_, index), part) in order.iter().zip(parts) {
        purse += part;
        purse -= grow(&mut seats[index], purse, free, moment);
    }
}

/// What the growth to its goal takes from what is free. Ending an inflation takes nothing: those bytes still count.
fn cost(seat: &Seat<'_>) -> u64 {
    seat.goal().saturating_sub(seat.committed())
}

/// Grows `seat` with `purse_bytes`, as far as that is worth a move; returns what it took.
fn grow(seat: &mut Seat<'_>, purse_bytes: u64, free: &mut Free, moment: &Moment<'_>) -> u64 {
    let taken = cost(seat).min(purse_bytes);
    let to = seat.goal().min(seat.committed().saturating_add(taken));
    let is_worth_it = to == seat.goal() || to - seat.to >= seat.least_growth(moment.policy);
    if !is_worth_it || to < seat.want.minimum {
        return 0;
    }
    let (pace, rule) = match (seat.is_urgent(), taken > free.calm) {
        (true, true) => (Pace::Urgent, Rule::SpikeGrant),
        (true, false) => (Pace::Urgent, Rule::Grant),
        (false, _) => (Pace::Calm, Rule::Grant),
    };
    free.spend(taken);
    seat.move_to(to, pace, rule);
    taken
}

/// Ends a stalled inflation, and gives the guest some room where there is any.
fn give_back(seat: &mut Seat<'_>, free: &mut Free, moment: &Moment<'_>) {
    let given = moment.policy.give_back_bytes.min(free.urgent);
    let to = seat.vm.allocation_bytes.saturating_add(given).min(seat.want.maximum);
    if to > seat.to {
        free.spend(to.saturating_sub(seat.committed()));
        seat.move_to(to, Pace::GiveBack, Rule::StalledBalloon);
    }
}
