//! When operations are done.

use std::time::Duration;

/// Random pages touched by one operation, unless there is a rate.
pub const TOUCHES: u64 = 32;

/// Operations with a rate come in batches of this length.
const BATCH: Duration = Duration::from_millis(10);

/// What lies further back than this is lost.
const MADE_UP: Duration = Duration::from_millis(100);

/// When operations are done; either way several guests fit on a small machine.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// With this pause after each.
    Think(Duration),
    /// So many a second, each of one page. What cannot be done in time is lost: a shortage shows as less work, not as work
    /// that is done later.
    Rate(u32),
}

/// One phase's operations.
#[derive(Debug)]
pub(super) struct Pacer {
    pace: Pace,
    /// Up to when operations have been asked for, since the phase began.
    asked: Duration,
}

impl Pacer {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, asked: Duration::ZERO }
    }

    /// Pages that an operation touches.
    pub(super) fn touches(&self) -> u64 {
        if matches!(self.pace, Pace::Rate(_)) { 1 } else { TOUCHES }
    }

    /// Whether operations wait until the phase has its memory.
    pub(super) fn fills_first(&self) -> bool {
        matches!(self.pace, Pace::Rate(_))
    }

    /// Operations to be done now, at most a batch or two.
    pub(super) fn due(&mut self, now: Duration) -> u64 {
        let Pace::Rate(rate) = self.pace else { return 1 };
        let in_time = |time: Duration| time.as_nanos() * u128::from(rate) / 1_000_000_000;
        let period = Duration::from_secs(1) / rate.max(1);
        self.asked = self.asked.max(now.saturating_sub(MADE_UP.max(period)));
        let due = in_time(now.saturating_sub(self.asked)).min(in_time(2 * BATCH).max(1));
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        self.asked += Duration::from_secs(1) * due / rate.max(1);
        due.into()
    }

    /// How long to rest now.
    pub(super) fn pause(&self, now: Duration) -> Duration {
        match self.pace {
            Pace::Think(pause) => pause,
            Pace::Rate(_) => (self.asked + BATCH).saturating_sub(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_rate_is_kept_and_a_short_delay_is_made_up_for() {
        let mut pacer = Pacer::new(Pace::Rate(20_000));
        assert_eq!(pacer.due(ms(0)), 0);
        assert_eq!(pacer.pause(ms(0)), ms(10));
        assert_eq!(pacer.due(ms(10)), 200);
        // Woken 50 ms late: batch after batch without a rest until it is made up for.
        assert_eq!((pacer.due(ms(70)), pacer.pause(ms(70))), (400, ms(0)));
        assert_eq!((pacer.due(ms(70)), pacer.due(ms(70)), pacer.due(ms(70))), (400, 400, 0));
        assert_eq!(pacer.pause(ms(70)), ms(10));
    }

    #[test]
    fn what_a_stall_took_is_lost() {
        let mut pacer = Pacer::new(Pace::Rate(20_000));
        let mut done = 0;
        while pacer.pause(ms(5000)).is_zero() {
            done += pacer.due(ms(5000));
        }
        assert!((1800..=2000).contains(&done), "{done} operations after five seconds of stall");
    }

    #[test]
    fn fractions_of_an_operation_add_up() {
        let mut pacer = Pacer::new(Pace::Rate(30));
        let done: u64 = (1..=100).map(|batch| pacer.due(ms(10 * batch))).sum();
        assert_eq!(done, 30);
    }
}
