//! Which unit is tried out, and how far the trial is. Pure: no I/O, time is an argument.
//!
//! ```text
//!            six steady windows                       a settling window, then six alike
//! (not set) -------------------> set it ----------------------------------------------> judge
//! (set)     -------------------> put it back -------'        |
//!                                                            | memory moves, the workload shifts, something else is set
//!                                                            v
//!                                                          give up, and later again
//! ```
//!
//! A unit that was set while its signal was quiet is tried the other way round: with it first, then without.

use crate::catalogue::{Risk, Signal};
use crate::journal::Tried;
use crate::trial::{LEAST_WINDOWS, Verdict, judge};
use crate::windows::{Window, Windows};
use std::collections::BTreeMap;

/// After the first revert; twice as long after each further one.
const BACK_OFF_MS: u64 = 10 * 60_000;
const MOST_BACK_OFF_MS: u64 = 4 * 3_600_000;
/// After a trial that was given up; twice as long after each further one.
const AGAIN_MS: u64 = 60_000;
/// A trial that takes longer has no steady workload.
const MOST_MS: u64 = 5 * 60_000;

/// What a trial needs done.
#[derive(Clone, Debug, PartialEq)]
pub enum Doing {
    /// Nothing.
    Wait,
    /// Set the unit.
    With(String),
    /// Put the unit back.
    Without(String),
    /// Nothing can be told.
    GiveUp {
        /// The unit.
        unit: String,
        /// Whether it is set from here on.
        keep: bool,
        /// For a person.
        why: &'static str,
    },
    /// It can be told.
    Judged {
        /// The unit.
        unit: String,
        /// What was found.
        verdict: Verdict,
    },
}

/// The trial that runs; one at a time, for the signals are the whole machine's.
#[derive(Clone, Debug, Default)]
pub struct Trials {
    running: Option<Running>,
    /// How often a unit's trials were given up, and when the next may begin.
    given_up: BTreeMap<String, (u32, u64)>,
    disturbed: bool,
}

#[derive(Clone, Debug)]
struct Running {
    unit: String,
    signal: Signal,
    risk: Risk,
    was_set: bool,
    first: Vec<u64>,
    like: Window,
    began_ms: u64,
}

impl Trials {
    /// How long a unit is left alone after its trial was reverted, having been reverted `reverts` times before.
    pub fn back_off_ms(reverts: u32) -> u64 {
        BACK_OFF_MS.saturating_mul(1 << reverts.min(10)).min(MOST_BACK_OFF_MS)
    }

    /// Whether one runs.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether `unit` is being tried.
    pub fn has(&self, unit: &str) -> bool {
        self.running.as_ref().is_some_and(|running| running.unit == unit)
    }

    /// Whether `unit`, whose last trial is `last`, may be tried now.
    pub fn may(&self, unit: &str, last: Option<&Tried>, now_ms: u64) -> bool {
        let due = last.is_none_or(|tried| tried.retry_at_ms.is_some_and(|at_ms| at_ms <= now_ms));
        due && self.given_up.get(unit).is_none_or(|(_, at_ms)| *at_ms <= now_ms)
    }

    /// Begins with the windows that were seen; the unit `is_set` in them, or not.
    pub fn begin(
        &mut self,
        unit: &str,
        signal: Signal,
        risk: Risk,
        is_set: bool,
        windows: &Windows,
        now_ms: u64,
    ) -> Doing {
        let (Some(first), Some((like, _))) = (windows.values(signal), windows.newest()) else { return Doing::Wait };
        self.disturbed = false;
        let unit = unit.to_owned();
        self.running =
            Some(Running { unit: unit.clone(), signal, risk, was_set: is_set, first, like, began_ms: now_ms });
        if is_set { Doing::Without(unit) } else { Doing::With(unit) }
    }

    /// Looks at the windows since the change.
    pub fn step(&mut self, windows: &Windows, now_ms: u64) -> Doing {
        let Some(running) = &self.running else { return Doing::Wait };
        let is_shifted = windows.newest().is_some_and(|(window, _)| !window.is_like(&running.like));
        let why = if self.disturbed {
            "something else was set"
        } else if is_shifted {
            "memory moved, or the workload shifted"
        } else if now_ms.saturating_sub(running.began_ms) > MOST_MS {
            "it took too long"
        } else if windows.steady() <= LEAST_WINDOWS {
            return Doing::Wait;
        } else if let Some(second) = windows.values(running.signal) {
            let (before, after) = if running.was_set { (&second, &running.first) } else { (&running.first, &second) };
            if let Some(verdict) = judge(running.signal, running.risk, before, after) {
                let unit = running.unit.clone();
                self.running = None;
                return Doing::Judged { unit, verdict };
            }
            "there are too few windows"
        } else {
            "the kernel does not say any more"
        };
        self.give_up(now_ms, why)
    }

