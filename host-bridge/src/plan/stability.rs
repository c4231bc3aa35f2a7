//! What keeps the plan from chasing its own tail: the peak of the need, direction blocks, the stalled balloon; and how
//! much a VM came to need at once and how fast it was seen to move.
//!
//! Blocks and the stalled balloon follow the ChromeOS resource manager (vm_tools, balloon blockers): a move keeps
//! the opposite direction shut for a while, and a guest that cannot fill its balloon gets some of it back.

use super::activity::Activity;
use super::progress::{Progress, Rates, is_standstill};
use super::{Direction, MIB, Millis, Pace, Policy, Step, VmView};
use serde::{Deserialize, Serialize};

/// How far back the peak of a need reaches, at least; up to a sixth more.
pub const NEED_WINDOW_MS: Millis = 60_000;

/// How far back bursts are remembered, at least; up to a sixth more.
pub const BURST_WINDOW_MS: Millis = 300_000;

/// What a need rises by within this time is a burst: too fast to wait for donors.
const BURST_MS: Millis = 10_000;

/// If it is at least this share of the need: less is noise.
const BURST_SHARE: u64 = 8;

const SLOTS: usize = 6;

/// What was done to a VM before, as far as it matters for what may be done next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
// A recording of an older version knows less.
#[serde(default)]
pub struct History {
    grown_ms: Option<Millis>,
    shrunk_ms: Option<Millis>,
    stalled_ms: Option<Millis>,
    inflation: Option<Inflation>,
    needs: Peaks<NEED_WINDOW_MS>,
    bursts: Peaks<BURST_WINDOW_MS>,
    /// Since when the need rises, and from where.
    rises_from: Option<(Millis, u64)>,
    /// Since when needs have come without a gap.
    needs_since_ms: Option<Millis>,
    /// The need that calm decisions rest on, bytes.
    settled_bytes: u64,
    activity: Activity,
    /// How fast its memory leaves it.
    #[serde(skip_serializing_if = "is_unknown")]
    leaves: Progress,
    /// How fast memory comes to it.
    #[serde(skip_serializing_if = "is_unknown")]
    comes: Progress,
}

fn is_unknown(progress: &Progress) -> bool {
    !progress.is_known()
}

/// A balloon on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Inflation {
    /// Since when the speed is being taken.
    since_ms: Millis,
    /// The allocation then.
    from_bytes: u64,
    /// The speed over the window before.
    bytes_per_s: Option<u64>,
    /// That of the slowest window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slowest_bytes_per_s: Option<u64>,
}

/// The highest value in each of the last slots of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Peaks<const WINDOW_MS: Millis> {
    /// The slot of the newest value, counted from the clock's start.
    slot: u64,
    /// The highest value of a slot, at the slot's number modulo their count.
    highest: [u64; SLOTS],
}

impl<const WINDOW_MS: Millis> Peaks<WINDOW_MS> {
    const SLOT_MS: Millis = WINDOW_MS / SLOTS as Millis;

    pub(super) fn add(&mut self, now_ms: Millis, value: u64) {
        let slot = now_ms / Self::SLOT_MS;
        for (index, highest) in self.highest.iter_mut().enumerate() {
            if !is_recent(index, self.slot, slot) {
                *highest = 0;
            }
            if slot % SLOTS as u64 == index as u64 {
                *highest = value.max(*highest);
            }
        }
        self.slot = slot;
    }

    /// The highest of the window; 0 when there was none.
    pub(super) fn peak(&self, now_ms: Millis) -> u64 {
        let now = now_ms / Self::SLOT_MS;
        let recent = |(index, highest): (usize, &u64)| is_recent(index, self.slot, now).then_some(*highest);
        self.highest.iter().enumerate().filter_map(recent).max().unwrap_or(0)
    }

    /// Whether a value at `now_ms` comes without a gap of a whole window.
    fn goes_on(&self, now_ms: Millis) -> bool {
        (now_ms / Self::SLOT_MS).saturating_sub(self.slot) < SLOTS as u64
    }
}

