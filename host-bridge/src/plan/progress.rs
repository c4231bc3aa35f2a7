//! How fast the memory of one VM leaves, or comes, as its own moves showed. Pure.
//!
//! Smoothed as TCP smooths the time of a round trip (RFC 6298, §2): what a MiB takes, and how far moves stray from that. What
//! is expected of a move then comes with as much slack as the VM is unsteady. What [`super::actuator`] learns serves another
//! end: there the latest moves decide which device to take next; here a deadline must not follow one lucky move.

use super::policy::narrow;
use super::{MIB, Millis, Policy};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// How fast a VM is taken to free memory of which nothing was seen.
pub const GUESS_BYTES_PER_S: u64 = 32 * MIB;
/// The time of a smaller move is that of asking.
const LEAST_BYTES: u64 = 4 * MIB;
/// Over how long the speed of an inflating balloon is taken.
const STALL_WINDOW_MS: RangeInclusive<Millis> = 2_000..=5_000;
/// A balloon is not stalled while it goes at least half as fast as it did, …
const USUAL_PART: u64 = 2;
/// … down to this part of [`Policy::stall_bytes_per_s`]: nobody is waited for however slow he says he is.
const SLOWEST_PART: u64 = 4;

/// What was learned of the moves of one VM one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// SRTT of RFC 6298 for a MiB, nanoseconds; 0 before the first move.
    ns_per_mib: u64,
    /// RTTVAR of it.
    deviation_ns: u64,
}

impl Progress {
    /// Takes in that `bytes` moved in `ms`; less than 4 MiB teach nothing.
    pub(super) fn saw(&mut self, bytes: u64, ms: Millis) {
        if bytes < LEAST_BYTES {
            return;
        }
        let ns = narrow(u128::from(ms.max(1)) * 1_000_000 * u128::from(MIB) / u128::from(bytes)).max(1);
        // Smoothing with 1/8 and 1/4, the deviation first: RFC 6298, 2.2 and 2.3.
        *self = if self.is_known() {
            let deviation = weigh(self.deviation_ns, 3, ns.abs_diff(self.ns_per_mib));
            Self { ns_per_mib: weigh(self.ns_per_mib, 7, ns).max(1), deviation_ns: deviation }
        } else {
            Self { ns_per_mib: ns, deviation_ns: ns / 2 }
        };
    }

    /// Whether a move was seen.
    pub fn is_known(&self) -> bool {
        self.ns_per_mib > 0
    }

    /// Bytes per second; `None` before a move was seen.
    pub fn bytes_per_s(&self) -> Option<u64> {
        let per_s = || narrow(u128::from(MIB) * 1_000_000_000 / u128::from(self.ns_per_mib)).max(1);
        self.is_known().then(per_s)
    }

    /// What `bytes` take at this speed, milliseconds.
    pub(super) fn expected_ms(&self, bytes: u64) -> Option<Millis> {
        self.is_known().then(|| time_ms(bytes, self.ns_per_mib))
    }

    /// What they take at most if the VM strays no further than it did: SRTT + 4 · RTTVAR.
    fn patient_ms(&self, bytes: u64) -> Option<Millis> {
        let ns = self.ns_per_mib.saturating_add(self.deviation_ns.saturating_mul(4));
        self.is_known().then(|| time_ms(bytes, ns))
    }

    /// How fast memory can be counted on: as it was seen, yet no faster than the guess.
    pub fn slow_bytes_per_s(&self) -> u64 {
        self.bytes_per_s().map_or(GUESS_BYTES_PER_S, |seen| seen.min(GUESS_BYTES_PER_S))
    }

    /// Over how long a balloon with `bytes` to go is watched before it is judged, milliseconds.
    pub(super) fn stall_window_ms(&self, bytes: u64) -> Millis {
        let (least, most) = (*STALL_WINDOW_MS.start(), *STALL_WINDOW_MS.end());
        self.patient_ms(bytes).map_or(most, |ms| ms.clamp(least, most))
    }

    /// A balloon that inflates slower is stalled, bytes per second. Nobody is held to more than the policy says, and who was
    /// seen to be slow to half of his own speed.
    pub fn stall_bytes_per_s(&self, policy: &Policy) -> u64 {
        let usual = self.bytes_per_s().map_or(u64::MAX, |seen| seen / USUAL_PART);
        usual.clamp(slowest(policy), policy.stall_bytes_per_s)
    }
}

/// A whole move that was slower teaches nothing: it stood still, whatever it says.
pub(super) fn is_standstill(bytes: u64, ms: Millis, policy: &Policy) -> bool {
    u128::from(bytes) * 1000 < u128::from(slowest(policy)) * u128::from(ms)
}

fn slowest(policy: &Policy) -> u64 {
    policy.stall_bytes_per_s / SLOWEST_PART
}

