use super::*;
use crate::plan::MIB;
use proptest::prelude::*;

/// A made-up store: it does so much a second, who asks more often is served more, and who queues waits.
struct Store {
    planner: IoPlanner,
    policy: Policy,
    capacity: u64,
    second: u64,
}

/// What a guest tries to do, in bytes per second of [`IoUse::rate`].
#[derive(Clone, Copy, Debug)]
struct Guest {
    limits: IoLimits,
    wants: u64,
}

impl Store {
    fn of(capacity: u64, vms: usize) -> Self {
        Self { planner: IoPlanner::new(vms), policy: Policy::default(), capacity, second: 0 }
    }

    /// One second: what each guest got, then what is planned of it.
    fn second(&mut self, guests: &[Guest], noise_us: i64) -> Vec<IoVerdict> {
        self.second += 1;
        let asked: Vec<u64> = guests
            .iter()
            .zip(&self.planner.held)
            .map(|(guest, held)| {
                let most = held.rate.into_iter().chain(guest.limits.maximum).min();
                most.map_or(guest.wants, |most| guest.wants.min(most))
            })
            .collect();
        let total: u64 = asked.iter().sum();
        let is_full = total > self.capacity;
        let views: Vec<IoView> = guests
            .iter()
            .zip(&asked)
            .zip(&self.planner.held)
            .map(|((guest, asked), held)| {
                let got = if is_full {
                    narrow(u128::from(*asked) * u128::from(self.capacity) / u128::from(total))
                } else {
                    *asked
                };
                let ops_per_s = (got / (OP_BYTES + 4096)).max(u64::from(guest.wants > 0));
                let latency_us: i64 = if is_full { 80_000 } else { 1_000 };
                IoView {
                    limits: guest.limits,
                    done: IoUse {
                        ops_per_s,
                        bytes_per_s: got - ops_per_s.min(got / OP_BYTES) * OP_BYTES,
                        latency_us: (held.rate.is_none() && guest.limits.maximum.is_none() && guest.wants > 0)
                            .then(|| (latency_us + noise_us).max(0).unsigned_abs()),
                    },
                    is_ready: true,
                    is_paused: false,
                }
            })
            .collect();
        self.planner.plan(self.second * 1000, false, &views, &self.policy)
    }

    fn seconds(&mut self, count: u64, guests: &[Guest]) -> Vec<IoVerdict> {
        (1..count).for_each(|_| drop(self.second(guests, 0)));
        self.second(guests, 0)
    }
}

fn shares(shares: u32) -> IoLimits {
    IoLimits { shares, ..IoLimits::default() }
}

fn guest(of: u32, mib: u64) -> Guest {
    Guest { limits: shares(of), wants: mib * MIB }
}

fn held_mib(verdict: &IoVerdict) -> Option<u64> {
    verdict.throttle.map(|throttle| throttle.bytes_per_s / MIB)
}

#[test]
fn who_floods_is_held_so_that_the_other_does_not_wait_and_let_go_when_it_is_alone() {
    let mut store = Store::of(100 * MIB, 2);
    let (flood, victim) = (guest(1000, 400), guest(1000, 10));
    assert_eq!(held_mib(&store.seconds(20, &[flood, guest(1000, 0)])[0]), None, "alone it may");
    let verdicts = store.seconds(6, &[flood, victim]);
    assert!(held_mib(&verdicts[0]).is_some_and(|mib| (50..=90).contains(&mib)), "{verdicts:?}");
    assert_eq!(verdicts[1].throttle, None);
    assert!(store.seconds(3, &[flood, victim])[0].rate + 10 * MIB <= 100 * MIB, "it fits");
    let verdicts = store.seconds(12, &[flood, guest(1000, 0)]);
    assert_eq!(verdicts[0].throttle, None, "{verdicts:?}");
}

