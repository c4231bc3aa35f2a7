//! What `vmtide optimize` and the bridge tell each other.

use crate::performance::{Indices, Resource};
use crate::record::Outcome;
use serde::{Deserialize, Serialize};

/// The shortest and the longest time for which VMs are optimized.
pub const DURATION_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
/// Who has not asked for so long is gone: what was begun for it ends.
pub const RENEW_WITHIN_MS: u64 = 5_000;

/// Which VMs to optimize, in which resources, for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Their names.
    pub vms: Vec<String>,
    /// What may be moved and is measured.
    pub resources: Vec<Resource>,
    /// For how long, within [`DURATION_MS`].
    pub duration_ms: u64,
    /// Only say what would be done now.
    #[serde(default)]
    pub dry_run: bool,
}

/// How it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Tells it from others of this run of the bridge; 0 of a dry run.
    pub id: u64,
    /// Why it is over; `None` while it goes on.
    pub over: Option<String>,
    /// How long it went on so far.
    pub elapsed_ms: u64,
    /// Resources that were asked for and that this bridge measures only: it has nothing to move them with.
    pub measured_only: Vec<Resource>,
    /// The VMs, as they were named.
    pub vms: Vec<Optimized>,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimized {
    /// Its name.
    pub name: String,
    /// Whether it was paused before, and will be again.
    pub was_paused: bool,
    /// The indices of the time before: as long as it is to go on, 10 s at least and 5 minutes at most.
    pub before: Indices,
    /// The indices of the time since.
    pub after: Indices,
    /// The last changes since, oldest first. Of a dry run: what would be asked now.
    pub changes: Vec<Taken>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The decision's number; 0 of a dry run. CPU time and disks have numbers of their own.
    pub id: u64,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Of what.
    pub resource: Resource,
    /// The unit of the next two: `bytes`; `shares` (a weight), `millicpus` (a quota), `vcpus_online`, `vcpus`; `bytes_per_s`. A
    /// quota or a rate of 0 is none.
    pub unit: String,
    /// What it was.
    pub from: u64,
    /// What was asked for.
    pub to: u64,
    /// What was seen, which rule, what was asked and what came of it, in sentences.
    pub reason: String,
    /// What came of it; `None`: it was not asked, or its lever tells by events of the VM.
    pub outcome: Option<Outcome>,
}
