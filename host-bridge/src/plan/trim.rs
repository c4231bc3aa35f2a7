//! Who is asked to give unused blocks back, and when: pools and guests in, at most one guest out. Pure.
//!
//! ```text
//!          under the low line                  a guest with images there is quiet for long enough,
//!  enough ---------------------> low: ask ---- was not asked for hours, and nobody else is at it ----> that guest
//!    ^                            |
//!    +---- over the clear line ---+
//! ```
//!
//! Whether a guest is quiet is told by what its hypervisor counted, not by the guest.

use super::{Millis, Policy};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A file system of the host that images are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpace {
    /// Its device number.
    pub device: u64,
    /// Its size.
    pub total_bytes: u64,
    /// What may still be taken of it.
    pub available_bytes: u64,
}

impl PoolSpace {
    /// The free part, thousandths.
    pub fn free_permille(&self) -> u32 {
        let permille = u128::from(self.available_bytes) * 1000 / u128::from(self.total_bytes.max(1));
        u32::try_from(permille.min(1000)).unwrap_or(1000)
    }
}

/// A VM, as far as unused blocks go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrimView {
    /// The devices of the file systems that its images are on.
    pub pools: Vec<u64>,
    /// Whether its agent is there and can, and nobody paused the VM.
    pub is_able: bool,
    /// What its disks take now, bytes per second.
    pub rate: u64,
}

/// What is kept from plan to plan.
#[derive(Clone, Debug, Default)]
pub struct TrimPlanner {
    low: BTreeSet<u64>,
    vms: Vec<Seat>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    quiet_since: Option<Millis>,
    asked_ms: Option<Millis>,
}

impl TrimPlanner {
    /// Whether the pool on this device is low.
    pub fn is_low(&self, device: u64) -> bool {
        self.low.contains(&device)
    }

    /// Takes in that a VM was asked, by whomever.
    pub fn on_asked(&mut self, now_ms: Millis, vm: usize) {
        self.seat(vm).asked_ms = Some(now_ms);
    }

    /// Forgets a VM.
    pub fn forget(&mut self, vm: usize) {
        *self.seat(vm) = Seat::default();
    }

    /// Takes in the space of all pools.
    pub fn on_pools(&mut self, pools: &[PoolSpace], policy: &Policy) {
        let low = pools.iter().filter(|pool| {
            let line = if self.is_low(pool.device) { policy.trim_clear_permille } else { policy.trim_low_permille };
            pool.free_permille() < line
        });
        self.low = low.map(|pool| pool.device).collect();
    }

    /// The VM to ask at `now_ms`; none while `is_open`, as somebody is at it. Of several, who was not asked for longest.
    pub fn plan(&mut self, now_ms: Millis, views: &[TrimView], is_open: bool, policy: &Policy) -> Option<usize> {
        let again_ms = policy.trim_again_hours.saturating_mul(3_600_000);
        let mut able = Vec::new();
        for (vm, view) in views.iter().enumerate() {
            let seat = self.seat(vm);
            seat.quiet_since =
                (view.rate < policy.trim_quiet_bytes_per_s).then_some(seat.quiet_since.unwrap_or(now_ms));
            let is_quiet = seat.quiet_since.is_some_and(|since| now_ms.saturating_sub(since) >= policy.trim_quiet_ms);
            let rests = seat.asked_ms.is_some_and(|asked_ms| now_ms.saturating_sub(asked_ms) < again_ms);
            let asked_ms = seat.asked_ms;
            if view.is_able && is_quiet && !rests && view.pools.iter().any(|device| self.is_low(*device)) {
                able.push((asked_ms, vm));
            }
        }
        able.into_iter().min().map(|(_, vm)| vm).filter(|_| !is_open)
    }

    fn seat(&mut self, vm: usize) -> &mut Seat {
        if self.vms.len() <= vm {
            self.vms.resize(vm + 1, Seat::default());
        }
        &mut self.vms[vm]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: Millis = 3_600_000;

    fn pool(free_permille: u64) -> [PoolSpace; 1] {
        [PoolSpace { device: 1, total_bytes: 1_000, available_bytes: free_permille }]
    }

    fn view() -> TrimView {
        TrimView { pools: vec![1], is_able: true, rate: 0 }
    }

    /// A planner whose pool is low, and both VMs quiet for long.
    fn low() -> TrimPlanner {
        let mut planner = TrimPlanner::default();
        planner.plan(0, &[view(), view()], true, &Policy::default());
        planner.on_pools(&pool(100), &Policy::default());
        planner
    }

    #[test]
    fn low_begins_under_one_line_and_ends_over_another() {
        let policy = Policy::default();
        let mut planner = TrimPlanner::default();
        let low = [200, 150, 149, 150, 199, 200, 150].map(|free| {
            planner.on_pools(&pool(free), &policy);
            planner.is_low(1)
        });
        assert_eq!(low, [false, false, true, true, true, false, false]);
        planner.on_pools(&pool(0), &policy);
        planner.on_pools(&[], &policy);
        assert!(!planner.is_low(1), "what is not seen is not low");
    }

    #[test]
    fn one_at_a_time_and_each_once_in_hours() {
        let policy = Policy::default();
        let mut planner = low();
        let views = [view(), view()];
        let mut ask = |now_ms, is_open| {
            let asked = planner.plan(now_ms, &views, is_open, &policy);
            if let Some(vm) = asked {
                planner.on_asked(now_ms, vm);
            }
            asked
        };
        assert_eq!(ask(60_000, false), Some(0));
        assert_eq!(ask(61_000, true), None);
        assert_eq!(ask(62_000, false), Some(1));
        assert_eq!(ask(5 * HOUR_MS, false), None);
        assert_eq!(ask(60_000 + 6 * HOUR_MS, false), Some(0));
    }

    #[test]
    fn who_is_busy_was_busy_or_cannot_is_left_alone() {
        let policy = Policy::default();
        for (what, changed) in [
            ("busy", TrimView { rate: policy.trim_quiet_bytes_per_s, ..view() }),
            ("elsewhere", TrimView { pools: vec![2], ..view() }),
            ("unable", TrimView { is_able: false, ..view() }),
        ] {
            let mut planner = low();
            assert_eq!(planner.plan(60_000, &[changed, view()], false, &policy), Some(1), "{what}");
        }
        let mut planner = low();
        planner.plan(60_000, &[TrimView { rate: u64::MAX, ..view() }], false, &policy);
        assert_eq!(planner.plan(61_000 + policy.trim_quiet_ms - 1, &[view()], false, &policy), None);
        assert_eq!(planner.plan(61_000 + policy.trim_quiet_ms, &[view()], false, &policy), None, "from 61 s on");
    }

    #[test]
    fn nothing_is_asked_while_there_is_room() {
        let mut planner = low();
        planner.on_pools(&pool(200), &Policy::default());
        assert_eq!(planner.plan(60_000, &[view(), view()], false, &Policy::default()), None);
    }
}
