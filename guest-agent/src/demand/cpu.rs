//! Demand for CPU.
//!
//! ```text
//! need    = used + stolen + waiting
//! waiting = share of time in which some task waited for a CPU (PSI)
//!           × tasks in the run queue that no online CPU is left for, at least one
//!           × share of the time that the host did not steal
//! ```
//!
//! What ran, what would have run had the host let it, and what had no virtual CPU to run on. A queue behind a CPU that the
//! host stole is the host's shortage: more virtual CPUs would only wait as well. So stolen time takes its share off what
//! waits, and is a signal and a reason of its own. The run queue is a number of one moment; the smaller of two samples counts.
//!
//! CPU gives way without harm, so the floor is only what keeps a guest answering.

use super::permille;
use crate::sense::CpuSample;
use vmtide_protocol::demand::{CpuDemand, CpuReason, CpuSignals, Urgency};

/// A tenth of a virtual CPU, or its use when that is less.
const FLOOR_MILLICPUS: u64 = 100;
/// Under 2 % of what is online the guest is idle.
const IDLE_SHARE: u64 = 50;
const STALL_FELT_PERMILLE: u64 = 200;
const STALL_HURTS_PERMILLE: u64 = 600;
/// A queue that no guest has CPUs for.
const MOST_WAITING_MILLICPUS: u64 = 256_000;

/// From this need on the guest is looked at and reported as often as a busy one: a quarter of a virtual CPU.
const BUSY_MILLICPUS: u64 = 250;

/// Turns CPU samples into demand.
#[derive(Clone, Debug, Default)]
pub struct CpuEstimator {
    previous: Option<(u64, CpuSample)>,
    is_busy: bool,
}

impl CpuEstimator {
    /// The demand between the previous sample and this one; `None` after the first.
    pub fn update(&mut self, now_ms: u64, sample: &CpuSample) -> Option<CpuDemand> {
        let (before_ms, before) = self.previous.replace((now_ms, *sample))?;
        let elapsed_ms = now_ms.saturating_sub(before_ms).max(1);
        let online_millicpus = sample.online_cpus.saturating_mul(1000);
        let millicpus = |before_ms: u64, now_ms: u64| {
            // Ticks are coarse: a short interval may show more than all CPUs could do.
            super::per_second(before_ms, now_ms, elapsed_ms).min(online_millicpus)
        };
        let used = millicpus(before.used_ms, sample.used_ms);
        let stolen = millicpus(before.steal_ms, sample.steal_ms);
        let stalled = match (before.stall, sample.stall) {
            (Some(before), Some(now)) => permille(before.some_us, now.some_us, elapsed_ms),
            _ => 0,
        };
        // The agent itself runs while it reads.
        let queued = |sample: &CpuSample| sample.running_tasks.saturating_sub(1).saturating_sub(sample.online_cpus);
        let queue = queued(&before).min(queued(sample)).max(1);
        // A task that waits because of the host waits through no fault of the guest's own queue.
        let stolen_permille = (stolen * 1000).checked_div(used + stolen).unwrap_or(0);
        let unstolen_permille = 1000 - stolen_permille.min(1000);
        let waiting = (stalled * unstolen_permille / 1000).saturating_mul(queue).min(MOST_WAITING_MILLICPUS);
        let need = used + stolen + waiting;
        self.is_busy = need >= BUSY_MILLICPUS;
        let worst_permille = stalled.max(stolen_permille);
        let (urgency, reason) = if used + stolen < online_millicpus / IDLE_SHARE {
            (Urgency::Idle, CpuReason::Idle)
        } else if worst_permille < STALL_FELT_PERMILLE {
            (Urgency::Normal, CpuReason::Steady)
        } else {
            let reason = if stolen_permille > stalled { CpuReason::Stolen } else { CpuReason::Stalled };
            let hurts = worst_permille >= STALL_HURTS_PERMILLE;
            (if hurts { Urgency::Critical } else { Urgency::Pressed }, reason)
        };
        Some(CpuDemand {
            need_millicpus: need.into(),
            floor_millicpus: used.min(FLOOR_MILLICPUS).into(),
            urgency,
            reason,
            signals: CpuSignals {
                online_cpus: sample.online_cpus.into(),
                used_millicpus: used.into(),
                steal_millicpus: stolen.into(),
                waiting_millicpus: waiting.into(),
                imbalance_permille: (sample.gap_ms.saturating_mul(1000) / elapsed_ms).min(1000).into(),
                running_tasks: sample.running_tasks.into(),
                stall_some_permille: stalled.into(),
            },
        })
    }

