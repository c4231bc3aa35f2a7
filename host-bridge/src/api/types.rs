//! What the control API speaks; the server writes these, the client reads them.

use super::counts::Counts;
use super::trims::{Pool, Trim};
use crate::guests::GuestSummary;
use crate::hypervisor::Makeup;
use crate::performance::Indices;
use crate::plan::asking::Yields;
use crate::plan::cpu::{CpuVerdict, Vcpus};
use crate::plan::progress::Rates;
use crate::plan::storage::IoVerdict;
use crate::plan::{Demand, HostState, Verdict};
use crate::record::Health;
use serde::{Deserialize, Serialize};
use vmtide_protocol::bridge::Host;

/// The host and the bridge at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The bridge's version.
    pub version: String,
    /// How long this bridge runs.
    pub uptime_ms: u64,
    /// Whether an operator paused all planning.
    pub paused: bool,
    /// What the VMs may have together, reserve included.
    pub capacity_bytes: u64,
    /// What is never given out.
    pub reserve_bytes: u64,
    /// What the VMs have or were promised.
    pub committed_bytes: u64,
    /// What is free within the limit (capacity − reserve).
    pub free_bytes: u64,
    /// How much of it the planner wants to keep for urgent grants.
    pub spike_pool_bytes: u64,
    /// How the host stands; `None` before the first plan.
    pub state: Option<HostState>,
    /// What the host is short of, as its guests are told.
    pub short_of: Host,
    /// The share of time in which all of the host's tasks waited for memory, thousandths; 0 for a slice of a host.
    #[serde(default)]
    pub memory_stall_permille: u32,
    /// The average share of time lost for want of CPU that [`Status::short_of`] goes by, thousandths.
    pub cpu_stall_permille: u32,
    /// The same of block I/O.
    pub io_stall_permille: u32,
    /// VMs configured.
    pub vms: usize,
    /// VMs whose hypervisor answers.
    pub vms_reachable: usize,
    /// VMs whose agent has a session.
    pub agents: usize,
    /// Decisions so far.
    pub decisions: u64,
    /// Stall or prediction to confirmed growth.
    pub reaction_ms: Reaction,
    /// Connections that were refused: of addresses without a VM, of VMs that dial too often, without a proper hello.
    pub refused: u64,
    /// What came of reading the configuration again; `None` while nobody asked for that.
    #[serde(default)]
    pub reload: Option<Reload>,
    /// How the recording goes; `None` when nothing is recorded.
    #[serde(default)]
    pub recording: Option<Health>,
    /// The file systems that images are on.
    #[serde(default)]
    pub pools: Vec<Pool>,
    /// The performance index of all VMs over the last minute, weighted by their maximums.
    #[serde(default)]
    pub performance: Indices,
}

/// What came of reading the configuration again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Why the configuration from before still holds; `None` when the new one does.
    pub error: Option<String>,
    /// Keys and sections that changed and are taken in by the next start only.
    pub at_next_start: Vec<String>,
}

/// From a guest's first stalled or predicted microsecond to its larger allocation confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaction {
    /// How many, over the whole run.
    pub count: u64,
    /// The median of the last 1024; 0 without any.
    pub p50: u64,
    /// The 95th percentile of the last 1024; 0 without any.
    pub p95: u64,
}

