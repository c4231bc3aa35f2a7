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
///
/// It begins with the guest's first stalled or predicted moment and ends when the first growth that was decided on
/// after that is confirmed. A guest that goes on waiting begins a new wait there: a long squeeze is many reactions, not
/// one that grows longer and longer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    since_ms: Option<Millis>,
    goal_bytes: Option<u64>,
    answered_ms: Millis,
}

impl Waiting {
    /// The guest said that it waits since `waiting_ms`, or (0) that it does not.
    pub(super) fn on_demand(&mut self, now_ms: Millis, waiting_ms: u64) {
        if waiting_ms == 0 {
            (self.since_ms, self.goal_bytes) = (None, None);
        } else if self.since_ms.is_none() {
            self.since_ms = Some(now_ms.saturating_sub(waiting_ms).max(self.answered_ms));
        }
    }

    /// The VM is to grow to `target_bytes`.
    pub(super) fn on_growth(&mut self, target_bytes: u64) {
        if self.since_ms.is_some() {
            self.goal_bytes.get_or_insert(target_bytes);
        }
    }

    /// The VM has `allocation_bytes`: how long its guest had waited for them, if it did.
    pub(super) fn on_allocation(&mut self, now_ms: Millis, allocation_bytes: u64) -> Option<u64> {
        let (since_ms, goal_bytes) = (self.since_ms?, self.goal_bytes?);
        if allocation_bytes < goal_bytes {
            return None;
        }
        *self = Self { answered_ms: now_ms, ..Self::default() };
        Some(now_ms.saturating_sub(since_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_from_its_first_moment_to_the_first_growth() {
        let mut waiting = Waiting::default();
        waiting.on_demand(1_000, 40);
        waiting.on_growth(500);
        waiting.on_demand(1_250, 10);
        waiting.on_growth(900);
        assert_eq!(waiting.on_allocation(1_270, 499), None);
        assert_eq!(waiting.on_allocation(1_300, 500), Some(340), "to the first goal, not to one set later");
        assert_eq!(waiting.on_allocation(1_400, 900), None, "one growth answers one wait");
    }

    #[test]
    fn a_wait_that_goes_on_begins_anew_where_it_was_answered() {
        let mut waiting = Waiting::default();
        waiting.on_demand(1_000, 10);
        waiting.on_growth(500);
        waiting.on_allocation(1_100, 500);
        waiting.on_demand(2_000, 1_010);
        waiting.on_growth(600);
        assert_eq!(waiting.on_allocation(2_050, 600), Some(950));
    }

    #[test]
    fn a_wait_that_passed_without_us_does_not_count() {
        let mut waiting = Waiting::default();
        waiting.on_demand(2_000, 5);
        waiting.on_growth(500);
        waiting.on_demand(2_100, 0);
        assert_eq!(waiting.on_allocation(2_200, 500), None);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut reactions = Reactions::default();
        assert_eq!(reactions.summary(), Reaction { count: 0, p50: 0, p95: 0 });
        (1..=100).for_each(|ms| reactions.push(ms));
        assert_eq!(reactions.summary(), Reaction { count: 100, p50: 50, p95: 95 });
    }
}
