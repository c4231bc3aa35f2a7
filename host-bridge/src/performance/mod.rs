//! The performance index P = R / T of VMs and their host. Pure: time is an argument.
//!
//! ```text
//!  allocations --> Meter --> Account (sums since the bridge began) --> a window is the difference of two --> Index
//!  stalls -------'           one for each VM and resource
//! ```
//!
//! R is the allocation as a part of the maximum, averaged over the window. T is the time that work took as a multiple of
//! what it would have taken without waiting: 1 / (1 − stalled part). P = R / T is the allocation that turned into work,
//! E = P / R = 1 / T how much of the allocation was not wasted. `docs/performance-index.md` derives them and says what
//! they do not say.
//!
//! What is *stalled*:
//! - memory and I/O: PSI `full`, the time in which nothing ran because all waited. `some` also counts the time in which
//!   others went on and work was done, so it would call a VM with one slow task among many as slow as that task;
//! - CPU: the kernel has no `full` of a whole system, and `some` is all of the time as soon as there is one task more
//!   than CPUs, although all CPUs work. So CPU time is what is weighed: what was waited and stolen, as a part of what
//!   was waited, stolen and used. While `some` runs, at least one task waits for each that runs; more are not seen.
//!
//! What is not known is not guessed: a window of which the guest told nothing, or less than half although a report is
//! [overdue](LATE_MS), has no index. What it did not tell of yet counts as what it told.

mod account;
mod index;
mod meter;
#[cfg(test)]
mod tests;

pub use account::Account;
pub use index::{Index, Indices, whole_host};
pub use meter::{KEPT_MS, Meter};

use crate::plan::Millis;
use serde::{Deserialize, Serialize};

/// A quiet guest reports each 10 s unless the bridge is configured otherwise; after this it is late.
pub const LATE_MS: Millis = 12_000;

/// The whole, in the unit of parts here: millionths.
pub const PPM: u64 = 1_000_000;

/// What a VM has a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Memory.
    Memory,
    /// CPU time.
    Cpu,
    /// Block I/O.
    Io,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Io];

    /// Its name, as it is written on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Io => "io",
        }
    }
}

/// No resource has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no resource; allowed are memory, cpu and io")]
pub struct UnknownResource(String);

impl std::str::FromStr for Resource {
    type Err = UnknownResource;

    fn from_str(text: &str) -> Result<Self, UnknownResource> {
        Self::ALL.into_iter().find(|one| one.name() == text).ok_or_else(|| UnknownResource(text.to_owned()))
    }
}

/// A value for each resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Each<T> {
    /// Of memory.
    pub memory: T,
    /// Of CPU time.
    pub cpu: T,
    /// Of block I/O.
    pub io: T,
}

impl<T> Each<T> {
    /// That of one resource.
    pub fn of(&self, resource: Resource) -> &T {
        match resource {
            Resource::Memory => &self.memory,
            Resource::Cpu => &self.cpu,
            Resource::Io => &self.io,
        }
    }

    /// What `make` makes of each.
    pub fn map<U>(&self, mut make: impl FnMut(&T) -> U) -> Each<U> {
        Each { memory: make(&self.memory), cpu: make(&self.cpu), io: make(&self.io) }
    }

    /// As [`Each::map`], with another's values.
    pub fn zip<U, V>(&self, other: &Each<U>, make: impl Fn(&T, &U) -> V) -> Each<V> {
        Each {
            memory: make(&self.memory, &other.memory),
            cpu: make(&self.cpu, &other.cpu),
            io: make(&self.io, &other.io),
        }
    }
}

/// What a guest's kernel has counted of one resource until one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// When it was read, on a clock of the guest's.
    pub at_ms: Millis,
    /// In which some task waited.
    pub some_us: u64,
    /// In which all tasks waited; of memory and I/O.
    pub full_us: u64,
    /// CPU time used, over all virtual CPUs; of CPU.
    pub used_us: u64,
    /// CPU time that the host gave to others; of CPU.
    pub steal_us: u64,
}
