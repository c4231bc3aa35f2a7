//! What each VM is entitled to when not all can have what they want.
//!
//! Waldspurger, C. (2002), "Memory Resource Management in VMware ESX Server", OSDI, §5: memory is revoked from the VM
//! with the fewest shares per page, ρ = S / (P·(f + k·(1−f))), where f is the active fraction of its P pages and
//! k = 1/(1−τ) makes an idle page dearer by the tax τ. Left to run, this makes ρ equal for all VMs that are not at
//! a bound. Here that end is computed at once: let a VM's *cost* be its active bytes plus k times its idle
//! bytes; then there is one level λ (cost per share) such that each VM has as many bytes as cost λ·S, held to its
//! bounds, and the sum fits. Water poured into tanks as wide as their shares, narrower where the bytes are idle.
//!
//! Idle means here: beyond the need, that is, headroom. What a VM has beyond need and headroom it does not claim.
//! The tax does not reach into a VM's *own share*, what it would have if everybody wanted everything: for any
//! report of another VM it keeps the less of its claim and its own share, headroom included.

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

    fn cost(self, bytes: u64, need: u64) -> u128 {
        let active = bytes.min(need);
        u128::from(active) * self.active + u128::from(bytes - active) * self.idle
    }

    fn bytes(self, cost: u128, need: u64) -> u64 {
        let active = u128::from(need) * self.active;
        if cost <= active { narrow(cost / self.active) } else { narrow(u128::from(need) + (cost - active) / self.idle) }
    }

    /// Cost per share of a VM that has `bytes`: the inverse of Waldspurger's ρ. Who has most gives first.
    pub fn level(self, bytes: u64, want: &Want) -> u128 {
        (self.cost(bytes, want.need) << FRACTION) / u128::from(want.shares)
    }
}

/// What one VM takes part with.
#[derive(Clone, Copy, Debug)]
struct Tank {
    shares: u64,
    /// It is not filled to less.
    low: u64,
    /// Bytes beyond are idle.
    need: u64,
    /// It is not filled to more.
    high: u64,
}

impl Tank {
    fn at(&self, level: u128, prices: Prices) -> u64 {
        let cost = level.saturating_mul(u128::from(self.shares)) >> FRACTION;
        prices.bytes(cost, self.need).min(self.high).max(self.low)
    }
}

/// What each VM is entitled to out of `budget_bytes`: its claim if all claims fit, else by shares. Never under `kept`,
/// never over the claim; the sum is within the budget unless the sum of `kept` is not.
pub(super) fn entitlements(budget_bytes: u64, wants: &[Want], prices: Prices) -> Vec<u64> {
    let claims: u128 = wants.iter().map(|want| u128::from(want.claim)).sum();
    if claims <= u128::from(budget_bytes) {
        return wants.iter().map(|want| want.claim).collect();
    }
    let everything = |want: &Want| Tank { shares: want.shares, low: want.kept, need: u64::MAX, high: u64::MAX };
    let own_level = water_level(budget_bytes, wants.iter().map(everything), prices);
    let tanks: Vec<Tank> = wants
        .iter()
        .map(|want| {
            let own_share = everything(want).at(own_level, prices);
            let low = want.claim.min(own_share).max(want.kept);
            Tank { shares: want.shares, low, need: want.need, high: want.claim.max(want.kept) }
        })
        .collect();
    let level = water_level(budget_bytes, tanks.iter().copied(), prices);
    tanks.iter().map(|tank| tank.at(level, prices)).collect()
}

/// `bytes` for those who ask for `(shares, ask)`: all of it if the asks fit, else by shares, nobody more than it asked.
pub(super) fn split(bytes: u64, asks: &[(u64, u64)]) -> Vec<u64> {
    if asks.iter().map(|(_, ask)| u128::from(*ask)).sum::<u128>() <= u128::from(bytes) {
        return asks.iter().map(|(_, ask)| *ask).collect();
    }
    let prices = Prices::with_tax(0);
    let tank = |&(shares, ask): &(u64, u64)| Tank { shares, low: 0, need: ask, high: ask };
    let level = water_level(bytes, asks.iter().map(tank), prices);
    asks.iter().map(|ask| tank(ask).at(level, prices)).collect()
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
    let cost = |bytes| prices.cost(bytes, tank.need) << FRACTION;
    // Bytes per level: 1/active of a share while active, 1/idle beyond; times active · idle. Fits: shares are 32 bits.
    let slope = |price: u128| i128::try_from(shares * price).unwrap_or(i128::MAX);
    let (while_active, while_idle) = (slope(prices.idle), slope(prices.active));
    let top = cost(tank.high).div_ceil(shares);
    if tank.need <= tank.low {
        bends.push((cost(tank.low) / shares, while_idle));
        bends.push((top, -while_idle));
    } else if tank.need >= tank.high {
        bends.push((cost(tank.low) / shares, while_active));
        bends.push((top, -while_active));
    } else {
        bends.push((cost(tank.low) / shares, while_active));
        bends.push((cost(tank.need).div_ceil(shares), while_idle - while_active));
        bends.push((top, -while_idle));
    }
}
