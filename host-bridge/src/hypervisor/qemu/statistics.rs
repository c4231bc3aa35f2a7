//! The balloon's statistics: what a guest without an agent shows of its use.
//!
//! The guest writes them, so nothing in them is trusted; a driver that does not know a value writes −1, which
//! arrives as 2^64−1.

use serde_json::Value;
use std::time::{Duration, Instant};

/// What statistics show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// In use: the allocation without what the guest calls available.
    pub(super) use_bytes: u64,
    /// MemFree; `None` when it cannot be.
    pub(super) free_bytes: Option<u64>,
}

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

    /// What is in use and what is free of `allocation_bytes`.
    ///
    /// The numbers refer to the balloon's size when the guest took them; right after a move that is the old
    /// size, so the first update after a move is what counts. `None` until then, and for old or impossible values.
    pub(super) fn read(&mut self, guest_stats: &Value, allocation_bytes: u64, now: Instant) -> Option<Shown> {
        let updated = guest_stats.get("last-update")?.as_u64()?;
        if allocation_bytes != self.allocation_bytes {
            (self.allocation_bytes, self.seen_with) = (allocation_bytes, updated);
        }
        let (_, since) = self.newest.take_if(|(newest, _)| *newest == updated).unwrap_or((updated, now));
        self.newest = Some((updated, since));
        let stats = guest_stats.get("stats")?;
        let available = stats.get("stat-available-memory")?.as_u64()?;
        let free_bytes = stats.get("stat-free-memory").and_then(Value::as_u64);
        if updated <= self.seen_with || now.duration_since(since) >= self.expiry {
            return None;
        }
        let use_bytes = allocation_bytes.checked_sub(available)?;
        Some(Shown { use_bytes, free_bytes: free_bytes.filter(|free| *free <= allocation_bytes) })
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

    fn use_bytes(reader: &mut Reader, guest_stats: &Value, allocation_bytes: u64, now: Instant) -> Option<u64> {
        reader.read(guest_stats, allocation_bytes, now).map(|shown| shown.use_bytes)
    }

    #[test]
    fn free_memory_is_shown_where_it_can_be() {
        let (mut reader, now) = (Reader::new(EXPIRY), Instant::now());
        let stats = |updated, free: u64| json!({ "last-update": updated, "stats": { "stat-available-memory": 400, "stat-free-memory": free } });
        reader.read(&stats(1, 0), 1000, now);
        for (updated, free, expected) in [(2, 300, Some(300)), (3, u64::MAX, None), (4, 1001, None)] {
            let shown = reader.read(&stats(updated, free), 1000, now);
            assert_eq!(shown, Some(Shown { use_bytes: 600, free_bytes: expected }));
        }
    }

    #[test]
    fn counts_only_what_was_taken_after_the_last_move() {
        let (mut reader, now) = (Reader::new(EXPIRY), Instant::now());
        assert_eq!(use_bytes(&mut reader, &stats(5, 100), 1000, now), None, "taken before or after the move?");
        assert_eq!(use_bytes(&mut reader, &stats(6, 100), 1000, now), Some(900));
        assert_eq!(use_bytes(&mut reader, &stats(6, 100), 600, now), None, "refers to the old size");
        assert_eq!(use_bytes(&mut reader, &stats(7, 50), 600, now), Some(550));
    }

    #[test]
    fn forgets_a_driver_that_stopped() {
        let (mut reader, now) = (Reader::new(EXPIRY), Instant::now());
        use_bytes(&mut reader, &stats(5, 100), 1000, now);
        assert_eq!(use_bytes(&mut reader, &stats(6, 100), 1000, now), Some(900));
        assert_eq!(use_bytes(&mut reader, &stats(6, 100), 1000, now + EXPIRY), None);
        assert_eq!(use_bytes(&mut reader, &stats(7, 100), 1000, now + EXPIRY), Some(900));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let (mut reader, now) = (Reader::new(EXPIRY), Instant::now());
        use_bytes(&mut reader, &stats(1, 0), 1000, now);
        for impossible in [stats(2, u64::MAX), stats(2, 1001), json!({ "last-update": 2, "stats": {} }), json!(null)] {
            assert_eq!(use_bytes(&mut reader, &impossible, 1000, now), None, "{impossible}");
        }
    }
}
