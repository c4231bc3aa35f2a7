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

/// Of the CPU time that was wanted within `span_us`, what was waited for or stolen; and all that was wanted. The kernel
/// has no time in which all tasks of a system waited for a CPU, so CPU time is what is weighed: while some task waits, at
/// least one waits for each that runs.
pub fn cpu_stalled_us(span_us: u64, some_us: u64, used_us: u64, steal_us: u64) -> (u64, u64) {
    let waited_us = u128::from(used_us) * u128::from(some_us.min(span_us)) / u128::from(span_us.max(1));
    let stalled_us = u64::try_from(waited_us).unwrap_or(u64::MAX).saturating_add(steal_us);
    (stalled_us, stalled_us.saturating_add(used_us))
}
