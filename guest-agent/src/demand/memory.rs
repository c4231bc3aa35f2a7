//! Demand for memory, on the scale of the VM's allocation.
//!
//! ```text
//! present  = total − balloon                  what the guest has, as it sees it itself
//! hard use = present − MemAvailable           what cannot go: kernel, anonymous and locked memory, watermarks
//! floor    = hard use + margin                margin = 16 MiB + 1/32 of hard use
//! need     = hard use + file pages in use + refaulted + swapped in + growth of hard use × time of a grant,
//!            at least the floor, at most the operator's maximum
//! ```
//!
//! **File pages in use** are those that the working set saw used within a minute, where its source tells file pages
//! apart. Else they are Active(file), which never forgets while nothing is reclaimed: what was used once, at boot, stays
//! in it. With the multi-generational LRU it means the two youngest generations, whose age is whatever the last one who
//! made a generation left: once the agent makes them, it would swing between ten seconds' use and a minute's.
//!
//! While tasks stall for memory the need is above what the guest has, by an eighth or 32 MiB, so that thrashing never
//! looks like contentment; that lesson stays for half a minute and then fades, or each grant would be taken back
//! at once. It is about a guest of that size: whoever frees most of its memory keeps that part of it only.
//!
//! **Whose figure for what.** What the guest has is taken from its own balloon driver, not from the bridge's
//! `allocation` message: it belongs to the same moment as MemAvailable, the message comes later. The message tells
//! what the guest cannot know: the maximum.
//!
//! **The balloon is not demand.** Growth is that of hard use: an inflating balloon takes MemAvailable and
//! `present` down together and moves neither hard use nor need. The driver's own search for pages does show up as
//! a stall, the same as a task's; so may the agent's own, while it frees memory that the bridge asked for. So while the
//! balloon inflates or the agent yields, a stall counts only with a sign that somebody misses what was taken:
//! refaults, swap-ins, or available memory under the margin.

use super::decay::{Average, Recent, faded};
use super::grant::GrantTime;
use super::urgency::Held;
use super::{per_second, permille};
use crate::sense::{MemorySample, WINDOW_MS, WorkingSet};
use vmtide_protocol::demand::{MemoryDemand, MemoryReason, MemorySignals, Urgency};

pub(super) const MIB: u64 = 1024 * 1024;

/// Growth is averaged over this: long enough for per-CPU page caches to even out, short enough to see a ramp.
const GROWTH_FADE_MS: u64 = 500;
/// Slower growth does not run out before the next look.
const GROWTH_LEAST_BYTES_PER_S: u64 = 8 * MIB;
/// Stalls are averaged over this.
const STALL_FADE_MS: u64 = 1_000;
/// From here on a stall is felt: 2 % of the time.
const STALL_FELT_PERMILLE: u64 = 20;
/// From here on a stall hurts: 10 % of the time.
const STALL_HURTS_PERMILLE: u64 = 100;
/// What was refaulted or swapped in counts as needed for about this long.
const MISSED_FADE_MS: u64 = 10_000;
/// Fewer bytes missed lately are noise.
const MISSED_LEAST_BYTES: u64 = MIB;
/// An OOM kill is critical for this long.
const KILL_MS: u64 = 10_000;
/// After its last growth the balloon counts as inflating for this long, and the agent as yielding after it did.
const INFLATING_MS: u64 = 2_000;
/// A lesson is kept whole for this long, then fades.
const LESSON_MS: u64 = 30_000;
const LESSON_FADE_MS: u64 = 60_000;
const STEP_LEAST_BYTES: u64 = 32 * MIB;
/// What was in use this long ago counts for a lesson that is learnt now.
const FREED_MS: u64 = 5_000;

/// A demand, and what helps to decide when to look again.
#[derive(Clone, Debug)]
pub struct MemoryEstimate {
    /// For the bridge.
    pub demand: MemoryDemand,
    /// For [`super::Pace`] and [`super::Schedule`].
    pub outlook: Outlook,
}

