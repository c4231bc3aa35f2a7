//! A made-up guest: what it uses, how it fares with what it has, what its agent says.

use super::agent::{Agent, Sight, hard_bytes, margin_bytes};
use super::random::Random;
use super::reuse::{EXPONENTS_PERMILLE, Reuse};
use super::workload::Workload;
use crate::plan::{Demand, History, Millis, Reach, Shown, VmView};
use vmtide_protocol::bridge::Intervals;
use vmtide_protocol::demand;

/// The laws of reuse that guests have.
pub(super) struct Laws([Reuse; 4]);

impl Default for Laws {
    fn default() -> Self {
        Self(EXPONENTS_PERMILLE.map(Reuse::new))
    }
}

impl Laws {
    /// The least that `guest` can have of what it uses and stall no more than this.
    pub fn least_bytes(&self, guest: &Guest, stall_permille: u64) -> u64 {
        self.0[guest.law].least_bytes(guest.uses_bytes, stall_permille)
    }
}

/// A guest.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    workload: Workload,
    agent: Agent,
    law: usize,
    /// Its weight.
    pub shares: u32,
    /// What it uses now.
    pub uses_bytes: u64,
    /// The share of the time in which it stands still now, thousandths.
    pub stall_permille: u64,
    /// What it used and what of that it had, summed over the ticks.
    pub used_bytes: u128,
    pub served_bytes: u128,
}

impl Guest {
    /// The guest with this number, and its view before anything is known of it.
    pub fn new(seed: u64, number: u64, intervals: Intervals) -> (Self, VmView) {
        let mut random = Random::new(seed, number);
        let law = usize::try_from(random.within(0, 3)).unwrap_or(0);
        let agent = Agent::new(random.within(0, intervals.quiet_ms), intervals);
        let (limits, workload) = Workload::new(random);
        let shares = limits.shares;
        let guest =
            Self { workload, agent, law, shares, uses_bytes: 0, stall_permille: 0, used_bytes: 0, served_bytes: 0 };
        let view = VmView {
            limits,
            allocation_bytes: 0,
            target_bytes: 0,
            reach: Reach::Ready,
            demand: Demand::Unknown { shown_use_bytes: None },
            history: History::default(),
            shown: Shown::default(),
        };
        (guest, view)
    }

    /// What its balloon and its process show while it has `has_bytes`; it has touched all of them.
    pub fn shown(&self, has_bytes: u64) -> Shown {
        let anonymous_bytes = self.uses_bytes / 1000 * self.workload.anonymous_permille;
        Shown {
            free_bytes: Some(has_bytes.saturating_sub(self.uses_bytes)),
            committed_bytes: Some(anonymous_bytes),
            resident_bytes: Some(has_bytes),
            cached_bytes: Some(self.uses_bytes - anonymous_bytes),
            idle: None,
        }
    }

    /// The floor that its agent reports while it has `has_bytes`, but for what it would not admit to need.
    pub fn floor_bytes(&self, has_bytes: u64) -> u64 {
        let hard = hard_bytes(self.uses_bytes, self.workload.anonymous_permille, has_bytes);
        hard + margin_bytes(hard)
    }

    /// `elapsed_ms` pass until `now_ms`; what its agent reports, if it does.
    pub fn tick(&mut self, now_ms: Millis, elapsed_ms: Millis, view: &VmView, laws: &Laws) -> Option<demand::Demand> {
        let has_bytes = view.allocation_bytes;
        self.uses_bytes = self.workload.tick(now_ms, elapsed_ms);
        self.stall_permille = laws.0[self.law].stall_permille(has_bytes, self.uses_bytes);
        self.used_bytes += u128::from(self.uses_bytes);
        self.served_bytes += u128::from(self.uses_bytes.min(has_bytes));
        let sight = Sight {
            has_bytes,
            uses_bytes: self.uses_bytes,
            anonymous_permille: self.workload.anonymous_permille,
            stall_permille: self.stall_permille,
            maximum_bytes: view.limits.maximum_bytes,
        };
        self.agent.tick(now_ms, &sight)
    }
}
