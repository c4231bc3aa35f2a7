//! What is told of asking: of one shrink, and of a VM.

use serde::{Deserialize, Serialize};

/// What a guest said to a shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// It answered.
    Answered {
        /// What it was asked for.
        bytes: u64,
        /// What it said is spare of that.
        spare_bytes: u64,
        /// How long that took.
        after_ms: u64,
    },
    /// It did not answer: a slice was taken.
    Silent {
        /// What it was asked for.
        bytes: u64,
        /// How long that was waited for.
        after_ms: u64,
    },
    /// There is nobody to ask: a slice was taken.
    Unable,
    /// It did not keep its word before: it was not asked.
    Untrusted,
}

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
