//! The agent of a made-up guest: what it would report, and when, with the rules of `vmtide-agent` in short.
//!
//! It knows no more than a real one: of a working set that does not fit it sees the part that does, and that somebody
//! waits. So need grows step by step under a stall, and what a stall taught is kept for a while.

use crate::plan::{MIB, Millis};
use vmtide_protocol::bridge::Intervals;
use vmtide_protocol::demand::{Answer, Demand, MemoryDemand, MemoryReason, MemorySignals, Urgency};

/// How long a grant takes, as the agent expects by default.
const GRANT_MS: u64 = 2_000;
/// Slower growth does not run out before the next look.
const GROWTH_LEAST_BYTES_PER_S: u64 = 8 * MIB;
/// A stall is felt from here on, and hurts from there on, thousandths of the time.
const STALL_FELT_PERMILLE: u64 = 20;
const STALL_HURTS_PERMILLE: u64 = 100;
/// A lesson is kept whole for this long, then halves each [`LESSON_HALVES_MS`] (a real one fades by e in 60 s).
const LESSON_MS: Millis = 30_000;
const LESSON_HALVES_MS: Millis = 42_000;
/// A lower urgency has to last this long before it counts.
const CALM_MS: Millis = 3_000;
/// Busy for this long after the need moved.
const BUSY_MS: Millis = 5_000;
/// A quiet agent looks again before growth out of nowhere of this speed could run out.
const SUDDEN_BYTES_PER_S: u64 = 128 * MIB;

/// What an agent sees of its guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub has_bytes: u64,
    pub uses_bytes: u64,
    pub anonymous_permille: u64,
    pub stall_permille: u64,
    pub maximum_bytes: u64,
}

/// What an agent keeps.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    intervals: Intervals,
    looks_ms: Millis,
    reported_ms: Option<Millis>,
    /// When it looked last, and what was hard in use then.
    before: Option<(Millis, u64)>,
    /// When it was learnt, and how much more than hard use it takes.
    lesson: Option<(Millis, u64)>,
    urgency: Urgency,
    calmer_since: Option<Millis>,
    /// The need that later ones are compared with, and when it was taken.
    anchor: (u64, Millis),
}

impl Agent {
    /// An agent that looks first at `starts_ms`.
    pub fn new(starts_ms: Millis, intervals: Intervals) -> Self {
        Self {
            intervals,
            looks_ms: starts_ms,
            reported_ms: None,
            before: None,
            lesson: None,
            urgency: Urgency::Normal,
            calmer_since: None,
            anchor: (0, 0),
        }
    }

    /// What it reports at `now_ms`, if it does. A stall wakes it.
    pub fn tick(&mut self, now_ms: Millis, sight: &Sight) -> Option<Demand> {
        let is_woken = sight.stall_permille >= STALL_FELT_PERMILLE && self.before.is_some();
        if now_ms < self.looks_ms && !is_woken {
            return None;
        }
        let Sight { has_bytes, stall_permille, .. } = *sight;
        let hard = hard_bytes(sight.uses_bytes, sight.anonymous_permille, has_bytes);
        let margin = margin_bytes(hard);
        let available = has_bytes.saturating_sub(hard);
        let (before_ms, before) = self.before.replace((now_ms, hard)).unwrap_or((now_ms, hard));
        let growth = hard.saturating_sub(before) * 1000 / now_ms.saturating_sub(before_ms).max(1);
        let growth = if growth >= GROWTH_LEAST_BYTES_PER_S { growth } else { 0 };
        let lasts_ms = (available * 1000).checked_div(growth).unwrap_or(u64::MAX);

        let is_stalled = stall_permille >= STALL_FELT_PERMILLE;
        if is_stalled {
            let wanted = has_bytes + (has_bytes / 8).max(32 * MIB);
            self.lesson = Some((now_ms, wanted.saturating_sub(hard)));
        }
        let missed = sight.uses_bytes.saturating_sub(has_bytes).min(has_bytes / if is_stalled { 4 } else { 16 });
        let growing = (growth * GRANT_MS / 1000).min(has_bytes);
        let seen = sight.uses_bytes.min(has_bytes) + missed + growing;
        let need = seen.max(hard + margin).max(hard + self.lesson_bytes(now_ms)).min(sight.maximum_bytes);
        let floor = (hard + margin).min(need);

        let measured = if stall_permille >= STALL_HURTS_PERMILLE || lasts_ms < GRANT_MS {
            Urgency::Critical
        } else if is_stalled || lasts_ms < 2 * GRANT_MS || available < margin / 2 {
            Urgency::Pressed
        } else if need < has_bytes / 4 * 3 {
            Urgency::Idle
        } else {
            Urgency::Normal
        };
        let rises = measured >= Urgency::Pressed && measured > self.urgency;
        self.hold(now_ms, measured);
        if self.anchor.0.abs_diff(need) > (has_bytes / 100).max(8 * MIB) {
            self.anchor = (need, now_ms);
        }
        let is_busy = self.urgency >= Urgency::Pressed || now_ms < self.anchor.1 + BUSY_MS;
        let quiet_ms = (available / (SUDDEN_BYTES_PER_S / 1000)).clamp(1_000, self.intervals.quiet_ms);
        let interval_ms = if is_busy { self.intervals.busy_ms } else { self.intervals.quiet_ms };
        let is_due = self.reported_ms.is_none_or(|reported_ms| now_ms >= reported_ms + interval_ms);
        if rises || is_due {
            self.reported_ms = Some(now_ms);
        }
        let due_ms = self.reported_ms.unwrap_or(now_ms) + interval_ms;
        self.looks_ms = (now_ms + if is_busy { self.intervals.busy_ms } else { quiet_ms }).min(due_ms);
        (rises || is_due).then(|| report(need, floor, self.urgency, sight, available))
    }