impl History {
    /// The history after `step` was sent to the hypervisor at `now_ms`.
    #[must_use]
    pub fn after_step(mut self, now_ms: Millis, step: &Step) -> Self {
        match step.direction() {
            Direction::Grow => self.grown_ms = Some(now_ms),
            Direction::Shrink => self.shrunk_ms = Some(now_ms),
        }
        if step.pace == Pace::GiveBack {
            self.stalled_ms = Some(now_ms);
            self.inflation = None;
        }
        self
    }

    /// The most that its need rose by at once in the last minutes; bytes. Of needs and not of grants: what is granted depends
    /// on the pool that this decides about.
    pub(super) fn burst_bytes(&self, now_ms: Millis) -> u64 {
        self.bursts.peak(now_ms)
    }

    /// Whether its bursts of the last minutes are known.
    pub(super) fn knows_bursts(&self, now_ms: Millis) -> bool {
        self.needs_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= BURST_WINDOW_MS)
    }

    /// The history after the hypervisor was seen to hold `allocation_bytes` with `target_bytes` asked for.
    #[must_use]
    pub fn after_observation(mut self, now_ms: Millis, allocation_bytes: u64, target_bytes: u64) -> Self {
        // A guest at rest may hold a little more than was asked: what its kernel took back. That is no inflation.
        if allocation_bytes <= target_bytes.saturating_add(MIB) {
            self.inflation = None;
            return self;
        }
        let fresh =
            Inflation { since_ms: now_ms, from_bytes: allocation_bytes, bytes_per_s: None, slowest_bytes_per_s: None };
        let inflation = self.inflation.get_or_insert(fresh);
        let elapsed_ms = now_ms.saturating_sub(inflation.since_ms);
        if elapsed_ms >= self.leaves.stall_window_ms(inflation.from_bytes.saturating_sub(target_bytes)) {
            let taken = inflation.from_bytes.saturating_sub(allocation_bytes);
            let speed = taken.saturating_mul(1000) / elapsed_ms;
            let slowest = inflation.slowest_bytes_per_s.map_or(speed, |slowest| slowest.min(speed));
            *inflation = Inflation { bytes_per_s: Some(speed), slowest_bytes_per_s: Some(slowest), ..fresh };
        }
        self
    }

    /// The history after a move of ours ended, at its target or with the next one: `bytes` were confirmed `ms` after they
    /// were asked for. To be told before the observation that ended it. A move that stalled on its way teaches nothing: it says
    /// what the guest could not spare, not how fast it is.
    #[must_use]
    pub fn after_move(mut self, direction: Direction, bytes: u64, ms: Millis, policy: &Policy) -> Self {
        if is_standstill(bytes, ms, policy) {
            return self;
        }
        match direction {
            Direction::Grow => self.comes.saw(bytes, ms),
            Direction::Shrink => {
                let slowest = self.inflation.and_then(|inflation| inflation.slowest_bytes_per_s);
                if slowest.is_none_or(|slowest| slowest >= self.leaves.stall_bytes_per_s(policy)) {
                    self.leaves.saw(bytes, ms);
                }
            }
        }
        self
    }

    /// How fast its memory leaves it, as far as that was seen.
    pub fn leaves(&self) -> &Progress {
        &self.leaves
    }

    /// How fast it was seen to move.
    pub fn rates(&self) -> Rates {
        Rates { shrink_bytes_per_s: self.leaves.bytes_per_s(), grow_bytes_per_s: self.comes.bytes_per_s() }
    }

    /// The history after a fresh report said `need_bytes` at `now_ms`.
    #[must_use]
    pub fn after_demand(mut self, now_ms: Millis, need_bytes: u64) -> Self {
        self.settled_bytes = self.settled_need_bytes(now_ms, need_bytes);
        let goes_on = self.needs.goes_on(now_ms);
        self.needs_since_ms = self.needs_since_ms.filter(|_| goes_on).or(Some(now_ms));
        self.needs.add(now_ms, need_bytes);
        let rises =
            |(since_ms, from): &(Millis, u64)| need_bytes >= *from && now_ms.saturating_sub(*since_ms) < BURST_MS;
        let rise = self.rises_from.filter(rises).unwrap_or((now_ms, need_bytes));
        self.rises_from = Some(rise);
        let risen_bytes = need_bytes - rise.1;
        self.bursts.add(now_ms, if risen_bytes >= need_bytes / BURST_SHARE { risen_bytes } else { 0 });
        self
    }

    /// The history after a fresh report of which `active_bytes` are active ([`super::active_bytes`]).
    #[must_use]
    pub fn after_activity(self, now_ms: Millis, active_bytes: u64) -> Self {
        Self { activity: self.activity.after(now_ms, active_bytes), ..self }
    }

    /// The active bytes that the tax goes by at `now_ms`, with `active_bytes` the present ones.
    pub(super) fn settled_active_bytes(&self, now_ms: Millis, active_bytes: u64) -> u64 {
        self.activity.settled_bytes(now_ms, active_bytes)
    }

    /// This history with the guest that `other` knows of, its needs and its speed: the moves of one run and the guest of another.
    #[must_use]
    pub fn with_guest_of(self, other: &Self) -> Self {
        let Self { needs, bursts, rises_from, needs_since_ms, settled_bytes, activity, leaves, comes, .. } = *other;
        Self { needs, bursts, rises_from, needs_since_ms, settled_bytes, activity, leaves, comes, ..self }
    }

    /// The need that calm decisions rest on at `now_ms`, with `need_bytes` the present one: the highest of the last
    /// minute. It rises at once and falls only by more than a thirty-second, so that it stands still while the need
    /// wavers: otherwise the peaks of one VM's noise would move everybody's entitlement.
    pub fn settled_need_bytes(&self, now_ms: Millis, need_bytes: u64) -> u64 {
        let peak = self.needs.peak(now_ms).max(need_bytes);
        let wavers = peak >= self.settled_bytes - self.settled_bytes / 32;
        if wavers { peak.max(self.settled_bytes) } else { peak }
    }

    /// Whether needs have come, but for less than the window: too little is known to call anything surplus. So a bridge
    /// that was restarted does not take at once what it would have held.
    pub(super) fn is_new(&self, now_ms: Millis) -> bool {
        self.needs_since_ms.is_some_and(|since| now_ms.saturating_sub(since) < NEED_WINDOW_MS)
    }

    /// Until when the VM does not shrink because it grew, if that is still to come.
    pub(super) fn shrink_blocked_until(&self, now_ms: Millis, pace: Pace, policy: &Policy) -> Option<Millis> {
        let wait_ms = if pace == Pace::Urgent { policy.urgent_block_ms } else { policy.calm_block_ms };
        still_ahead(self.grown_ms, wait_ms, now_ms)
    }

    /// Until when the VM does not grow without urgency because it shrank, if that is still to come.
    pub(super) fn growth_blocked_until(&self, now_ms: Millis, policy: &Policy) -> Option<Millis> {
        still_ahead(self.shrunk_ms, policy.calm_block_ms, now_ms)
    }

    /// Until when the VM is left alone because its balloon stalled, if that is still to come.
    pub(super) fn resting_until(&self, now_ms: Millis, policy: &Policy) -> Option<Millis> {
        still_ahead(self.stalled_ms, policy.stall_rest_ms, now_ms)
    }
}

/// Whether the VM's balloon inflates too slowly with more than a dead band to go.
pub(super) fn is_stalled(vm: &VmView, policy: &Policy) -> bool {
    let to_go = vm.allocation_bytes.saturating_sub(vm.target_bytes);
    let speed = vm.history.inflation.and_then(|inflation| inflation.bytes_per_s);
    let line = vm.history.leaves.stall_bytes_per_s(policy);
    to_go >= policy.dead_band(vm.allocation_bytes) && speed.is_some_and(|speed| speed < line)
}

/// When `wait_ms` from `then` are over, unless they are.
fn still_ahead(then: Option<Millis>, wait_ms: Millis, now_ms: Millis) -> Option<Millis> {
    then.map(|then| then.saturating_add(wait_ms)).filter(|until| *until > now_ms)
}

/// Whether the slot kept at `index`, with `newest` the newest ever kept, is one of the last at slot `now`.
fn is_recent(index: usize, newest: u64, now: u64) -> bool {
    let slots = SLOTS as u64;
    let back = (newest % slots + slots - index as u64) % slots;
    newest.checked_sub(back).is_some_and(|slot| now.saturating_sub(slot) < slots)
}

#[cfg(test)]
mod tests;
