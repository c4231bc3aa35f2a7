//! What the bridge keeps of one VM.

use super::doubt::Doubt;
use super::reaction::Waiting;
use crate::api::counts::Counts;
use crate::api::types::VmState;
use crate::config::VmConfig;
use crate::hypervisor::MachineState;
use crate::hypervisor::driver::PAGE_BYTES;
use crate::performance::Meter;
use crate::plan::asking::Asking;
use crate::plan::{Demand, Direction, History, Limits, Millis, Reach, Shown, Verdict, VmView};
use crate::record::{Decision, Decisions, LeverChanges, Outcome};
use vmtide_protocol::bridge::Allocation;

/// How the hypervisor of a VM stands.
#[derive(Clone, Debug)]
pub(super) enum Hypervisor {
    /// Its driver has said nothing yet.
    Starting,
    /// It answers.
    Attached(MachineState),
    /// It does not; `committed_bytes` of the host count as taken.
    Unreachable { committed_bytes: u64, ram_bytes: u64, detail: String },
    /// There is no VM. `before`: there was one.
    Absent { before: bool, detail: String },
}

/// One VM.
#[derive(Debug)]
pub(super) struct Vm {
    pub config: VmConfig,
    pub hypervisor: Hypervisor,
    pub target_bytes: u64,
    /// The last target that the hypervisor is known to have taken: until it takes a lower one, it may go there.
    pub accepted_bytes: u64,
    pub history: History,
    /// When it was last held where it was: the bridge attached, or its planning was resumed.
    pub held_ms: Millis,
    /// When the move that is under way began.
    pub moving_since: Option<Millis>,
    pub paused: bool,
    /// Whether it is no longer in the configuration: its number is nobody's any more.
    pub removed: bool,
    pub waiting: Waiting,
    pub asking: Asking,
    pub doubt: Doubt,
    pub verdict: Option<Verdict>,
    pub decisions: Decisions,
    pub levers: LeverChanges,
    /// But for what its process and its QEMU count.
    pub counts: Counts,
    pub meter: Meter,
}

impl Vm {
    pub(super) fn new(config: VmConfig) -> Self {
        Self {
            config,
            hypervisor: Hypervisor::Starting,
            target_bytes: 0,
            accepted_bytes: 0,
            history: History::default(),
            held_ms: 0,
            moving_since: None,
            paused: false,
            removed: false,
            waiting: Waiting::default(),
            asking: Asking::default(),
            doubt: Doubt::default(),
            verdict: None,
            decisions: Decisions::default(),
            levers: LeverChanges::default(),
            counts: Counts::default(),
            meter: Meter::default(),
        }
    }

    pub(super) fn allocation_bytes(&self) -> u64 {
        match self.hypervisor {
            Hypervisor::Attached(state) => state.allocation_bytes,
            Hypervisor::Unreachable { committed_bytes, .. } => committed_bytes,
            Hypervisor::Starting | Hypervisor::Absent { .. } => 0,
        }
    }

    pub(super) fn committed_bytes(&self) -> u64 {
        match self.hypervisor {
            // What virtio-mem was asked to have comes by itself, as after a reboot.
            Hypervisor::Attached(state) => {
                let promised_bytes = state.memory.parts.promised_bytes();
                state.allocation_bytes.max(self.target_bytes).max(self.accepted_bytes).max(promised_bytes)
            }
            _ => self.allocation_bytes(),
        }
    }

    /// What its hypervisor says of it, if that answers.
    pub(super) fn attached(&self) -> Option<&MachineState> {
        if let Hypervisor::Attached(state) = &self.hypervisor { Some(state) } else { None }
    }

    /// What was asked for and what it has are the same when they differ by less.
    pub(super) fn grain_bytes(&self) -> u64 {
        self.attached().map_or(PAGE_BYTES, |state| state.memory.parts.grain_bytes())
    }

