//! What each VM is entitled to when not all can have what they want.
//!
//! Waldspurger, C. (2002), "Memory Resource Management in VMware ESX Server", OSDI, §5: memory is revoked from the VM
//! with the fewest shares per page, ρ = S / (P·(f + k·(1−f))), where f is the active fraction of its P pages and
//! k = 1/(1−τ) makes an idle page dearer by the tax τ. Left to run, this makes ρ equal for all VMs that are not at
//! a bound. Here that end is computed at once: let a VM's *cost* be its active bytes plus k times its idle
//! bytes; then there is one level λ (cost per share) such that each VM has as many bytes as cost λ·S, held to its
//! bounds, and the sum fits. Water poured into tanks as wide as their shares, narrower where the bytes are idle.
//!
//! Needs come before headroom: what one VM stalls without is worth more than what another may grow into. So needs are
//! poured first, and what is left of the budget goes to headroom, idle bytes, by the same levels.
//! No VM's need reaches into another's *own share*, what it would have if everybody wanted everything: for any
//! report of another VM it keeps the less of its need and its own share. Who says itself that bytes of its need lie idle
//! (`activity`) pays the tax on them out of its own share too, down to its floor.

use super::demand::Want;
use super::policy::narrow;

/// Binary digits after the point of a level.
const FRACTION: u32 = 24;

/// What an active and an idle byte cost: 1 to k = 1/(1−τ), without fractions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prices {
    active: u128,
    idle: u128,
}

impl Prices {
    /// The prices for a tax on idle bytes, percent; a tax of 100 would make active bytes free, so 99 is the most.
    pub fn with_tax(percent: u32) -> Self {
        Self { active: u128::from(100 - percent.min(99)), idle: 100 }
    }

    fn cost(self, bytes: u64, active: u64) -> u128 {
        let active = bytes.min(active);
        u128::from(active) * self.active + u128::from(bytes - active) * self.idle
    }

    fn bytes(self, cost: u128, active: u64) -> u64 {
        let all_active = u128::from(active) * self.active;
        if cost <= all_active {
            narrow(cost / self.active)
        } else {
            narrow(u128::from(active) + (cost - all_active) / self.idle)
        }
    }

    /// What a VM can pay for with what it would have if all its bytes were active: its own share, taxed.
    fn taxed(self, own_share: u64, active: u64) -> u64 {
        self.bytes(u128::from(own_share) * self.active, active)
    }

    /// Cost per share of a VM that has `bytes`: the inverse of Waldspurger's ρ. Who has most gives first.
    pub fn level(self, bytes: u64, want: &Want) -> u128 {
        (self.cost(bytes, want.active) << FRACTION) / u128::from(want.shares)
    }
}

/// What one VM takes part with.
#[derive(Clone, Copy, Debug)]
struct Tank {
    shares: u64,
    /// It is not filled to less.
    low: u64,
    /// Bytes beyond are idle.
    active: u64,
    /// It is not filled to more.
    high: u64,
}

impl Tank {
    fn at(&self, level: u128, prices: Prices) -> u64 {
        let cost = level.saturating_mul(u128::from(self.shares)) >> FRACTION;
        prices.bytes(cost, self.active).min(self.high).max(self.low)
    }
}

/// What each VM is entitled to out of `budget_bytes`: its claim if all claims fit, else by shares. Never under `kept`,
/// never over the claim; the sum is within the budget unless the sum of `kept` is not.
pub(super) fn entitlements(budget_bytes: u64, wants: &[Want], prices: Prices) -> Vec<u64> {
    let claims: u128 = wants.iter().map(|want| u128::from(want.claim)).sum();
    if claims <= u128::from(budget_bytes) {
        return wants.iter().map(|want| want.claim).collect();
    }
    let needs = wants.iter().map(|want| want.need.min(want.claim).max(want.kept));
    if needs.clone().map(u128::from).sum::<u128>() <= u128::from(budget_bytes) {
        let tank = |(want, need): (&Want, u64)| Tank {
            shares: want.shares,
            low: need,
            active: want.active,
            high: want.claim.max(need),
        };
        return fill(budget_bytes, wants.iter().zip(needs).map(tank), prices);
    }
    let own_shares = own_shares(budget_bytes, wants, |want| want.kept, prices);
    let tank = |((want, need), own_share): ((&Want, u64), &u64)| {
        let safe = prices.taxed(*own_share, want.active).max(want.floor.min(*own_share));
        Tank { shares: want.shares, low: need.min(safe).max(want.kept), active: want.active, high: need }
    };
    fill(budget_bytes, wants.iter().zip(needs).zip(&own_shares).map(tank), prices)
}