/// How memory will go on, as far as one can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// As in the demand.
    pub urgency: Urgency,
    /// As in the demand.
    pub need_bytes: u64,
    /// What the guest has.
    pub present_bytes: u64,
    /// MemAvailable.
    pub available_bytes: u64,
    /// When available memory will be gone, should hard use grow on; `None` when it does not.
    pub exhausted_in_ms: Option<u64>,
    /// How long it takes from asking to having, as far as is known.
    pub grant_ms: u64,
    /// Whether the stall of the latest interval is above its average.
    pub stall_grows: bool,
    /// OOM kills since the previous sample.
    pub new_oom_kills: u64,
}

/// Turns memory samples into demand.
#[derive(Clone, Debug)]
pub struct MemoryEstimator {
    previous: Option<(u64, MemorySample)>,
    growth: Average,
    stall_some: Average,
    stall_full: Average,
    refaulted: Recent,
    swapped_in: Recent,
    alloc_stalls: Recent,
    /// When memory was last taken by the balloon, or freed for it.
    taken_ms: Option<u64>,
    killed_ms: Option<u64>,
    lesson: Option<Lesson>,
    /// The most that was in use lately, and when.
    hard_peak: Option<(u64, u64)>,
    grants: GrantTime,
    held: Held,
    working_set: Option<WorkingSet>,
}

/// How much more than the hard use it takes, as tasks showed when they last stalled.
#[derive(Clone, Copy, Debug)]
struct Lesson {
    learnt_ms: u64,
    extra_bytes: u64,
    /// The hard use that it was learnt with.
    hard_bytes: u64,
}

/// What urgency and reason rest on.
struct State {
    /// Of stalls that count.
    stalled_permille: u64,
    killed: bool,
    /// `u64::MAX` while hard use does not grow.
    exhausted_in_ms: u64,
    /// Next to nothing is available.
    scarce: bool,
}

/// What a sample says by itself.
#[allow(clippy::struct_field_names)] // the unit
struct Usage {
    present_bytes: u64,
    hard_bytes: u64,
    margin_bytes: u64,
}

impl Usage {
    fn of(sample: &MemorySample) -> Self {
        let present_bytes = sample.total_bytes.saturating_sub(sample.balloon_bytes);
        let hard_bytes = present_bytes.saturating_sub(sample.available_bytes);
        Self { present_bytes, hard_bytes, margin_bytes: 16 * MIB + hard_bytes / 32 }
    }
}

/// Between what a guest of this sample cannot do without and its floor.
pub fn margin_bytes(sample: &MemorySample) -> u64 {
    Usage::of(sample).margin_bytes
}

impl MemoryEstimator {
    /// An estimator that looks ahead by the time from asking to having: `grant_ms`, until grants were seen.
    pub fn new(grant_ms: u64) -> Self {
        Self {
            previous: None,
            growth: Average::new(GROWTH_FADE_MS),
            stall_some: Average::new(STALL_FADE_MS),
            stall_full: Average::new(STALL_FADE_MS),
            refaulted: Recent::new(MISSED_FADE_MS),
            swapped_in: Recent::new(MISSED_FADE_MS),
            alloc_stalls: Recent::new(STALL_FADE_MS),
            taken_ms: None,
            killed_ms: None,
            lesson: None,
            hard_peak: None,
            grants: GrantTime::new(grant_ms),
            held: Held::default(),
            working_set: None,
        }
    }

    /// Takes in what is known of the working set.
    pub fn know(&mut self, working_set: Option<WorkingSet>) {
        self.working_set = working_set;
    }

    /// Takes in that the agent frees memory for the bridge.
    pub fn yields(&mut self, now_ms: u64) {
        self.taken_ms = Some(now_ms);
    }

