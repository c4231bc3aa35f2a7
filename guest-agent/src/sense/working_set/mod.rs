//! How much memory was used lately, by the best source that the guest has.
//!
//! ```text
//!            built, on, and debugfs can be opened     DAMON can be had, and nobody else has it
//! mglru  <------------------------------------ auto ------------------------------------------> damon
//!                                                | neither
//!                                                v
//!                                             counters: all anonymous memory, active file pages, what came back
//! ```
//!
//! In: `/sys/kernel/debug/lru_gen`, `/sys/kernel/mm/damon/admin` and the latest [`super::MemorySample`]. Out: a
//! [`WorkingSet`] each minute, or each five minutes in a quiet guest; `cycle` says when, so that looking costs
//! no more than a thousandth of a CPU, or a ten-thousandth in a quiet guest. This is the one part of `sense` that writes:
//! it has the kernel look at the accessed bits of pages, which changes what a page's age is known to be and no page.
//!
//! What file pages are worth here: the LRU's generations follow accesses through page tables. A page that is only read with
//! `read(2)` keeps the age at which it came in, until reclaim finds out; DAMON sees both.

mod ages;
mod cycle;
mod damon;
mod mglru;
mod sampler;

use super::SenseError;
pub use sampler::Sampler;
use serde::{Deserialize, Serialize};
use std::path::Path;
use vmtide_protocol::demand as wire;

/// Ends what an agent that was killed left running in the kernel below `root`.
///
/// # Errors
/// [`SenseError`] with the file that could not be written.
pub fn end_leftover(root: &Path) -> Result<(), SenseError> {
    damon::end(root)
}

/// Which sources may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// The best that there is.
    #[default]
    Auto,
    /// The LRU's generations, else counters.
    Mglru,
    /// DAMON, else counters.
    Damon,
    /// Counters: nothing is written.
    Counters,
    /// None.
    Off,
}

impl Wanted {
    /// Files and folders that have to be written.
    pub fn written(self) -> &'static [&'static str] {
        const LRU_GEN: &str = "/sys/kernel/debug/lru_gen";
        const DAMON: &str = "/sys/kernel/mm/damon/admin";
        match self {
            Self::Auto => &[LRU_GEN, DAMON],
            Self::Mglru => &[LRU_GEN],
            Self::Damon => &[DAMON],
            Self::Counters | Self::Off => &[],
        }
    }
}

/// How much looking the guest can bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leisure {
    /// Nothing happens, and looking should be rare.
    Quiet,
    /// Each minute.
    Busy,
    /// Memory runs out: whoever walks page tables now is in the way.
    None,
}

/// Where a working set comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The LRU's generations.
    Mglru,
    /// DAMON.
    Damon,
    /// Sizes and counters.
    Counters,
}

/// How much of the anonymous and file memory was used lately. Each amount holds those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WorkingSet {
    /// Where it comes from.
    pub source: Source,
    /// When it was so.
    pub at_ms: u64,
    /// Used within the last 10 seconds.
    pub used_10_s_bytes: u64,
    /// Used within the last minute.
    pub used_60_s_bytes: u64,
    /// Used within the last five minutes, or not known to be unused for so long.
    pub used_300_s_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// The file pages of those used within the last minute, where the source tells them apart.
    pub file_60_s_bytes: Option<u64>,
    /// CPU time that it took.
    pub cost_us: u64,
}

impl WorkingSet {
    /// For the bridge, sent at `now_ms`.
    pub fn signal(&self, now_ms: u64) -> wire::WorkingSet {
        wire::WorkingSet {
            source: match self.source {
                Source::Mglru => wire::WorkingSetSource::Mglru,
                Source::Damon => wire::WorkingSetSource::Damon,
                Source::Counters => wire::WorkingSetSource::Counters,
            },
            used_10_s_bytes: self.used_10_s_bytes.into(),
            used_60_s_bytes: self.used_60_s_bytes.into(),
            used_300_s_bytes: self.used_300_s_bytes.into(),
            total_bytes: self.total_bytes.into(),
            age_ms: now_ms.saturating_sub(self.at_ms).into(),
            cost_us: self.cost_us.into(),
        }
    }
}
