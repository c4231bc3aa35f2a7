//! Values that forget: averages and sums whose past fades by e in a given time.

#![allow(clippy::cast_precision_loss)] // 52 bits of bytes are 4 PiB
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates, which is what is wanted

/// What is left of the past after `elapsed_ms`.
fn remaining(elapsed_ms: u64, fade_ms: u64) -> f64 {
    (-(elapsed_ms as f64) / fade_ms as f64).exp()
}

/// `value` after it faded for `elapsed_ms`.
pub(super) fn faded(value: u64, elapsed_ms: u64, fade_ms: u64) -> u64 {
    (value as f64 * remaining(elapsed_ms, fade_ms)) as u64
}

/// The average of a rate per second, late values weighing more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Average {
    per_second: f64,
    fade_ms: u64,
}

impl Average {
    pub(super) fn new(fade_ms: u64) -> Self {
        Self { per_second: 0.0, fade_ms }
    }

    /// Takes in what a gauge did over the last `elapsed_ms`.
    pub(super) fn moved(&mut self, before: u64, now: u64, elapsed_ms: u64) {
        let seconds = elapsed_ms.max(1) as f64 / 1000.0;
        self.take((now as f64 - before as f64) / seconds, elapsed_ms);
    }

    /// Takes in the value of the last `elapsed_ms`.
    pub(super) fn was(&mut self, value: u64, elapsed_ms: u64) {
        self.take(value as f64, elapsed_ms);
    }

    fn take(&mut self, value: f64, elapsed_ms: u64) {
        let kept = remaining(elapsed_ms.max(1), self.fade_ms);
        self.per_second = self.per_second * kept + value * (1.0 - kept);
    }

    /// The average, 0 when negative.
    pub(super) fn value(&self) -> u64 {
        self.per_second.round() as u64
    }
}

/// The sum of what came lately.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recent {
    sum: f64,
    fade_ms: u64,
}

impl Recent {
    pub(super) fn new(fade_ms: u64) -> Self {
        Self { sum: 0.0, fade_ms }
    }

    /// Takes in how much a counter rose over the last `elapsed_ms`.
    pub(super) fn rose(&mut self, by: u64, elapsed_ms: u64) {
        self.sum = self.sum * remaining(elapsed_ms, self.fade_ms) + by as f64;
    }

    pub(super) fn value(&self) -> u64 {
        self.sum.round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_does_not_depend_on_how_often_it_is_fed() {
        let (mut coarse, mut fine) = (Average::new(500), Average::new(500));
        coarse.was(100, 1_000);
        for _ in 0..20 {
            fine.was(100, 50);
        }
        assert_eq!(coarse.value(), fine.value());
        assert_eq!(coarse.value(), 86);
    }

    #[test]
    fn a_falling_gauge_averages_to_no_rise() {
        let mut average = Average::new(500);
        average.moved(10_000, 0, 100);
        assert_eq!(average.value(), 0);
        average.moved(0, u64::MAX, 0);
        assert!(average.value() > 0);
    }

    #[test]
    fn what_is_recent_fades() {
        let mut recent = Recent::new(10_000);
        recent.rose(1_000, 100);
        recent.rose(0, 10_000);
        assert_eq!(recent.value(), 368);
        assert_eq!(faded(1_000, 10_000, 10_000), 367);
    }
}
