//! The working set of a made-up guest over time.
//!
//! ```text
//! working set = base + day + burst, at most 95 % of the maximum, followed at the speed at which the guest allocates
//! base   15..45 % of the maximum: what runs all the time
//! day    0..40 % more at the peak, a cosine; seven in ten guests peak at 14:00 give or take 90 min, the rest any time
//! burst  10..45 % more while it is on: off for an exponential time of 40 min on average, on for a log-normal one of
//!        6 min in the median (10 on average), as batch jobs and builds are
//! ```
//!
//! A day of many such guests has its least near 40 % of the sum of the maximums and its peak near 54 %. With an
//! overcommit of 1.5 there are 67 %: needs and headroom fit all day, but for hosts of few VMs. Single guests come to
//! their maximum every day. With 2.0 the peak does not fit.

use super::random::{Random, real, whole};
use crate::plan::{Limits, MIB, Millis};
use std::sync::LazyLock;

const GIB: u64 = 1024 * MIB;
const MINUTE_MS: Millis = 60_000;
const DAY_MINUTES: u64 = 24 * 60;
/// Beyond, the guest's own kernel would be out of memory.
const MOST_PERMILLE: u64 = 950;

/// Thousandths of the day's part by the minute since its least.
static DAY_PERMILLE: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let at = |minute: u64| whole(500.0 * (1.0 - (std::f64::consts::TAU * real(minute) / real(DAY_MINUTES)).cos()));
    (0..DAY_MINUTES).map(at).collect()
});

/// A guest's working set.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    random: Random,
    maximum_bytes: u64,
    base_bytes: u64,
    day_bytes: u64,
    /// The minute of its least use.
    day_starts: u64,
    burst_bytes: u64,
    is_bursting: bool,
    /// When the burst begins or ends.
    turns_ms: Millis,
    /// How fast it takes memory into use; it lets go four times as fast.
    ramp_bytes_per_s: u64,
    bytes: u64,
    /// Share of the working set that is anonymous and cannot just be dropped, thousandths.
    pub anonymous_permille: u64,
}

impl Workload {
    /// A guest with its limits, at the beginning of the first day.
    pub fn new(mut random: Random) -> (Limits, Self) {
        let maximum_bytes = GIB * random.choose(&[(25, 1), (30, 2), (25, 4), (15, 8), (5, 16)], 2);
        let limits = Limits {
            reservation_bytes: 0,
            minimum_bytes: (maximum_bytes / 8).max(128 * MIB),
            maximum_bytes,
            shares: random.choose(&[(15, 500), (65, 1000), (15, 2000), (5, 4000)], 1000),
        };
        let peak = 14 * 60 + random.within(0, 180) - 90;
        let peak = random.choose(&[(7, peak), (3, random.clone().within(0, DAY_MINUTES - 1))], peak);
        let mut part = |low, high| maximum_bytes / 1000 * random.within(low, high);
        let (base_bytes, day_bytes, burst_bytes) = (part(150, 450), part(0, 400), part(100, 450));
        let mut workload = Self {
            maximum_bytes,
            base_bytes,
            day_bytes,
            day_starts: (peak + DAY_MINUTES / 2) % DAY_MINUTES,
            burst_bytes,
            is_bursting: false,
            turns_ms: random.exponential(40 * MINUTE_MS),
            ramp_bytes_per_s: MIB * random.within(64, 512),
            bytes: 0,
            anonymous_permille: random.within(500, 900),
            random,
        };
        workload.bytes = workload.goal_bytes(0);
        (limits, workload)
    }

    /// The working set at `now_ms`, `elapsed_ms` after the last time.
    pub fn tick(&mut self, now_ms: Millis, elapsed_ms: Millis) -> u64 {
        while self.turns_ms <= now_ms {
            self.is_bursting = !self.is_bursting;
            let lasts = if self.is_bursting {
                self.random.log_normal(6 * MINUTE_MS)
            } else {
                self.random.exponential(40 * MINUTE_MS)
            };
            self.turns_ms += lasts.max(1_000);
        }
        let goal = self.goal_bytes(now_ms);
        let step = self.ramp_bytes_per_s * elapsed_ms / 1000;
        self.bytes = goal.clamp(self.bytes.saturating_sub(4 * step), self.bytes + step);
        self.bytes
    }

    fn goal_bytes(&self, now_ms: Millis) -> u64 {
        let minute = (now_ms / MINUTE_MS + DAY_MINUTES - self.day_starts) % DAY_MINUTES;
        let permille = usize::try_from(minute).ok().and_then(|minute| DAY_PERMILLE.get(minute)).copied().unwrap_or(0);
        let burst = if self.is_bursting { self.burst_bytes } else { 0 };
        let all = self.base_bytes + self.day_bytes / 1000 * permille + burst;
        all.min(self.maximum_bytes / 1000 * MOST_PERMILLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Working sets over the sum of the maximums, thousandths, at each quarter of an hour of the second day.
    fn day(guests: u64) -> Vec<u64> {
        let mut guests: Vec<_> = (0..guests).map(|number| Workload::new(Random::new(1, number))).collect();
        let maximum: u64 = guests.iter().map(|(limits, _)| limits.maximum_bytes).sum();
        let quarter = |quarter: u64| quarter * 15 * MINUTE_MS;
        (96..192)
            .map(|at| {
                guests.iter_mut().map(|(_, guest)| guest.tick(quarter(at), quarter(1))).sum::<u64>() * 1000 / maximum
            })
            .collect()
    }

    #[test]
    fn a_day_of_many_guests_is_as_the_module_says() {
        let day = day(4_000);
        let (least, most) = (day.iter().min().unwrap(), day.iter().max().unwrap());
        assert!((380..=430).contains(least) && (520..=570).contains(most), "{least} to {most}");
        let peak = day.iter().position(|permille| permille == most).unwrap();
        assert!((52..=60).contains(&peak), "the peak is at {} h", peak / 4);
    }

    #[test]
    fn single_guests_come_near_their_maximum_and_never_beyond() {
        let mut near = 0;
        for number in 0..200 {
            let (limits, mut guest) = Workload::new(Random::new(3, number));
            assert!(limits.minimum_bytes <= limits.maximum_bytes);
            let most = (0..1_440).map(|minute| guest.tick(minute * MINUTE_MS, MINUTE_MS)).max().unwrap();
            assert!(most <= limits.maximum_bytes / 1000 * MOST_PERMILLE);
            near += u64::from(most >= limits.maximum_bytes / 10 * 9);
        }
        assert!(near >= 40, "{near} of 200");
    }
}
