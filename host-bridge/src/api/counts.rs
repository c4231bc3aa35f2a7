//! What happened to a VM so far, as numbers that only rise.

use crate::record::Outcome;
use serde::{Deserialize, Serialize};

/// What happened to a VM since the bridge knows it. Those that its QEMU or its kernel counts begin with its QEMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Changes of its memory that were confirmed.
    pub confirmed: u64,
    /// Those in whose place a later one came.
    pub superseded: u64,
    /// Those that its hypervisor refused.
    pub refused: u64,
    /// Those under way when it, or its hypervisor, went away.
    pub lost: u64,
    /// How often its balloon inflated too slowly and was given some back.
    pub balloon_stalls: u64,
    /// How often its balloon began to give memory back that nobody asked it for: its guest ran out (deflate-on-oom), began
    /// anew, or somebody else asked.
    pub balloon_rescues: u64,
    /// CPU time that its process used, the VMM's threads included, milliseconds; `None` where nobody knows.
    pub cpu_ms: Option<u64>,
    /// Bytes that its disks read and wrote; `None` where nobody knows, as the next.
    pub disk_bytes: Option<u64>,
    /// Reads and writes that they did.
    pub disk_operations: Option<u64>,
}

impl Counts {
    /// Takes in what came of a change.
    pub fn ended(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Moving => {}
            Outcome::Confirmed { .. } => self.confirmed += 1,
            Outcome::Superseded { .. } => self.superseded += 1,
            Outcome::Refused { .. } => self.refused += 1,
            Outcome::Lost { .. } => self.lost += 1,
        }
    }
}