    /// The operator's limits, held to what the VM was built with, in whole pages.
    pub(super) fn limits(&self) -> Limits {
        let (ram_bytes, least_bytes) = match self.hypervisor {
            Hypervisor::Attached(state) => (state.ram_bytes, state.memory.parts.least_bytes()),
            Hypervisor::Unreachable { ram_bytes, .. } => (ram_bytes, 0),
            Hypervisor::Starting | Hypervisor::Absent { .. } => (u64::MAX, 0),
        };
        let Limits { minimum_bytes, reservation_bytes, maximum_bytes, shares } = self.config.limits;
        let maximum_bytes = maximum_bytes.min(ram_bytes);
        let minimum_bytes = minimum_bytes.max(least_bytes);
        let maximum_bytes = maximum_bytes - maximum_bytes % PAGE_BYTES;
        let minimum_bytes = minimum_bytes.div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES).min(maximum_bytes);
        Limits { minimum_bytes, reservation_bytes: reservation_bytes.min(maximum_bytes), maximum_bytes, shares }
    }

    pub(super) fn shown_use_bytes(&self) -> Option<u64> {
        match self.hypervisor {
            Hypervisor::Attached(state) => state.shown_use_bytes,
            _ => None,
        }
    }

    /// What its guest showed, and its hypervisor.
    fn shown(&self, by_guest: Shown) -> Shown {
        match self.hypervisor {
            Hypervisor::Attached(MachineState { shown_free_bytes: free_bytes, resident_bytes, .. }) => {
                Shown { free_bytes, resident_bytes, ..by_guest }
            }
            _ => by_guest,
        }
    }

    /// What the planner sees of it, with what its guest wants and showed; `None` where there is no VM.
    pub(super) fn view(&self, demand: Demand, by_guest: Shown, is_paused: bool) -> Option<VmView> {
        let reach = match &self.hypervisor {
            Hypervisor::Starting | Hypervisor::Absent { .. } => return None,
            Hypervisor::Unreachable { .. } => Reach::Unreachable,
            Hypervisor::Attached(state) if !state.running || !state.is_movable() => Reach::Fixed,
            Hypervisor::Attached(_) if is_paused => Reach::Paused,
            Hypervisor::Attached(_) => Reach::Ready,
        };
        Some(VmView {
            limits: self.limits(),
            // A larger target that was not taken back yet counts as if it were reached.
            allocation_bytes: if self.committed_bytes() > self.target_bytes {
                self.committed_bytes()
            } else {
                self.allocation_bytes()
            },
            target_bytes: self.target_bytes,
            reach,
            demand,
            history: self.history,
            shown: self.shown(by_guest),
        })
    }

    pub(super) fn state(&self) -> VmState {
        match &self.hypervisor {
            Hypervisor::Starting => VmState::Starting,
            Hypervisor::Attached(state) if state.running => VmState::Running,
            Hypervisor::Attached(_) => VmState::Stopped,
            Hypervisor::Absent { before: true, .. } => VmState::Off,
            Hypervisor::Unreachable { .. } | Hypervisor::Absent { before: false, .. } => VmState::Unreachable,
        }
    }

    pub(super) fn detail(&self) -> Option<String> {
        match &self.hypervisor {
            Hypervisor::Unreachable { detail, .. } | Hypervisor::Absent { detail, .. } => Some(detail.clone()),
            Hypervisor::Starting | Hypervisor::Attached(_) => None,
        }
    }

    /// What its guest is told.
    pub(super) fn allocation(&self) -> Allocation {
        let limits = self.limits();
        Allocation {
            allocation_bytes: self.allocation_bytes(),
            target_bytes: self.target_bytes,
            minimum_bytes: limits.minimum_bytes,
            maximum_bytes: limits.maximum_bytes,
        }
    }
}

/// What the hypervisor confirmed of a decision that ended, and in how many milliseconds; `lasted_ms` where that is told by
/// nothing but our own clock. `None` for what was refused or lost, or went elsewhere than it was to go.
pub(super) fn moved(decision: &Decision, lasted_ms: Option<Millis>) -> Option<(Direction, u64, Millis)> {
    let from_bytes = decision.allocation_bytes;
    let (reached_bytes, ms) = match decision.outcome {
        Outcome::Confirmed { after_ms } => (decision.step.to_bytes, after_ms),
        Outcome::Superseded { reached_bytes } => (reached_bytes, lasted_ms?),
        Outcome::Moving | Outcome::Refused { .. } | Outcome::Lost { .. } => return None,
    };
    let direction = if reached_bytes < from_bytes { Direction::Shrink } else { Direction::Grow };
    (direction == decision.step.direction()).then_some((direction, from_bytes.abs_diff(reached_bytes), ms))
}
