//! Guests that answer, fall short, keep silent and lie; time is a number here.

use super::*;
use crate::plan::{Direction, History, MIB};
use proptest::prelude::*;

fn shrink(mib: u64, for_others: bool) -> Shrink {
    let (slice_bytes, least_bytes) = (30 * MIB, 4 * MIB);
    Shrink {
        bytes: mib * MIB,
        spare_bytes: 0,
        slice_bytes,
        least_bytes,
        for_others,
        can_ask: true,
        leaves: Progress::default(),
    }
}

/// What was learned of a guest whose memory left at so many MiB a second.
fn gave(mib_per_s: u64) -> Progress {
    *History::default().after_move(Direction::Shrink, mib_per_s * MIB, 1_000, &Policy::default()).leaves()
}

/// A bridge that looks each 100 ms, and a guest that gives its answers at once; `None` is silence.
struct Host {
    asking: Asking,
    now_ms: Millis,
    answers: Vec<Option<u64>>,
    asked: Vec<u64>,
}

impl Host {
    fn new(answers: &[Option<u64>]) -> Self {
        Self { asking: Asking::default(), now_ms: 1_000, answers: answers.to_vec(), asked: Vec::new() }
    }

    /// What is taken within so many seconds where this is wanted throughout: in which second how many MiB.
    fn takes(&mut self, shrink: Shrink, seconds: u64) -> Vec<(u64, u64)> {
        let (mut taken, from_ms) = (Vec::new(), self.now_ms);
        while self.now_ms < from_ms + seconds * 1000 {
            self.asking.has_broken(self.now_ms);
            match self.asking.way(self.now_ms, &shrink, &Policy::default()) {
                Way::Wait => {}
                Way::Ask { bytes, deadline_ms } => {
                    let id = self.asked.len();
                    self.asking.on_asked(self.now_ms, id as u64, bytes, deadline_ms);
                    if let Some(Some(mib)) = self.answers.get(id) {
                        assert!(self.asking.on_answer(self.now_ms, id as u64, Some(mib * MIB)));
                    }
                    self.asked.push(bytes / MIB);
                }
                Way::Inflate { bytes, .. } => {
                    taken.push(((self.now_ms - from_ms) / 1000, bytes / MIB));
                    self.asking.on_reached();
                }
            }
            self.now_ms += 100;
        }
        taken
    }
}

#[test]
fn what_is_free_is_taken_and_what_is_not_is_asked_for() {
    let mut asking = Asking::default();
    let free = Shrink { spare_bytes: 100 * MIB, ..shrink(100, false) };
    assert_eq!(asking.way(0, &free, &Policy::default()), Way::Inflate { bytes: 100 * MIB, asked: None });
    let more = Shrink { spare_bytes: 99 * MIB, ..shrink(100, false) };
    let ask = Way::Ask { bytes: 100 * MIB, deadline_ms: 500 + 3_125 };
    assert_eq!(asking.way(0, &more, &Policy::default()), ask);
    assert_eq!(deadline_ms(u64::MAX, &gave(500)), 10_000);
    assert_eq!(deadline_ms(0, &gave(500)), 1_000);
}

#[test]
fn a_slow_guest_is_given_longer_and_a_fast_one_no_less() {
    let figures = |leaves| (deadline_ms(64 * MIB, &leaves), promise_ms(64 * MIB, &leaves, &Policy::default()));
    let unknown = figures(Progress::default());
    assert_eq!(unknown, (500 + 2_000, 5_000 + 4_266), "at 32 and at 15 MiB/s");
    assert_eq!(figures(gave(500)), unknown, "what left at once may be harder to find next time");
    assert_eq!(figures(gave(8)), (500 + 8_000, 5_000 + 16_000), "at 8 MiB/s, and at half of it");
    assert_eq!(figures(gave(4)), (10_000, 5_000 + 17_066), "not without end: at a quarter of 15 MiB/s");
    let slow = Shrink { leaves: gave(8), ..shrink(64, false) };
    let way = Asking::default().way(0, &slow, &Policy::default());
    assert_eq!(way, Way::Ask { bytes: 64 * MIB, deadline_ms: 8_500 });
}