/// One VM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// How its hypervisor stands.
    pub state: VmState,
    /// Why it stands like that, where it is not running.
    pub detail: Option<String>,
    /// Whether an operator paused it.
    pub paused: bool,
    /// What it has; 0 where there is no VM.
    pub allocation_bytes: u64,
    /// What was asked for.
    pub target_bytes: u64,
    /// What that is made of; `None` where the hypervisor does not answer.
    #[serde(default)]
    pub memory: Option<Makeup>,
    /// What the VM takes of the host now, about; it may touch all that it has.
    #[serde(default)]
    pub resident_bytes: Option<u64>,
    /// The least that it is left with.
    pub minimum_bytes: u64,
    /// What it gets back whenever it needs it; 0: nothing beyond the minimum.
    pub reservation_bytes: u64,
    /// The most that it gets.
    pub maximum_bytes: u64,
    /// Its weight in contention.
    pub shares: u32,
    /// What the planner goes by.
    pub demand: Demand,
    /// What the planner said last.
    pub verdict: Option<Verdict>,
    /// The two in a sentence.
    pub standing: String,
    /// Its performance index over the last minute.
    #[serde(default)]
    pub performance: Indices,
    /// Its CPU time.
    pub cpu: Cpu,
    /// What the planner said last of its disks.
    #[serde(default)]
    pub io: Option<IoVerdict>,
    /// What an operator set for its disks, and what holds them.
    #[serde(default)]
    pub disks: Disks,
    /// What happened to it so far.
    #[serde(default)]
    pub counts: Counts,
    /// What its agent said.
    pub agent: GuestSummary,
    /// What it was asked to yield, and how it kept its word.
    pub yields: Yields,
    /// How its agent and the balloon's statistics contradict each other.
    #[serde(default)]
    pub contradictions: Contradictions,
    /// How fast its memory was seen to move.
    #[serde(default)]
    pub rates: Rates,
    /// The last request to give unused blocks back.
    #[serde(default)]
    pub trim: Option<Trim>,
}

/// A VM's disks. Of rates, an operation counts as 16 KiB besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disks {
    /// Its weight in contention.
    pub shares: u32,
    /// It is never held to less.
    pub minimum_bytes_per_s: u64,
    /// It never does more; `None`: as much as it can.
    pub maximum_bytes_per_s: Option<u64>,
    /// What can hold them now.
    pub lever: Option<IoLever>,
    /// The cgroup that can, where there is one for it alone.
    pub group: Option<String>,
}

/// What holds a VM's disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoLever {
    /// Its hypervisor's throttle.
    Hypervisor,
    /// Its cgroup, where the hypervisor does not answer, has no disk to hold, or would not.
    Group,
}

/// A VM's CPU time. Amounts are thousandths of a CPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cpu {
    /// Its weight in contention.
    pub shares: u32,
    /// The least that it can have when it wants it.
    pub minimum_millicpus: u64,
    /// The most that it gets; `None`: as much as it has vCPUs.
    pub maximum_millicpus: Option<u64>,
    /// What its guest would use if it never waited; `None` without a fresh report.
    pub need_millicpus: Option<u64>,
    /// What its process used of the host's CPUs in the last second, the VMM's threads included.
    pub used_millicpus: Option<u64>,
    /// vCPUs that its guest runs on.
    pub online: Option<u32>,
    /// Its vCPUs; `None` for a machine without hotplug.
    pub vcpus: Option<Vcpus>,
    /// The cgroup whose weight and quota are set; `None` where there is none for it alone.
    pub group: Option<String>,
    /// What the planner said last.
    pub verdict: Option<CpuVerdict>,
    /// That in a sentence.
    pub standing: String,
}

/// Where an agent says that more, or less, is in use than its kernel shows in the balloon's statistics, for longer than these lag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contradictions {
    /// How many there were.
    pub count: u64,
    /// What the agent said is in use, the last time.
    pub said_bytes: u64,
    /// What the statistics showed then.
    pub shown_bytes: u64,
    /// Whether it goes on: then the statistics hold, give or take a quarter of what the VM has.
    pub is_open: bool,
}

/// How a VM's hypervisor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Not asked yet.
    Starting,
    /// It answers and the guest runs.
    Running,
    /// It answers and the guest does not run.
    Stopped,
    /// It does not answer, or nobody listens at its socket yet.
    Unreachable,
    /// It answered before and is gone; its memory is back in the pool.
    Off,
}

/// New limits for a VM; what is left out stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The least that it is left with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_bytes: Option<u64>,
    /// What it gets back whenever it needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_bytes: Option<u64>,
    /// The most that it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_bytes: Option<u64>,
    /// Its weight in contention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<u32>,
    /// The same of its CPU time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u32>,
    /// The least CPU time that it can have when it wants it, thousandths of a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_minimum_millicpus: Option<u64>,
    /// The most that it gets, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_maximum_millicpus: Option<u64>,
    /// The weight of its disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_shares: Option<u32>,
    /// They are never held to less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_minimum_bytes_per_s: Option<u64>,
    /// They never do more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_maximum_bytes_per_s: Option<u64>,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Whether it is the VM's name that is unknown.
    pub not_found: bool,
    /// What was found and what is allowed.
    pub message: String,
}
