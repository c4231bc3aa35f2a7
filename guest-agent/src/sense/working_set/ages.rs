//! From the LRU's generations to a working set. Pure.
//!
//! A sample tells two ages, 10 seconds and a minute. What was not used for five minutes is bounded by what earlier samples
//! said: a page that was not used since a time was not used when anybody looked after it, so the least of what was idle
//! then is the most that it can be.

use super::cycle::{LONG_MS, SHORT_MS};
use super::mglru::{Pages, used_within};
use super::{Source, WorkingSet};
use std::collections::VecDeque;

/// The longest of the ages that are told, give or take a look that came late.
const LONGEST_MS: u64 = 300_000;
const SLACK_MS: u64 = SHORT_MS;

/// What earlier samples said.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// At most so many bytes were not used since a time.
    idle_since: VecDeque<(u64, u64)>,
}

impl Ages {
    /// Takes in generations that were made at `now_ms`, the ones before them at `since_ms`.
    pub(super) fn rested(&mut self, since_ms: u64, now_ms: u64, all: &[Pages]) {
        let seen = used_within(all, now_ms.saturating_sub(since_ms));
        self.idle_since.push_back((since_ms, bytes(seen.idle_pages.saturating_add(seen.unsure_pages))));
    }

    /// The working set, of generations that were made a minute ago, 10 s ago and at `now_ms`; its cost is left out. `None`
    /// when they were not: reclaim makes generations, too, and faster. Then it is the stall that tells what is needed.
    pub(super) fn sample(&mut self, now_ms: u64, all: &[Pages]) -> Option<WorkingSet> {
        let (short, long) = (used_within(all, SHORT_MS), used_within(all, LONG_MS));
        let total_bytes = bytes(long.used_pages.saturating_add(long.idle_pages).saturating_add(long.unsure_pages));
        if bytes(long.unsure_pages) > total_bytes / 10 {
            return None;
        }
        let used_60_s_bytes = bytes(long.used_pages.saturating_add(long.unsure_pages));
        self.idle_since.push_back((now_ms.saturating_sub(LONG_MS), total_bytes.saturating_sub(used_60_s_bytes)));
        self.idle_since.retain(|&(since_ms, _)| since_ms.saturating_add(LONGEST_MS + SLACK_MS) >= now_ms);
        let reaches_back = |&(since_ms, _): &(u64, u64)| since_ms.saturating_add(LONGEST_MS - LONG_MS) <= now_ms;
        let is_known = self.idle_since.iter().any(reaches_back);
        let idle_bytes = self.idle_since.iter().map(|&(_, bytes)| bytes).min().filter(|_| is_known).unwrap_or(0);
        Some(WorkingSet {
            source: Source::Mglru,
            at_ms: now_ms,
            used_10_s_bytes: bytes(short.used_pages.saturating_add(short.unsure_pages)).min(used_60_s_bytes),
            used_60_s_bytes,
            used_300_s_bytes: total_bytes.saturating_sub(idle_bytes).max(used_60_s_bytes),
            total_bytes,
            file_60_s_bytes: Some(bytes(long.used_file_pages)),
            cost_us: 0,
        })
    }
}

fn bytes(pages: u64) -> u64 {
    pages.saturating_mul(procfs::page_size())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::working_set::mglru::parsed;

    const S: u64 = 1_000;

    /// Generations made 60 s ago, 10 s ago and now; pages of each, oldest first.
    fn at_marks([oldest, minute, short, new]: [u64; 4]) -> Vec<Pages> {
        parsed(&format!(
            "memcg 1 /\n node 0\n 5 200000 {oldest} 0\n 6 60010 0 {minute}\n 7 10008 {short} 0\n 8 4 {new} 0\n"
        ))
    }

    fn pages(bytes: u64) -> u64 {
        bytes / procfs::page_size()
    }

    #[test]
    fn a_sample_tells_ten_seconds_and_a_minute() {
        let seen = Ages::default().sample(60 * S, &at_marks([1000, 200, 30, 4])).unwrap();
        assert_eq!((pages(seen.used_10_s_bytes), pages(seen.used_60_s_bytes)), (34, 234));
        assert_eq!(seen.file_60_s_bytes.map(pages), Some(200));
        assert_eq!(seen.used_300_s_bytes, seen.total_bytes, "one minute says nothing of five");
    }

    #[test]
    fn five_minutes_are_known_after_five_minutes_and_bounded_by_what_was_idle_in_each() {
        let mut ages = Ages::default();
        let idle = [900, 700, 900, 950, 1000];
        let seen: Vec<_> = idle
            .iter()
            .zip(1..)
            .map(|(&idle, minute)| ages.sample(minute * 60 * S, &at_marks([idle, 1000 - idle, 0, 0])))
            .collect();
        let used: Vec<_> = seen.into_iter().map(|seen| pages(seen.unwrap().used_300_s_bytes)).collect();
        assert_eq!(used, [1000, 1000, 1000, 300, 300], "700 pages were idle in the second minute");
        let later = ages.sample(480 * S, &at_marks([1000, 0, 0, 0])).unwrap();
        assert_eq!(pages(later.used_300_s_bytes), 50, "the second minute is long past");
    }

    #[test]
    fn a_quiet_guests_rest_counts_as_a_look() {
        let mut ages = Ages::default();
        ages.sample(60 * S, &at_marks([800, 200, 0, 0])).unwrap();
        // 100 of the idle pages were used while the agent rested, none since.
        ages.rested(
            60 * S,
            300 * S,
            &parsed("memcg 1 /\n node 0\n 5 290000 700 0\n 6 250000 0 0\n 7 240010 300 0\n 8 4 0 0\n"),
        );
        let seen = ages.sample(360 * S, &at_marks([1000, 0, 0, 0])).unwrap();
        assert_eq!((pages(seen.used_60_s_bytes), pages(seen.used_300_s_bytes)), (0, 300));
    }

    #[test]
    fn generations_that_somebody_else_made_are_no_sample() {
        let fast = parsed("memcg 1 /\n node 0\n 4 9000 1000 0\n 5 6000 2 0\n 6 3000 0 4\n 7 20 8 0\n");
        assert_eq!(Ages::default().sample(60 * S, &fast), None);
    }
}
