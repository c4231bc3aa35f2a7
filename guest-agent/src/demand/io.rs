//! Demand for block I/O.
//!
//! `need = done / (1 − share of time in which all tasks waited)`: in that share nothing got on, so without it as much
//! more would have been done. I/O gives way without harm, so the floor is only what keeps a guest answering.

use super::{per_second, permille};
use crate::sense::{Stall, StorageSample};
use vmtide_protocol::demand::{IoDemand, IoReason, IoSignals, Urgency};

/// 1 MiB/s, or the use when that is less.
const FLOOR_BYTES_PER_S: u64 = 1024 * 1024;
/// Fewer operations are a journal's heartbeat.
const IDLE_OPS_PER_S: u64 = 4;
/// Beyond this share the division says more about rounding than about demand.
const MOST_STRETCH_PERMILLE: u64 = 900;
const STALL_FELT_PERMILLE: u64 = 200;
const STALL_HURTS_PERMILLE: u64 = 600;

/// Turns samples of the disks into demand.
#[derive(Clone, Debug, Default)]
pub struct IoEstimator {
    previous: Option<(u64, StorageSample)>,
}

impl IoEstimator {
    /// The demand between the previous sample and this one; `None` after the first.
    pub fn update(&mut self, now_ms: u64, sample: &StorageSample) -> Option<IoDemand> {
        let (before_ms, before) = self.previous.replace((now_ms, *sample))?;
        let elapsed_ms = now_ms.saturating_sub(before_ms).max(1);
        let read = per_second(before.read_bytes, sample.read_bytes, elapsed_ms);
        let written = per_second(before.write_bytes, sample.write_bytes, elapsed_ms);
        let ops = per_second(before.ops, sample.ops, elapsed_ms);
        let share = |of: fn(Stall) -> u64| match (before.stall, sample.stall) {
            (Some(before), Some(now)) => permille(of(before), of(now), elapsed_ms),
            _ => 0,
        };
        let (some, full) = (share(|stall| stall.some_us), share(|stall| stall.full_us));
        let working_permille = 1000 - full.min(MOST_STRETCH_PERMILLE);
        let stretched =
            |rate: u64| u64::try_from(u128::from(rate) * 1000 / u128::from(working_permille)).unwrap_or(u64::MAX);
        let done = read.saturating_add(written);
        let (urgency, reason) = if some >= STALL_HURTS_PERMILLE {
            (Urgency::Critical, IoReason::Stalled)
        } else if some >= STALL_FELT_PERMILLE {
            (Urgency::Pressed, IoReason::Stalled)
        } else if ops < IDLE_OPS_PER_S {
            (Urgency::Idle, IoReason::Idle)
        } else {
            (Urgency::Normal, IoReason::Steady)
        };
        Some(IoDemand {
            need_bytes_per_s: stretched(done).into(),
            need_ops_per_s: stretched(ops).into(),
            floor_bytes_per_s: done.min(FLOOR_BYTES_PER_S).into(),
            urgency,
            reason,
            signals: IoSignals {
                read_bytes_per_s: read.into(),
                write_bytes_per_s: written.into(),
                ops_per_s: ops.into(),
                in_flight: sample.in_flight.into(),
                stall_some_permille: some.into(),
                stall_full_permille: full.into(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(read_bytes: u64, ops: u64, some_us: u64, full_us: u64) -> IoDemand {
        let mut estimator = IoEstimator::default();
        let idle = StorageSample { stall: Some(Stall::default()), ..StorageSample::default() };
        assert_eq!(estimator.update(0, &idle), None);
        let stall = Some(Stall { some_us, full_us });
        estimator.update(1_000, &StorageSample { read_bytes, ops, stall, ..idle }).unwrap()
    }

    #[test]
    fn need_is_what_was_done_stretched_by_the_waiting() {
        for (read, ops, some_us, full_us, need, urgency) in [
            (0, 0, 0, 0, 0, Urgency::Idle),
            (1_000, 10, 0, 0, 1_000, Urgency::Normal),
            (1_000, 10, 500_000, 500_000, 2_000, Urgency::Pressed),
            (1_000, 10, 1_000_000, 1_000_000, 10_000, Urgency::Critical),
            (0, 0, 900_000, 900_000, 0, Urgency::Critical),
            (u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, Urgency::Critical),
        ] {
            let demand = demand(read, ops, some_us, full_us);
            assert_eq!(demand.need_bytes_per_s, need.into(), "{read} {some_us}");
            assert_eq!(demand.urgency, urgency, "{read} {some_us}");
        }
    }

    #[test]
    fn counters_that_go_backwards_are_no_use() {
        let mut estimator = IoEstimator::default();
        let most = StorageSample { read_bytes: u64::MAX, write_bytes: u64::MAX, ..StorageSample::default() };
        estimator.update(5, &most);
        let demand = estimator.update(5, &StorageSample::default()).unwrap();
        assert_eq!(demand.need_bytes_per_s, 0.into());
    }
}
