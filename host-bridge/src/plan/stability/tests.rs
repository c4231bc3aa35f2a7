//! What was done and needed, as time goes by; time is a number here.

use super::*;
use crate::plan::MIB;

#[test]
fn a_need_rises_at_once_and_falls_after_the_window() {
    let history = History::default().after_demand(1_000, 500).after_demand(2_000, 900).after_demand(3_000, 200);
    assert_eq!(history.settled_need_bytes(3_000, 200), 900);
    assert_eq!(history.settled_need_bytes(3_000, 1_000), 1_000);
    assert_eq!(history.settled_need_bytes(59_999, 200), 900);
    assert_eq!(history.settled_need_bytes(70_000, 200), 200);
}

#[test]
fn a_need_that_wavers_by_less_than_a_thirty_second_stands_still() {
    let mut history = History::default().after_demand(0, 3_200);
    for second in 1..200 {
        history = history.after_demand(second * 1000, 3_110);
    }
    assert_eq!(history.settled_need_bytes(200_000, 3_110), 3_200);
    assert_eq!(history.after_demand(290_000, 3_050).settled_need_bytes(290_000, 3_050), 3_050);
}

#[test]
fn a_gap_in_the_needs_makes_a_vm_new_again() {
    let history = History::default().after_demand(100_000, 1).after_demand(150_000, 1);
    assert_eq!((history.is_new(159_999), history.is_new(160_000)), (true, false));
    assert!(history.after_demand(300_000, 1).is_new(300_000));
    assert!(!History::default().is_new(0), "a caller that feeds no needs has no window");
}

#[test]
fn the_speed_of_a_balloon_is_taken_over_whole_windows() {
    let speed = |history: History| history.inflation.and_then(|inflation| inflation.bytes_per_s);
    let mut history = History::default().after_observation(0, 1_000 * MIB, 500 * MIB);
    history = history.after_observation(3_000, 800 * MIB, 500 * MIB);
    assert_eq!(speed(history), None);
    history = history.after_observation(5_000, 750 * MIB, 500 * MIB);
    assert_eq!(speed(history), Some(50 * MIB));
    history = history.after_observation(10_000, 740 * MIB, 400 * MIB);
    assert_eq!(speed(history), Some(2 * MIB), "a lower target does not start over");
    assert_eq!(history.after_observation(11_000, 400 * MIB, 400 * MIB).inflation, None);
}

/// A history that learned of one move out.
fn that_gave(mib: u64, ms: Millis) -> History {
    History::default().after_move(Direction::Shrink, mib * MIB, ms, &Policy::default())
}

#[test]
fn a_move_that_stalled_on_its_way_teaches_nothing() {
    let policy = Policy::default();
    let shrunk = |history: History, mib: u64, ms| {
        history.after_move(Direction::Shrink, mib * MIB, ms, &policy).rates().shrink_bytes_per_s
    };
    let quick = History::default().after_observation(0, 1_000 * MIB, 500 * MIB);
    assert_eq!(shrunk(quick, 500, 4_000), Some(125 * MIB));
    // 5 s of nothing, then 495 MiB in one: nothing of that says how fast it is.
    let stuck = quick.after_observation(5_000, 995 * MIB, 500 * MIB);
    assert_eq!(shrunk(stuck, 500, 6_000), None);
    let recovered = stuck.after_observation(10_000, 600 * MIB, 500 * MIB);
    assert_eq!(shrunk(recovered, 500, 11_000), None, "it stalled before it went on");
    assert_eq!(shrunk(recovered.after_observation(11_000, 500 * MIB, 500 * MIB), 50, 1_000), Some(50 * MIB));
    assert_eq!(shrunk(History::default(), 64, 20_000), None, "whatever was seen on the way: 3.2 MiB/s");
    assert_eq!(shrunk(that_gave(100, 1_000), 64, 20_000), Some(100 * MIB), "what was learned before stays");
    let stopped = History::default().after_move(Direction::Grow, 64 * MIB, 60_000, &policy);
    assert_eq!(stopped.rates().grow_bytes_per_s, None, "nor does it of memory that comes");
}

#[test]
fn each_direction_is_learned_for_itself() {
    let history = that_gave(100, 1_000).after_move(Direction::Grow, 100 * MIB, 500, &Policy::default());
    let rates = Rates { shrink_bytes_per_s: Some(100 * MIB), grow_bytes_per_s: Some(200 * MIB) };
    assert_eq!(history.rates(), rates);
    assert_eq!(history.after_step(9, &Step { from_bytes: 2, to_bytes: 1, pace: Pace::Calm }).rates(), rates);
}

#[test]
fn the_window_of_a_stall_is_shorter_for_a_fast_balloon() {
    let speed = |history: History| history.inflation.and_then(|inflation| inflation.bytes_per_s);
    let stops = |history: History, ms| {
        speed(history.after_observation(0, 600 * MIB, 500 * MIB).after_observation(ms, 600 * MIB, 500 * MIB))
    };
    assert_eq!((stops(that_gave(400, 2_000), 1_999), stops(that_gave(400, 2_000), 2_000)), (None, Some(0)));
    assert_eq!((stops(History::default(), 4_999), stops(History::default(), 5_000)), (None, Some(0)));
}

#[test]
fn what_is_not_known_is_not_recorded() {
    let text = serde_json::to_string(&History::default()).unwrap();
    assert!(!text.contains("leaves") && !text.contains("comes"), "{text}");
    let known = that_gave(100, 1_000);
    assert_eq!(serde_json::from_str::<History>(&serde_json::to_string(&known).unwrap()).unwrap(), known);
}

#[test]
fn a_burst_is_what_a_need_rises_by_at_once_and_forgotten_after_some_minutes() {
    let needs = |needs: &[(u64, u64)]| {
        needs.iter().fold(History::default(), |history, (second, need)| history.after_demand(second * 1000, *need))
    };
    let history = needs(&[(0, 500), (2, 100), (4, 150), (7, 180), (8, 170), (30, 175), (60, 180)]);
    assert_eq!(history.burst_bytes(60_000), 80);
    assert_eq!((history.burst_bytes(290_000), history.burst_bytes(360_000)), (80, 0));
    assert_eq!(needs(&[(0, 100), (9, 150), (18, 200), (27, 250)]).burst_bytes(27_000), 50, "a slow rise is none");
    let known = needs(&[(0, 1), (50, 1), (100, 1)]);
    assert!(!known.knows_bursts(299_000) && known.knows_bursts(300_000) && !History::default().knows_bursts(300_000));
}

#[test]
fn history_survives_a_record() {
    let history = History::default().after_demand(1_000, 5).after_observation(2_000, 9, 3);
    let text = serde_json::to_string(&history).unwrap();
    assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
}
