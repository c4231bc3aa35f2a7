//! How long guests waited: from the first stalled or predicted microsecond to the larger allocation confirmed.

use crate::api::types::Reaction;
use crate::plan::Millis;
use std::collections::VecDeque;

/// Reactions that the percentiles are taken over.
const KEPT: usize = 1024;

/// The last reactions of all VMs.
#[derive(Debug, Default)]
pub(super) struct Reactions {
    count: u64,
    kept_ms: VecDeque<u64>,
}

impl Reactions {
    pub(super) fn push(&mut self, ms: u64) {
        self.count += 1;
        if self.kept_ms.len() == KEPT {
            self.kept_ms.pop_front();
        }
        self.kept_ms.push_back(ms);
    }

    pub(super) fn summary(&self) -> Reaction {
        let mut sorted: Vec<u64> = self.kept_ms.iter().copied().collect();
        sorted.sort_unstable();
        // Nearest rank: the smallest value that at least this share of the values does not exceed.
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        Reaction { count: self.count, p50: rank(50), p95: rank(95) }
    }
}

/// One VM's wait, while it lasts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting(Option<Millis>);

impl Waiting {
    /// The guest said that it waits since `waiting_ms`, or (0) that it does not.
    pub(super) fn on_demand(&mut self, now_ms: Millis, waiting_ms: u64) {
        self.0 = match (waiting_ms, self.0) {
            (0, _) => None,
            (_, Some(since)) => Some(since),
            (waiting_ms, None) => Some(now_ms.saturating_sub(waiting_ms)),
        };
    }

    /// A growth was confirmed: how long the guest had waited for it, if it did.
    pub(super) fn on_growth(&mut self, now_ms: Millis) -> Option<u64> {
        self.0.take().map(|since| now_ms.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_from_its_first_moment_to_the_growth() {
        let mut waiting = Waiting::default();
        waiting.on_demand(1_000, 40);
        waiting.on_demand(1_250, 10);
        assert_eq!(waiting.on_growth(1_300), Some(340));
        assert_eq!(waiting.on_growth(1_400), None, "one growth answers one wait");
        waiting.on_demand(2_000, 5);
        waiting.on_demand(2_100, 0);
        assert_eq!(waiting.on_growth(2_200), None, "it passed without us");
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut reactions = Reactions::default();
        assert_eq!(reactions.summary(), Reaction { count: 0, p50: 0, p95: 0 });
        (1..=100).for_each(|ms| reactions.push(ms));
        assert_eq!(reactions.summary(), Reaction { count: 100, p50: 50, p95: 95 });
    }
}
