//! `/proc/pressure/memory`: the share of time between two readings in which tasks waited.
//!
//! The kernel's own averages span 10 s or more, too long to see a stall before it is over; its totals do not.

use crate::plan::Millis;
use procfs::{FromRead, MemoryPressure};
use std::path::Path;

/// A window shorter than this says too little; the share before it holds.
const SHORTEST_WINDOW_MS: u64 = 100;

/// What was read last.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    last: Option<Totals>,
    some_permille: u32,
    full_permille: u32,
    said_absent: bool,
}

#[derive(Debug)]
struct Totals {
    at_ms: Millis,
    some_us: u64,
    full_us: u64,
}

impl Pressure {
    /// The shares in which some and all tasks waited, thousandths; 0 until there are two readings.
    pub(super) fn read(&mut self, root: &Path, now_ms: Millis) -> (u32, u32) {
        let path = root.join("proc/pressure/memory");
        match MemoryPressure::from_file(&path) {
            Ok(pressure) => {
                self.note(Totals { at_ms: now_ms, some_us: pressure.some.total, full_us: pressure.full.total });
            }
            Err(error) => {
                if !std::mem::replace(&mut self.said_absent, true) {
                    tracing::info!(path = %path.display(), %error, "no pressure stall information; it counts as none");
                }
                *self = Self { said_absent: true, ..Self::default() };
            }
        }
        (self.some_permille, self.full_permille)
    }

    fn note(&mut self, now: Totals) {
        let Some(last) = &self.last else {
            self.last = Some(now);
            return;
        };
        let window_ms = now.at_ms.saturating_sub(last.at_ms);
        if window_ms < SHORTEST_WINDOW_MS {
            return;
        }
        // Microseconds by milliseconds are thousandths.
        let share = |before: u64, after: u64| {
            u32::try_from(after.saturating_sub(before) / window_ms).map_or(1000, |permille| permille.min(1000))
        };
        self.some_permille = share(last.some_us, now.some_us);
        self.full_permille = share(last.full_us, now.full_us);
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_that_of_the_window_and_never_more_than_all() {
        let mut pressure = Pressure::default();
        for (at_ms, total_us, permille) in [
            (0, 7_000_000, 0),
            (1_000, 7_250_000, 250),
            (1_050, 7_300_000, 250),
            (2_000, 7_250_000, 0),
            (2_100, 9_000_000, 1000),
        ] {
            pressure.note(Totals { at_ms, some_us: total_us, full_us: 0 });
            assert_eq!((pressure.some_permille, pressure.full_permille), (permille, 0), "at {at_ms} ms");
        }
    }
}
