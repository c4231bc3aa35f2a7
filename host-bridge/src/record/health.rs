//! How the recording goes, as an operator is told.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A recording that is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Where it is.
    pub folder: PathBuf,
    /// What its segments have together, as of the last try.
    pub bytes: u64,
    /// The most that they may have.
    pub cap_bytes: u64,
    /// When the disk took a record last, milliseconds since 1970; `None` before the first.
    pub written_unix_ms: Option<u64>,
    /// Why nothing is recorded; `None` when the last try worked.
    pub failure: Option<Failure>,
    /// Records of this run that are lost: the disk did not take them, or was too slow.
    pub lost_records: u64,
}

/// Why nothing is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Since when, milliseconds since 1970.
    pub since_unix_ms: u64,
    /// What the last try came to.
    pub error: String,
}

impl Health {
    /// A try that worked.
    pub(super) fn worked(&mut self, unix_ms: u64, bytes: u64) {
        (self.bytes, self.written_unix_ms, self.failure) = (bytes, Some(unix_ms), None);
    }

    /// A try that did not.
    pub(super) fn failed(&mut self, unix_ms: u64, error: String) {
        let since_unix_ms = self.failure.as_ref().map_or(unix_ms, |failure| failure.since_unix_ms);
        self.failure = Some(Failure { since_unix_ms, error });
    }
}