    fn lesson_bytes(&self, now_ms: Millis) -> u64 {
        let Some((learnt_ms, bytes)) = self.lesson else { return 0 };
        let halvings = now_ms.saturating_sub(learnt_ms + LESSON_MS) / LESSON_HALVES_MS;
        u32::try_from(halvings).ok().and_then(|halvings| bytes.checked_shr(halvings)).unwrap_or(0)
    }

    fn hold(&mut self, now_ms: Millis, measured: Urgency) {
        let counts = measured >= self.urgency || self.urgency < Urgency::Pressed;
        if counts || now_ms >= *self.calmer_since.get_or_insert(now_ms) + CALM_MS {
            (self.urgency, self.calmer_since) = (measured, None);
        }
    }
}

/// What nobody can do without, of what the guest has.
pub(super) fn hard_bytes(uses_bytes: u64, anonymous_permille: u64, has_bytes: u64) -> u64 {
    (uses_bytes / 1000 * anonymous_permille).min(has_bytes)
}

/// What a floor has beyond that.
pub(super) fn margin_bytes(hard_bytes: u64) -> u64 {
    16 * MIB + hard_bytes / 32
}

/// The report of a VM that boots with its maximum; free is what its guest does not use.
fn report(need: u64, floor: u64, urgency: Urgency, sight: &Sight, available: u64) -> Demand {
    let Sight { has_bytes, uses_bytes, stall_permille, maximum_bytes, .. } = *sight;
    let is_stalled = stall_permille >= STALL_FELT_PERMILLE;
    let signals = MemorySignals {
        total_bytes: maximum_bytes.into(),
        balloon_bytes: maximum_bytes.saturating_sub(has_bytes).into(),
        available_bytes: available.into(),
        free_bytes: has_bytes.saturating_sub(uses_bytes).into(),
        stall_some_permille: stall_permille.into(),
        ..MemorySignals::default()
    };
    let memory = MemoryDemand {
        need_bytes: need.into(),
        floor_bytes: floor.into(),
        urgency,
        reason: if is_stalled { MemoryReason::Stalled } else { MemoryReason::Steady },
        waiting_ms: u64::from(is_stalled).into(),
        signals,
    };
    Demand { memory: Answer::Known(memory), cpu: Answer::NotYet, io: Answer::NotYet, stalls: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(has_mib: u64, uses_mib: u64, stall_permille: u64) -> Sight {
        Sight {
            has_bytes: has_mib * MIB,
            uses_bytes: uses_mib * MIB,
            anonymous_permille: 800,
            stall_permille,
            maximum_bytes: 4096 * MIB,
        }
    }

    /// Need and floor in MiB, and urgency.
    fn said(demand: Option<Demand>) -> Option<(u64, u64, Urgency)> {
        let demand = demand?;
        let memory = demand.memory.known()?;
        let mib = |amount: vmtide_protocol::Amount| amount.within(u64::MAX).0 / MIB;
        Some((mib(memory.need_bytes), mib(memory.floor_bytes), memory.urgency))
    }

    #[test]
    fn a_quiet_guest_reports_each_quiet_interval() {
        let mut agent = Agent::new(3_000, Intervals::default());
        let reports = (0..60).filter(|second| agent.tick(second * 1_000, &sight(2_048, 1_000, 0)).is_some());
        let reports: Vec<u64> = reports.collect();
        // Busy at first, for its need is news.
        assert_eq!(reports, [3, 4, 5, 6, 7, 17, 27, 37, 47, 57]);
    }

    #[test]
    fn a_stall_wakes_it_and_is_not_forgotten_at_once() {
        let mut agent = Agent::new(0, Intervals::default());
        for second in 0..=30 {
            agent.tick(second * 1_000, &sight(1_000, 1_600, 0));
        }
        assert!(agent.tick(30_400, &sight(1_000, 1_600, 0)).is_none(), "it sleeps");
        // It cannot see all 1600: what it misses up to a quarter of what it has. Hard use is all that it has.
        let stalled = said(agent.tick(30_500, &sight(1_000, 1_600, 300)));
        assert_eq!(stalled, Some((1_250, 1_047, Urgency::Critical)));
        // Given more, it says for half a minute that its hard use takes an eighth of 1000 more.
        let calm = said(agent.tick(31_500, &sight(1_250, 1_200, 0)));
        assert_eq!(calm.map(|(need, _, urgency)| (need, urgency)), Some((1_200, Urgency::Critical)));
        let calm = said(agent.tick(35_500, &sight(1_250, 1_200, 0)));
        assert_eq!(calm.map(|(.., urgency)| urgency), Some(Urgency::Normal));
    }

    #[test]
    fn growth_is_asked_for_before_it_runs_out() {
        let mut agent = Agent::new(0, Intervals::default());
        agent.tick(0, &sight(1_000, 800, 0));
        let (need, _, urgency) = said(agent.tick(1_000, &sight(1_000, 950, 0))).unwrap();
        // 120 MiB/s of hard use for two seconds more.
        assert_eq!((need, urgency), (1_190, Urgency::Critical));
    }
}
