//! Whether what a guest's agent says is in use is what its kernel shows in the balloon's statistics. Pure: time is an argument.
//!
//! Statistics are up to ten seconds old when they are read, and a need that jumps is ahead of them: so only what goes on is a
//! contradiction. Then the statistics hold, give or take a quarter of what the VM has, until both agree again. What the agent
//! foresees beyond its use stays its own word: that is worth no more than the VM's shares.

use crate::api::types::Contradictions;
use crate::plan::{MIB, MemoryDemand, Millis};

/// What is over sooner is a need on the move, or old statistics.
const LASTS_MS: Millis = 40_000;
/// Figures that differ by less than this part of what the VM has agree, …
const AGREES_PART: u64 = 4;
/// … and those that differ by less than this: what a kernel keeps for itself at boot is in no figure of its own.
const AGREES_BYTES: u64 = 128 * MIB;

/// What is thought of one guest's figures.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt {
    /// Since when they differ.
    since_ms: Option<Millis>,
    /// By how much its figures are wrong while that is a contradiction: said too much, said too little.
    off_bytes: (u64, u64),
    told: Contradictions,
}

impl Doubt {
    /// Takes in that the agent says `said_bytes` are in use and the statistics show `shown_bytes`, of a VM that has
    /// `allocation_bytes`. Whether a contradiction begins.
    pub(super) fn compare(&mut self, now_ms: Millis, said_bytes: u64, shown_bytes: u64, allocation_bytes: u64) -> bool {
        let agrees_bytes = (allocation_bytes / AGREES_PART).max(AGREES_BYTES);
        if said_bytes.abs_diff(shown_bytes) <= agrees_bytes {
            (self.since_ms, self.off_bytes, self.told.is_open) = (None, (0, 0), false);
            return false;
        }
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(since_ms) < LASTS_MS {
            return false;
        }
        let begins = !self.told.is_open;
        let too_much = said_bytes.saturating_sub(shown_bytes).saturating_sub(agrees_bytes);
        let too_little = shown_bytes.saturating_sub(said_bytes).saturating_sub(agrees_bytes);
        self.off_bytes = (too_much, too_little);
        self.told =
            Contradictions { count: self.told.count + u64::from(begins), said_bytes, shown_bytes, is_open: true };
        begins
    }

    /// What is believed of `demand`, of a VM of at most `maximum_bytes`.
    pub(super) fn believed(&self, demand: MemoryDemand, maximum_bytes: u64) -> MemoryDemand {
        let (too_much, too_little) = self.off_bytes;
        let believe = |bytes: u64| bytes.saturating_sub(too_much).saturating_add(too_little).min(maximum_bytes);
        let (need_bytes, floor_bytes) = (believe(demand.need_bytes), believe(demand.floor_bytes));
        MemoryDemand { need_bytes, floor_bytes, ..demand }
    }

    /// What an operator sees.
    pub(super) fn summary(&self) -> Contradictions {
        self.told
    }
}
