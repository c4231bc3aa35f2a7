//! What wakes an agent that looks at the CPUs only now and then: the kernel's word that tasks wait for one.
//!
//! ```text
//!              fired                  500 ms: what they do now, not on average since the last look
//!  watching ----------> looking now ---------------------------------------> looking again
//!      ^                                                    the guest is busy  |   | it is not
//!      |                  as soon as it is quiet again                         |   v
//!      +-----------------------------------------------------------------------+  resting, 30 s
//!      +---------------------------------------------------------------------------'
//! ```
//!
//! While the guest is busy it is looked at each second anyway, and after a false alarm a while is waited: then the trigger
//! is closed, so that the kernel does not add stalls up for nobody, and no storm of alarms wakes anyone.

use crate::sense::StallTrigger;
use std::path::{Path, PathBuf};
use tracing::warn;

/// Between the two looks: long enough for the ticks in which the kernel counts CPU time.
const LOOK_AGAIN_MS: u64 = 500;
/// After a false alarm. What is missed meanwhile is seen at the next look, as without a trigger.
const REST_MS: u64 = 30_000;

/// When the CPUs have to be looked at out of turn. Pure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Watching,
    Fired,
    LookAgain {
        at_ms: u64,
    },
    Resting {
        until_ms: u64,
    },
}

impl State {
    /// Whether the CPUs are to be looked at now.
    fn is_due(self, now_ms: u64) -> bool {
        match self {
            Self::Fired => true,
            Self::LookAgain { at_ms } => now_ms >= at_ms,
            Self::Watching | Self::Resting { .. } => false,
        }
    }

    /// After a look that found the guest busy or not.
    fn looked(self, now_ms: u64, is_busy: bool) -> Self {
        match self {
            _ if is_busy => Self::Watching,
            Self::Fired => Self::LookAgain { at_ms: now_ms.saturating_add(LOOK_AGAIN_MS) },
            Self::LookAgain { at_ms } if now_ms >= at_ms => Self::Resting { until_ms: now_ms.saturating_add(REST_MS) },
            Self::Resting { until_ms } if now_ms >= until_ms => Self::Watching,
            same => same,
        }
    }
}

/// The trigger, open only while it is to wake somebody.
#[derive(Debug)]
pub(crate) struct CpuAlarm {
    root: PathBuf,
    trigger: StallTrigger,
    /// Whether the kernel has taken it, as far as is known.
    is_able: bool,
    state: State,
}

impl CpuAlarm {
    /// For the guest below `root`; not armed before the first look.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), trigger: StallTrigger::absent(), is_able: true, state: State::default() }
    }

    /// Returns when tasks wait for a CPU in a quiet guest.
    pub(crate) async fn fired(&self) {
        self.trigger.fired().await;
    }

    /// Takes in that it fired.
    pub(crate) fn on_fired(&mut self) {
        self.state = State::Fired;
    }

    /// Whether the CPUs are to be looked at now, whenever that was done last.
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.state.is_due(now_ms)
    }

    /// After a look: arms the trigger or closes it. Returns when the next look has to be, if it has to.
    pub(crate) fn looked(&mut self, now_ms: u64, is_busy: bool) -> Option<u64> {
        self.state = self.state.looked(now_ms, is_busy);
        let is_wanted = self.state == State::Watching && !is_busy && self.is_able;
        if !is_wanted {
            self.trigger = StallTrigger::absent();
        } else if !self.trigger.is_registered() {
            self.trigger = StallTrigger::cpu(&self.root).unwrap_or_else(|error| {
                warn!("no PSI trigger for CPUs: {error}; a wait for them is seen at the next look");
                StallTrigger::absent()
            });
            self.is_able = self.trigger.is_registered();
        }
        if let State::LookAgain { at_ms } = self.state { Some(at_ms) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_looked_at_twice_and_a_false_one_is_followed_by_a_rest() {
        let mut state = State::Fired;
        for (now_ms, is_due, then) in [
            (1_000, true, State::LookAgain { at_ms: 1_500 }),
            (1_200, false, State::LookAgain { at_ms: 1_500 }),
            (1_500, true, State::Resting { until_ms: 31_500 }),
            (31_499, false, State::Resting { until_ms: 31_500 }),
            (31_500, false, State::Watching),
            (31_600, false, State::Watching),
        ] {
            assert_eq!(state.is_due(now_ms), is_due, "at {now_ms}");
            state = state.looked(now_ms, false);
            assert_eq!(state, then, "at {now_ms}");
        }
    }

    #[test]
    fn a_busy_guest_needs_no_alarm_and_is_watched_again_when_it_is_quiet() {
        for state in
            [State::Watching, State::Fired, State::LookAgain { at_ms: 9_000 }, State::Resting { until_ms: 9_000 }]
        {
            assert_eq!(state.looked(1_000, true), State::Watching, "{state:?}");
        }
    }

    #[tokio::test]
    async fn a_kernel_without_psi_is_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut alarm = CpuAlarm::new(dir.path());
        assert_eq!(alarm.looked(0, false), None);
        assert!(!alarm.is_able && !alarm.trigger.is_registered());
    }
}
