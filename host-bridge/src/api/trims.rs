//! What became of requests to give unused blocks back, and where images are, for an operator.

use crate::config::Bytes;
use crate::plan::trim::PoolSpace;
use serde::{Deserialize, Serialize};

/// A file system of the host that images are on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// One of the images.
    pub path: String,
    /// Its room.
    pub space: PoolSpace,
    /// Whether it is low: quiet guests are asked to give unused blocks back.
    pub is_low: bool,
    /// The VMs that have images there.
    pub vms: Vec<String>,
}

/// The last request to one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trim {
    /// Its number.
    pub id: u64,
    /// When it was asked, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Whether an operator asked, not a pool that is low.
    pub by_hand: bool,
    /// How it stands.
    pub state: TrimState,
    /// What the guest says it gave.
    pub given_bytes: u64,
    /// What each of its file systems gave, and why it is not all, in the guest's words.
    pub detail: Option<String>,
    /// How much more room its pools had a while after than before: others write meanwhile. `None` until then, and where
    /// pools are not known.
    pub pool_bytes: Option<i64>,
    /// Whether nothing more comes.
    pub is_over: bool,
}

impl Trim {
    /// What the guest said, in a sentence.
    pub fn said(&self) -> String {
        let given = Bytes(self.given_bytes);
        let text = match self.state {
            TrimState::Asked => "its guest gives unused blocks back now".to_owned(),
            TrimState::Done => format!("its guest says it gave {given} back"),
            TrimState::Partial => format!("its guest says it gave {given} back, not all"),
            TrimState::Refused => "its guest gives no blocks back".to_owned(),
            TrimState::Unsupported => "its agent does not know how to give blocks back".to_owned(),
            TrimState::Unanswered => "it is not known whether blocks were given back".to_owned(),
        };
        text + &self.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default()
    }

    /// What came of it where its images are, once that is known.
    pub fn room(&self) -> Option<String> {
        let change = self.pool_bytes?;
        let (amount, which) = (Bytes(change.unsigned_abs()), if change < 0 { "less" } else { "more" });
        Some(format!("its pools have {amount} {which} room than before it was asked"))
    }
}

/// How a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrimState {
    /// The guest is at it.
    Asked,
    /// It gave all that it could.
    Done,
    /// It stopped early, or one of its file systems could not.
    Partial,
    /// It may not, or has nothing to give back.
    Refused,
    /// Its agent does not know how.
    Unsupported,
    /// It did not answer in time, or its session ended.
    Unanswered,
}
