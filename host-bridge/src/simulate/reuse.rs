//! How much a guest misses that has less than its working set.
//!
//! Pages are used again by Zipf's law: the r-th most popular of N with a probability of r^−s / Σ r^−s. Who has the x-th part
//! of the working set has its most popular pages (which is what an LRU list comes near to), and hits
//!
//! ```text
//! hit(x) = ((x·N + 1)^(1−s) − 1) / ((N + 1)^(1−s) − 1)      the sums as integrals; logarithms for s = 1
//! ```
//!
//! so half of the working set serves most of its uses, and the last pages are missed little. A miss is read again. With
//! [`TOUCHES_PER_S`] uses a second and [`REFAULT_US`] for each one that misses, the guest stands still for
//!
//! ```text
//! stall share = k·m / (1 + k·m),   m = 1 − hit,   k = touches × refault time = 2
//! ```

use super::random::{real, whole};

/// Uses of pages that are not in the processor's own caches, in a second of work: a busy server's.
const TOUCHES_PER_S: f64 = 20_000.0;
/// What a page costs that is read again, from a local NVMe disk with its queue.
const REFAULT_US: f64 = 100.0;
/// Pages that are told apart.
const PAGES: f64 = 65_536.0;
/// How finely a part of the working set is told.
const PARTS: u64 = 256;
/// The laws that guests have: requests to web caches 0.64 to 0.83 (Breslau et al., INFOCOM 1999), YCSB 0.99 (Cooper et al.,
/// SoCC 2010).
pub(super) const EXPONENTS_PERMILLE: [u64; 4] = [600, 800, 900, 990];

/// Stall shares by part of the working set.
#[derive(Clone, Debug)]
pub(super) struct Reuse {
    /// For 0, 1/256, … 256/256 of the working set, thousandths.
    stall_permille: Vec<u64>,
}

impl Reuse {
    /// For a Zipf law with this exponent, thousandths.
    pub fn new(exponent_permille: u64) -> Self {
        let power = 1.0 - real(exponent_permille) / 1000.0;
        let hits = |pages: f64| {
            if power.abs() < 1e-9 { (pages + 1.0).ln() } else { (pages + 1.0).powf(power) - 1.0 }
        };
        let stall = |part: u64| {
            let miss = 1.0 - hits(PAGES * real(part) / real(PARTS)) / hits(PAGES);
            let waits = TOUCHES_PER_S * REFAULT_US / 1e6 * miss;
            whole(1000.0 * waits / (1.0 + waits))
        };
        Self { stall_permille: (0..=PARTS).map(stall).collect() }
    }

    /// The share of the time in which a guest stands still that has `has` of a working set of `uses` bytes, thousandths.
    pub fn stall_permille(&self, has: u64, uses: u64) -> u64 {
        if has >= uses {
            return 0;
        }
        let part = u128::from(has) * u128::from(PARTS) / u128::from(uses);
        usize::try_from(part).ok().and_then(|part| self.stall_permille.get(part)).copied().unwrap_or(0)
    }
}

impl Reuse {
    /// The least of a working set of `uses` bytes with which a guest stands still no more than this share of the time.
    pub fn least_bytes(&self, uses: u64, stall_permille: u64) -> u64 {
        let part = self.stall_permille.partition_point(|stall| *stall > stall_permille);
        let bytes = (u128::from(uses) * part as u128).div_ceil(u128::from(PARTS));
        u64::try_from(bytes).unwrap_or(u64::MAX).min(uses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_less_stalls_more_and_who_has_all_does_not() {
        for exponent in EXPONENTS_PERMILLE {
            let reuse = Reuse::new(exponent);
            let stalls: Vec<u64> = (0..=100).map(|has| reuse.stall_permille(has, 100)).collect();
            assert!(stalls.is_sorted_by(|more, less| more >= less), "{exponent}: {stalls:?}");
            // Nothing at all: k / (1 + k) of the time, k = 2.
            assert_eq!((stalls[0], stalls[100]), (667, 0), "{exponent}");
        }
        assert_eq!(Reuse::new(800).stall_permille(0, 0), 0);
    }

    #[test]
    fn the_least_that_does_not_stall_does_not_and_less_would() {
        for exponent in EXPONENTS_PERMILLE {
            let reuse = Reuse::new(exponent);
            let least = reuse.least_bytes(1 << 30, 10);
            assert!(reuse.stall_permille(least, 1 << 30) <= 10, "{exponent}");
            assert!(reuse.stall_permille(least - 1, 1 << 30) > 10, "{exponent}");
        }
        assert_eq!(Reuse::new(800).least_bytes(0, 10), 0);
    }

    /// Against the sums themselves, without the integral.
    #[test]
    fn the_integral_is_near_the_sum() {
        for exponent in EXPONENTS_PERMILLE {
            let weight = |rank: u64| real(rank).powf(-real(exponent) / 1000.0);
            let (pages, half) = (65_536, 32_768);
            let miss = (half + 1..=pages).map(weight).sum::<f64>() / (1..=pages).map(weight).sum::<f64>();
            let stall = whole(1000.0 * 2.0 * miss / (1.0 + 2.0 * miss));
            let by_integral = Reuse::new(exponent).stall_permille(128, 256);
            assert!(stall.abs_diff(by_integral) <= 10, "{exponent}: {stall}, {by_integral}");
        }
    }
}
