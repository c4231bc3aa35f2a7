//! What a recording tells of CPU time and disks: each change with what came of it. Nothing is planned again.

use crate::record::{Entry, Lever, LeverChange, LeverEntry, LeverOutcome, ReadError, read};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// How often a lever was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeverFigures {
    /// Changes that were decided.
    pub changes: u64,
    /// Of these, those that were not done.
    pub refused: u64,
}

/// By VM and lever.
pub type LeverCounts = BTreeMap<String, BTreeMap<Lever, LeverFigures>>;

/// All changes in the recording at `path`, oldest first.
///
/// # Errors
/// [`ReadError`] when there is nothing to read.
pub fn lever_changes(path: &Path) -> Result<Vec<LeverChange>, ReadError> {
    let mut changes = Changes::default();
    read(path, |entry| changes.entry(&entry))?;
    Ok(changes.all)
}

/// Changes as they are read.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) all: Vec<LeverChange>,
    /// The run that goes on, and where its open changes are by their numbers.
    open: (u64, BTreeMap<u64, usize>),
}

impl Changes {
    pub(super) fn entry(&mut self, entry: &Entry<'_>) {
        let Entry::Tick(header, tick) = entry else { return };
        if self.open.0 != header.run_unix_ms {
            self.open = (header.run_unix_ms, BTreeMap::new());
        }
        for entry in &tick.levers {
            match entry {
                LeverEntry::Decided(change) => {
                    self.open.1.insert(change.id, self.all.len());
                    self.all.push(change.clone());
                }
                LeverEntry::Ended { id, outcome } => {
                    // One that was decided before the recording begins, or in what is lost of it, is not known.
                    if let Some(at) = self.open.1.remove(id) {
                        self.all[at].outcome = outcome.clone();
                    }
                }
            }
        }
    }
}

/// How often each lever was moved.
pub(super) fn counted(changes: &[LeverChange]) -> LeverCounts {
    let mut counts = LeverCounts::new();
    for LeverChange { vm, lever, outcome, .. } in changes {
        let figures = counts.entry(vm.clone()).or_default().entry(*lever).or_default();
        figures.changes += 1;
        figures.refused += u64::from(matches!(outcome, LeverOutcome::Refused { .. }));
    }
    counts
}
