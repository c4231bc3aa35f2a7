//! When to have the LRU make a new generation. Pure.
//!
//! The kernel keeps four generations, so one sample knows three ages. Marks 60 and 10 seconds before the sample make
//! two of them the ages that are wanted:
//!
//! ```text
//!   begin ------ 50 s ------ split -- 10 s -- end, sample ---- rest ---- begin ...
//!                                              | no rest: the end is the next beginning
//! ```

/// The older age that a sample tells.
pub(super) const LONG_MS: u64 = 60_000;
/// The younger one.
pub(super) const SHORT_MS: u64 = 10_000;
/// A quiet guest is looked at each five minutes.
const QUIET_REST_MS: u64 = 240_000;
/// However dear it is.
const LONGEST_REST_MS: u64 = 3_600_000;
/// A mark that is later than this makes another age than was wanted.
const LATE_MS: u64 = 5_000;

/// A new generation, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// 60 seconds before the sample.
    Begin,
    /// 10 seconds before.
    Split,
    /// The sample.
    End,
}

/// Where the cycle stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Cycle {
    /// Nothing was done yet.
    #[default]
    New,
    /// The beginning was marked.
    Begun { at_ms: u64 },
    /// So was the split.
    Split { at_ms: u64 },
    /// The sample was taken.
    Ended { at_ms: u64 },
}

impl Cycle {
    /// The next mark and when it is due.
    pub(super) fn next(self, now_ms: u64, rest_ms: u64) -> (Mark, u64) {
        match self {
            Self::New => (Mark::Begin, now_ms),
            Self::Begun { at_ms } => in_time(now_ms, Mark::Split, at_ms + LONG_MS - SHORT_MS),
            Self::Split { at_ms } => in_time(now_ms, Mark::End, at_ms + SHORT_MS),
            Self::Ended { at_ms } if rest_ms == 0 => in_time(now_ms, Mark::Split, at_ms + LONG_MS - SHORT_MS),
            Self::Ended { at_ms } => (Mark::Begin, at_ms + rest_ms),
        }
    }

    /// After `mark` was made.
    pub(super) fn after(mark: Mark, at_ms: u64) -> Self {
        match mark {
            Mark::Begin => Self::Begun { at_ms },
            Mark::Split => Self::Split { at_ms },
            Mark::End => Self::Ended { at_ms },
        }
    }
}

/// The mark, or another beginning if it is too late for it.
fn in_time(now_ms: u64, mark: Mark, due_ms: u64) -> (Mark, u64) {
    if now_ms > due_ms + LATE_MS { (Mark::Begin, now_ms) } else { (mark, due_ms) }
}

/// How long to rest after a sample that took `cost_us` of CPU time: a thousandth of a CPU is spent at most, a
/// ten-thousandth in a quiet guest.
pub(super) fn rest_ms(quiet: bool, cost_us: u64) -> u64 {
    let (least_ms, cycle_ms) = if quiet { (QUIET_REST_MS, cost_us.saturating_mul(10)) } else { (0, cost_us) };
    cycle_ms.saturating_sub(LONG_MS).clamp(least_ms, LONGEST_REST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When which marks are made over `seconds`, looking each second.
    fn marks(seconds: u64, rest_ms: impl Fn(u64) -> u64) -> Vec<(u64, Mark)> {
        let (mut cycle, mut made) = (Cycle::New, Vec::new());
        for second in 0..=seconds {
            let (mark, due_ms) = cycle.next(second * 1_000, rest_ms(second));
            if second * 1_000 >= due_ms {
                cycle = Cycle::after(mark, second * 1_000);
                made.push((second, mark));
            }
        }
        made
    }

    #[test]
    fn without_rest_an_end_is_the_next_beginning() {
        use Mark::{Begin, End, Split};
        assert_eq!(marks(120, |_| 0), [(0, Begin), (50, Split), (60, End), (110, Split), (120, End)]);
    }

    #[test]
    fn a_quiet_guest_is_looked_at_each_five_minutes_and_a_busy_one_at_once() {
        use Mark::{Begin, End, Split};
        let quiet = |_| rest_ms(true, 0);
        assert_eq!(marks(360, quiet)[3..], [(300, Begin), (350, Split), (360, End)]);
        let busy_from_150 = |second| rest_ms(second < 150, 0);
        assert_eq!(marks(215, busy_from_150)[3..], [(150, Begin), (200, Split), (210, End)]);
        let busy_from_80 = |second| rest_ms(second < 80, 0);
        assert_eq!(marks(130, busy_from_80)[3..], [(110, Split), (120, End)]);
    }

    #[test]
    fn a_mark_that_was_missed_begins_anew() {
        assert_eq!(Cycle::Begun { at_ms: 0 }.next(55_000, 0), (Mark::Split, 50_000));
        assert_eq!(Cycle::Begun { at_ms: 0 }.next(55_001, 0), (Mark::Begin, 55_001));
        assert_eq!(Cycle::Split { at_ms: 50_000 }.next(66_000, 0), (Mark::Begin, 66_000));
    }

    #[test]
    fn looking_costs_a_bounded_share_of_a_cpu() {
        for (quiet, cost_us, cycle_s) in
            [(false, 1_000, 60), (false, 60_000, 60), (false, 90_000, 90), (true, 1_000, 300), (true, 90_000, 900)]
        {
            assert_eq!(LONG_MS + rest_ms(quiet, cost_us), cycle_s * 1_000, "{quiet} {cost_us}");
        }
        assert_eq!(rest_ms(true, u64::MAX), LONGEST_REST_MS);
    }
}
