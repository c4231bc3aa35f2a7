//! The planner: views of all VMs in, one plan out. Pure: no clock, no I/O, no tokio; time is an argument.
//!
//! ```text
//!  VmView, HostView --> demand --> fairness -----> revoke ------> grant -------> Plan
//!  (what is)            need,      what each VM    who gives,     who grows      (a verdict for
//!                       floor,     is entitled     in which       into what is   each VM, its reason)
//!                       urgency    to              order          free now
//!                                                  `--------.--------'
//!                                                  stability: dead band, blocks, stalled balloon
//! ```
//!
//! This module owns the types that go in and come out: guests, host and hypervisor depend on it, never the
//! reverse. All of `plan` may be replayed: the same views and the same time give the same plan to the byte.
//!
//! What holds for every plan (tested over random hosts):
//! - no step takes a VM outside `[minimum, maximum]`;
//! - the growth of all steps fits into what is free *now*: bytes that a shrink is to free do not count until the
//!   hypervisor confirmed them, so `committed` never passes `capacity − reserve` by a step of ours;
//! - a guest's report takes from another VM no more than the shares of both allow, and nothing of its reservation.
//!
//! CPU time has a plan of its own, [`cpu`].
//!
//! From plan to plan, [`Standing`] says how the host's memory stands, without flapping: operators and guests go by that.
//! Before a calm shrink of the plan is carried out its guest is asked, and taken at its word: [`asking`].
//! Beside the plan, [`Shortage`] tells from the host's [`HostLoad`] whether its CPUs and disks keep up; the guests are
//! told and tune themselves for it.
//!
//! [`storage`] plans the disks' throttles from what the hypervisors measured.
//!
//! [`Planner`] names who plans: vmtide by [`memory::plan`], or a peer's published rules, for comparison (`peers`).
//! The promises above are vmtide's; a peer keeps those that it has.
//!
//! The bridge keeps each VM's [`History`] beside its view and feeds it what happens: a step that it sent
//! ([`History::after_step`]), a reading of the hypervisor ([`History::after_observation`]), a fresh report
//! ([`History::after_demand`], [`History::after_activity`]), a move that ended ([`History::after_move`]), which teaches
//! how fast the VM is ([`progress`]).

mod activity;
pub mod actuator;
pub mod asking;
pub mod cpu;
mod demand;
mod fairness;
mod grant;
pub mod memory;
mod peers;
mod planner;
mod policy;
pub mod progress;
mod revoke;
mod seat;
mod shortage;
pub mod stability;
mod standing;
pub mod storage;
pub mod trim;

pub use activity::{IdleAges, IdleTax, active_bytes};
pub use planner::{Planner, Planning, UnknownPlanner};
pub use policy::Policy;
pub use shortage::{Hint, HostLoad, Shortage};
pub use stability::History;
pub use standing::{DWELL_MS, Standing};

use serde::{Deserialize, Serialize};

/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// Milliseconds on a monotonic clock of the caller's choice.
pub type Millis = u64;

/// The host, as far as memory goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// What the VMs may have together, reserve included.
    pub capacity_bytes: u64,
    /// What is never given out.
    pub reserve_bytes: u64,
    /// MemAvailable of the host; `None` when it says nothing about the capacity (a slice of a host).
    pub available_bytes: Option<u64>,
    /// Share of time in which all of the host's tasks waited for memory (PSI full), thousandths.
    pub stall_full_permille: u32,
}

impl HostView {
    /// What the VMs may have together.
    pub fn limit_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.reserve_bytes)
    }
}

/// What an operator set for a VM's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The least that it is left with.
    pub minimum_bytes: u64,
    /// What it gets back whenever it needs it, before any shares decide; 0: nothing beyond the minimum. What it does not
    /// need of it is lent to others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reservation_bytes: u64,
    /// The most that it gets.
    pub maximum_bytes: u64,
    /// Its weight in contention.
    pub shares: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// One VM, as far as memory goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmView {
    /// The operator's limits.
    pub limits: Limits,
    /// What it has, confirmed by the hypervisor.
    pub allocation_bytes: u64,
    /// What the hypervisor was asked for last.
    pub target_bytes: u64,
    /// Whether it can be changed now.
    pub reach: Reach,
    /// What it wants.
    pub demand: Demand,
    /// What was done to it before.
    pub history: History,
    /// What it shows besides its demand.
    #[serde(default)]
    pub shown: Shown,
}

/// What is known of a guest beside what it wants. Peers' rules go by nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// MemFree, from the balloon's statistics.
    pub free_bytes: Option<u64>,
    /// What stands in for the guest's committed memory: AnonPages and swap in use, from its last report.
    pub committed_bytes: Option<u64>,
    /// What the VM takes of the host now: what its guest has touched of what it has.
    pub resident_bytes: Option<u64>,
    /// Its page cache, from its last report.
    pub cached_bytes: Option<u64>,
    /// What of its memory lies idle, from its last report; `None` where its working set is not known by age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleAges>,
}