#[test]
fn the_word_of_a_slow_guest_is_not_broken_while_it_is_no_slower_than_usual() {
    let mut asking = Asking::default();
    asking.on_asked(0, 1, 80 * MIB, 4_000);
    assert!(asking.on_answer(0, 1, Some(80 * MIB)));
    let slow = Shrink { leaves: gave(8), ..shrink(80, false) };
    assert!(matches!(asking.way(0, &slow, &Policy::default()), Way::Inflate { .. }));
    assert!(!asking.has_broken(24_999), "5 s and 80 MiB at 4 MiB/s");
    assert!(asking.has_broken(25_000));
}

#[test]
fn a_partial_answer_is_taken_and_the_guest_rests() {
    let mut host = Host::new(&[Some(60), Some(3), Some(20)]);
    assert_eq!(host.takes(shrink(100, false), 150), [(0, 60), (120, 20)], "3 MiB are not worth a move");
    assert_eq!(host.asked, [100, 100, 100], "a minute each");
    let freed = Shrink { spare_bytes: 40 * MIB, ..shrink(100, false) };
    let way = host.asking.way(host.now_ms, &freed, &Policy::default());
    assert_eq!(way, Way::Inflate { bytes: 40 * MIB, asked: None }, "what became free meanwhile waits for nothing");
}

#[test]
fn no_answer_keeps_what_the_shares_do_not() {
    let mut host = Host::new(&[Some(0); 9]);
    assert_eq!(host.takes(shrink(100, true), 25), [(0, 30), (10, 30), (20, 30)]);
}

#[test]
fn a_guest_that_cannot_be_asked_gives_slices() {
    let alone = Shrink { can_ask: false, ..shrink(100, true) };
    assert_eq!(Host::new(&[]).takes(alone, 15), [(0, 30), (10, 30)]);
    let mut newer = Host::new(&[]);
    assert!(matches!(newer.asking.way(0, &shrink(100, true), &Policy::default()), Way::Ask { .. }));
    newer.asking.on_asked(0, 7, 100 * MIB, 1_000);
    newer.asking.on_answer(10, 7, None);
    assert_eq!(newer.takes(shrink(100, true), 5), [(0, 30)], "its agent does not know the request");
}

#[test]
fn a_silent_guest_costs_a_deadline_and_then_its_word() {
    let mut host = Host::new(&[]);
    let taken = host.takes(shrink(100, true), 30);
    assert_eq!(taken[..2], [(4, 30), (19, 100)], "a slice, and the second time all of it");
    assert_eq!(host.asked.len(), 2, "it is not asked any more");
    let told = host.asking.summary(host.now_ms);
    assert_eq!((told.asked, told.unanswered, told.broken), (2, 2, 1));
    host.now_ms += FORGIVEN_AFTER_MS;
    assert_eq!(host.takes(shrink(100, true), 1), [], "forgiven: it is asked first");
    assert_eq!(host.asked.len(), 3);
}

/// Asked, answered in full and inflated at 0 ms.
fn promised() -> Asking {
    let mut asking = Asking::default();
    asking.on_asked(0, 1, 150 * MIB, 4_000);
    assert!(asking.on_answer(0, 1, Some(u64::MAX)));
    let way = asking.way(0, &shrink(150, false), &Policy::default());
    let asked = Asked::Answered { bytes: 150 * MIB, spare_bytes: 150 * MIB, after_ms: 0 };
    assert_eq!(way, Way::Inflate { bytes: 150 * MIB, asked: Some(asked) }, "no more than it was asked for");
    asking
}

#[test]
fn a_word_is_kept_by_the_balloon_and_broken_by_time_or_a_stall() {
    let mut kept = promised();
    kept.on_reached();
    assert!(!kept.has_broken(1_000_000) && kept.summary(0).kept == 1);

    let mut late = promised();
    assert!(!late.has_broken(14_999));
    assert!(late.has_broken(15_000), "5 s and 150 MiB at 15 MiB/s");
    assert!(!late.has_broken(15_100), "once");
    let way = late.way(16_000, &shrink(150, false), &Policy::default());
    assert_eq!(way, Way::Inflate { bytes: 150 * MIB, asked: Some(Asked::Untrusted) });
    assert_eq!(late.summary(15_000 + 1).untrusted_for_ms, Some(FORGIVEN_AFTER_MS - 1));

    assert!(promised().on_moved(5_000, true), "its balloon stalled");
    let mut moved = promised();
    assert!(!moved.on_moved(5_000, false) && !moved.has_broken(1_000_000), "taken back before it was due");
}