/// What each tank holds when `budget_bytes` are poured.
fn fill(budget_bytes: u64, tanks: impl ExactSizeIterator<Item = Tank> + Clone, prices: Prices) -> Vec<u64> {
    let level = water_level(budget_bytes, tanks.clone(), prices);
    tanks.map(|tank| tank.at(level, prices)).collect()
}

/// Before any shares decide: each keeps what it claims of its reservation. Where reservations do not fit into
/// `available_bytes`, because VMs that cannot be changed hold too much, shares decide between them.
pub(super) fn reserve(wants: &mut [Want], available_bytes: u64) {
    let reserved: u128 = wants.iter().map(|want| u128::from(want.reserved)).sum();
    if reserved > u128::from(available_bytes) {
        let tank =
            |want: &Want| Tank { shares: want.shares, low: want.minimum, active: want.reserved, high: want.reserved };
        let fitting = fill(available_bytes, wants.iter().map(tank), Prices::with_tax(0));
        for (want, fitting) in wants.iter_mut().zip(fitting) {
            want.reserved = fitting;
        }
    }
    for want in wants {
        want.kept = want.kept.max(want.reserved);
    }
}

/// Where claims do not fit: what a guest keeps because it said so once and fell silent, or never spoke, is worth no more
/// than its own share. Silence must not win what a lie cannot.
pub(super) fn hold_to_own_share(wants: &mut [Want], budget_bytes: u64, prices: Prices) {
    let claims: u128 = wants.iter().map(|want| u128::from(want.claim)).sum();
    if claims <= u128::from(budget_bytes) || wants.iter().all(|want| want.kept <= want.reserved) {
        return;
    }
    let own_shares = own_shares(budget_bytes, wants, |want| want.reserved, prices);
    for (want, own_share) in wants.iter_mut().zip(own_shares) {
        want.kept = want.kept.min(own_share.max(want.reserved));
    }
}

/// What VMs insist on in an emergency.
///
/// More is committed than there is when a VM was started on a full host: it boots with its maximum, most of it free,
/// while the others live in theirs. So who is not known yet gives first, down to its minimum, and the others go no
/// lower than their own share, or what they themselves call safe; nobody lower than what it claims of its reservation.
/// When that does not fit, reservations hold alone as long as they fit; where the host itself is in trouble, only minimums.
pub(super) fn give_way(
    wants: &mut [Want],
    is_known: &[bool],
    budget_bytes: u64,
    host_in_trouble: bool,
    prices: Prices,
) {
    let own_shares = own_shares(budget_bytes, wants, |want| want.reserved, prices);
    let insists = |((want, own_share), is_known): ((&Want, &u64), &bool)| {
        if *is_known { want.claim.min(*own_share).max(want.floor).max(want.reserved) } else { want.reserved }
    };
    let insisted: Vec<u64> = wants.iter().zip(&own_shares).zip(is_known).map(insists).collect();
    let fits = insisted.iter().map(|bytes| u128::from(*bytes)).sum::<u128>() <= u128::from(budget_bytes);
    let reserved: u128 = wants.iter().map(|want| u128::from(want.reserved)).sum();
    let holds_reservations = !host_in_trouble && reserved <= u128::from(budget_bytes);
    for ((want, insisted), is_known) in wants.iter_mut().zip(insisted).zip(is_known) {
        want.kept = if holds_reservations { want.reserved } else { want.minimum };
        if fits && !host_in_trouble {
            want.kept = insisted;
            want.claim = if *is_known { insisted } else { want.claim };
        }
    }
}

