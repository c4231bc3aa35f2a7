//! Samples in, typed demand out. Pure: no clock, no I/O; time is an argument, in milliseconds since any moment.
//!
//! ```text
//! MemorySample  -> MemoryEstimator  -> MemoryEstimate { demand, outlook }
//! WorkingSet    ---^                                        | demand: to the bridge
//!                                                          | outlook: to Pace, which says when to look again
//! CpuSample     -> CpuEstimator     -> CpuDemand
//! StorageSample -> IoEstimator      -> IoDemand
//! ```
//!
//! Every estimator answers from its second sample on: a counter means nothing without an earlier one.

mod cpu;
mod decay;
mod grant;
mod io;
mod memory;
mod pace;
mod schedule;
mod urgency;

pub use cpu::CpuEstimator;
pub use io::IoEstimator;
pub use memory::{MemoryEstimate, MemoryEstimator, Outlook, margin_bytes};
pub use pace::{Mode, Pace};
pub use schedule::{Kind, Schedule, interval_ms};

/// How much a counter rose, per second. A counter that went backwards did not rise.
fn per_second(before: u64, now: u64, elapsed_ms: u64) -> u64 {
    let rise = u128::from(now.saturating_sub(before)) * 1000 / u128::from(elapsed_ms.max(1));
    u64::try_from(rise).unwrap_or(u64::MAX)
}

/// The share of the elapsed time that a counter of microseconds rose by, thousandths.
fn permille(before_us: u64, now_us: u64, elapsed_ms: u64) -> u64 {
    (now_us.saturating_sub(before_us) / elapsed_ms.max(1)).min(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_survive_what_a_kernel_never_writes() {
        assert_eq!(per_second(0, 500, 250), 2_000);
        assert_eq!(per_second(500, 0, 250), 0);
        assert_eq!(per_second(0, u64::MAX, 0), u64::MAX);
        assert_eq!(permille(0, 50_000, 1_000), 50);
        assert_eq!(permille(0, u64::MAX, 0), 1_000);
        assert_eq!(permille(9, 0, 1), 0);
    }
}
