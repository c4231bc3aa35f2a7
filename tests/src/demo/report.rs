//! What the demo measured: the contract of `--json`, and its summary for a person.

use std::fmt;

use serde::{Deserialize, Serialize};
use vmtide_bridge::api::types::Reaction;

use crate::{Vm, fleet::Seen, load::Progress, vm::MIB};

/// A whole run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// The guests' kernel series.
    pub kernel: String,
    /// What the VMs may have together.
    pub budget_bytes: u64,
    /// How long the loads ran.
    pub seconds: f64,
    /// Time in which the VMs had more than the budget, sampled from QEMU since they first fitted it.
    pub violation_seconds: f64,
    /// The most that they had together, sampled likewise.
    pub peak_committed_bytes: u64,
    /// The VMs.
    pub vms: Vec<VmReport>,
    /// From a guest's first stalled or predicted microsecond to its larger allocation confirmed.
    pub reaction_ms: ReactionReport,
    /// Decisions of the bridge.
    pub decisions: u64,
    /// Samples for a picture.
    #[serde(default)]
    pub timeline: Vec<Sample>,
}

/// One VM's part; allocations are sampled from QEMU since the fleet first fitted the budget.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmReport {
    /// Its name.
    pub name: String,
    /// Its maximum.
    pub max_bytes: u64,
    /// What it had first.
    pub allocation_start_bytes: u64,
    /// The least it had.
    pub allocation_min_bytes: u64,
    /// The most it had.
    pub allocation_max_bytes: u64,
    /// What it had last.
    pub allocation_end_bytes: u64,
    /// Operations of its workload.
    pub work_ops: u64,
    /// Time in which some of its tasks stalled on memory.
    pub stall_ms: u64,
    /// Tasks its kernel killed for lack of memory.
    pub oom_kills: u64,
}

/// Reaction times in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ReactionReport {
    /// How many.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// The 95th percentile.
    pub p95: u64,
}

/// All VMs at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// Since the loads started.
    pub t_ms: u64,
    /// In the order of the report's VMs.
    pub vms: Vec<VmSample>,
}

/// One VM at one moment.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct VmSample {
    /// What it had, from QEMU.
    pub allocation_bytes: u64,
    /// What it said it needs; none without a report.
    pub need_bytes: Option<u64>,
}

impl VmReport {
    pub(super) fn new(vm: &Vm, seen: &Seen, at: usize, load: &Progress, oom_kills: u64) -> Self {
        Self {
            name: vm.name().to_owned(),
            max_bytes: vm.memory_bytes(),
            allocation_start_bytes: seen.start_bytes.as_ref().map_or(0, |start| start[at]),
            allocation_min_bytes: seen.min_bytes[at],
            allocation_max_bytes: seen.max_bytes[at],
            allocation_end_bytes: seen.now_bytes[at],
            work_ops: load.ops,
            stall_ms: load.stall_us / 1000,
            oom_kills,
        }
    }
}

impl From<Reaction> for ReactionReport {
    fn from(reaction: Reaction) -> Self {
        Self { count: reaction.count, p50: reaction.p50, p95: reaction.p95 }
    }
}

impl Report {
    /// Tasks killed for lack of memory in all guests.
    pub fn oom_kills(&self) -> u64 {
        self.vms.iter().map(|vm| vm.oom_kills).sum()
    }

    /// Whether nothing happened that vmtide promises never happens.
    pub fn kept_its_promises(&self) -> bool {
        self.violation_seconds <= 0.0 && self.oom_kills() == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "VM      least   most    end  MiB   work ops   stall ms  OOM kills")?;
        for vm in &self.vms {
            writeln!(
                f,
                "{:<6} {:>6} {:>6} {:>6} {:>14} {:>10} {:>10}",
                vm.name,
                vm.allocation_min_bytes / MIB,
                vm.allocation_max_bytes / MIB,
                vm.allocation_end_bytes / MIB,
                vm.work_ops,
                vm.stall_ms,
                vm.oom_kills
            )?;
        }
        let ReactionReport { count, p50, p95 } = self.reaction_ms;
        writeln!(f, "{} decisions; {count} reactions, p50 {p50} ms, p95 {p95} ms", self.decisions)?;
        let (peak, budget) = (self.peak_committed_bytes / MIB, self.budget_bytes / MIB);
        let (verdict, over) = (if self.kept_its_promises() { "kept" } else { "BROKEN" }, self.violation_seconds);
        write!(
            f,
            "promises {verdict}: at most {peak} of {budget} MiB, {over:.1} s over the budget, {} OOM kills",
            self.oom_kills()
        )
    }
}
