//! CPU time: views of all VMs in, what each is entitled to and one change of its levers out. Pure, integers only.
//!
//! ```text
//!  CpuView, CpuHost --> shares ------> weight  the shares, corrected                        fast
//!  (need, use, CPUs)    what each VM   quota   an operator's maximum, or a VM that is held  fast
//!                       is entitled    online  fewer while the host is short, back when     medium
//!                       to             |       the need lasts
//!                                      plugged more when the need lasts longer              slow
//!                                      `-- pace: how long each has to last, what waits
//! ```
//!
//! **Weights** share CPU time by themselves, work-conserving, and follow what each got where a few tasks on a few CPUs come out
//! beside them (`weight`); so a quota comes only where an operator set a maximum, or
//! where somebody keeps getting more than its part while another lacks: few tasks on few CPUs do not divide as weights say,
//! and a minimum is more than the shares give. A quota is never the number itself: the room that [`Policy`] names is for the
//! VMM's own threads, which share the group with the vCPUs and stall all of the VM's I/O when the vCPUs used the quota up.
//!
//! **Online vCPUs.** vCPUs that wait for each other's time slices hold locks while they wait. On a short host a VM is left
//! what it is entitled to, rounded up, and one more, so that weights and not the number of vCPUs decide; and never more than
//! the host has CPUs. A VM that uses less than it has gives the rest back. While the host is not short nothing is taken.
//!
//! What holds for every plan (tested over random hosts): what all are entitled to fits the host; minimums are kept as far
//! as they fit; nobody goes over its maximum; a lever that moved one way does not move back before its time.

mod pace;
mod shares;
mod weight;

pub use pace::CpuPlanner;

use super::{Millis, Policy, Urgency};
use serde::{Deserialize, Serialize};

/// Thousandths of a CPU in one.
pub const CPU: u64 = 1000;

/// The host, as far as CPU time goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuHost {
    /// CPUs online.
    pub cpus: u32,
    /// Whether its tasks wait for one ([`super::Shortage`]).
    pub is_short: bool,
}

/// What an operator set for a VM's CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuLimits {
    /// Its weight in contention.
    pub shares: u32,
    /// The least that it can have when it wants it, thousandths of a CPU.
    pub minimum_millicpus: u64,
    /// The most that it gets; `None`: as much as it has vCPUs.
    pub maximum_millicpus: Option<u64>,
}

/// One VM, as far as CPU time goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuView {
    /// The operator's limits.
    pub limits: CpuLimits,
    /// What its guest wants; `None` without a fresh report.
    pub demand: Option<CpuDemand>,
    /// What its process used of the host's CPUs lately, the VMM's threads included; `None` where nobody knows.
    pub used_millicpus: Option<u64>,
    /// How long its process's threads were ready to run and waited for one of the host's CPUs lately, likewise.
    pub waited_millicpus: Option<u64>,
    /// vCPUs that its guest runs on; `None` where it cannot say, or cannot change it.
    pub online: Option<u32>,
    /// Its vCPUs as the hypervisor has them; `None` where it does not say.
    pub vcpus: Option<Vcpus>,
    /// Whether its vCPUs may be changed: it runs, nobody paused it, nothing is under way.
    pub is_ready: bool,
    /// Fewer vCPUs online than this its guest refused lately; 0 if it did not.
    pub least_online: u32,
    /// More than this it refused; `u32::MAX` if it did not.
    pub most_online: u32,
}

/// A guest's demand for CPU, held to what is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuDemand {
    /// What it would use if it never waited, thousandths of a CPU.
    pub need_millicpus: u64,
    /// How much the need matters.
    pub urgency: Urgency,
}

/// A VM's vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vcpus {
    /// There now, online in the guest or not.
    pub plugged: u32,
    /// The most that its machine takes.
    pub possible: u32,
    /// Of those that are there, how many vmtide plugged in and can take away again.
    pub removable: u32,
    /// Whether one is on its way out: asked for, and the guest has not let go of it.
    pub is_removing: bool,
}

/// Why a VM's CPU levers are as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum CpuRule {
    /// It has what it wants.
    Satisfied,
    /// No fresh report: only weight and maximum.
    NotYet,
    /// It wants more, and others' shares come first.
    ShortByShares {
        /// What is missing.
        short_millicpus: u64,
    },
    /// It kept getting more than its part while another lacked: held by a quota.
    Held,
    /// vCPUs that it does not use go back while the host is short.
    GiveBack,
    /// It runs on more vCPUs than it is entitled to run at once: fewer wait for each other.
    Trim,
    /// Its need lasts: more of its vCPUs come online.
    Grow,
    /// Its need lasts longer: it gets another vCPU.
    Plug,
    /// A vCPU that was plugged in is not used for long.
    Unplug,
    /// It moved the other way too recently.
    DirectionBlocked {
        /// When the block ends.
        until_ms: Millis,
    },
    /// Its vCPUs cannot be changed now: a change is under way, or it is stopped, paused or does not answer.
    NotNow,
}

/// What the planner says of one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuVerdict {
    /// Need plus headroom, within the limits.
    pub wanted_millicpus: u64,
    /// What the shares of all leave it.
    pub entitled_millicpus: u64,
    /// Its weight, as shares: its own, corrected while it contends.
    pub weight_shares: u32,
    /// The most that its group may use, room for the VMM's threads included; `None`: no quota.
    pub quota_millicpus: Option<u64>,
    /// How many vCPUs its guest is to run on from now on, if that changes.
    pub online: Option<u32>,
    /// How many vCPUs it is to have from now on, if that changes: one more or one less.
    pub plugged: Option<u32>,
    /// Why.
    pub rule: CpuRule,
}

/// What all want and get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuPlan {
    /// Whether not all of it fits, or the host's tasks wait.
    pub is_contended: bool,
    /// One verdict for each view, in their order.
    pub verdicts: Vec<CpuVerdict>,
}

impl CpuHost {
    fn capacity_millicpus(self) -> u64 {
        u64::from(self.cpus) * CPU
    }
}

impl CpuView {
    /// The most that it could use.
    fn most_millicpus(&self, host: CpuHost) -> u64 {
        let by_vcpus = self.vcpus.map_or(u64::MAX, |vcpus| u64::from(vcpus.possible.max(1)) * CPU);
        self.limits.maximum_millicpus.unwrap_or(u64::MAX).min(by_vcpus).min(host.capacity_millicpus())
    }

    /// Need plus headroom, within the limits. Without a report it may want a CPU more than it uses.
    fn wanted_millicpus(&self, host: CpuHost, policy: &Policy) -> u64 {
        let wanted = match (self.demand, self.used_millicpus) {
            (Some(demand), _) => {
                let need = demand.need_millicpus;
                let headroom = need.saturating_mul(u64::from(policy.cpu_headroom_permille)) / 1000;
                need.saturating_add(headroom.max(CPU / 10))
            }
            (None, Some(used)) => used.saturating_add(CPU),
            (None, None) => u64::MAX,
        };
        wanted.min(self.most_millicpus(host))
    }
}

/// The quota for so much CPU time of a guest: with room for the VMM's threads.
fn quota_millicpus(millicpus: u64, policy: &Policy) -> u64 {
    let room = millicpus.saturating_mul(u64::from(policy.vmm_room_permille)) / 1000;
    millicpus.saturating_add(room.max(policy.vmm_room_millicpus))
}
