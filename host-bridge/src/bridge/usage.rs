//! What VMs used of CPUs and disks, for the recording: the most of each minute.

use super::state::Bridge;
use crate::plan::Millis;
use crate::record::Used;
use std::collections::BTreeMap;

const EACH_MS: Millis = 60_000;

/// Since the last minute was recorded.
#[derive(Debug, Default)]
pub(super) struct Usage {
    since_ms: Option<Millis>,
    peaks: BTreeMap<usize, Used>,
}

impl Usage {
    fn add(&mut self, now_ms: Millis, number: usize, used: Used) {
        self.since_ms.get_or_insert(now_ms);
        let peak = self.peaks.entry(number).or_default();
        *peak = peak.peak(used);
    }

    /// The peaks of a minute, once it is over; empty before.
    pub(super) fn take(&mut self, now_ms: Millis) -> BTreeMap<usize, Used> {
        if self.since_ms.is_none_or(|since_ms| now_ms.saturating_sub(since_ms) < EACH_MS) {
            return BTreeMap::new();
        }
        self.since_ms = None;
        std::mem::take(&mut self.peaks)
    }
}

impl Bridge {
    /// Takes in what the VMs that run take now, where that is recorded.
    pub(super) fn note_usage(&mut self) {
        let now_ms = self.now.ms;
        if !self.is_recorded() {
            return;
        }
        for number in 0..self.vms.len() {
            if !self.vms[number].attached().is_some_and(|state| state.running) {
                continue;
            }
            let need_millicpus = self.guests.cpu(number, now_ms).map(|cpu| cpu.need_millicpus);
            let io = self.storage.vms[number].done(now_ms);
            let used = Used {
                cpu_millicpus: need_millicpus.or(self.cpu.used_millicpus(number)).unwrap_or(0),
                io_bytes_per_s: io.bytes_per_s,
                io_ops_per_s: io.ops_per_s,
            };
            self.usage.add(now_ms, number, used);
        }
    }
}