    /// Something else was set: what runs cannot be told any more.
    pub fn disturb(&mut self) {
        self.disturbed = true;
    }

    /// Ends what runs, without a word: its knobs are somebody else's business now.
    pub fn stop(&mut self) {
        self.running = None;
    }

    fn give_up(&mut self, now_ms: u64, why: &'static str) -> Doing {
        let Some(running) = self.running.take() else { return Doing::Wait };
        let (times, again_ms) = self.given_up.entry(running.unit.clone()).or_default();
        *times += 1;
        *again_ms = now_ms.saturating_add(AGAIN_MS << (*times).min(5));
        Doing::GiveUp { unit: running.unit, keep: running.risk == Risk::Low || running.was_set, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::Finding;
    use crate::windows::tests::reading;

    /// Windows of two seconds with these stalls, millionths, after `began`.
    struct Machine {
        windows: Windows,
        second: u64,
        stall_us: u64,
        balloon_bytes: u64,
    }

    impl Machine {
        fn new() -> Self {
            Self { windows: Windows::default(), second: 0, stall_us: 0, balloon_bytes: 0 }
        }

        fn goes_on(&mut self, windows: usize, stall_ppm: u64) {
            for _ in 0..=windows {
                self.windows.add(self.second * 1_000, &reading(self.second, self.stall_us, self.balloon_bytes));
                self.second += 2;
                self.stall_us += stall_ppm * 2;
            }
        }

        fn tries(&mut self, risk: Risk, is_set: bool, before: u64, after: u64) -> Doing {
            let mut trials = Trials::default();
            self.goes_on(6, before);
            let begun = trials.begin("u", Signal::MemoryStall, risk, is_set, &self.windows, 0);
            assert_eq!(begun, if is_set { Doing::Without("u".into()) } else { Doing::With("u".into()) });
            self.windows.clear();
            self.goes_on(6, after);
            assert_eq!(trials.step(&self.windows, 0), Doing::Wait, "a settling window");
            self.goes_on(1, after);
            trials.step(&self.windows, 0)
        }
    }

    #[test]
    fn what_helped_stays_and_what_did_not_goes_in_both_directions() {
        for (risk, is_set, before, after, finding, keep) in [
            (Risk::Low, false, 200_000, 50_000, Finding::Better, true),
            (Risk::Low, false, 50_000, 200_000, Finding::Worse, false),
            (Risk::Low, false, 200_000, 200_000, Finding::Inconclusive, true),
            (Risk::Medium, false, 200_000, 200_000, Finding::Inconclusive, false),
            (Risk::Low, true, 200_000, 50_000, Finding::Worse, false),
            (Risk::Low, true, 50_000, 200_000, Finding::Better, true),
        ] {
            let doing = Machine::new().tries(risk, is_set, before, after);
            let Doing::Judged { verdict, .. } = doing else { panic!("{doing:?}") };
            assert_eq!((verdict.finding, verdict.keep), (finding, keep), "{risk:?} {is_set} {before} {after}");
        }
    }

    #[test]
    fn moving_memory_and_other_knobs_end_a_trial_and_it_comes_again_later() {
        for disturb in [false, true] {
            let mut trials = Trials::default();
            let mut machine = Machine::new();
            machine.goes_on(6, 100_000);
            trials.begin("u", Signal::MemoryStall, Risk::Low, false, &machine.windows, 0);
            if disturb {
                trials.disturb();
            } else {
                machine.balloon_bytes = 512 << 20;
            }
            machine.goes_on(1, 100_000);
            let doing = trials.step(&machine.windows, 1_000);
            assert!(matches!(doing, Doing::GiveUp { keep: true, .. }), "{doing:?}");
            assert!(!trials.may("u", None, 1_000 + AGAIN_MS) && trials.may("u", None, 1_000 + 2 * AGAIN_MS));
            assert!(trials.may("v", None, 1_000));
        }
    }

    #[test]
    fn a_revert_keeps_a_unit_out_longer_each_time() {
        assert_eq!([0, 1, 4, 99].map(Trials::back_off_ms), [600_000, 1_200_000, 9_600_000, 14_400_000]);
    }
}