/// `parts` parts of `old` and one of `new`.
fn weigh(old: u64, parts: u64, new: u64) -> u64 {
    narrow((u128::from(old) * u128::from(parts) + u128::from(new)) / u128::from(parts + 1))
}

/// What `bytes` take, milliseconds.
fn time_ms(bytes: u64, ns_per_mib: u64) -> Millis {
    narrow(u128::from(bytes) * u128::from(ns_per_mib) / (u128::from(MIB) * 1_000_000))
}

/// What was learned of a VM, for an operator: bytes per second, `None` where no move was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// How fast its memory leaves it.
    pub shrink_bytes_per_s: Option<u64>,
    /// How fast memory comes to it.
    pub grow_bytes_per_s: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// After moves of so many MiB in so many milliseconds.
    fn after(moves: &[(u64, Millis)]) -> Progress {
        let mut progress = Progress::default();
        for (mib, ms) in moves {
            progress.saw(mib * MIB, *ms);
        }
        progress
    }

    #[test]
    fn a_rate_is_smoothed_as_a_round_trip() {
        let one = after(&[(100, 1_000)]);
        assert_eq!(one.bytes_per_s(), Some(100 * MIB));
        assert_eq!((one.expected_ms(200 * MIB), one.patient_ms(200 * MIB)), (Some(2_000), Some(6_000)));
        // 10 ms and 50 ms a MiB: SRTT 7/8 · 10 + 1/8 · 50, RTTVAR 3/4 · 5 + 1/4 · 40.
        let two = after(&[(100, 1_000), (100, 5_000)]);
        assert_eq!((two.expected_ms(100 * MIB), two.patient_ms(100 * MIB)), (Some(1_500), Some(1_500 + 5_500)));
        let steady = after(&[(100, 1_000); 40]);
        assert_eq!(steady.patient_ms(1_000 * MIB), Some(10_000), "who is steady needs no slack");
    }

    #[test]
    fn small_moves_tell_how_long_asking_takes_and_are_left_out() {
        assert!(!after(&[(3, 1_000)]).is_known() && after(&[(4, 1_000)]).is_known());
        assert_eq!(after(&[(3, 1_000)]).expected_ms(MIB), None);
    }

    #[test]
    fn a_window_is_as_long_as_the_move_takes_within_two_to_five_seconds() {
        assert_eq!(after(&[]).stall_window_ms(MIB), 5_000, "of a VM that never moved");
        let steady = after(&[(100, 1_000); 40]);
        assert_eq!([10, 300, 9_000].map(|mib| steady.stall_window_ms(mib * MIB)), [2_000, 3_000, 5_000]);
    }

    #[test]
    fn a_slow_balloon_is_held_to_its_own_speed_and_a_fast_one_to_the_policys() {
        let policy = Policy::default();
        let line = |mib, ms| after(&[(mib, ms)]).stall_bytes_per_s(&policy);
        assert_eq!(after(&[]).stall_bytes_per_s(&policy), 15 * MIB);
        assert_eq!((line(200, 1_000), line(8, 1_000)), (15 * MIB, 4 * MIB));
        assert_eq!(line(4, 60_000), 15 * MIB / 4, "nobody is waited for without end");
        assert!(is_standstill(15 * MIB, 4_001, &policy) && !is_standstill(15 * MIB, 4_000, &policy));
    }

    proptest! {
        #[test]
        fn whatever_is_seen_a_rate_lies_between_the_slowest_and_the_fastest_move(
            moves in proptest::collection::vec((4..100_000_u64, 1..10_000_000_u64), 1..50),
        ) {
            let progress = after(&moves);
            let rates = || moves.iter().map(|(mib, ms)| mib * MIB * 1000 / ms);
            let (slowest, fastest) = (rates().min().unwrap(), rates().max().unwrap());
            let seen = progress.bytes_per_s().unwrap();
            // Within what whole nanoseconds a MiB can say.
            prop_assert!(seen >= slowest && seen <= fastest + fastest / 1000 * (fastest / MIB / 1000 + 2), "{seen}");
        }

        #[test]
        fn no_figure_is_too_large(bytes: u64, ms: u64, mib: u64, stall_bytes_per_s: u64) {
            let mut progress = Progress::default();
            for _ in 0..3 {
                progress.saw(bytes, ms);
            }
            let policy = Policy { stall_bytes_per_s, ..Policy::default() };
            prop_assert!((2_000..=5_000).contains(&progress.stall_window_ms(mib)));
            prop_assert!(progress.stall_bytes_per_s(&policy) <= stall_bytes_per_s);
            prop_assert!(progress.slow_bytes_per_s() > 0 && progress.slow_bytes_per_s() <= GUESS_BYTES_PER_S);
            is_standstill(bytes, ms, &policy);
        }
    }
}
