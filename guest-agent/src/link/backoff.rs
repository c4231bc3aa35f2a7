//! How long to wait before the next attempt: longer each time, and never the same for all VMs of a host.

use std::time::Duration;

/// Delays that double from a least to a most, each shortened by chance to between half and all of itself.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

/// Limits that make no back-off.
#[derive(Debug, thiserror::Error)]
#[error("a back-off from {least:?} to {most:?}: expected more than nothing, rising")]
pub struct BackoffError {
    least: Duration,
    most: Duration,
}

impl Backoff {
    /// A back-off between two limits.
    ///
    /// # Errors
    /// [`BackoffError`] when `least` is no time at all (it would spin), or more than `most`.
    pub fn new(least: Duration, most: Duration) -> Result<Self, BackoffError> {
        if least < Duration::from_millis(1) || least > most {
            return Err(BackoffError { least, most });
        }
        Ok(Self { least, most, next: least })
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.most);
        shortened(delay)
    }

    /// Begins anew from the least.
    pub fn reset(&mut self) {
        self.next = self.least;
    }

    /// The longest delay.
    pub fn most(&self) -> Duration {
        self.most
    }
}

/// Between half of `delay` and all of it.
pub(super) fn shortened(delay: Duration) -> Duration {
    delay.mul_f64(1.0 - fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn limits_have_to_make_sense() {
        for (least, most) in [(0, 10), (11, 10)] {
            assert!(Backoff::new(ms(least), ms(most)).is_err(), "{least} {most}");
        }
        assert!(Backoff::new(ms(10), ms(10)).is_ok());
    }

    #[test]
    fn delays_double_up_to_the_most_and_begin_anew() {
        let mut backoff = Backoff::new(ms(100), ms(1_000)).unwrap();
        for _ in 0..2 {
            for full in [100, 200, 400, 800, 1_000, 1_000] {
                let delay = backoff.next_delay();
                assert!((ms(full / 2)..=ms(full)).contains(&delay), "{delay:?} of {full} ms");
            }
            backoff.reset();
        }
    }
}
