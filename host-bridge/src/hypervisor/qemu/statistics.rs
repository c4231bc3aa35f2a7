//! The balloon's statistics: what a guest without an agent shows of its use.
//!
//! The guest writes them, so nothing in them is trusted; a driver that does not know a value writes −1, which
//! arrives as 2^64−1.

use serde_json::Value;

/// Turns statistics into a use, as long as they refer to the present allocation.
#[derive(Debug, Default)]
pub(super) struct Reader {
    allocation_bytes: u64,
    /// The `last-update` with which `allocation_bytes` was first seen.
    seen_with: u64,
}

impl Reader {
    /// What is in use: the allocation without what the guest calls available.
    ///
    /// The numbers refer to the balloon's size when the guest took them; right after a move that is the old
    /// size, so the first update after a move is what counts. `None` until then, and for impossible values.
    pub(super) fn use_bytes(&mut self, guest_stats: &Value, allocation_bytes: u64) -> Option<u64> {
        let updated = guest_stats.get("last-update")?.as_u64()?;
        if allocation_bytes != self.allocation_bytes {
            *self = Self { allocation_bytes, seen_with: updated };
        }
        let available = guest_stats.get("stats")?.get("stat-available-memory")?.as_u64()?;
        if updated <= self.seen_with {
            return None;
        }
        allocation_bytes.checked_sub(available)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stats(updated: u64, available: u64) -> Value {
        json!({ "last-update": updated, "stats": { "stat-available-memory": available, "stat-free-memory": 1 } })
    }

    #[test]
    fn counts_only_what_was_taken_after_the_last_move() {
        let mut reader = Reader::default();
        assert_eq!(reader.use_bytes(&stats(5, 100), 1000), None, "taken before or after the move?");
        assert_eq!(reader.use_bytes(&stats(6, 100), 1000), Some(900));
        assert_eq!(reader.use_bytes(&stats(6, 100), 600), None, "refers to the old size");
        assert_eq!(reader.use_bytes(&stats(7, 50), 600), Some(550));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let mut reader = Reader::default();
        reader.use_bytes(&stats(1, 0), 1000);
        for impossible in [stats(2, u64::MAX), stats(2, 1001), json!({ "last-update": 2, "stats": {} }), json!(null)] {
            assert_eq!(reader.use_bytes(&impossible, 1000), None, "{impossible}");
        }
    }
}