/// What each would have if everybody wanted everything and nobody went below `low`.
fn own_shares(budget_bytes: u64, wants: &[Want], low: impl Fn(&Want) -> u64, prices: Prices) -> Vec<u64> {
    let everything = |want: &Want| Tank { shares: want.shares, low: low(want), active: u64::MAX, high: u64::MAX };
    fill(budget_bytes, wants.iter().map(everything), prices)
}

/// `bytes` for those who ask for `(shares, ask)`: all of it if the asks fit, else by shares, nobody more than it asked.
pub(super) fn split(bytes: u64, asks: &[(u64, u64)]) -> Vec<u64> {
    if asks.iter().map(|(_, ask)| u128::from(*ask)).sum::<u128>() <= u128::from(bytes) {
        return asks.iter().map(|(_, ask)| *ask).collect();
    }
    let prices = Prices::with_tax(0);
    fill(bytes, asks.iter().map(|&(shares, ask)| Tank { shares, low: 0, active: ask, high: ask }), prices)
}

/// The highest level, in cost per share with [`FRACTION`] binary digits, at which the tanks hold no more than
/// `budget_bytes`; 0 when their lower bounds alone hold more.
///
/// Sweeps the levels at which a tank begins to fill, turns idle, is full: O(n log n).
fn water_level(budget_bytes: u64, tanks: impl ExactSizeIterator<Item = Tank>, prices: Prices) -> u128 {
    // Bytes are counted in units of 1 / (active · idle · 2^FRACTION), so that a level step times a slope is whole.
    let unit = (prices.active * prices.idle) << FRACTION;
    let budget = u128::from(budget_bytes) * unit;
    let mut filled: u128 = 0;
    let mut bends: Vec<(u128, i128)> = Vec::with_capacity(3 * tanks.len());
    for tank in tanks {
        filled = filled.saturating_add(u128::from(tank.low) * unit);
        push_bends(&mut bends, &tank, prices);
    }
    if filled >= budget {
        return 0;
    }
    bends.sort_unstable();
    let (mut level, mut slope) = (0_u128, 0_i128);
    for (at, change) in bends {
        let gain = slope.unsigned_abs().saturating_mul(at - level);
        if gain >= budget - filled {
            break;
        }
        filled += gain;
        level = at;
        slope += change;
    }
    level + (budget - filled).checked_div(slope.unsigned_abs()).unwrap_or(0)
}