#[test]
fn of_two_that_flood_the_one_with_more_shares_gets_its_part() {
    let mut store = Store::of(100 * MIB, 2);
    let guests = [guest(3000, 400), guest(1000, 400)];
    let verdicts = store.seconds(1, &guests);
    assert_eq!(verdicts[0].rate / MIB, 50, "the store itself knows no shares");
    let verdicts = store.seconds(9, &guests);
    assert!(verdicts[0].rate >= 75 * MIB, "{verdicts:?}");
    assert!(held_mib(&verdicts[1]).is_some_and(|mib| mib >= 25), "{verdicts:?}");
}

#[test]
fn what_others_leave_may_be_used() {
    let mut store = Store::of(100 * MIB, 3);
    let guests = [guest(1000, 400), guest(1000, 2), guest(1000, 2)];
    let verdicts = store.seconds(10, &guests);
    assert!(held_mib(&verdicts[0]).is_some_and(|mib| mib > 60), "33 are its share, 92 are free: {verdicts:?}");
}

#[test]
fn a_wait_that_comes_back_is_answered_at_once_and_tried_again_less_often() {
    let mut store = Store::of(100 * MIB, 2);
    let guests = [guest(1000, 400), guest(1000, 10)];
    store.seconds(10, &guests);
    let waited = (0..600).filter(|_| store.second(&guests, 0)[0].rate > 90 * MIB).count();
    assert!(waited < 60, "the other waited in {waited} of 600 s");
    let last: Vec<u64> = (0..120).map(|_| store.second(&guests, 0)[0].rate / MIB).collect();
    assert!(last.iter().filter(|mib| **mib > 90).count() <= 6, "{last:?}");
}

#[test]
fn nothing_is_known_of_a_throttled_vms_waiting_and_a_lone_vm_is_never_held() {
    let policy = Policy::default();
    let view = |mib: u64, latency_us| IoView {
        limits: shares(1000),
        done: IoUse { bytes_per_s: mib * MIB, ops_per_s: 500, latency_us },
        is_ready: true,
        is_paused: false,
    };
    let mut planner = IoPlanner::new(2);
    for second in 0..100 {
        let alone = planner.plan(second * 1000, true, &[view(100, Some(900_000)), IoView::default()], &policy);
        assert_eq!(alone[0].throttle, None);
    }
    for second in 100..200 {
        let verdicts = planner.plan(second * 1000, false, &[view(100, None), view(100, None)], &policy);
        assert!(verdicts.iter().all(|verdict| verdict.rule == IoRule::Free));
    }
}

#[test]
fn the_hosts_hint_alone_holds_who_takes_more_than_its_share_to_that_and_no_further() {
    let mut planner = IoPlanner::new(2);
    let policy = Policy::default();
    let mut flood = 100 * MIB;
    for second in 0..300 {
        let view = |rate: u64| IoView {
            limits: shares(1000),
            done: IoUse { bytes_per_s: rate - 20 * OP_BYTES, ops_per_s: 20, latency_us: Some(5_000) },
            is_ready: true,
            is_paused: false,
        };
        let verdicts = planner.plan(second * 1000, true, &[view(flood), view(MIB)], &policy);
        flood = verdicts[0].throttle.map_or(100 * MIB, |throttle| throttle.bytes_per_s);
        assert_eq!(verdicts[1].throttle, None);
    }
    assert!((95..=100).contains(&(flood / MIB)), "all but what the other does: {}", flood / MIB);
}

#[test]
fn who_cannot_be_held_is_not_and_comes_back_free() {
    let mut store = Store::of(100 * MIB, 2);
    store.seconds(10, &[guest(1000, 400), guest(1000, 10)]);
    let mut views = [IoView::default(); 2];
    assert_eq!(store.planner.plan(11_000, true, &views, &store.policy)[0].throttle, None);
    views[0].is_ready = true;
    assert_eq!(store.planner.plan(12_000, true, &views, &store.policy)[0].throttle, None);
}

