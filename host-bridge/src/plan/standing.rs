//! How the host's memory stands, from plan to plan: four states with lines to enter and to leave by.
//!
//! ```text
//!            room < 64 %           shares decide          the host itself is in trouble
//!  calm ------------------> tight ---------------> short ------------------------------> emergency
//!       <------------------       <---------------       <------------------------------
//!            room >= 100 %         room >= 32 %           twice the hard line is available
//! ```
//!
//! *Room* is what would be free if every VM had its need and headroom; the lines are shares of `minFree`, the most that the
//! spike pool may be. The pattern is that of ESX, whose states change at 100, 64, 32 and 16 % of its minFree and are left
//! at higher lines than they are entered by. A worse state comes at once. A better one has to last for [`DWELL_MS`]: what
//! guests tune for it is worth a while, and one plan in between says nothing.

use super::memory::hard_line;
use super::policy::permille;
use super::{HostState, HostView, Millis, Plan, Policy, Rule};

/// How long a state lasts at least before a better one takes its place.
pub const DWELL_MS: Millis = 10_000;

/// Room below which it becomes tight, and up to which it stays so; thousandths of minFree.
const TIGHT: (u32, u32) = (640, 1000);
/// Room up to which it stays short.
const SHORT_UNTIL: u32 = 320;

/// The state, and what may become of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    state: Option<HostState>,
    /// Since when it looks better, and the worst that it looked like since.
    better: Option<(Millis, HostState)>,
}

impl Standing {
    /// The state; `None` before the first plan.
    pub fn state(&self) -> Option<HostState> {
        self.state
    }

    /// Takes in the plan that was made for `host` at `now_ms`.
    pub fn update(&mut self, now_ms: Millis, host: &HostView, plan: &Plan, policy: &Policy) {
        let current = self.state.unwrap_or(HostState::Calm);
        let looks = look(current, host, plan, policy);
        if self.state.is_none() || looks >= current {
            *self = Self { state: Some(looks), better: None };
            return;
        }
        let (since_ms, worst) = self.better.unwrap_or((now_ms, looks));
        let worst = worst.max(looks);
        self.better = Some((since_ms, worst));
        if now_ms.saturating_sub(since_ms) >= DWELL_MS {
            *self = Self { state: Some(worst), better: None };
        }
    }
}

