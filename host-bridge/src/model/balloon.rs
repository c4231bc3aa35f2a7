//! Balloons that take their time, and steps as the bridge sends them.

use crate::hypervisor::driver::PAGE_BYTES;
use crate::plan::{MIB, Millis, Plan, Reach, Step, Verdict, VmView};
use serde::Serialize;

/// How fast a balloon moves, bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Speeds {
    /// Out of the guest.
    pub inflate_bytes_per_s: u64,
    /// Back into it.
    pub deflate_bytes_per_s: u64,
}

impl Default for Speeds {
    /// 0.95 GiB/s out, 0.69 GiB/s back and touched: raw data of Wrenger et al., "HyperAlloc", EuroSys 2025.
    fn default() -> Self {
        Self { inflate_bytes_per_s: 973 * MIB, deflate_bytes_per_s: 707 * MIB }
    }
}

impl Speeds {
    /// What a VM of `allocation_bytes` has after `ms` on the way to `target_bytes`.
    pub fn moved(&self, allocation_bytes: u64, target_bytes: u64, ms: Millis) -> u64 {
        let within =
            |bytes_per_s: u64| u64::try_from(u128::from(bytes_per_s) * u128::from(ms) / 1000).unwrap_or(u64::MAX);
        if target_bytes < allocation_bytes {
            allocation_bytes.saturating_sub(within(self.inflate_bytes_per_s)).max(target_bytes)
        } else {
            allocation_bytes.saturating_add(within(self.deflate_bytes_per_s)).min(target_bytes)
        }
    }
}

/// A speed out of moves that were seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speed {
    bytes: u64,
    ms: Millis,
}

impl Speed {
    /// Takes in a move of `bytes` that took `ms`.
    pub fn saw(&mut self, bytes: u64, ms: Millis) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.ms = self.ms.saturating_add(ms.max(1));
    }

    /// Bytes per second over all moves; `None` before the first.
    pub fn bytes_per_s(&self) -> Option<u64> {
        let per_s = u128::from(self.bytes) * 1000 / u128::from(self.ms.max(1));
        (self.ms > 0).then(|| u64::try_from(per_s).unwrap_or(u64::MAX).max(1))
    }
}

/// The step of `verdict` as the bridge sends it: to whole pages, and none that moves nothing.
pub(super) fn sent(verdict: &Verdict) -> Option<Step> {
    let step = verdict.step?;
    let step = Step { to_bytes: step.to_bytes - step.to_bytes % PAGE_BYTES, ..step };
    (step.to_bytes != step.from_bytes).then_some(step)
}

/// Sends the steps of `plan`, kept in each VM's history.
pub fn send(now_ms: Millis, views: &mut [VmView], plan: &Plan) {
    for (view, verdict) in views.iter_mut().zip(&plan.verdicts) {
        let Some(step) = sent(verdict).filter(|_| view.reach == Reach::Ready) else { continue };
        view.target_bytes = step.to_bytes;
        view.history = view.history.after_step(now_ms, &step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balloon_moves_at_its_speed_and_not_beyond_its_target() {
        let speeds = Speeds { inflate_bytes_per_s: 100, deflate_bytes_per_s: 50 };
        assert_eq!([0, 500, 4_000].map(|ms| speeds.moved(1_000, 700, ms)), [1_000, 950, 700]);
        assert_eq!([0, 500, 9_000].map(|ms| speeds.moved(700, 1_000, ms)), [700, 725, 1_000]);
        assert_eq!(speeds.moved(5, 0, u64::MAX), 0);
    }

    #[test]
    fn a_speed_is_that_of_all_moves_together() {
        let mut speed = Speed::default();
        assert_eq!(speed.bytes_per_s(), None);
        speed.saw(300, 1_000);
        speed.saw(100, 1_000);
        assert_eq!(speed.bytes_per_s(), Some(200));
    }
}
