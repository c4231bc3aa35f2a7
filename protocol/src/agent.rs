//! What an agent sends.

use crate::demand::Demand;
use crate::{Amount, VersionRange, decode::wire};
use serde::{Deserialize, Serialize};

/// A message from the agent to the bridge.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AgentMessage {
    /// The first message of a session.
    Hello(Hello),
    /// The demand, each interval.
    Report(Report),
    /// The demand, at once, because waiting for the interval would mean a stall.
    Urgent(Report),
    /// The one answer to a request of the bridge.
    Reply(Reply),
    /// Something happened that is no demand.
    Event(Event),
}

wire!(AgentMessage {
    "hello" => Hello,
    "report" => Report,
    "urgent" => Urgent,
    "reply" => Reply,
    "event" => Event,
});

/// Who speaks. Nothing in it is trusted as an identity: the transport tells which VM this is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Hello {
    /// Protocol versions that the agent speaks.
    pub protocol: VersionRange,
    /// The agent's own version.
    pub agent: String,
    /// The guest's kernel release.
    pub kernel: String,
    /// `/proc/sys/kernel/random/boot_id`: tells a reconnect from a reboot.
    pub boot_id: String,
    /// What the agent can do: names of requests and of resources; unknown names are skipped.
    pub capabilities: Vec<String>,
}

/// A guest's demand at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Report {
    /// Counts a session's reports and urgent messages, from 1.
    pub sequence: u64,
    /// What the guest wants.
    pub demand: Demand,
}

/// The one answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reply {
    /// The request's id.
    pub id: u64,
    /// How it ended.
    pub status: ReplyStatus,
    /// How much was really done, in the request's unit (bytes that are spare, CPUs online, bytes trimmed).
    pub amount: Amount,
    /// Why it is not all of it; of storage, what each file system gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ReplyStatus {
    /// All of it.
    Done,
    /// Some of it, or none within the deadline.
    Partial,
    /// The agent may not or must not.
    Refused,
    /// The agent does not know how.
    Unsupported,
}

/// Something that happened in the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// What happened.
    pub event: EventKind,
    /// For a person.
    pub message: String,
}

/// What an [`Event`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The guest's kernel killed a task for lack of memory.
    OomKill,
    /// The agent stops by intent; its last demand holds until it expires.
    Stopping,
    /// A knob of the guest was tried out, put back, refused, or taken by someone else.
    Tuning,
    /// A kind of a newer peer.
    #[serde(other)]
    Other,
}
