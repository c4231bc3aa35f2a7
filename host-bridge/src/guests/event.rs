//! What the bridge hears of its guests.

use super::check::{Clamps, Demand, Reply};
use super::text::printable;
use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;
use vmtide_protocol::agent::EventKind;
use vmtide_protocol::bridge::RejectReason;
use vmtide_protocol::{DecodeError, FrameError, SUPPORTED, VersionRange};

/// Something that a guest said or that happened to its session; in order for each VM.
#[derive(Clone, Debug, PartialEq)]
pub enum GuestEvent {
    /// A session began.
    Connected(Hello),
    /// The guest reported. While the bridge is busy, a newer demand takes the place of an older one.
    Demand {
        /// The newest demand.
        demand: Box<Demand>,
        /// Whether the guest asked for it to be looked at now.
        urgent: bool,
        /// What came in since the last event that carried a tally.
        tally: Tally,
    },
    /// The guest answered a request.
    Reply(Reply),
    /// Something happened in the guest that is no demand.
    Happened {
        /// What.
        event: EventKind,
        /// For a person; printable.
        message: String,
    },
    /// The session ended. The guest's demand still holds until it expires.
    Disconnected {
        /// Why.
        end: End,
        /// What came in since the last event that carried a tally.
        tally: Tally,
    },
    /// A connection ended before it became a session.
    Refused(End),
}

/// Who runs in the guest, as it says; printable, bounded and never an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol version that both speak.
    pub protocol: u32,
    /// The agent's version.
    pub agent: String,
    /// The guest's kernel release.
    pub kernel: String,
    /// Tells a reconnect from a reboot.
    pub boot_id: String,
    /// What the agent can do.
    pub capabilities: Vec<String>,
}

/// How much came in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Reports that were taken in.
    pub reports: u64,
    /// Urgent messages that were taken in.
    pub urgents: u64,
    /// Urgent messages beyond four a second, dropped.
    pub dropped_urgents: u64,
    /// Lines beyond what a session may send, dropped unread.
    pub dropped_lines: u64,
    /// Replies and events for which the bridge had no room, dropped.
    pub dropped_events: u64,
    /// Numbers that cannot be.
    pub clamps: Clamps,
}

impl Tally {
    /// Both together.
    #[must_use]
    pub fn plus(&self, later: &Self) -> Self {
        Self {
            reports: self.reports + later.reports,
            urgents: self.urgents + later.urgents,
            dropped_urgents: self.dropped_urgents + later.dropped_urgents,
            dropped_lines: self.dropped_lines + later.dropped_lines,
            dropped_events: self.dropped_events + later.dropped_events,
            clamps: self.clamps.plus(&later.clamps),
        }
    }
}

/// Why a connection ended. The message is for a person and printable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The guest closed it.
    #[error("the guest closed the connection")]
    Closed,
    /// The transport failed.
    #[error("the connection broke: {0}")]
    Broken(io::ErrorKind),
    /// What was sent was not taken in time.
    #[error("the guest did not read for {} s", .0.as_secs())]
    NotReading(Duration),
    /// The first message was something else or did not come.
    #[error("the first line must be a hello, within {} s", .0.as_secs())]
    NoHello(Duration),
    /// No common protocol version.
    #[error("the agent speaks protocol {} to {}, this bridge {} to {}", .0.min, .0.max, SUPPORTED.min, SUPPORTED.max)]
    Version(VersionRange),
    /// A line that is no message, or a second hello.
    #[error("{0}")]
    Malformed(String),
    /// A line past the bound.
    #[error("{0}")]
    Oversized(String),
    /// A line whose end did not come in time.
    #[error("a line took longer than {} s", .0.as_secs())]
    SlowLine(Duration),
    /// No line at all for too long.
    #[error("nothing was heard for {} s", .0.as_secs())]
    Silent(Duration),
    /// A flood.
    #[error("more lines than the protocol allows, and it went on")]
    TooMany,
    /// A newer session of the same VM.
    #[error("a newer session of this VM took over")]
    Replaced,
    /// The bridge stops.
    #[error("the bridge stops")]
    Stopping,
    /// The bridge is far behind with this VM's events.
    #[error("the bridge is busy")]
    Busy,
    /// No VM has this address.
    #[error("no VM of this host has this address")]
    UnknownVm,
}

impl End {
    /// What the guest is told; `None` when it cannot or need not be told.
    pub fn reject_reason(&self) -> Option<RejectReason> {
        Some(match self {
            Self::Closed | Self::Broken(_) | Self::NotReading(_) => return None,
            Self::NoHello(_) => RejectReason::NoHello,
            Self::Version(_) => RejectReason::Version,
            Self::Malformed(_) => RejectReason::Malformed,
            Self::Oversized(_) => RejectReason::Oversized,
            Self::SlowLine(_) | Self::Silent(_) => RejectReason::Slow,
            Self::TooMany => RejectReason::TooMany,
            Self::Replaced => RejectReason::Replaced,
            Self::Stopping => RejectReason::Stopping,
            Self::Busy => RejectReason::Other,
            Self::UnknownVm => RejectReason::UnknownVm,
        })
    }

    /// Whether the guest broke the protocol.
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::NoHello(_) | Self::Malformed(_) | Self::Oversized(_) | Self::SlowLine(_) | Self::TooMany)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.kind())
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Oversized(error.to_string())
    }
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(printable(&error.to_string()))
    }
}