#[test]
fn a_minimum_is_kept_whatever_the_shares_and_what_is_left_is_shared() {
    let mut store = Store::of(100 * MIB, 3);
    let least = |mib: u64| IoLimits { minimum: mib * MIB, ..shares(100) };
    let guests = [Guest { limits: least(60), wants: 400 * MIB }, guest(900, 400), guest(900, 400)];
    let verdicts = store.seconds(20, &guests);
    assert!(verdicts[0].share >= 60 * MIB, "5 would be its share: {verdicts:?}");
    assert!(verdicts[1].share <= 21 * MIB && verdicts[2].share <= 21 * MIB, "of the 40 that are left: {verdicts:?}");
    assert!(verdicts[0].rate >= 55 * MIB, "and it has them: {verdicts:?}");

    // One that does less than its minimum and waits keeps to its part, however few its shares.
    let mut store = Store::of(100 * MIB, 2);
    let waits = Guest { limits: least(40), wants: 30 * MIB };
    let held = (0..10).any(|_| store.second(&[guest(900, 400), waits], 0)[0].throttle.is_some());
    assert!(held);
    let mut store = Store::of(100 * MIB, 2);
    let few = Guest { limits: shares(10), wants: 30 * MIB };
    assert!((0..10).all(|_| store.second(&[guest(900, 400), few], 0)[0].throttle.is_none()), "without it, it does not");
}

#[test]
fn a_maximum_holds_although_nobody_waits_and_while_planning_is_paused() {
    let mut store = Store::of(100 * MIB, 2);
    let capped = |maximum: u64| Guest { limits: IoLimits { maximum: Some(maximum), ..shares(1000) }, wants: 50 * MIB };
    let verdicts = store.seconds(5, &[capped(10 * MIB), guest(1000, 10)]);
    assert_eq!((held_mib(&verdicts[0]), verdicts[0].rule), (Some(10), IoRule::Capped));
    assert_eq!(verdicts[1].rule, IoRule::Free);
    let views = |is_ready: bool, is_paused: bool| {
        let limits = IoLimits { maximum: Some(64 << 10), ..shares(1000) };
        [IoView { limits, is_ready, is_paused, ..IoView::default() }; 2]
    };
    let verdicts = store.planner.plan(6_000, true, &views(true, true), &store.policy);
    assert_eq!(verdicts[0].throttle, Some(Throttle { bytes_per_s: 64 << 10, ops_per_s: 4 }), "below the floor for all");
    assert_eq!(store.planner.plan(7_000, true, &views(false, true), &store.policy)[0].throttle, None);

    // A flood that is held is held to the lower of the two, and what it cannot take is the others'.
    let mut store = Store::of(100 * MIB, 3);
    let verdicts = store.seconds(20, &[capped(20 * MIB), guest(1000, 400), guest(1000, 400)]);
    assert!(held_mib(&verdicts[0]) == Some(20) && verdicts[1].share >= 39 * MIB, "{verdicts:?}");
}

#[test]
fn no_number_of_the_policy_holds_anybody_to_nothing() {
    let view = |mib: u64| IoView {
        limits: shares(1000),
        done: IoUse { bytes_per_s: mib * MIB, ops_per_s: 500, latency_us: Some(900_000) },
        is_ready: true,
        is_paused: false,
    };
    for (io_floor_bytes_per_s, io_latency_ms) in [(0, 0), (0, 20), (u64::MAX, 0), (u64::MAX, u64::MAX)] {
        let policy = Policy { io_latency_ms, io_floor_bytes_per_s, ..Policy::default() };
        let mut planner = IoPlanner::new(2);
        let mut held = 0;
        for second in 0..100 {
            for throttle in
                planner.plan(second * 1000, true, &[view(100), view(1)], &policy).iter().filter_map(|v| v.throttle)
            {
                assert!(throttle.bytes_per_s > 0 && throttle.ops_per_s > 0, "0 would be no limit");
                held += 1;
            }
        }
        assert_eq!(held > 0, io_floor_bytes_per_s == 0, "nobody is above a floor without end");
    }
}

