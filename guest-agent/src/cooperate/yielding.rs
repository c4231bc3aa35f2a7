//! What to do next to free memory that nobody misses. Pure: time is an argument.
//!
//! ```text
//!          calm: twice as much                      spare enough, at the floor, deadline,
//! reclaim a step -> wait, look ----------------------> nothing cold left, somebody misses it: stop
//!    ^                 | stirred: the smallest step, once
//!    +-----------------+
//! ```
//!
//! *Spare* is what a balloon can take without anybody reclaiming: free memory, but for a margin, and never below the guest's
//! floor. That is what is promised, measured at the end; how much was reclaimed on the way does not matter.

const MIB: u64 = 1024 * 1024;
const FIRST_BYTES: u64 = 16 * MIB;
const LEAST_BYTES: u64 = 4 * MIB;
const MOST_BYTES: u64 = 64 * MIB;
/// Tasks may wait for 1 % of a step's time.
const STALLED_PERMILLE: u64 = 10;
/// Where they wait for 10 % there is no second try.
const HURT_PERMILLE: u64 = 100;
/// Of what was taken, a sixteenth may come back at once, a quarter is too much.
const MISSED_PART: u64 = 16;
const HURT_PART: u64 = 4;
/// Steps in a row that may be stirred before it ends.
const TRIES: u32 = 2;
/// Steps in a row that free next to nothing before nothing is cold. A kernel that has found no old pages ages those that it
/// has, and finds them at the next try; these are small.
const DRY_TRIES: u32 = 4;
/// Those who miss a page need time to show it.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 20..=100;

/// The guest at one moment. Counters count since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// MemFree.
    pub free_bytes: u64,
    /// MemAvailable.
    pub available_bytes: u64,
    /// The margin between the guest's hard use and its floor.
    pub margin_bytes: u64,
    /// Counter: time in which some task waited for memory.
    pub stalled_us: u64,
    /// Counter: pages that were evicted and had to be read again.
    pub missed_bytes: u64,
}

impl Reading {
    /// What a balloon can take now.
    pub fn spare_bytes(&self) -> u64 {
        self.free_bytes.min(self.available_bytes).saturating_sub(self.margin_bytes)
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Reclaim this much, wait for [`Yield::pause_ms`], and look again.
    Reclaim {
        /// How much.
        bytes: u64,
    },
    /// End.
    Stop(Stop),
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All that was asked is spare.
    Enough,
    /// The guest has nothing above its floor.
    AtTheFloor,
    /// The deadline.
    Deadline,
    /// Reclaim finds nothing more.
    NothingCold,
    /// What was taken came back.
    Missed,
    /// Tasks waited for memory.
    Stalled,
    /// The kernel cannot be asked to reclaim.
    Unable,
}

impl Stop {
    /// For a person.
    pub fn text(self) -> &'static str {
        match self {
            Self::Enough => "all of it",
            Self::AtTheFloor => "the guest is at its floor",
            Self::Deadline => "the deadline",
            Self::NothingCold => "nothing more can be reclaimed",
            Self::Missed => "what was taken came back",
            Self::Stalled => "tasks waited for memory",
            Self::Unable => "this kernel cannot be asked to reclaim",
        }
    }
}

/// One request on its way.
#[derive(Clone, Debug)]
pub struct Yield {
    wanted_bytes: u64,
    deadline_ms: u64,
    step: Option<Step>,
    step_bytes: u64,
    stirred: u32,
    dry: u32,
}

/// The step that was taken last.
#[derive(Clone, Copy, Debug)]
struct Step {
    began_ms: u64,
    bytes: u64,
    before: Reading,
}

impl Yield {
    /// To have `wanted_bytes` spare by `deadline_ms`.
    pub fn new(wanted_bytes: u64, deadline_ms: u64) -> Self {
        Self { wanted_bytes, deadline_ms, step: None, step_bytes: FIRST_BYTES, stirred: 0, dry: 0 }
    }

    /// What to do at `now_ms`.
    pub fn next(&mut self, now_ms: u64, now: &Reading) -> Next {
        let spare_bytes = now.spare_bytes();
        if spare_bytes >= self.wanted_bytes {
            return Next::Stop(Stop::Enough);
        }
        if let Some(stop) = self.step.and_then(|step| self.judge(step, now_ms, now)) {
            return Next::Stop(stop);
        }
        if now.available_bytes <= now.margin_bytes {
            return Next::Stop(Stop::AtTheFloor);
        }
        let missing_bytes = self.wanted_bytes - spare_bytes;
        let bytes = self.step_bytes.min(missing_bytes).max(LEAST_BYTES).min(self.in_time(now_ms));
        if bytes < LEAST_BYTES {
            return Next::Stop(Stop::Deadline);
        }
        self.step = Some(Step { began_ms: now_ms, bytes, before: *now });
        Next::Reclaim { bytes }
    }

