//! How long a guest's tasks waited, in all: what the performance index is made of.

use crate::Amount;
use serde::{Deserialize, Serialize};

/// Time lost to waiting, counted as the kernel counts it. Two of them make the share of the time between, however many
/// reports came or were lost between them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Stalls {
    /// For memory; absent without PSI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<StallTotals>,
    /// For a CPU; absent without PSI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuTotals>,
    /// For block I/O; absent without PSI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<StallTotals>,
}

/// Time lost for want of memory or I/O.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct StallTotals {
    /// When it was read, milliseconds on the agent's own clock, which begins with the agent.
    pub at_ms: Amount,
    /// In which some task waited, microseconds.
    pub some_us: Amount,
    /// In which all tasks that could have run waited, microseconds.
    pub full_us: Amount,
}

/// Time lost for want of CPU, and time used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct CpuTotals {
    /// When it was read, milliseconds on the agent's own clock, which begins with the agent.
    pub at_ms: Amount,
    /// In which some task waited for a virtual CPU, microseconds.
    pub some_us: Amount,
    /// CPU time used, over all virtual CPUs, microseconds.
    pub used_us: Amount,
    /// CPU time that virtual CPUs wanted and the host gave to others, microseconds.
    pub steal_us: Amount,
}