fn views() -> impl Strategy<Value = Vec<IoView>> {
    let number = || prop_oneof![Just(0), Just(u64::MAX), 0..200 * MIB];
    let limits = (any::<u32>(), number(), proptest::option::of(number()));
    let limits = limits.prop_map(|(shares, minimum, maximum)| IoLimits { shares, minimum, maximum });
    let done = (number(), number(), proptest::option::of(number()));
    let done = done.prop_map(|(bytes_per_s, ops_per_s, latency_us)| IoUse { bytes_per_s, ops_per_s, latency_us });
    let view = (limits, done, any::<bool>(), any::<bool>()).prop_map(|(limits, done, is_ready, is_paused)| IoView {
        limits,
        done,
        is_ready,
        is_paused,
    });
    prop::collection::vec(view, 4)
}

proptest! {
    #[test]
    fn nobody_is_held_below_its_share_its_minimum_or_the_floor_nor_gets_more_than_its_maximum(course in prop::collection::vec((views(), any::<bool>(), 0..5_000_u64), 1..60)) {
        let (mut planner, policy, mut now_ms) = (IoPlanner::new(4), Policy::default(), 0);
        for (views, host_short, after_ms) in course {
            now_ms += after_ms;
            let verdicts = planner.plan(now_ms, host_short, &views, &policy);
            let shares: u128 = verdicts.iter().map(|verdict| u128::from(verdict.share)).sum();
            let floors: u128 = views.iter().map(|view| u128::from(view.floor(&policy))).sum();
            prop_assert!(shares <= u128::from(planner.capacity) + floors);
            for (view, verdict) in views.iter().zip(&verdicts) {
                prop_assert!(verdict.throttle.is_none() || view.is_ready);
                let maximum = view.limits.maximum.unwrap_or(u64::MAX);
                prop_assert!(maximum == u64::MAX || !view.is_ready || verdict.throttle.is_some());
                if let Some(throttle) = verdict.throttle {
                    let floor = view.floor(&policy).min(maximum);
                    prop_assert!(throttle.bytes_per_s >= verdict.share.max(floor).max(1) || throttle.bytes_per_s == maximum);
                    prop_assert!(throttle.bytes_per_s <= maximum.max(1) && throttle.ops_per_s >= floor / OP_BYTES);
                    prop_assert!(!view.is_paused || throttle.bytes_per_s == maximum.max(1));
                }
            }
        }
    }

    /// Waiting of 1 to 39 ms around the line of 20, at random, for ten minutes.
    #[test]
    fn noise_does_not_make_it_flap(noise in prop::collection::vec(-19_000..19_000_i64, 600)) {
        let mut store = Store::of(100 * MIB, 2);
        let guests = [guest(1000, 80), guest(1000, 10)];
        let (mut changes, mut before) = (0, None);
        for noise_us in noise {
            let now = store.second(&guests, 19_000 + noise_us)[0].throttle.is_some();
            changes += u32::from(before.is_some_and(|before| before != now));
            before = Some(now);
        }
        prop_assert!(changes <= 30, "{changes} changes");
    }

    /// Whoever pretends to wait, or to do nothing, gets no more of an honest VM's share.
    #[test]
    fn an_honest_vm_keeps_its_share_whatever_another_shows(course in prop::collection::vec((0..100 * MIB, 0..5_000_u64, proptest::option::of(any::<u64>())), 1..100)) {
        let (mut planner, policy) = (IoPlanner::new(2), Policy::default());
        let honest = IoView { limits: shares(1000), is_paused: false, done: IoUse { bytes_per_s: 60 * MIB, ops_per_s: 600, latency_us: Some(900) }, is_ready: true };
        for (second, (bytes_per_s, ops_per_s, latency_us)) in course.into_iter().enumerate() {
            let other = IoView { done: IoUse { bytes_per_s, ops_per_s, latency_us }, ..honest };
            let verdicts = planner.plan(second as u64 * 1000, true, &[honest, other], &policy);
            if let Some(throttle) = verdicts[0].throttle {
                prop_assert!(throttle.bytes_per_s >= planner.capacity / 2, "{verdicts:?} of {}", planner.capacity);
            }
        }
    }
}