    /// The demand after one more sample; `None` after the first. `maximum_bytes` is the operator's, where known.
    pub fn update(&mut self, now_ms: u64, sample: &MemorySample, maximum_bytes: Option<u64>) -> Option<MemoryEstimate> {
        let (before_ms, before) = self.previous.replace((now_ms, *sample))?;
        let elapsed_ms = now_ms.saturating_sub(before_ms).max(1);
        let usage = Usage::of(sample);

        self.growth.moved(Usage::of(&before).hard_bytes, usage.hard_bytes, elapsed_ms);
        self.take_missed(&before, sample, elapsed_ms);
        if sample.balloon_bytes > before.balloon_bytes {
            self.taken_ms = Some(now_ms);
        }
        let new_oom_kills = sample.oom_kills.saturating_sub(before.oom_kills);
        if new_oom_kills > 0 {
            self.killed_ms = Some(now_ms);
        }
        let average_before = self.stall_some.value();
        let latest_stall = self.take_stalls(&before, sample, elapsed_ms);

        let growth = self.growth.value();
        let exhausted_in_ms =
            (growth >= GROWTH_LEAST_BYTES_PER_S).then(|| per_second(0, sample.available_bytes, growth.max(1)));
        let stalls = if self.stall_counts(now_ms, sample, &usage) { self.stall_some.value() } else { 0 };
        let stalled_lately = stalls >= STALL_FELT_PERMILLE && latest_stall >= STALL_FELT_PERMILLE;

        let working_bytes = self.working_bytes(&usage, sample, stalls);
        let hard_lately_bytes = self.hard_lately(now_ms, usage.hard_bytes);
        if stalled_lately || new_oom_kills > 0 {
            let wanted_bytes = usage.present_bytes.saturating_add((usage.present_bytes / 8).max(STEP_LEAST_BYTES));
            let extra_bytes = wanted_bytes.saturating_sub(hard_lately_bytes);
            self.lesson = Some(Lesson { learnt_ms: now_ms, extra_bytes, hard_bytes: hard_lately_bytes });
        }
        let most_bytes = maximum_bytes.unwrap_or(u64::MAX);
        let learnt_bytes = usage.hard_bytes.saturating_add(self.lesson_bytes(now_ms, usage.hard_bytes));
        let need_bytes = working_bytes.max(learnt_bytes).min(most_bytes);
        let floor_bytes = usage.hard_bytes.saturating_add(usage.margin_bytes).min(need_bytes);

        let state = State {
            stalled_permille: stalls,
            killed: self.killed_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < KILL_MS),
            exhausted_in_ms: exhausted_in_ms.unwrap_or(u64::MAX),
            scarce: sample.available_bytes < usage.margin_bytes / 2,
        };
        // A stall older than the trigger's window would have woken the agent; a prediction is made now.
        let began_ms = if state.stalled_permille >= STALL_FELT_PERMILLE || state.killed {
            Some(now_ms.saturating_sub(elapsed_ms.min(WINDOW_MS)))
        } else {
            (state.exhausted_in_ms < 2 * self.grants.ms()).then_some(now_ms)
        };
        self.held.measured(now_ms, self.measured(&state, &usage, need_bytes), began_ms);
        self.grants.update(now_ms, usage.present_bytes, need_bytes, self.held.urgency() >= Urgency::Pressed);
        let reason = self.reason(&state);

