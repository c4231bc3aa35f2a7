//! Keeps what was decided about CPU time and disks, and what came of it: for `explain`, for who optimizes, for the recording.

use super::optimize::Moved;
use super::state::Bridge;
use crate::record::{Lever, LeverChange, LeverEntry, LeverOutcome};

/// Entries that wait for the next plan of memory, with which they are recorded: more than a busy host has between two.
const MOST_WAITING: usize = 512;

/// All VMs' changes, as far as they are not kept with their VM.
#[derive(Debug, Default)]
pub(super) struct Levers {
    count: u64,
    waiting: Vec<LeverEntry>,
}

impl Levers {
    /// What is to be recorded.
    pub(super) fn take(&mut self) -> Vec<LeverEntry> {
        std::mem::take(&mut self.waiting)
    }
}

impl Bridge {
    /// Takes in what is asked for a VM now.
    pub(super) fn decide(&mut self, number: usize, moved: &Moved) {
        self.lease_change(number, moved);
        self.levers.count += 1;
        let Moved { lever, from, to, rule, reason } = moved;
        let change = LeverChange {
            id: self.levers.count,
            at_unix_ms: self.now.unix_ms,
            vm: self.vms[number].config.name.clone(),
            lever: *lever,
            from: *from,
            to: *to,
            rule: rule.clone(),
            reason: reason.clone(),
            outcome: LeverOutcome::Asked,
        };
        if let Some(id) = self.vms[number].levers.push(change.clone()) {
            self.record_lever(LeverEntry::Ended { id, outcome: LeverOutcome::Superseded });
        }
        self.record_lever(LeverEntry::Decided(change));
    }

    /// The last change of this lever was done, if it was still open.
    pub(super) fn lever_done(&mut self, number: usize, lever: Lever) {
        let Some(open) = self.vms[number].levers.open(lever) else { return };
        let after_ms = self.now.unix_ms.saturating_sub(open.at_unix_ms);
        self.settle_lever(number, lever, LeverOutcome::Done { after_ms });
    }

    /// It was not.
    pub(super) fn lever_refused(&mut self, number: usize, lever: Lever, why: &str) {
        self.settle_lever(number, lever, LeverOutcome::Refused { message: why.to_owned() });
    }

    pub(super) fn settle_lever(&mut self, number: usize, lever: Lever, outcome: LeverOutcome) {
        if let Some(id) = self.vms[number].levers.settle(lever, outcome.clone()) {
            self.record_lever(LeverEntry::Ended { id, outcome });
        }
    }

    fn record_lever(&mut self, entry: LeverEntry) {
        if self.is_recorded() && self.levers.waiting.len() < MOST_WAITING {
            self.levers.waiting.push(entry);
        }
    }
}
