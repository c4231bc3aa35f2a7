//! The balloon's statistics: what a guest without an agent shows of its use.
//!
//! The guest writes them, so nothing in them is trusted; a driver that does not know a value writes −1, which
//! arrives as 2^64−1.

use serde_json::Value;
use std::time::{Duration, Instant};

/// Turns statistics into a use, as long as they are recent and refer to the present allocation.
#[derive(Debug)]
pub(super) struct Reader {
    /// Statistics that did not change for this long are a driver's last words.
    expiry: Duration,
    allocation_bytes: u64,
    /// The `last-update` with which `allocation_bytes` was first seen.
    seen_with: u64,
    /// The newest `last-update`, and when it was first seen.
    newest: Option<(u64, Instant)>,
}

impl Reader {
    /// A reader for a driver that is asked more than once in `expiry`.
    pub(super) fn new(expiry: Duration) -> Self {
        Self { expiry, allocation_bytes: 0, seen_with: 0, newest: None }
    }

    /// What is in use: the allocation without what the guest calls available.
    ///
    /// The numbers refer to the balloon's size when the guest took them; right after a move that is the old
    /// size, so the first update after a move is what counts. `None` until then, and for old or impossible values.
    pub(super) fn use_bytes(&mut self, guest_stats: &Value, allocation_bytes: u64, now: Instant) -> Option<u64> {
        let updated = guest_stats.get("last-update")?.as_u64()?;
        if allocation_bytes != self.allocation_bytes {
            (self.allocation_bytes, self.seen_with) = (allocation_bytes, updated);
        }
        let (_, since) = self.newest.take_if(|(newest, _)| *newest == updated).unwrap_or((updated, now));
        self.newest = Some((updated, since));
        let available = guest_stats.get("stats")?.get("stat-available-memory")?.as_u64()?;
        if updated <= self.seen_with || now.duration_since(since) >= self.expiry {
            return None;
        }
        allocation_bytes.checked_sub(available)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const EXPIRY: Duration = Duration::from_secs(30);

    fn stats(updated: u64, available: u64) -> Value {
        json!({ "last-update": updated, "stats": { "stat-available-memory": available, "stat-free-memory": 1 } })
    }

    #[test]
    fn counts_only_what_was_taken_after_the_last_move() {
        let (mut reader, now) = (Reader::new(EXPIRY), Instant::now());
        assert_eq!(reader.use_bytes(&stats(5, 100), 1000, now), None, "taken before or after the move?");
        assert_eq!(reader.use_bytes(&stats(6, 100), 1000, now), Some(900));
        assert_eq!(reader.use_bytes(&stats(6, 100), 600, now), None, "refers to the old size");
        assert_eq!(reader.use_bytes(&stats(7, 50), 600, now), Some(550));
    }

    #[test]
    fn forgets_a_driver_that_stopped() {
        let (mut reader, now) = (Reader::new(EXPIRY), Instant::now());
        reader.use_bytes(&stats(5, 100), 1000, now);
        assert_eq!(reader.use_bytes(&stats(6, 100), 1000, now), Some(900));
        assert_eq!(reader.use_bytes(&stats(6, 100), 1000, now + EXPIRY), None);
        assert_eq!(reader.use_bytes(&stats(7, 100), 1000, now + EXPIRY), Some(900));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let (mut reader, now) = (Reader::new(EXPIRY), Instant::now());
        reader.use_bytes(&stats(1, 0), 1000, now);
        for impossible in [stats(2, u64::MAX), stats(2, 1001), json!({ "last-update": 2, "stats": {} }), json!(null)] {
            assert_eq!(reader.use_bytes(&impossible, 1000, now), None, "{impossible}");
        }
    }
}