        let outlook = Outlook {
            urgency: self.held.urgency(),
            need_bytes,
            present_bytes: usage.present_bytes,
            available_bytes: sample.available_bytes,
            exhausted_in_ms,
            grant_ms: self.grants.ms(),
            stall_grows: latest_stall >= average_before + STALL_FELT_PERMILLE,
            new_oom_kills,
        };
        let demand = MemoryDemand {
            need_bytes: need_bytes.into(),
            floor_bytes: floor_bytes.into(),
            urgency: self.held.urgency(),
            reason,
            waiting_ms: self.held.waiting_ms(now_ms).into(),
            signals: self.signals(&before, sample, now_ms, elapsed_ms),
        };
        Some(MemoryEstimate { demand, outlook })
    }

    /// Takes in pages that had to be read again.
    fn take_missed(&mut self, before: &MemorySample, now: &MemorySample, elapsed_ms: u64) {
        let refaulted = now.refault_file_bytes.saturating_sub(before.refault_file_bytes);
        // One and the same page counts as a refault and as a swap-in; some kernels count only one of them.
        let refaulted_anon = now.refault_anon_bytes.saturating_sub(before.refault_anon_bytes);
        let swapped_in = now.swap_in_bytes.saturating_sub(before.swap_in_bytes).max(refaulted_anon);
        self.refaulted.rose(refaulted, elapsed_ms);
        self.swapped_in.rose(swapped_in, elapsed_ms);
        self.alloc_stalls.rose(now.alloc_stalls.saturating_sub(before.alloc_stalls), elapsed_ms);
    }

    /// Takes in waiting time; returns the share of the latest interval, thousandths.
    fn take_stalls(&mut self, before: &MemorySample, now: &MemorySample, elapsed_ms: u64) -> u64 {
        let (Some(before), Some(now)) = (before.stall, now.stall) else { return 0 };
        let some = permille(before.some_us, now.some_us, elapsed_ms);
        self.stall_some.was(some, elapsed_ms);
        self.stall_full.was(permille(before.full_us, now.full_us, elapsed_ms), elapsed_ms);
        some
    }

    /// Whether stalls are those of somebody who misses memory; see the module's last paragraph.
    fn stall_counts(&self, now_ms: u64, sample: &MemorySample, usage: &Usage) -> bool {
        let taken = self.taken_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < INFLATING_MS);
        let missed_bytes = self.refaulted.value().saturating_add(self.swapped_in.value());
        !taken || missed_bytes >= MISSED_LEAST_BYTES || sample.available_bytes < usage.margin_bytes
    }

    /// What the guest uses now and shortly, without any lesson.
    fn working_bytes(&self, usage: &Usage, sample: &MemorySample, stalls: u64) -> u64 {
        // The same page may come back many times, so what came back is only a hint at how much is missing. And
        // cache that comes back without anybody stalling is a stream passing through: more memory would not hold it.
        let share = if stalls >= STALL_FELT_PERMILLE { 4 } else { 16 };
        let refaulted_bytes = self.refaulted.value().min(usage.present_bytes / share);
        let swapped_in_bytes = if stalls >= STALL_HURTS_PERMILLE && self.swapped_in.value() >= MISSED_LEAST_BYTES {
            // Who thrashes is read back at the speed of its swap, which says little about how much it misses.
            sample.swap_used_bytes.min(usage.present_bytes)
        } else {
            self.swapped_in.value().min(usage.present_bytes / 4)
        };
        let growth = self.growth.value();
        let growth = if growth >= GROWTH_LEAST_BYTES_PER_S { growth } else { 0 };
        let growth_bytes = (growth.saturating_mul(self.grants.ms()) / 1000).min(usage.present_bytes);
        // What has gone since the working set was seen is not in use.
        let cached_bytes = sample.active_file_bytes.saturating_add(sample.inactive_file_bytes);
        let seen_bytes = self.working_set.and_then(|seen| seen.file_60_s_bytes);
        let file_bytes = seen_bytes.map_or(sample.active_file_bytes, |bytes| bytes.min(cached_bytes));
        [file_bytes, refaulted_bytes, swapped_in_bytes, growth_bytes]
            .into_iter()
            .fold(usage.hard_bytes, u64::saturating_add)
            .max(usage.hard_bytes.saturating_add(usage.margin_bytes))
    }

    /// The most that was in use in the last seconds. A stall's average outlives what stalled: who frees its memory would
    /// otherwise seem to need all of it, and more, on top of what is left.
    fn hard_lately(&mut self, now_ms: u64, hard_bytes: u64) -> u64 {
        let holds = |(at_ms, bytes): &(u64, u64)| *bytes > hard_bytes && now_ms.saturating_sub(*at_ms) < FREED_MS;
        let peak = self.hard_peak.filter(holds).unwrap_or((now_ms, hard_bytes));
        self.hard_peak = Some(peak);
        peak.1
    }

    /// What the lesson is worth to a guest that uses `hard_bytes` now.
    fn lesson_bytes(&self, now_ms: u64, hard_bytes: u64) -> u64 {
        let Some(lesson) = self.lesson else { return 0 };
        let fading_ms = now_ms.saturating_sub(lesson.learnt_ms).saturating_sub(LESSON_MS);
        let extra_bytes = faded(lesson.extra_bytes, fading_ms, LESSON_FADE_MS);
        let (still, then) = (hard_bytes.min(lesson.hard_bytes), lesson.hard_bytes.max(1));
        u64::try_from(u128::from(extra_bytes) * u128::from(still) / u128::from(then)).unwrap_or(extra_bytes)
    }

    fn measured(&self, state: &State, usage: &Usage, need_bytes: u64) -> Urgency {
        // Between the two lies a band in which the answer stays what it was.
        let was_idle = self.held.urgency() == Urgency::Idle;
        let idle_bytes = usage.present_bytes / 20 * if was_idle { 16 } else { 15 };
        let critical =
            state.killed || state.stalled_permille >= STALL_HURTS_PERMILLE || state.exhausted_in_ms < self.grants.ms();
        let pressed = state.scarce
            || state.stalled_permille >= STALL_FELT_PERMILLE
            || state.exhausted_in_ms < 2 * self.grants.ms();
        if critical {
            Urgency::Critical
        } else if pressed {
            Urgency::Pressed
        } else if need_bytes < idle_bytes {
            Urgency::Idle
        } else {
            Urgency::Normal
        }
    }

    fn reason(&self, state: &State) -> MemoryReason {
        let stalled = state.stalled_permille >= STALL_FELT_PERMILLE;
        if state.killed || (stalled && self.alloc_stalls.value() > 0) {
            MemoryReason::Exhausted
        } else if stalled {
            MemoryReason::Stalled
        } else if state.exhausted_in_ms < 2 * self.grants.ms() {
            MemoryReason::Growing
        } else if self.swapped_in.value() >= MISSED_LEAST_BYTES {
            MemoryReason::Swapping
        } else if self.refaulted.value() >= MISSED_LEAST_BYTES {
            MemoryReason::Refaulting
        } else if state.scarce {
            MemoryReason::Exhausted
        } else if state.exhausted_in_ms < u64::MAX {
            MemoryReason::Growing
        } else if self.held.urgency() == Urgency::Idle {
            MemoryReason::Idle
        } else {
            MemoryReason::Steady
        }
    }

    fn signals(&self, before: &MemorySample, now: &MemorySample, now_ms: u64, elapsed_ms: u64) -> MemorySignals {
        MemorySignals {
            total_bytes: now.total_bytes.into(),
            available_bytes: now.available_bytes.into(),
            free_bytes: now.free_bytes.into(),
            anon_bytes: now.anon_bytes.into(),
            active_file_bytes: now.active_file_bytes.into(),
            inactive_file_bytes: now.inactive_file_bytes.into(),
            balloon_bytes: now.balloon_bytes.into(),
            swap_used_bytes: now.swap_used_bytes.into(),
            refault_bytes_per_s: per_second(before.refault_file_bytes, now.refault_file_bytes, elapsed_ms).into(),
            swap_in_bytes_per_s: per_second(before.swap_in_bytes, now.swap_in_bytes, elapsed_ms).into(),
            fall_bytes_per_s: self.growth.value().into(),
            stall_some_permille: self.stall_some.value().into(),
            stall_full_permille: self.stall_full.value().into(),
            oom_kills: now.oom_kills.into(),
            working_set: self.working_set.map(|seen| seen.signal(now_ms)),
        }
    }
}

#[cfg(test)]
mod tests;
