//! What the planner makes of how fast a VM was seen to move: whose balloon is stalled, who gives first, how long others wait.

mod plan_support;

use plan_support::{host, needs, plan, step, vm};
use vmtide_bridge::plan::{Direction, History, MIB, Millis, Policy, Rule, Urgency, VmView};

/// A past of moves out of the VM, of so many MiB in so many milliseconds.
fn gave(moves: &[(u64, Millis)]) -> History {
    moves.iter().fold(History::default(), |history, (mib, ms)| {
        history.after_move(Direction::Shrink, mib * MIB, *ms, &Policy::default())
    })
}

/// The seconds in which a balloon that takes so many MiB a second is called stalled on the way from 500 MiB by so many.
fn stalls(history: &History, to_go_mib: u64, mib_per_s: impl Fn(u64) -> u64) -> Vec<u64> {
    let mut vm =
        VmView { history: *history, target_bytes: (500 - to_go_mib) * MIB, ..vm(500, 1000, needs(100, Urgency::Idle)) };
    let mut calls = Vec::new();
    vm.history = vm.history.after_observation(0, vm.allocation_bytes, vm.target_bytes);
    for second in 1..=20 {
        let taken = mib_per_s(second) * MIB;
        vm.allocation_bytes = vm.allocation_bytes.saturating_sub(taken).max(vm.target_bytes);
        vm.history = vm.history.after_observation(second * 1000, vm.allocation_bytes, vm.target_bytes);
        if plan(&host(2000), std::slice::from_ref(&vm)).verdicts[0].rule == Rule::StalledBalloon {
            calls.push(second);
        }
    }
    calls
}

#[test]
fn a_balloon_that_is_known_to_be_slow_is_not_stalled_while_it_goes_as_ever() {
    assert!(stalls(&History::default(), 64, |_| 8).contains(&5), "of a stranger that is too slow");
    assert_eq!(stalls(&gave(&[(32, 4_000)]), 64, |_| 8), [0; 0]);
    assert!(!stalls(&gave(&[(32, 4_000)]), 64, |_| 2).is_empty(), "much slower than it was");
    assert!(!stalls(&gave(&[(32, 8_000); 9]), 200, |_| 3).is_empty(), "nobody is waited for however slow he was");
}

#[test]
fn a_fast_balloon_that_stops_is_stalled_after_two_seconds() {
    let fast = gave(&[(200, 1_000), (300, 1_500)]);
    assert_eq!(stalls(&fast, 100, |_| 0).first(), Some(&2));
    assert_eq!(stalls(&History::default(), 100, |_| 0).first(), Some(&5), "of a stranger that is not known so soon");
    assert_eq!(stalls(&fast, 300, |_| 200), [0; 0]);
    let halfway = stalls(&fast, 300, |second| if second == 1 { 200 } else { 0 });
    assert!(matches!(halfway.first(), Some(3..=6)), "in the first window without a move: {halfway:?}");
}

/// A VM that has more than it needs and was heard too late to give any of that before somebody stalls.
fn idle(has_mib: u64, history: &History) -> VmView {
    let history = history.after_demand(600_000, 200 * MIB);
    VmView { history, ..vm(has_mib, 1000, needs(200, Urgency::Idle)) }
}

/// Of two donors alike but for their speed, who gives to somebody who stalls.
fn givers(first: &History, second: &History) -> Vec<usize> {
    let plan = plan(&host(1900), &[idle(900, first), idle(900, second), vm(100, 1000, needs(300, Urgency::Critical))]);
    (0..2).filter(|index| step(&plan, *index).is_some()).collect()
}

#[test]
fn of_equal_donors_the_faster_gives() {
    let (slow, fast) = (gave(&[(8, 1_000)]), gave(&[(200, 1_000)]));
    assert_eq!((givers(&slow, &fast), givers(&fast, &slow)), (vec![1], vec![0]));
    let stranger = History::default();
    assert_eq!((givers(&stranger, &fast), givers(&slow, &stranger)), (vec![1], vec![1]), "a stranger is in between");
    assert_eq!(givers(&stranger, &stranger), [0]);
}

#[test]
fn shares_decide_before_speed_does() {
    let (slow, fast) = (gave(&[(8, 1_000)]), gave(&[(200, 1_000)]));
    let vms = [idle(900, &slow), idle(800, &fast), vm(100, 1000, needs(300, Urgency::Critical))];
    let plan = plan(&host(1800), &vms);
    assert_eq!(step(&plan, 1), None, "who has more gives, however slowly");
    assert!(step(&plan, 0).is_some());
}

#[test]
fn who_waits_for_bytes_is_told_how_long() {
    let waits = |history: &History| {
        let plan = plan(&host(1000), &[idle(900, history), vm(100, 1000, needs(400, Urgency::Critical))]);
        let taken = 900 - step(&plan, 0).unwrap().1;
        (plan.verdicts[1].rule, taken)
    };
    let (rule, taken) = waits(&gave(&[(100, 1_000)]));
    assert_eq!(rule, Rule::AwaitBytes { short_bytes: 340 * MIB, expected_ms: Some(taken * 10) });
    assert!(matches!(waits(&History::default()).0, Rule::AwaitBytes { expected_ms: None, .. }), "nothing is made up");
}
