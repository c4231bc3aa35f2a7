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
/// after that is confirmed, or as much of it as the guest needed to wait no longer. A guest that goes on waiting begins a new wait
/// there: a long squeeze is many reactions, not one that grows longer and longer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    since_ms: Option<Millis>,
    goal_bytes: Option<u64>,
    /// The most that it had on its way there.
    most_bytes: u64,
    /// When that was confirmed; `None` before the first of it.
    grown_ms: Option<Millis>,
    answered_ms: Millis,
}

impl Waiting {
    /// The guest said that it waits since `waiting_ms`, or (0) that it does not: how long it had waited, if it was given something.
    pub(super) fn on_demand(&mut self, now_ms: Millis, waiting_ms: u64) -> Option<u64> {
        if waiting_ms == 0 {
            let grown_ms = self.grown_ms;
            let since_ms = self.since_ms;
            *self = Self { answered_ms: grown_ms.unwrap_or(self.answered_ms), ..Self::default() };
            return Some(grown_ms?.saturating_sub(since_ms?));
        }
        if self.since_ms.is_none() {
            self.since_ms = Some(now_ms.saturating_sub(waiting_ms).max(self.answered_ms));
        }
        None
    }

    /// The VM has `allocation_bytes`, and is to grow to `target_bytes`.
    pub(super) fn on_growth(&mut self, allocation_bytes: u64, target_bytes: u64) {
        if self.since_ms.is_some() && self.goal_bytes.is_none() {
            (self.goal_bytes, self.most_bytes) = (Some(target_bytes), allocation_bytes);
        }
    }

    /// The VM has `allocation_bytes`: how long its guest had waited for them, if it did.
    pub(super) fn on_allocation(&mut self, now_ms: Millis, allocation_bytes: u64) -> Option<u64> {
        let (since_ms, goal_bytes) = (self.since_ms?, self.goal_bytes?);
        if allocation_bytes < goal_bytes {
            if allocation_bytes > self.most_bytes {
                (self.most_bytes, self.grown_ms) = (allocation_bytes, Some(now_ms));
            }
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
        assert_eq!(waiting.on_demand(1_000, 40), None);
        waiting.on_growth(400, 500);
        assert_eq!(waiting.on_demand(1_250, 10), None);
        waiting.on_growth(400, 900);
        assert_eq!(waiting.on_allocation(1_270, 499), None);
        assert_eq!(waiting.on_allocation(1_300, 500), Some(340), "to the first goal, not to one set later");
        assert_eq!(waiting.on_allocation(1_400, 900), None, "one growth answers one wait");
    }

    #[test]
    fn a_wait_that_goes_on_begins_anew_where_it_was_answered() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.on_demand(1_000, 10), None);
        waiting.on_growth(400, 500);
        waiting.on_allocation(1_100, 500);
        assert_eq!(waiting.on_demand(2_000, 1_010), None);
        waiting.on_growth(400, 600);
        assert_eq!(waiting.on_allocation(2_050, 600), Some(950));
    }

    #[test]
    fn a_wait_that_ends_on_the_way_to_the_goal_counts_to_what_ended_it() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.on_demand(1_000, 40), None);
        waiting.on_growth(400, 500);
        for (now_ms, allocation_bytes) in [(1_010, 400), (1_030, 460), (1_055, 450)] {
            assert_eq!(waiting.on_allocation(now_ms, allocation_bytes), None);
        }
        assert_eq!(waiting.on_demand(1_100, 0), Some(70));
        assert_eq!(waiting.on_demand(1_200, 0), None, "once");
        assert_eq!(waiting.on_allocation(1_300, 500), None, "the rest answers nobody");
    }

    #[test]
    fn a_wait_that_passed_without_us_does_not_count() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.on_demand(2_000, 5), None);
        waiting.on_growth(400, 500);
        assert_eq!(waiting.on_demand(2_100, 0), None);
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