    /// How long to wait after a step that took `took_ms`.
    pub fn pause_ms(took_ms: u64) -> u64 {
        took_ms.clamp(*PAUSE_MS.start(), *PAUSE_MS.end())
    }

    /// What a step did: why to end, or how large the next one is.
    fn judge(&mut self, step: Step, now_ms: u64, now: &Reading) -> Option<Stop> {
        let took_ms = now_ms.saturating_sub(step.began_ms).max(1);
        let stalled_permille = now.stalled_us.saturating_sub(step.before.stalled_us) / took_ms;
        let missed_bytes = now.missed_bytes.saturating_sub(step.before.missed_bytes);
        let stalled = stalled_permille >= STALLED_PERMILLE;
        let missed = missed_bytes > step.bytes / MISSED_PART;
        if stalled || missed {
            self.stirred += 1;
            let hurt = stalled_permille >= HURT_PERMILLE || missed_bytes > step.bytes / HURT_PART;
            if hurt || self.stirred >= TRIES {
                return Some(if missed { Stop::Missed } else { Stop::Stalled });
            }
            self.step_bytes = LEAST_BYTES;
        } else {
            self.stirred = 0;
            self.step_bytes = (step.bytes * 2).clamp(LEAST_BYTES, MOST_BYTES);
        }
        let freed_bytes = now.free_bytes.saturating_sub(step.before.free_bytes);
        if freed_bytes < step.bytes / 4 {
            self.dry += 1;
            self.step_bytes = LEAST_BYTES;
        } else {
            self.dry = 0;
        }
        (self.dry >= DRY_TRIES).then_some(Stop::NothingCold)
    }