impl VmView {
    /// What it counts for on the host until the hypervisor has confirmed less.
    pub fn committed_bytes(&self) -> u64 {
        self.allocation_bytes.max(self.target_bytes)
    }
}

/// Whether a VM can be changed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// The hypervisor answers and the guest runs.
    Ready,
    /// The hypervisor does not answer; what the VM had counts on.
    Unreachable,
    /// Its balloon cannot move: there is none, or the guest does not execute.
    Fixed,
    /// An operator paused its planning.
    Paused,
}

/// What a VM wants, and how well that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// A report that has not expired.
    Fresh(MemoryDemand),
    /// The last report expired: may grow by what the hypervisor shows, never shrinks below its last floor.
    Stale {
        /// The floor of the last report.
        floor_bytes: u64,
        /// What the balloon's statistics say is in use.
        shown_use_bytes: Option<u64>,
    },
    /// No report yet: may grow by what the hypervisor shows, does not shrink.
    Unknown {
        /// What the balloon's statistics say is in use.
        shown_use_bytes: Option<u64>,
    },
}

/// A guest's demand, already held to the VM's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryDemand {
    /// What it would use without stalling.
    pub need_bytes: u64,
    /// Safe down to here, as the guest says.
    pub floor_bytes: u64,
    /// How much the need matters.
    pub urgency: Urgency,
}

/// How much a need matters: the wire's own scale.
pub use vmtide_protocol::demand::Urgency;

/// Which way a step moves memory, seen from the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More for the VM (the balloon deflates).
    Grow,
    /// Less for the VM (the balloon inflates).
    Shrink,
}

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// Somebody stalls or soon will.
    Urgent,
    /// Nobody waits for it.
    Calm,
    /// A stalled balloon: what the guest could not spare is given back, then the VM is left alone for a while.
    GiveBack,
}

/// A change of one VM's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The target so far.
    pub from_bytes: u64,
    /// The target from now on.
    pub to_bytes: u64,
    /// What it is for.
    pub pace: Pace,
}

impl Step {
    /// Which way it goes.
    pub fn direction(&self) -> Direction {
        if self.to_bytes < self.from_bytes { Direction::Shrink } else { Direction::Grow }
    }
}

/// How the host stands, in falling order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// Every need and its headroom fit.
    Calm,
    /// They do, but little is left for bursts. Only [`Standing`] says so, no plan does.
    Tight,
    /// They do not: shares decide.
    Short,
    /// The host itself is in trouble, or more is committed than there is: floors give way, minimums hold.
    Emergency,
}

/// Why a VM's target is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum Rule {
    /// It has what it wants, give or take the dead band.
    Satisfied,
    /// It grows to need and headroom.
    Grant,
    /// It grows at once, out of the pool kept for that.
    SpikeGrant,
    /// It has more than need and headroom: the rest goes to the pool.
    ReturnSurplus,
    /// Others are short of what their shares entitle them to: it gives.
    Revoke,
    /// The host is in trouble: it gives, floor or not.
    EmergencyRevoke,
    /// It wants more and others' shares come first: short by this much.
    ShortByShares {
        /// What is missing to need and headroom.
        short_bytes: u64,
    },
    /// It is to grow as soon as others' bytes are confirmed free.
    AwaitBytes {
        /// What is missing.
        short_bytes: u64,
        /// How long those who give will take, by what was seen of them; `None` where one's speed is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected_ms: Option<Millis>,
    },
    /// It moved the other way too recently.
    DirectionBlocked {
        /// When the block ends.
        until_ms: Millis,
    },
    /// Its balloon inflated too slowly: some is given back.
    StalledBalloon,
    /// Its balloon was stalled: left alone.
    StalledRest {
        /// When the rest ends.
        until_ms: Millis,
    },
    /// No report yet: it is not shrunk.
    NotYet,
    /// The last report expired: it is not shrunk below its last floor.
    Stale,
    /// The hypervisor does not answer.
    Unreachable,
    /// Its balloon cannot move.
    Fixed,
    /// An operator paused it.
    Paused,
    /// The rules of the peer that plans ([`Planner`]) say so.
    Peer,
}

/// What the planner says of one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Need plus headroom, within the limits.
    pub wanted_bytes: u64,
    /// What the shares of all leave it. May be a little above what it wants: a need that just fell keeps its claim
    /// for a while.
    pub entitled_bytes: u64,
    /// The change of its target, if any.
    pub step: Option<Step>,
    /// Why.
    pub rule: Rule,
    /// What its idle bytes are taxed; `None` where they are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_tax: Option<IdleTax>,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// How the host stands, as this plan alone shows it.
    pub state: HostState,
    /// What the VMs may have together.
    pub limit_bytes: u64,
    /// What they have or were promised, before the steps of this plan.
    pub committed_bytes: u64,
    /// What the planner wants to keep free for urgent grants: the pool, less what urgent VMs may draw from it now.
    pub spike_pool_bytes: u64,
    /// One verdict for each view, in the order of the views.
    pub verdicts: Vec<Verdict>,
}
