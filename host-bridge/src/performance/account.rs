//! Sums of one VM and resource over time.

use super::{Index, LATE_MS, Millis, PPM, Resource, Totals};
use vmtide_protocol::stalls::cpu_stalled_us;

/// Sums since the bridge began. The sums of a window are the difference of those at its end and at its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Time in which the allocation was known.
    held_ms: u64,
    /// The allocation as a part of the maximum, summed over that time, millionths by milliseconds.
    held_ppm_ms: u64,
    /// Time whose stalls the guest told.
    told_ms: u64,
    /// What the stalled part is a part of: that time, or CPU time wanted in it.
    wanted_us: u64,
    /// What was stalled of it.
    stalled_us: u64,
}

impl Account {
    /// Adds `ms` in which the VM had `ppm` of its maximum.
    pub(super) fn hold(&mut self, ms: Millis, ppm: u64) {
        self.held_ms = self.held_ms.saturating_add(ms);
        self.held_ppm_ms = self.held_ppm_ms.saturating_add(ms.saturating_mul(ppm.min(PPM)));
    }

    /// Adds what a guest's totals say of the time between them. Totals that went back are of another boot: nothing is known.
    pub(super) fn tell(&mut self, resource: Resource, before: &Totals, after: &Totals) {
        let more = |of: fn(&Totals) -> u64| of(after).checked_sub(of(before));
        let fields: [fn(&Totals) -> u64; 5] =
            [|t| t.at_ms, |t| t.some_us, |t| t.full_us, |t| t.used_us, |t| t.steal_us];
        let [Some(ms), Some(some_us), Some(full_us), Some(used_us), Some(steal_us)] = fields.map(more) else { return };
        let span_us = ms.saturating_mul(1000);
        if span_us == 0 {
            return;
        }
        // A guest may claim to have waited for longer than time went by.
        let (stalled_us, wanted_us) = if resource == Resource::Cpu {
            cpu_stalled_us(span_us, some_us, used_us, steal_us)
        } else {
            (full_us.min(span_us), span_us)
        };
        self.told_ms = self.told_ms.saturating_add(ms);
        self.stalled_us = self.stalled_us.saturating_add(stalled_us);
        self.wanted_us = self.wanted_us.saturating_add(wanted_us);
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            held_ms: self.held_ms.saturating_sub(earlier.held_ms),
            held_ppm_ms: self.held_ppm_ms.saturating_sub(earlier.held_ppm_ms),
            told_ms: self.told_ms.saturating_sub(earlier.told_ms),
            wanted_us: self.wanted_us.saturating_sub(earlier.wanted_us),
            stalled_us: self.stalled_us.saturating_sub(earlier.stalled_us),
        }
    }

    /// The index; `None` where the guest told nothing of the time, or is [silent](LATE_MS) and told less than half, or there
    /// was no VM.
    pub fn index(&self) -> Option<Index> {
        let untold_ms = self.held_ms.saturating_sub(self.told_ms);
        if self.held_ms == 0 || self.told_ms == 0 || untold_ms > (self.held_ms / 2).max(LATE_MS) {
            return None;
        }
        // Where nothing wanted to run nothing waited.
        let stalled = u128::from(self.stalled_us) * u128::from(PPM) / u128::from(self.wanted_us.max(1));
        let stalled_ppm = u64::try_from(stalled).unwrap_or(PPM).min(PPM);
        let r_ppm = self.held_ppm_ms / self.held_ms;
        Some(Index::new(r_ppm, r_ppm * (PPM - stalled_ppm) / PPM, PPM - stalled_ppm))
    }
}
