//! Typed demand: for each resource an amount, a floor, an urgency, a reason and the signals behind it.

use crate::{Amount, Stalls};
use serde::{Deserialize, Serialize};

/// How much it matters that a demand is met, in rising order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// Uses much less than it has.
    Idle,
    /// Has what it uses.
    #[default]
    Normal,
    /// Stalls a little, or will before the next report.
    Pressed,
    /// Stalls, fails to allocate, or will before a grant can arrive.
    Critical,
}

/// What the agent knows of one resource: "not yet" is an answer, not an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// Too few samples so far, or the guest does not show this resource.
    NotYet,
    /// The demand.
    Known(T),
}

impl<T> Answer<T> {
    /// The demand, where there is one.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::NotYet => None,
            Self::Known(demand) => Some(demand),
        }
    }
}

/// A guest's demand for every resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Demand {
    /// Memory, in bytes of the VM's allocation (guest kernel and its reserved pages included).
    pub memory: Answer<MemoryDemand>,
    /// CPU, in thousandths of a virtual CPU.
    pub cpu: Answer<CpuDemand>,
    /// Block I/O, all disks together.
    pub io: Answer<IoDemand>,
    /// How long its tasks waited so far; absent from agents that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalls: Option<Stalls>,
}

/// Demand for memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemoryDemand {
    /// The allocation with which the guest would not stall.
    pub need_bytes: Amount,
    /// An allocation down to which it can be shrunk safely.
    pub floor_bytes: Amount,
    /// How much the need matters.
    pub urgency: Urgency,
    /// What the need rests on.
    pub reason: MemoryReason,
    /// How long ago, when this was sent, the stall began or was predicted; 0 when there is none.
    pub waiting_ms: Amount,
    /// What was measured.
    pub signals: MemorySignals,
}

/// What a need for memory rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum MemoryReason {
    /// Most of the allocation is free or holds cold cache.
    Idle,
    /// The working set is steady.
    Steady,
    /// Available memory falls fast enough to run out.
    Growing,
    /// Cache that was just evicted is read again.
    Refaulting,
    /// Pages come back from swap.
    Swapping,
    /// Tasks wait for memory (PSI).
    Stalled,
    /// The kernel killed, an allocation had to reclaim by itself, or next to nothing is available.
    Exhausted,
    /// A reason of a newer peer.
    #[serde(other)]
    Other,
}

/// The measurements behind a [`MemoryDemand`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct MemorySignals {
    /// MemTotal plus what the kernel reserved at boot; the balloon does not count as taken.
    pub total_bytes: Amount,
    /// MemAvailable.
    pub available_bytes: Amount,
    /// MemFree.
    pub free_bytes: Amount,
    /// AnonPages.
    pub anon_bytes: Amount,
    /// Active(file).
    pub active_file_bytes: Amount,
    /// Inactive(file).
    pub inactive_file_bytes: Amount,
    /// What the guest's balloon driver holds.
    pub balloon_bytes: Amount,
    /// Swap in use.
    pub swap_used_bytes: Amount,
    /// Evicted cache read again, per second.
    pub refault_bytes_per_s: Amount,
    /// Pages read from swap, per second.
    pub swap_in_bytes_per_s: Amount,
    /// How fast use grows, and with it MemAvailable falls, a moving balloon left out; 0 while it does not.
    pub fall_bytes_per_s: Amount,
    /// Share of time in which some task waited for memory, thousandths.
    pub stall_some_permille: Amount,
    /// Share of time in which all tasks waited for memory, thousandths.
    pub stall_full_permille: Amount,
    /// OOM kills since boot.
    pub oom_kills: Amount,
    /// What was used lately; absent while the guest does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_set: Option<WorkingSet>,
}

/// How much of the anonymous and file memory was used lately. Each amount holds those before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct WorkingSet {
    /// Where it comes from.
    pub source: WorkingSetSource,
    /// Used within the last 10 seconds.
    pub used_10_s_bytes: Amount,
    /// Used within the last minute.
    pub used_60_s_bytes: Amount,
    /// Used within the last five minutes, or not known to be unused for so long.
    pub used_300_s_bytes: Amount,
    /// Used at any time: all of it.
    pub total_bytes: Amount,
    /// How long ago, when this was sent, it was so.
    pub age_ms: Amount,
    /// CPU time that it took to find out.
    pub cost_us: Amount,
}

/// What tells the age of a guest's pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum WorkingSetSource {
    /// The generations of the multi-generational LRU: when each page was last used.
    Mglru,
    /// DAMON: regions of memory, a page of each looked at once a second.
    Damon,
    /// Sizes and counters: all anonymous memory, active file pages and what came back. Knows no ages.
    Counters,
    /// A source of a newer peer.
    #[default]
    #[serde(other)]
    Other,
}

/// Demand for CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CpuDemand {
    /// What the guest would use if it never waited.
    pub need_millicpus: Amount,
    /// What it cannot do without.
    pub floor_millicpus: Amount,
    /// How much the need matters.
    pub urgency: Urgency,
    /// What the need rests on.
    pub reason: CpuReason,
    /// What was measured.
    pub signals: CpuSignals,
}

/// What a need for CPU rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CpuReason {
    /// Nearly no use.
    Idle,
    /// Uses what it has without waiting.
    Steady,
    /// Tasks wait for a virtual CPU (PSI).
    Stalled,
    /// The host ran something else while a virtual CPU wanted to run (steal).
    Stolen,
    /// A reason of a newer peer.
    #[serde(other)]
    Other,
}

/// The measurements behind a [`CpuDemand`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct CpuSignals {
    /// Virtual CPUs online.
    pub online_cpus: Amount,
    /// Used, in thousandths of a virtual CPU.
    pub used_millicpus: Amount,
    /// Stolen by the host, in thousandths of a virtual CPU.
    pub steal_millicpus: Amount,
    /// What waited for a virtual CPU through no fault of the host's, in thousandths of one.
    pub waiting_millicpus: Amount,
    /// How much more of the time the busiest virtual CPU was used than the idlest, thousandths.
    pub imbalance_permille: Amount,
    /// Runnable tasks at the time of the sample.
    pub running_tasks: Amount,
    /// Share of time in which some task waited for a CPU, thousandths.
    pub stall_some_permille: Amount,
}

/// Demand for block I/O.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IoDemand {
    /// Throughput without waiting, bytes per second.
    pub need_bytes_per_s: Amount,
    /// Operations without waiting, per second.
    pub need_ops_per_s: Amount,
    /// Throughput that it cannot do without, bytes per second.
    pub floor_bytes_per_s: Amount,
    /// How much the need matters.
    pub urgency: Urgency,
    /// What the need rests on.
    pub reason: IoReason,
    /// What was measured.
    pub signals: IoSignals,
}

/// What a need for block I/O rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum IoReason {
    /// Nearly no I/O.
    Idle,
    /// I/O without waiting.
    Steady,
    /// Tasks wait for I/O (PSI).
    Stalled,
    /// A reason of a newer peer.
    #[serde(other)]
    Other,
}

/// The measurements behind an [`IoDemand`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct IoSignals {
    /// Read, bytes per second.
    pub read_bytes_per_s: Amount,
    /// Written, bytes per second.
    pub write_bytes_per_s: Amount,
    /// Reads and writes done, per second.
    pub ops_per_s: Amount,
    /// Requests in flight at the time of the sample.
    pub in_flight: Amount,
    /// Share of time in which some task waited for I/O, thousandths.
    pub stall_some_permille: Amount,
    /// Share of time in which all tasks waited for I/O, thousandths.
    pub stall_full_permille: Amount,
}