#[test]
fn an_answer_to_nothing_changes_nothing() {
    let mut asking = Asking::default();
    assert!(!asking.on_answer(0, 0, Some(MIB)));
    asking.on_asked(0, 5, 100 * MIB, 1_000);
    assert!(!asking.on_answer(0, 4, Some(MIB)));
    asking.on_moved(0, false);
    assert!(asking.on_answer(0, 5, Some(100 * MIB)), "it did answer");
    assert!(matches!(asking.way(0, &shrink(100, false), &Policy::default()), Way::Ask { .. }), "about another size");
    asking.on_asked(0, 6, 100 * MIB, 1_000);
    assert!(!asking.on_answer(2_000, 6, Some(100 * MIB)), "too late");
}

#[derive(Clone, Debug)]
enum Input {
    Pass(u64),
    Way { mib: u64, spare_mib: u64, for_others: bool, can_ask: bool },
    Answer { back: u64, mib: Option<u64> },
    Moved(bool),
    Reached,
    Session,
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        prop_oneof![0..2_000_u64, Just(700_000)].prop_map(Input::Pass),
        (1..500_u64, 0..500_u64, any::<bool>(), any::<bool>())
            .prop_map(|(mib, spare_mib, for_others, can_ask)| { Input::Way { mib, spare_mib, for_others, can_ask } }),
        (0..3_u64, proptest::option::of(any::<u64>())).prop_map(|(back, mib)| Input::Answer { back, mib }),
        any::<bool>().prop_map(Input::Moved),
        Just(Input::Reached),
        Just(Input::Session),
    ]
}

proptest! {
    #[test]
    fn whatever_a_guest_does_one_request_is_open_and_no_more_is_taken_than_is_wanted(
        inputs in proptest::collection::vec(input(), 1..200),
    ) {
        let (mut asking, mut now_ms, mut id, mut open_until) = (Asking::default(), 0, 0, 0);
        for input in inputs {
            match input {
                Input::Pass(ms) => now_ms += ms,
                Input::Way { mib, spare_mib, for_others, can_ask } => {
                    let shrink = Shrink { spare_bytes: spare_mib * MIB, can_ask, ..shrink(mib, for_others) };
                    match asking.way(now_ms, &shrink, &Policy::default()) {
                        Way::Wait => {}
                        Way::Inflate { bytes, .. } => prop_assert!(bytes > 0 && bytes <= shrink.bytes),
                        Way::Ask { bytes, deadline_ms } => {
                            prop_assert!(now_ms >= open_until && can_ask && bytes == shrink.bytes);
                            id += 1;
                            asking.on_asked(now_ms, id, bytes, deadline_ms);
                            open_until = now_ms + deadline_ms;
                        }
                    }
                }
                Input::Answer { back, mib } => {
                    if asking.on_answer(now_ms, id.wrapping_sub(back), mib.map(|mib| mib.saturating_mul(MIB))) {
                        prop_assert_eq!(back, 0);
                        open_until = 0;
                    }
                }
                Input::Moved(is_stalled) => _ = asking.on_moved(now_ms, is_stalled),
                Input::Reached => asking.on_reached(),
                Input::Session => {
                    asking.on_session();
                    open_until = 0;
                }
            }
            asking.has_broken(now_ms);
            prop_assert!(asking.broken <= MOST_BROKEN);
            let told = asking.summary(now_ms);
            prop_assert!(told.answered + told.unanswered <= told.asked);
        }
    }

    #[test]
    fn others_get_a_slice_each_twenty_seconds_whatever_a_guest_answers(
        answers in proptest::collection::vec(proptest::option::of(0..200_u64), 1..40),
    ) {
        let taken = Host::new(&answers).takes(shrink(400, true), 200);
        let slices: u64 = taken.iter().map(|(_, mib)| mib / 30).sum();
        prop_assert!(slices >= 200 / 25, "{taken:?}");
    }
}
