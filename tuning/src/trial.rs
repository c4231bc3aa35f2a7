//! Whether a change helped: pure, from windows of a signal before and after it.
//!
//! The rule. Each side needs [`LEAST_WINDOWS`] windows. With `m` the medians, and `d` the larger of the two sides' median
//! absolute deviations:
//!
//! ```text
//! bound = max(3 × d, m before / 10, the least that matters)
//! m after > m before + bound   worse:  back to the original
//! m after < m before - bound   better: it stays
//! else                         inconclusive: it stays when a wrong value costs little, else back
//! ```
//!
//! Medians and their deviation, for one burst in a window must decide nothing; three deviations, for about two of normal
//! noise. All signals are better when lower.

use crate::catalogue::{Risk, Signal};
use serde::{Deserialize, Serialize};

/// Fewer windows on a side say nothing.
pub const LEAST_WINDOWS: usize = 6;
/// A change of this share of what was before is noise whatever the deviation.
const NOISE_SHARE: u64 = 10;
const DEVIATIONS: u64 = 3;

/// What a trial found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What it means.
    pub finding: Finding,
    /// Whether the change stays.
    pub keep: bool,
    /// The signal that was watched.
    pub signal: Signal,
    /// Its median before, in the signal's unit.
    pub before: u64,
    /// Its median after.
    pub after: u64,
    /// A smaller difference is noise.
    pub bound: u64,
    /// How many windows there were on each side.
    pub windows: usize,
}

/// What the windows say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The signal fell.
    Better,
    /// The signal rose.
    Worse,
    /// Neither, beyond noise.
    Inconclusive,
}

/// Judges a change by windows of `signal` before and after it; `None` while there are too few.
pub fn judge(signal: Signal, risk: Risk, before: &[u64], after: &[u64]) -> Option<Verdict> {
    if before.len() < LEAST_WINDOWS || after.len() < LEAST_WINDOWS {
        return None;
    }
    let (was, is) = (median(before), median(after));
    let noise = deviation(before, was).max(deviation(after, is)).saturating_mul(DEVIATIONS);
    let bound = noise.max(was / NOISE_SHARE).max(least_that_matters(signal));
    let finding = if is > was.saturating_add(bound) {
        Finding::Worse
    } else if is.saturating_add(bound) < was {
        Finding::Better
    } else {
        Finding::Inconclusive
    };
    let keep = match finding {
        Finding::Better => true,
        Finding::Worse => false,
        Finding::Inconclusive => risk == Risk::Low,
    };
    Some(Verdict { finding, keep, signal, before: was, after: is, bound, windows: before.len().min(after.len()) })
}

/// In the signal's unit: a stall of half a percent, 256 KiB/s, a millisecond.
pub(super) fn least_that_matters(signal: Signal) -> u64 {
    match signal {
        Signal::MemoryStall | Signal::CpuStall | Signal::IoStall | Signal::Steal => 5_000,
        Signal::Refaults | Signal::SwapIn => 256,
        Signal::IoLatency => 1_000,
    }
}

/// The lower of the two in the middle.
pub(super) fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len().saturating_sub(1)) / 2).copied().unwrap_or(0)
}

/// The median of the distances from the median.
fn deviation(values: &[u64], median_of_values: u64) -> u64 {
    median(&values.iter().map(|value| value.abs_diff(median_of_values)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn finding(before: &[u64], after: &[u64]) -> Option<Finding> {
        judge(Signal::MemoryStall, Risk::Low, before, after).map(|verdict| verdict.finding)
    }

    #[test]
    fn a_clear_difference_is_seen_and_noise_is_not() {
        let calm = [100_000, 101_000, 99_000, 100_500, 100_000, 99_500];
        let noisy = [20_000, 180_000, 60_000, 240_000, 100_000, 10_000];
        for (before, after, expected) in [
            (calm, calm, Finding::Inconclusive),
            (calm, calm.map(|stall| stall * 2), Finding::Worse),
            (calm, calm.map(|stall| stall / 2), Finding::Better),
            (calm, calm.map(|stall| stall + 9_000), Finding::Inconclusive),
            (calm, calm.map(|stall| stall + 11_000), Finding::Worse),
            (noisy, noisy.map(|stall| stall * 2), Finding::Inconclusive),
            ([0; 6], [4_000; 6], Finding::Inconclusive),
            ([0; 6], [6_000; 6], Finding::Worse),
            ([0; 6], [0, 0, 0, 0, 0, 1_000_000], Finding::Inconclusive),
        ] {
            assert_eq!(finding(&before, &after), Some(expected), "{before:?} {after:?}");
        }
        assert_eq!(finding(&calm[..5], &calm), None);
    }

    #[test]
    fn what_cannot_be_told_stays_only_at_low_risk() {
        for (risk, keep) in [(Risk::Low, true), (Risk::Medium, false), (Risk::High, false)] {
            assert_eq!(judge(Signal::SwapIn, risk, &[9; 6], &[9; 6]).unwrap().keep, keep, "{risk:?}");
        }
        assert!(judge(Signal::SwapIn, Risk::High, &[9_000; 6], &[9; 6]).unwrap().keep);
        assert!(!judge(Signal::SwapIn, Risk::Low, &[9; 6], &[9_000; 6]).unwrap().keep);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn no_side_is_favoured(before in prop::collection::vec(any::<u64>(), 6..12), after in prop::collection::vec(any::<u64>(), 6..12)) {
            let there = finding(&before, &after);
            let back = finding(&after, &before);
            prop_assert!(!(there == Some(Finding::Better) && back == Some(Finding::Better)));
            prop_assert!(!(there == Some(Finding::Worse) && back == Some(Finding::Worse)));
            prop_assert_eq!(finding(&before, &before), Some(Finding::Inconclusive));
        }
    }
}
