//! What became of the requests to yield memory, for an operator.

use serde::{Deserialize, Serialize};

/// What was asked of one guest, and how it kept its word. The counts begin with the VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yields {
    /// What it is being asked for.
    pub open_bytes: Option<u64>,
    /// Requests so far.
    pub asked: u64,
    /// Of these, answered in time.
    pub answered: u64,
    /// Of these, not.
    pub unanswered: u64,
    /// How often its balloon reached what it had said was spare.
    pub kept: u64,
    /// How often it did not, or the guest was silent twice in a row.
    pub broken: u64,
    /// For how long it is not asked any more, because it did not keep its word; `None` while it is.
    pub untrusted_for_ms: Option<u64>,
}
