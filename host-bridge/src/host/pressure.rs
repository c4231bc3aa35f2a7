//! `/proc/pressure/*`: the share of time between two readings in which tasks waited.
//!
//! The kernel's own averages span 10 s or more, too long to see a stall before it is over; its totals do not.

use super::SHORTEST_WINDOW_MS;
use crate::plan::Millis;
use std::path::Path;

/// What was read last of one resource.
#[derive(Debug)]
pub(super) struct Pressure {
    resource: &'static str,
    last: Option<(Millis, Totals)>,
    shares: Shares,
    said_absent: bool,
}

/// Since boot, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    some_us: u64,
    full_us: u64,
}

/// Shares of the time between the last two readings, thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shares {
    /// In which some task waited.
    pub(super) some_permille: u32,
    /// In which all tasks that could have run waited.
    pub(super) full_permille: u32,
}

impl Pressure {
    /// Of a resource as the kernel names it: `cpu`, `memory` or `io`.
    pub(super) fn of(resource: &'static str) -> Self {
        Self { resource, last: None, shares: Shares::default(), said_absent: false }
    }

    /// The shares at `now_ms`; none until there are two readings, and where the kernel does not say.
    pub(super) fn read(&mut self, root: &Path, now_ms: Millis) -> Shares {
        let path = root.join("proc/pressure").join(self.resource);
        match std::fs::read_to_string(&path).map(|text| Totals::parse(&text)) {
            Ok(Some(totals)) => self.note(now_ms, totals),
            Ok(None) => self.absent(&path, "no line that begins with some and has a total"),
            Err(error) => self.absent(&path, &error.to_string()),
        }
        self.shares
    }

    fn absent(&mut self, path: &Path, error: &str) {
        if !self.said_absent {
            tracing::info!(path = %path.display(), error, "no pressure stall information; it counts as none");
        }
        *self = Self { said_absent: true, ..Self::of(self.resource) };
    }

    fn note(&mut self, now_ms: Millis, now: Totals) {
        let Some((last_ms, last)) = self.last else {
            self.last = Some((now_ms, now));
            return;
        };
        let window_ms = now_ms.saturating_sub(last_ms);
        if window_ms < SHORTEST_WINDOW_MS {
            return;
        }
        self.shares = last.shares(&now, window_ms);
        self.last = Some((now_ms, now));
    }
}

impl Totals {
    /// The shares of the `window_ms` from here to `after`.
    pub(super) fn shares(&self, after: &Self, window_ms: u64) -> Shares {
        // Microseconds by milliseconds are thousandths.
        let share = |before: u64, after: u64| {
            let permille = after.saturating_sub(before) / window_ms.max(1);
            u32::try_from(permille).map_or(1000, |permille| permille.min(1000))
        };
        Shares { some_permille: share(self.some_us, after.some_us), full_permille: share(self.full_us, after.full_us) }
    }

    /// Time in which some task waited, since boot.
    pub(super) fn some_us(&self) -> u64 {
        self.some_us
    }

    /// `None` without a `some`. Before Linux 5.13 `cpu` has no `full`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let total = |kind: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
            line.split_whitespace().find_map(|field| field.strip_prefix("total="))?.parse().ok()
        };
        Some(Self { some_us: total("some ")?, full_us: total("full ").unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_that_of_the_window_and_never_more_than_all() {
        let mut pressure = Pressure::of("io");
        for (at_ms, total_us, permille) in [
            (0, 7_000_000, 0),
            (1_000, 7_250_000, 250),
            (1_050, 7_300_000, 250),
            (2_000, 7_250_000, 0),
            (2_100, 9_000_000, 1000),
        ] {
            pressure.note(at_ms, Totals { some_us: total_us, full_us: total_us / 2 });
            assert_eq!(pressure.shares.some_permille, permille, "at {at_ms} ms");
        }
    }

    #[test]
    fn totals_are_read_from_what_kernels_say() {
        let line = |kind: &str, total: &str| format!("{kind} avg10=0.12 avg60=0.51 avg300=0.79 total={total}\n");
        let both = line("some", "83") + &line("full", "52");
        assert_eq!(Totals::parse(&both), Some(Totals { some_us: 83, full_us: 52 }));
        assert_eq!(Totals::parse(&line("some", "83")), Some(Totals { some_us: 83, full_us: 0 }));
        for odd in ["", "some", "some \n", "some total=-1\n", "something total=5\n", &line("full", "52")] {
            assert_eq!(Totals::parse(odd), None, "{odd:?}");
        }
    }
}
