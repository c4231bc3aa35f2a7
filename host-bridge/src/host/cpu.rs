//! `/proc/stat`: how much of the host's CPUs was used between two readings, and how much a hypervisor below took.

use super::SHORTEST_WINDOW_MS;
use crate::plan::Millis;
use std::path::Path;

/// What was read last.
#[derive(Debug, Default)]
pub(super) struct Cpu {
    last: Option<(Millis, Ticks)>,
    shares: Shares,
    said_absent: bool,
}

/// Since boot, over all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticks {
    all: u64,
    unused: u64,
    steal: u64,
}

/// Shares of all CPUs' time between the last two readings, thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shares {
    /// Not idle; what was stolen counts as used.
    pub(super) used_permille: u32,
    /// Wanted, and had by somebody else: the host is a guest itself.
    pub(super) steal_permille: u32,
}

impl Cpu {
    /// The shares at `now_ms`; none until there are two readings, and where the kernel does not say.
    pub(super) fn read(&mut self, root: &Path, now_ms: Millis) -> Shares {
        let path = root.join("proc/stat");
        match std::fs::read_to_string(&path).map(|text| Ticks::parse(&text)) {
            Ok(Some(ticks)) => self.note(now_ms, ticks),
            Ok(None) => self.absent(&path, "no line cpu with its times"),
            Err(error) => self.absent(&path, &error.to_string()),
        }
        self.shares
    }

    fn absent(&mut self, path: &Path, error: &str) {
        if !self.said_absent {
            tracing::info!(path = %path.display(), error, "no times of the CPUs; they count as unused");
        }
        *self = Self { said_absent: true, ..Self::default() };
    }

    fn note(&mut self, now_ms: Millis, now: Ticks) {
        let Some((last_ms, last)) = self.last else {
            self.last = Some((now_ms, now));
            return;
        };
        if now_ms.saturating_sub(last_ms) < SHORTEST_WINDOW_MS {
            return;
        }
        if let Some(shares) = last.shares(&now) {
            self.shares = shares;
            self.last = Some((now_ms, now));
        }
    }
}

impl Ticks {
    /// The shares of the time from here to `after`; `None` where none went by.
    pub(super) fn shares(&self, after: &Self) -> Option<Shares> {
        let all = after.all.saturating_sub(self.all);
        // A counter of one CPU may fall a little, as that of iowait does.
        let share = |before: u64, after: u64| {
            let part = (u128::from(after.saturating_sub(before)) * 1000).checked_div(u128::from(all))?;
            Some(u32::try_from(part).map_or(1000, |permille| permille.min(1000)))
        };
        let used_permille = 1000 - share(self.unused, after.unused)?;
        Some(Shares { used_permille, steal_permille: share(self.steal, after.steal)? })
    }

    /// What was not idle, since boot; what was stolen counts.
    pub(super) fn used_ms(&self) -> u64 {
        ms(self.all.saturating_sub(self.unused))
    }

    /// What was stolen, since boot.
    pub(super) fn steal_ms(&self) -> u64 {
        ms(self.steal)
    }

    /// `cpu user nice system idle iowait irq softirq steal …`; what follows is in `user` and `nice` already.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields: Result<Vec<u64>, _> = line.split_whitespace().take(8).map(str::parse).collect();
        let fields = fields.ok().filter(|fields| fields.len() >= 4)?;
        let at = |index: usize| fields.get(index).copied().unwrap_or(0);
        Some(Self {
            all: fields.iter().fold(0, |sum, &ticks| sum.saturating_add(ticks)),
            unused: at(3).saturating_add(at(4)),
            steal: at(7),
        })
    }
}

fn ms(ticks: u64) -> u64 {
    ticks.saturating_mul(1000) / procfs::ticks_per_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_those_of_the_window() {
        let mut cpu = Cpu::default();
        for (at_ms, ticks, used_permille, steal_permille) in [
            (0, "10 0 10 100 20 0 0 40 5 0", 0, 0),
            (1_000, "110 0 10 140 40 0 0 80 105 0", 700, 200),
            (1_050, "210 0 10 140 40 0 0 80 205 0", 700, 200),
            (2_000, "110 0 10 140 40 0 0 80 105 0", 700, 200),
            (3_000, "110 0 10 340 39 0 0 80 105 0", 0, 0),
        ] {
            cpu.note(at_ms, Ticks::parse(&format!("cpu  {ticks}\ncpu0 1 2 3 4\n")).unwrap());
            assert_eq!(cpu.shares, Shares { used_permille, steal_permille }, "at {at_ms} ms");
        }
    }

    #[test]
    fn odd_content_says_nothing() {
        for odd in ["", "cpu ", "cpu 1 2 3\n", "cpu a b c d\n", "cpu 1 2 3 99999999999999999999\n", "cpu0 1 2 3 4\n"] {
            assert_eq!(Ticks::parse(odd), None, "{odd:?}");
        }
        assert_eq!(Ticks::parse("cpu  1 2 3 4\n"), Some(Ticks { all: 10, unused: 4, steal: 0 }), "an old kernel");
    }
}
