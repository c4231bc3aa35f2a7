//! How often to look: hardly ever while nothing happens, often while memory runs out.
//!
//! ```text
//! quiet   nothing moves        as long as the available memory surely lasts, 1 s to the bridge's quiet interval
//! busy    need moves           the bridge's busy interval
//! fast    memory runs out,     100 ms, 50 ms when it will be gone before a grant can arrive
//!         or a stall grows
//! ```

use super::Outlook;
use super::memory::MIB;
use serde::{Deserialize, Serialize};
use vmtide_protocol::bridge::Intervals;
use vmtide_protocol::demand::Urgency;

/// Growth that comes out of nowhere is expected to be no faster than this.
const SUDDEN_BYTES_PER_S: u64 = 128 * MIB;
/// A quiet agent looks no more often than this, however little is available; the PSI trigger wakes it.
const QUIET_LEAST_MS: u64 = 1_000;
const FAST_MS: u64 = 100;
const FASTEST_MS: u64 = 50;
/// Look often when memory will be gone within this time.
const NEAR_MS: u64 = 10_000;
/// Go on looking often for this long after a stall grew.
const FAST_LINGER_MS: u64 = 2_000;
/// Stay busy for this long after the need moved.
const BUSY_LINGER_MS: u64 = 5_000;

/// How closely the agent looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing happens.
    Quiet,
    /// Demand moves.
    #[default]
    Busy,
    /// Memory runs out or a stall grows.
    Fast,
}

/// Decides when to look again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    mode: Mode,
    urgency: Urgency,
    /// The need that later ones are compared with, and when it was taken.
    anchor: Option<(u64, u64)>,
    grew_ms: Option<u64>,
}

impl Pace {
    /// Takes in the latest outlook, and returns after how many milliseconds to look again.
    pub fn next_ms(&mut self, now_ms: u64, outlook: &Outlook, intervals: Intervals) -> u64 {
        let within = |at_ms: Option<u64>, ms| at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < ms);
        if outlook.stall_grows || outlook.urgency > self.urgency.max(Urgency::Normal) {
            self.grew_ms = Some(now_ms);
        }
        self.urgency = outlook.urgency;
        let noise_bytes = (outlook.present_bytes / 100).max(8 * MIB);
        if self.anchor.is_none_or(|(need_bytes, _)| need_bytes.abs_diff(outlook.need_bytes) > noise_bytes) {
            self.anchor = Some((outlook.need_bytes, now_ms));
        }
        let near = outlook.exhausted_in_ms.is_some_and(|ms| ms < NEAR_MS);
        self.mode = if near || within(self.grew_ms, FAST_LINGER_MS) {
            Mode::Fast
        } else if outlook.urgency >= Urgency::Pressed || within(self.anchor.map(|(_, at_ms)| at_ms), BUSY_LINGER_MS) {
            Mode::Busy
        } else {
            Mode::Quiet
        };
        match self.mode {
            Mode::Fast if outlook.exhausted_in_ms.is_some_and(|ms| ms < outlook.grant_ms) => FASTEST_MS,
            Mode::Fast => FAST_MS,
            Mode::Busy => intervals.busy_ms,
            Mode::Quiet => {
                let lasts_ms = outlook.available_bytes / (SUDDEN_BYTES_PER_S / 1000);
                lasts_ms.clamp(QUIET_LEAST_MS.min(intervals.quiet_ms), intervals.quiet_ms)
            }
        }
    }

    /// How closely the agent looks now.
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Outlook = Outlook {
        urgency: Urgency::Normal,
        need_bytes: 500 * MIB,
        present_bytes: 768 * MIB,
        available_bytes: 512 * MIB,
        exhausted_in_ms: None,
        grant_ms: 2_000,
        stall_grows: false,
        new_oom_kills: 0,
    };

    fn next_ms(pace: &mut Pace, now_ms: u64, outlook: Outlook) -> u64 {
        pace.next_ms(now_ms, &outlook, Intervals::default())
    }

    /// A pace that has seen nothing happen for a while.
    fn quiet() -> Pace {
        let mut pace = Pace::default();
        next_ms(&mut pace, 0, CALM);
        next_ms(&mut pace, 5_000, CALM);
        assert_eq!(pace.mode(), Mode::Quiet);
        pace
    }

    #[test]
    fn a_quiet_agent_sleeps_as_long_as_available_memory_lasts() {
        for (available_mib, expected_ms) in [(0, 1_000), (100, 1_000), (512, 4_000), (1_000, 7_812), (9_999, 10_000)] {
            let outlook = Outlook { available_bytes: available_mib * MIB, ..CALM };
            assert_eq!(next_ms(&mut quiet(), 9_000, outlook), expected_ms, "{available_mib} MiB");
        }
    }

    #[test]
    fn noise_does_not_wake_it_and_movement_does() {
        let mut pace = quiet();
        for n in 0..100 {
            let need_bytes = CALM.need_bytes + (n % 2) * 8 * MIB;
            next_ms(&mut pace, 6_000 + n * 1_000, Outlook { need_bytes, ..CALM });
            assert_eq!(pace.mode(), Mode::Quiet);
        }
        let moved = Outlook { need_bytes: 520 * MIB, ..CALM };
        assert_eq!(next_ms(&mut pace, 200_000, moved), 1_000);
        assert_eq!(pace.mode(), Mode::Busy);
        next_ms(&mut pace, 205_000, moved);
        assert_eq!(pace.mode(), Mode::Quiet);
    }

    #[test]
    fn it_looks_often_while_memory_runs_out() {
        let mut pace = quiet();
        for (exhausted_in_ms, expected_ms) in
            [(Some(60_000), 4_000), (Some(9_000), 100), (Some(1_999), 50), (None, 4_000)]
        {
            let outlook = Outlook { exhausted_in_ms, ..CALM };
            assert_eq!(next_ms(&mut pace, 9_000, outlook), expected_ms, "{exhausted_in_ms:?}");
        }
    }

    #[test]
    fn it_looks_often_while_a_stall_grows_and_not_while_it_stays() {
        let mut pace = quiet();
        let stalled = Outlook { urgency: Urgency::Critical, ..CALM };
        assert_eq!(next_ms(&mut pace, 9_000, Outlook { stall_grows: true, ..stalled }), 100);
        assert_eq!(next_ms(&mut pace, 10_900, stalled), 100);
        assert_eq!(next_ms(&mut pace, 11_100, stalled), 1_000);
        assert_eq!(next_ms(&mut pace, 60_000, stalled), 1_000);
        assert_eq!(next_ms(&mut pace, 61_000, CALM), 4_000);
    }
}