    /// How much can be reclaimed before the deadline, as fast as the last step was.
    fn in_time(&self, now_ms: u64) -> u64 {
        let left_ms = self.deadline_ms.saturating_sub(now_ms);
        match self.step {
            Some(step) => {
                let took_ms = now_ms.saturating_sub(step.began_ms).max(1);
                u64::try_from(u128::from(step.bytes) * u128::from(left_ms) / u128::from(took_ms)).unwrap_or(u64::MAX)
            }
            None if left_ms == 0 => 0,
            None => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A guest with cold and hot cache: what is reclaimed is cold first, and hot pages come back at once.
    #[derive(Clone, Debug)]
    struct Guest {
        now: Reading,
        cold_bytes: u64,
        ms_per_mib: u64,
        /// Tasks wait for this share of the time once hot pages are taken.
        hot_permille: u64,
    }

    fn guest(free_mib: u64, cold_mib: u64, hot_mib: u64) -> Guest {
        let now = Reading {
            free_bytes: free_mib * MIB,
            available_bytes: (free_mib + cold_mib + hot_mib) * MIB,
            margin_bytes: 20 * MIB,
            ..Reading::default()
        };
        Guest { now, cold_bytes: cold_mib * MIB, ms_per_mib: 1, hot_permille: 0 }
    }

    impl Guest {
        /// Does what it is asked until it ends; returns why, when, and the steps.
        fn serves(&mut self, wanted_mib: u64, deadline_ms: u64) -> (Stop, u64, Vec<u64>) {
            let mut request = Yield::new(wanted_mib * MIB, deadline_ms);
            let (mut now_ms, mut steps) = (0, Vec::new());
            loop {
                match request.next(now_ms, &self.now) {
                    Next::Stop(stop) => return (stop, now_ms, steps),
                    Next::Reclaim { bytes } => {
                        let cold_bytes = bytes.min(self.cold_bytes);
                        self.cold_bytes -= cold_bytes;
                        self.now.free_bytes += cold_bytes;
                        let took_ms = bytes / MIB * self.ms_per_mib;
                        let pause_ms = Yield::pause_ms(took_ms);
                        if cold_bytes < bytes && self.hot_permille > 0 {
                            self.now.missed_bytes += bytes - cold_bytes;
                            self.now.stalled_us += (took_ms + pause_ms) * self.hot_permille;
                        }
                        now_ms += took_ms + pause_ms;
                        steps.push(bytes / MIB);
                    }
                }
            }
        }
    }

    #[test]
    fn cold_cache_is_freed_in_growing_steps_and_no_more_than_asked() {
        let mut guest = guest(30, 300, 0);
        let (stop, _, steps) = guest.serves(200, 5_000);
        assert_eq!(stop, Stop::Enough);
        assert_eq!(steps, [16, 32, 64, 64, 14]);
        assert_eq!(guest.now.spare_bytes(), 200 * MIB);
    }

    #[test]
    fn what_is_free_already_needs_no_reclaim() {
        assert_eq!(guest(230, 300, 0).serves(200, 5_000), (Stop::Enough, 0, vec![]));
        assert_eq!(guest(0, 0, 0).serves(0, 0), (Stop::Enough, 0, vec![]));
    }

    #[test]
    fn it_stops_when_somebody_misses_what_was_taken() {
        let mut hot = Guest { hot_permille: 50, ..guest(20, 60, 300) };
        let (stop, _, steps) = hot.serves(200, 5_000);
        assert_eq!((stop, steps.len()), (Stop::Missed, 3), "{steps:?}");
        assert!(hot.now.spare_bytes() >= 48 * MIB);
    }

    #[test]
    fn one_stir_makes_it_careful_and_a_second_ends_it() {
        let mut request = Yield::new(500 * MIB, 60_000);
        let mut now = guest(20, 500, 0).now;
        assert_eq!(request.next(0, &now), Next::Reclaim { bytes: 16 * MIB });
        now.free_bytes += 16 * MIB;
        now.stalled_us += 2_000;
        assert_eq!(request.next(100, &now), Next::Reclaim { bytes: LEAST_BYTES });
        now.free_bytes += LEAST_BYTES;
        assert_eq!(request.next(200, &now), Next::Reclaim { bytes: 2 * LEAST_BYTES }, "calm again");
        for (at_ms, expected) in [(300, Next::Reclaim { bytes: LEAST_BYTES }), (400, Next::Stop(Stop::Stalled))] {
            now.free_bytes += 8 * MIB;
            now.stalled_us += 1_500;
            assert_eq!(request.next(at_ms, &now), expected);
        }
    }

    #[test]
    fn a_stall_that_hurts_ends_it_at_once() {
        let mut request = Yield::new(500 * MIB, 60_000);
        let mut now = guest(20, 500, 0).now;
        request.next(0, &now);
        now.stalled_us += 10_000;
        assert_eq!(request.next(100, &now), Next::Stop(Stop::Stalled));
    }

    #[test]
    fn where_nothing_is_cold_it_ends() {
        let (stop, _, steps) = guest(20, 10, 200).serves(100, 60_000);
        assert_eq!((stop, steps), (Stop::NothingCold, vec![16, 32, 4, 4, 4]));
        let mut bare = guest(5, 0, 10);
        assert_eq!(bare.serves(100, 60_000), (Stop::AtTheFloor, 0, vec![]));
    }

    proptest! {
        #[test]
        fn the_deadline_holds_and_the_margin_stays(
            free_mib in 0u64..200, cold_mib in 0u64..600, hot_mib in 0u64..300, wanted_mib in 0u64..1_000,
            deadline_ms in 0u64..3_000, ms_per_mib in 0u64..40, hot_permille in 0u64..200,
        ) {
            let mut guest = Guest { ms_per_mib, hot_permille, ..guest(free_mib, cold_mib, hot_mib) };
            let before = guest.now;
            let (stop, ended_ms, steps) = guest.serves(wanted_mib, deadline_ms);
            // One step, the first, is taken without knowing how long it takes.
            let first_ms = steps.first().map_or(0, |mib| mib * ms_per_mib + Yield::pause_ms(mib * ms_per_mib));
            prop_assert!(ended_ms <= deadline_ms.max(first_ms) + 100, "{stop:?} at {ended_ms} after {steps:?}");
            prop_assert!(stop != Stop::Enough || guest.now.spare_bytes() >= wanted_mib * MIB);
            prop_assert!(guest.now.spare_bytes() + guest.now.margin_bytes <= guest.now.available_bytes.max(guest.now.margin_bytes));
            prop_assert!(guest.now.free_bytes <= before.free_bytes + (wanted_mib + 4) * MIB + before.margin_bytes);
        }
    }
}