    /// Whether the last demand was one that may be gone in a second.
    pub fn is_busy(&self) -> bool {
        self.is_busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::Stall;

    fn demand(used_ms: u64, steal_ms: u64, some_us: u64) -> CpuDemand {
        let mut estimator = CpuEstimator::default();
        let stall = |some_us| Some(Stall { some_us, full_us: 0 });
        let before =
            CpuSample { online_cpus: 2, used_ms: 1_000, steal_ms: 10, running_tasks: 1, gap_ms: 0, stall: stall(5) };
        assert_eq!(estimator.update(0, &before), None);
        let now = CpuSample { used_ms: 1_000 + used_ms, steal_ms: 10 + steal_ms, stall: stall(5 + some_us), ..before };
        estimator.update(1_000, &now).unwrap()
    }

    #[test]
    fn need_is_use_and_what_was_in_its_way() {
        for (used_ms, steal_ms, some_us, need, urgency, reason) in [
            (10, 0, 0, 10, Urgency::Idle, CpuReason::Idle),
            (900, 50, 30_000, 978, Urgency::Normal, CpuReason::Steady),
            (2_000, 0, 400_000, 2_400, Urgency::Pressed, CpuReason::Stalled),
            (2_000, 0, 900_000, 2_900, Urgency::Critical, CpuReason::Stalled),
            (500, 500, 100_000, 1_050, Urgency::Pressed, CpuReason::Stolen),
            (99_999, 0, 0, 2_000, Urgency::Normal, CpuReason::Steady),
        ] {
            let demand = demand(used_ms, steal_ms, some_us);
            assert_eq!(demand.need_millicpus, need.into(), "{used_ms} {steal_ms} {some_us}");
            assert_eq!((demand.urgency, demand.reason), (urgency, reason), "{used_ms} {steal_ms} {some_us}");
        }
    }

    #[test]
    fn a_queue_that_stays_waits_for_as_many_cpus_and_one_moment_does_not() {
        for (queues, waiting) in [([5, 5], 2_000), ([9, 3], 1_000), ([1, 9], 1_000), ([u64::MAX; 2], 256_000)] {
            let mut estimator = CpuEstimator::default();
            let [before, now] = [0, 1].map(|at| CpuSample {
                online_cpus: 2,
                used_ms: 2_000 * at,
                running_tasks: queues[usize::try_from(at).unwrap()],
                gap_ms: 150,
                stall: Some(Stall { some_us: 1_000_000 * at, full_us: 0 }),
                ..CpuSample::default()
            });
            estimator.update(0, &before);
            let demand = estimator.update(1_000, &now).unwrap();
            assert_eq!(demand.signals.waiting_millicpus, waiting.into(), "{queues:?}");
            assert_eq!(demand.need_millicpus, (2_000 + waiting).into(), "{queues:?}");
            assert_eq!(demand.signals.imbalance_permille, 150.into());
            assert!(estimator.is_busy());
        }
    }

    #[test]
    fn counters_that_go_backwards_are_no_use() {
        let mut estimator = CpuEstimator::default();
        let busy = CpuSample { online_cpus: 1, used_ms: u64::MAX, steal_ms: u64::MAX, ..CpuSample::default() };
        estimator.update(5, &busy);
        let demand = estimator.update(5, &CpuSample::default()).unwrap();
        assert_eq!(demand.need_millicpus, 0.into());
    }
}
