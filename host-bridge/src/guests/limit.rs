//! How often something may happen. Time is an argument.

use std::time::Duration;
use tokio::time::Instant;

/// A token bucket, kept as the one moment at which it would be full (the generic cell rate algorithm).
#[derive(Debug)]
pub(super) struct Bucket {
    interval: Duration,
    tolerance: Duration,
    full_at: Instant,
}

impl Bucket {
    /// `burst` (at least 1) at once, then one each `interval`.
    pub(super) fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self { interval, tolerance: interval * burst.saturating_sub(1), full_at: now }
    }

    /// Takes a token; `false` when there is none.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now);
        let has_token = full_at - now <= self.tolerance;
        if has_token {
            self.full_at = full_at + self.interval;
        }
        has_token
    }
}

/// Lines in the log about one thing that others can make happen as often as they like.
#[derive(Debug)]
pub(super) struct LogQuota {
    bucket: Bucket,
    suppressed: u64,
}

impl LogQuota {
    /// `burst` lines at once, then one a minute.
    pub(super) fn new(burst: u32, now: Instant) -> Self {
        Self { bucket: Bucket::new(burst, Duration::from_secs(60), now), suppressed: 0 }
    }

    /// Whether to write the line, and then how many were suppressed before it.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        if self.bucket.take(now) {
            Some(std::mem::take(&mut self.suppressed))
        } else {
            self.suppressed += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, Duration::from_millis(100), start);
        let taken =
            |bucket: &mut Bucket, at_ms| (0..10).filter(|_| bucket.take(start + Duration::from_millis(at_ms))).count();
        assert_eq!(taken(&mut bucket, 0), 3);
        assert_eq!(taken(&mut bucket, 99), 0);
        assert_eq!(taken(&mut bucket, 250), 2);
        assert_eq!(taken(&mut bucket, 1_000_000), 3);
    }

    #[test]
    fn suppressed_lines_are_counted_in_the_next_one() {
        let start = Instant::now();
        let mut quota = LogQuota::new(1, start);
        assert_eq!(quota.take(start), Some(0));
        assert_eq!(quota.take(start), None);
        assert_eq!(quota.take(start + Duration::from_secs(59)), None);
        assert_eq!(quota.take(start + Duration::from_secs(60)), Some(2));
    }
}