/// Where the filling of `tank` changes its slope, and by how much. Rounded so that it never holds more than counted.
fn push_bends(bends: &mut Vec<(u128, i128)>, tank: &Tank, prices: Prices) {
    if tank.high <= tank.low {
        return;
    }
    let shares = u128::from(tank.shares);
    let cost = |bytes| prices.cost(bytes, tank.active) << FRACTION;
    // Bytes per level: 1/active of a share while active, 1/idle beyond; times active · idle. Fits: shares are 32 bits.
    let slope = |price: u128| i128::try_from(shares * price).unwrap_or(i128::MAX);
    let (while_active, while_idle) = (slope(prices.idle), slope(prices.active));
    let top = cost(tank.high).div_ceil(shares);
    if tank.active <= tank.low {
        bends.push((cost(tank.low) / shares, while_idle));
        bends.push((top, -while_idle));
    } else if tank.active >= tank.high {
        bends.push((cost(tank.low) / shares, while_active));
        bends.push((top, -while_active));
    } else {
        bends.push((cost(tank.low) / shares, while_active));
        bends.push((cost(tank.active).div_ceil(shares), while_idle - while_active));
        bends.push((top, -while_idle));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Demand, History, Limits, MIB, MemoryDemand, Policy, Reach, Shown, Urgency, VmView};
    use proptest::prelude::*;

    /// A VM that claims `need` and a tenth more, MiB.
    fn want(shares: u32, minimum: u64, need: u64) -> Want {
        let limits = Limits { minimum_bytes: minimum * MIB, reservation_bytes: 0, maximum_bytes: 1 << 40, shares };
        let demand = MemoryDemand { need_bytes: need * MIB, floor_bytes: 0, urgency: Urgency::Normal };
        let vm = VmView {
            limits,
            allocation_bytes: minimum * MIB,
            target_bytes: minimum * MIB,
            reach: Reach::Ready,
            demand: Demand::Fresh(demand),
            history: History::default(),
            shown: Shown::default(),
        };
        let policy = Policy { minimum_headroom_bytes: 32 * MIB, ..Policy::default() };
        crate::plan::demand::resolve(0, &vm, &policy)
    }

    fn mib(budget: u64, wants: &[Want], tax: u32) -> Vec<u64> {
        let entitled = entitlements(budget * MIB, wants, Prices::with_tax(tax));
        entitled.iter().map(|bytes| (bytes + MIB / 2) / MIB).collect()
    }

    #[test]
    fn claims_that_fit_are_met() {
        assert_eq!(mib(2000, &[want(1, 0, 1000), want(1000, 0, 500)], 75), [1100, 550]);
    }

    #[test]
    fn shares_decide_between_those_who_want_everything() {
        assert_eq!(mib(3000, &[want(2000, 0, 9000), want(1000, 0, 9000)], 75), [2000, 1000]);
    }

    #[test]
    fn what_one_does_not_need_goes_to_the_others_by_shares() {
        let wants = [want(1000, 0, 1000), want(1000, 0, 9000), want(2000, 0, 9000)];
        assert_eq!(mib(8000, &wants, 75), [1000, 2333, 4667]);
    }

    #[test]
    fn minimums_come_first() {
        assert_eq!(mib(1000, &[want(1, 600, 9000), want(1000, 0, 9000)], 75), [600, 400]);
        assert_eq!(mib(100, &[want(1, 600, 9000), want(1000, 100, 9000)], 75), [600, 100], "not even they fit");
    }

    #[test]
    fn needs_come_before_anybodys_headroom() {
        // 900 and 1050 fit into 2000; the 50 that are left go to headroom, first to who has less in all.
        assert_eq!(mib(2000, &[want(1000, 0, 900), want(1000, 0, 1050)], 75), [944, 1056]);
        assert_eq!(mib(2000, &[want(1000, 0, 900), want(1000, 0, 9000)], 75), [900, 1100]);
    }

    #[test]
    fn no_need_of_another_reaches_into_the_own_share() {
        assert_eq!(mib(2000, &[want(1000, 0, 1200), want(1000, 0, 9000)], 75), [1000, 1000]);
        assert_eq!(mib(3000, &[want(1000, 0, 1500), want(2000, 0, 9000)], 75), [1000, 2000]);
    }

    #[test]
    fn a_small_sum_is_split_by_shares_up_to_what_is_asked() {
        assert_eq!(split(10, &[(1, 3), (1, 2)]), [3, 2]);
        assert_eq!(split(9, &[(2, 100), (1, 100)]), [6, 3]);
        assert_eq!(split(9, &[(2, 1), (1, 100)]), [1, 8]);
    }

    proptest! {
        #[test]
        fn the_water_stays_within_the_budget_and_wastes_little(
            figures in prop::collection::vec((0..u32::MAX, 0..100_u64, 0..u64::MAX >> 21), 1..30),
            budget in 0..u64::MAX >> 18,
            tax in 0..=100_u32,
        ) {
            let wants: Vec<Want> = figures.into_iter().map(|(shares, low, need)| want(shares, low, need)).collect();
            let entitled = entitlements(budget, &wants, Prices::with_tax(tax));
            let (sum, least): (u64, u64) = (entitled.iter().sum(), wants.iter().map(|want| want.kept).sum());
            let claims: u64 = wants.iter().map(|want| want.claim).sum();
            prop_assert!(sum <= budget.max(least));
            // A level's last binary digit is worth at most shares / 2^24 units of cost to each VM.
            prop_assert!(sum + wants.len() as u64 * 1024 >= budget.min(claims), "{} of {}", sum, budget.min(claims));
        }
    }
}
