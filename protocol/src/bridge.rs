//! What a bridge sends.

use crate::decode::wire;
use serde::{Deserialize, Serialize};

/// A message from the bridge to the agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BridgeMessage {
    /// The session begins.
    Welcome(Welcome),
    /// The session ends, at its beginning or later.
    Reject(Reject),
    /// What the VM has now. The guest cannot infer it: with deflate-on-oom its MemTotal does not move.
    Allocation(Allocation),
    /// What the host is short of.
    Host(Host),
    /// A request to free memory.
    YieldMemory(YieldMemory),
    /// A request to change how many CPUs are online.
    SetOnlineCpus(SetOnlineCpus),
    /// A request to discard unused blocks.
    TrimStorage(TrimStorage),
    /// A request to leave the guest's knobs alone for a while.
    PauseTuning(PauseTuning),
}

wire!(BridgeMessage {
    "welcome" => Welcome,
    "reject" => Reject,
    "allocation" => Allocation,
    "host" => Host,
    "yield_memory" => YieldMemory,
    "set_online_cpus" => SetOnlineCpus,
    "trim_storage" => TrimStorage,
    "pause_tuning" => PauseTuning,
});

/// The session begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Welcome {
    /// The version that both sides speak from here on.
    pub protocol: u32,
    /// The VM's name on this host.
    pub vm: String,
    /// How often to report.
    pub intervals: Intervals,
    /// What the VM has; `None` until the hypervisor has said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
}

/// How often an agent reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Intervals {
    /// While demand moves.
    pub busy_ms: u64,
    /// While it does not.
    pub quiet_ms: u64,
}

impl Default for Intervals {
    fn default() -> Self {
        Self { busy_ms: 1_000, quiet_ms: 10_000 }
    }
}

/// The session ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// For a person.
    pub message: String,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// No VM of this host has that address.
    UnknownVm,
    /// No common protocol version.
    Version,
    /// The first line was no hello, or it came too late.
    NoHello,
    /// A line that is not a message.
    Malformed,
    /// A line longer than the bound.
    Oversized,
    /// A line whose end did not come in time.
    Slow,
    /// More lines than the protocol allows.
    TooMany,
    /// A newer session of the same VM took over.
    Replaced,
    /// The bridge stops.
    Stopping,
    /// A reason of a newer peer.
    #[serde(other)]
    Other,
}

/// A VM's memory as the hypervisor confirmed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Allocation {
    /// What the VM has.
    pub allocation_bytes: u64,
    /// What was asked for; differs while memory moves.
    pub target_bytes: u64,
    /// The least that the operator lets it have.
    pub minimum_bytes: u64,
    /// The most that the operator lets it have.
    pub maximum_bytes: u64,
}

/// What the host is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Host {
    /// CPU time.
    pub cpu_short: bool,
    /// Memory.
    pub memory_short: bool,
    /// Block I/O.
    pub io_short: bool,
}

/// A request to free memory, so that the balloon then takes pages that nobody misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct YieldMemory {
    /// For the reply.
    pub id: u64,
    /// How much is to be spare: free, and more than the guest's floor needs. What is so already counts.
    pub bytes: u64,
    /// Reply within this time, with what there is.
    pub deadline_ms: u64,
}

/// A request to change how many CPUs are online.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SetOnlineCpus {
    /// For the reply.
    pub id: u64,
    /// How many, at least 1.
    pub cpus: u32,
    /// Reply within this time, with what there is.
    pub deadline_ms: u64,
}

/// A request to discard unused blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TrimStorage {
    /// For the reply.
    pub id: u64,
    /// Reply within this time, with what there is.
    pub deadline_ms: u64,
}

/// A request to leave the guest's knobs alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PauseTuning {
    /// For the reply.
    pub id: u64,
    /// For how long; 0 ends an earlier pause.
    pub pause_ms: u64,
}