/// What this plan looks like to a host in state `current`.
fn look(current: HostState, host: &HostView, plan: &Plan, policy: &Policy) -> HostState {
    // A peer's rules know of no needs.
    if plan.verdicts.iter().any(|verdict| verdict.rule == Rule::Peer) {
        return plan.state;
    }
    let wanted = plan.verdicts.iter().map(|verdict| verdict.wanted_bytes).fold(0, u64::saturating_add);
    let room = plan.limit_bytes.checked_sub(wanted);
    let min_free = permille(plan.limit_bytes, policy.spike_pool_permille);
    let is_under = |line: u32| room.is_none_or(|room| room < permille(min_free, line));
    let is_near_trouble = || host.available_bytes.is_some_and(|bytes| bytes < 2 * hard_line(host, policy));
    if plan.state == HostState::Emergency || (current == HostState::Emergency && is_near_trouble()) {
        HostState::Emergency
    } else if plan.state == HostState::Short || (current >= HostState::Short && is_under(SHORT_UNTIL)) {
        HostState::Short
    } else if is_under(if current >= HostState::Tight { TIGHT.1 } else { TIGHT.0 }) {
        HostState::Tight
    } else {
        HostState::Calm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{MIB, Verdict};
    use HostState::{Calm, Emergency, Short, Tight};
    use proptest::prelude::*;

    /// A plan for 10 000 MiB, of which minFree is 500, with so much room.
    fn plan(state: HostState, room_mib: u64) -> Plan {
        let wanted_bytes = (10_000 - room_mib) * MIB;
        let entitled_bytes = wanted_bytes;
        let verdict = Verdict { wanted_bytes, entitled_bytes, step: None, rule: Rule::Satisfied, idle_tax: None };
        Plan {
            state,
            limit_bytes: 10_000 * MIB,
            committed_bytes: wanted_bytes,
            spike_pool_bytes: 0,
            verdicts: vec![verdict],
        }
    }

    fn host(available_mib: Option<u64>) -> HostView {
        HostView {
            capacity_bytes: 10_000 * MIB,
            reserve_bytes: 0,
            available_bytes: available_mib.map(|mib| mib * MIB),
            stall_full_permille: 0,
        }
    }

    /// The states with a plan each second: `(seconds, plan)`.
    fn states(course: &[(u64, HostState, u64)]) -> Vec<(u64, HostState)> {
        let (mut standing, mut second, mut states) = (Standing::default(), 0, Vec::new());
        for &(seconds, state, room_mib) in course {
            for _ in 0..seconds {
                standing.update(second * 1000, &host(None), &plan(state, room_mib), &Policy::default());
                let state = standing.state().unwrap();
                if states.last().is_none_or(|(_, last)| *last != state) {
                    states.push((second, state));
                }
                second += 1;
            }
        }
        states
    }

    #[test]
    fn worse_comes_at_once_and_better_when_it_lasts() {
        let course = [(20, Calm, 900), (5, Calm, 300), (5, Short, 10), (5, Emergency, 0), (60, Calm, 900)];
        assert_eq!(states(&course), [(0, Calm), (20, Tight), (25, Short), (30, Emergency), (45, Calm)]);
    }

    #[test]
    fn each_state_is_left_at_a_higher_line_than_it_is_entered_by() {
        assert_eq!(states(&[(30, Calm, 320)]), [(0, Calm)], "64 % of minFree");
        assert_eq!(states(&[(1, Calm, 319), (99, Calm, 499)]), [(0, Tight)]);
        assert_eq!(states(&[(1, Calm, 319), (99, Calm, 500)]), [(0, Tight), (11, Calm)]);
        assert_eq!(states(&[(1, Short, 0), (99, Calm, 159)]), [(0, Short)]);
        assert_eq!(states(&[(1, Short, 0), (99, Calm, 160)]), [(0, Short), (11, Tight)]);
        assert_eq!(states(&[(5, Emergency, 0), (30, Short, 0)]), [(0, Emergency), (15, Short)]);
        let mut standing = Standing::default();
        for (second, available, expected) in
            [(0, 100, Emergency), (1, 399, Emergency), (60, 399, Emergency), (61, 400, Emergency), (71, 400, Calm)]
        {
            let state = if available < 200 { Emergency } else { Calm };
            standing.update(second * 1000, &host(Some(available)), &plan(state, 900), &Policy::default());
            assert_eq!(standing.state(), Some(expected), "at {second} s");
        }
    }

    #[test]
    fn a_plan_that_swings_within_ten_seconds_makes_no_change() {
        let swing: Vec<_> = (0..200).map(|at| if at % 5 == 0 { (1, Short, 0) } else { (2, Calm, 900) }).collect();
        assert_eq!(states(&swing), [(0, Short)]);
    }

    proptest! {
        #[test]
        fn no_state_is_better_than_the_plan_or_left_too_soon(
            course in proptest::collection::vec((0..15_000_u64, 0..3_usize, 0..1_000_u64, 0..1_000_u64), 1..200),
        ) {
            let (mut standing, mut now_ms, mut entered_ms) = (Standing::default(), 0, 0);
            for (pause_ms, state, room_mib, available_mib) in course {
                now_ms += pause_ms;
                let (before, plan) = (standing.state(), plan([Calm, Short, Emergency][state], room_mib));
                standing.update(now_ms, &host(Some(available_mib)), &plan, &Policy::default());
                let after = standing.state();
                prop_assert!(after >= Some(plan.state));
                if after < before {
                    prop_assert!(now_ms - entered_ms >= DWELL_MS);
                }
                if after != before {
                    entered_ms = now_ms;
                }
            }
        }

        #[test]
        fn what_stays_the_same_settles(
            before in 0..3_usize, state in 0..3_usize, room_mib in 0..1_000_u64, worst_room_mib in 0..1_000_u64,
        ) {
            let course = [(3, [Calm, Short, Emergency][before], worst_room_mib), (300, [Calm, Short, Emergency][state], room_mib)];
            prop_assert!(states(&course).len() <= 3);
        }
    }
}
