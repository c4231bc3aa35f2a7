//! How much of what a VM needs is in use, and how much lies idle: what the tax on idle memory goes by.
//!
//! ```text
//! idle in the need = idle − what is in use beyond the need      cold cache is not in the need in the first place
//! active           = need − idle in the need                    over the last minutes: at the peak
//! ```
//!
//! So what is not known to be idle is active: the guest's kernel, whose pages have no age, and what came since the working
//! set was seen. A guest whose working set is not known has nothing idle below its need, and nor has one that is pressed:
//! a working set is minutes old and knows nothing of what is missing now.
//!
//! Guests are not trusted. Who says that more is idle than is, pays. Who says that less is, is charged by its need, as
//! if it had said nothing: inside of its shares, its minimum and its maximum.

use super::stability::{BURST_WINDOW_MS, Peaks};
use super::{MemoryDemand, Millis, Urgency};
use serde::{Deserialize, Serialize};

/// What falls by less than this share is noise: the sources of a working set agree within 15 percent.
const NOISE_SHARE: u64 = 8;

/// What a guest has in use, and how much of that it left alone for how long, from its last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleAges {
    /// All that is not free: kernel, processes, page cache.
    pub in_use_bytes: u64,
    /// Not used for 10 seconds.
    pub over_10_s_bytes: u64,
    /// Not used for a minute.
    pub over_60_s_bytes: u64,
    /// Not used for five minutes.
    pub over_300_s_bytes: u64,
}

impl IdleAges {
    /// What counts as idle: what was not used for a minute, as long as the peak of a need is kept, and about the period of
    /// ESX's samples (Waldspurger 2002, §5.3: 30 s). What is used less often costs less to read again than it costs
    /// another VM to go without. Five minutes would wait for the slowest guests to see that a job ended.
    fn idle_bytes(&self) -> u64 {
        self.over_60_s_bytes
    }
}

/// What of a guest's need is active now, bytes; at most the need.
pub fn active_bytes(demand: &MemoryDemand, idle: Option<&IdleAges>) -> u64 {
    let need = demand.need_bytes;
    let Some(idle) = idle.filter(|_| demand.urgency < Urgency::Pressed) else { return need };
    let beyond_need = idle.in_use_bytes.saturating_sub(need);
    need.saturating_sub(idle.idle_bytes().saturating_sub(beyond_need))
}

/// The active bytes of the last minutes. A guest's samples are a minute apart, or five while it is quiet, so that much
/// is looked back: nothing is taxed that one of them saw used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Activity {
    peaks: Peaks<BURST_WINDOW_MS>,
    settled_bytes: u64,
}

impl Activity {
    /// The activity after a report at `now_ms` of which `active_bytes` are active.
    pub fn after(mut self, now_ms: Millis, active_bytes: u64) -> Self {
        self.settled_bytes = self.settled_bytes(now_ms, active_bytes);
        self.peaks.add(now_ms, active_bytes);
        self
    }

    /// The active bytes to go by at `now_ms`, with `active_bytes` the present ones: the peak of the last minutes, which
    /// stands still as long as it wavers. It rises at once.
    pub fn settled_bytes(&self, now_ms: Millis, active_bytes: u64) -> u64 {
        let peak = self.peaks.peak(now_ms).max(active_bytes);
        let wavers = peak >= self.settled_bytes - self.settled_bytes / NOISE_SHARE;
        if wavers { peak.max(self.settled_bytes) } else { peak }
    }
}

/// The tax that a VM's idle bytes bear, where they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleTax {
    /// What of its need is active.
    pub active_bytes: u64,
    /// That over what it has, thousandths: f of Waldspurger 2002, §5.3.
    pub active_permille: u32,
    /// The tax: an idle byte costs 100 / (100 − tax) times an active one.
    pub tax_percent: u32,
}

impl IdleTax {
    /// The tax on a VM that has `allocation_bytes`.
    pub(super) fn new(active_bytes: u64, allocation_bytes: u64, tax_percent: u32) -> Self {
        let permille = (u128::from(active_bytes) * 1000).checked_div(allocation_bytes.into()).unwrap_or(1000).min(1000);
        Self { active_bytes, active_permille: u32::try_from(permille).unwrap_or(1000), tax_percent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::MIB;

    fn active_mib(need: u64, in_use: u64, idle: u64, urgency: Urgency) -> u64 {
        let demand = MemoryDemand { need_bytes: need * MIB, floor_bytes: 0, urgency };
        let idle = IdleAges { in_use_bytes: in_use * MIB, over_60_s_bytes: idle * MIB, ..IdleAges::default() };
        active_bytes(&demand, Some(&idle)) / MIB
    }

    #[test]
    fn only_what_is_known_to_be_idle_is_taken_off_the_need() {
        let at_ease = |need, in_use, idle| active_mib(need, in_use, idle, Urgency::Normal);
        assert_eq!(at_ease(500, 480, 0), 500, "margin and growth are no idle bytes");
        assert_eq!(at_ease(500, 480, 300), 200);
        assert_eq!(at_ease(500, 900, 400), 500, "its idle bytes are cold cache, which it does not need");
        assert_eq!(at_ease(500, 900, 600), 300);
        assert_eq!(at_ease(900, 880, 300), 600, "400 more came since the working set was seen: they are active");
        assert_eq!((at_ease(500, 0, u64::MAX >> 20), at_ease(500, u64::MAX >> 20, 0)), (0, 500), "lies");
    }

    #[test]
    fn a_guest_that_is_pressed_or_says_nothing_has_no_idle_bytes() {
        assert_eq!(active_mib(500, 480, 300, Urgency::Pressed), 500);
        let demand = MemoryDemand { need_bytes: 5, floor_bytes: 0, urgency: Urgency::Idle };
        assert_eq!(active_bytes(&demand, None), 5);
    }

    #[test]
    fn activity_rises_at_once_and_falls_when_no_sample_of_five_minutes_saw_it_used() {
        let activity = Activity::default().after(0, 800).after(60_000, 100);
        assert_eq!(activity.settled_bytes(120_000, 100), 800);
        assert_eq!(activity.settled_bytes(120_000, 900), 900);
        assert_eq!(activity.settled_bytes(299_999, 100), 800);
        assert_eq!(activity.settled_bytes(350_000, 100), 100);
    }

    #[test]
    fn activity_that_wavers_by_less_than_an_eighth_stands_still() {
        let mut activity = Activity::default().after(0, 800);
        for minute in 1..60 {
            activity = activity.after(minute * 60_000, 705 + 10 * (minute % 2));
            assert_eq!(activity.settled_bytes(minute * 60_000, 705), 800, "minute {minute}");
        }
    }

    #[test]
    fn the_tax_tells_the_active_fraction_of_what_a_vm_has() {
        assert_eq!(IdleTax::new(250, 1000, 75).active_permille, 250);
        assert_eq!((IdleTax::new(9, 3, 75).active_permille, IdleTax::new(0, 0, 75).active_permille), (1000, 1000));
    }
}
