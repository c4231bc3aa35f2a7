//! Stories of a guest of 1 GiB, and what has to hold whatever the samples are.

use super::*;
use crate::sense::Stall;
use proptest::prelude::*;

const GRANT_MS: u64 = 2_000;

/// A guest that uses 200 MiB of 1 GiB, 40 MiB of them active cache.
fn calm() -> MemorySample {
    MemorySample {
        total_bytes: 1024 * MIB,
        available_bytes: 824 * MIB,
        free_bytes: 700 * MIB,
        anon_bytes: 120 * MIB,
        active_file_bytes: 40 * MIB,
        inactive_file_bytes: 100 * MIB,
        stall: Some(Stall::default()),
        ..MemorySample::default()
    }
}

/// A guest that goes on, sample by sample.
struct Guest {
    estimator: MemoryEstimator,
    now_ms: u64,
    sample: MemorySample,
}

impl Guest {
    fn new(sample: MemorySample) -> Self {
        let mut estimator = MemoryEstimator::new(GRANT_MS);
        assert!(estimator.update(0, &sample, None).is_none(), "one sample is not yet an answer");
        Self { estimator, now_ms: 0, sample }
    }

    /// What is estimated after `step_ms` in which `happens`.
    fn after(&mut self, step_ms: u64, happens: impl FnOnce(&mut MemorySample)) -> MemoryEstimate {
        self.now_ms += step_ms;
        happens(&mut self.sample);
        self.estimator.update(self.now_ms, &self.sample, None).unwrap()
    }

    fn calm_for(&mut self, seconds: u64) -> MemoryEstimate {
        (0..seconds).map(|_| self.after(1_000, |_| {})).last().unwrap()
    }
}

fn stalled_us(sample: &mut MemorySample, some_us: u64) {
    let stall = sample.stall.get_or_insert_default();
    stall.some_us += some_us;
}

fn inflate(sample: &mut MemorySample, bytes: u64) {
    sample.balloon_bytes += bytes;
    sample.available_bytes -= bytes;
    sample.free_bytes = sample.free_bytes.saturating_sub(bytes);
}

fn use_more(sample: &mut MemorySample, bytes: u64) {
    sample.available_bytes = sample.available_bytes.saturating_sub(bytes);
    sample.free_bytes = sample.free_bytes.saturating_sub(bytes);
    sample.anon_bytes += bytes;
}

#[test]
fn an_idle_guest_needs_its_hard_use_and_its_active_cache() {
    let demand = Guest::new(calm()).after(1_000, |_| {}).demand;
    assert_eq!(demand.need_bytes, (240 * MIB).into());
    assert_eq!(demand.floor_bytes, ((200 + 16) * MIB + 200 * MIB / 32).into());
    assert_eq!((demand.urgency, demand.reason), (Urgency::Idle, MemoryReason::Idle));
    assert_eq!(demand.waiting_ms, 0.into());
}

#[test]
fn growth_is_urgent_before_anything_stalls() {
    let mut guest = Guest::new(calm());
    guest.calm_for(3);
    let mut first = None;
    for step in 1..=40 {
        let estimate = guest.after(100, |sample| use_more(sample, 20 * MIB));
        if first.is_none() && estimate.outlook.urgency == Urgency::Critical {
            first = Some((step, estimate));
        }
    }
    // 200 MiB/s eat 824 MiB in 4.1 s; a grant takes 2 s.
    let (step, estimate) = first.unwrap();
    assert!((18..=24).contains(&step), "critical after {step} steps");
    assert_eq!(estimate.demand.reason, MemoryReason::Growing);
    let (need_bytes, _) = estimate.demand.need_bytes.within(u64::MAX);
    assert!(need_bytes > estimate.outlook.present_bytes - 100 * MIB, "{} MiB", need_bytes / MIB);
    assert!(estimate.demand.waiting_ms.within(u64::MAX).0 <= 2_500);
}

#[test]
fn growth_that_ends_is_forgotten() {
    let mut guest = Guest::new(calm());
    for _ in 0..10 {
        guest.after(100, |sample| use_more(sample, 20 * MIB));
    }
    let estimate = guest.calm_for(5);
    assert_eq!(estimate.demand.need_bytes, (440 * MIB).into());
    assert_eq!(estimate.outlook.exhausted_in_ms, None);
    assert_eq!(estimate.outlook.urgency, Urgency::Idle);
}

#[test]
fn a_stall_asks_for_more_than_there_is_until_it_ends() {
    let mut guest = Guest::new(calm());
    guest.calm_for(2);
    let stalled = guest.after(1_000, |sample| stalled_us(sample, 300_000));
    assert_eq!(stalled.outlook.urgency, Urgency::Critical);
    assert_eq!(stalled.demand.reason, MemoryReason::Stalled);
    assert_eq!(stalled.demand.need_bytes, ((1024 + 128) * MIB).into());
    assert_eq!(stalled.demand.waiting_ms, 500.into());
    assert!(stalled.outlook.stall_grows);

    let granted = guest.after(1_000, |sample| {
        sample.total_bytes += 128 * MIB;
        sample.available_bytes += 128 * MIB;
    });
    assert_eq!(granted.demand.need_bytes, stalled.demand.need_bytes, "the grant is not taken back at once");
    assert!(!granted.outlook.stall_grows);

    let later = guest.calm_for(10);
    assert_eq!(later.demand.waiting_ms, 0.into());
    assert!(later.outlook.urgency < Urgency::Pressed);
    let forgotten = guest.calm_for(1_200);
    assert_eq!(forgotten.demand.need_bytes, (240 * MIB).into());
}

#[test]
fn a_stall_that_goes_on_asks_again_from_what_was_granted() {
    let mut guest = Guest::new(calm());
    let mut need_bytes = 0;
    for _ in 0..5 {
        let estimate = guest.after(1_000, |sample| stalled_us(sample, 300_000));
        assert!(estimate.outlook.need_bytes > need_bytes);
        need_bytes = estimate.outlook.need_bytes;
        let grant = need_bytes - guest.sample.total_bytes;
        guest.sample.total_bytes += grant;
        guest.sample.available_bytes += grant;
    }
    assert!(need_bytes > 1_700 * MIB);
}

#[test]
fn an_inflating_balloon_is_neither_demand_nor_a_stall() {
    let mut guest = Guest::new(calm());
    let before = guest.calm_for(2).demand;
    for _ in 0..10 {
        // The driver reclaims cold cache to fill itself, and waits for that.
        let estimate = guest.after(100, |sample| {
            inflate(sample, 60 * MIB);
            stalled_us(sample, 50_000);
            sample.alloc_stalls += 3;
        });
        assert_eq!(estimate.demand.need_bytes, before.need_bytes);
        assert_eq!(estimate.demand.floor_bytes, before.floor_bytes);
        assert!(estimate.outlook.urgency <= Urgency::Normal);
    }
}

#[test]
fn a_balloon_that_takes_what_somebody_misses_is_a_stall() {
    let missing: [fn(&mut MemorySample); 3] = [
        |sample| sample.refault_file_bytes += 2 * MIB,
        |sample| sample.swap_in_bytes += 2 * MIB,
        |sample| sample.available_bytes = 10 * MIB,
    ];
    for happens in missing {
        let mut guest = Guest::new(calm());
        guest.calm_for(2);
        let estimate = guest.after(500, |sample| {
            inflate(sample, 60 * MIB);
            stalled_us(sample, 250_000);
            happens(sample);
        });
        assert_eq!(estimate.outlook.urgency, Urgency::Critical);
        assert!(estimate.outlook.need_bytes > estimate.outlook.present_bytes);
    }
}

#[test]
fn what_comes_back_is_needed() {
    for (refault, swap_in, reason) in [(30 * MIB, 0, MemoryReason::Refaulting), (0, 30 * MIB, MemoryReason::Swapping)] {
        let mut guest = Guest::new(calm());
        let estimate = guest.after(1_000, |sample| {
            sample.refault_file_bytes += refault;
            sample.swap_in_bytes += swap_in;
        });
        assert_eq!(estimate.demand.need_bytes, ((240 + 30) * MIB).into());
        assert_eq!(estimate.demand.reason, reason);
        assert_eq!(guest.calm_for(300).demand.need_bytes, (240 * MIB).into());
    }
}

#[test]
fn a_stall_while_the_agent_yields_counts_only_when_somebody_misses_what_was_taken() {
    for (missed, expected) in [(0, Urgency::Idle), (2 * MIB, Urgency::Critical)] {
        let mut guest = Guest::new(calm());
        guest.calm_for(2);
        guest.estimator.yields(2_000);
        let estimate = guest.after(500, |sample| {
            stalled_us(sample, 250_000);
            sample.refault_file_bytes += missed;
        });
        assert_eq!(estimate.outlook.urgency, expected);
    }
}

fn seen(file_60_s_bytes: Option<u64>) -> WorkingSet {
    WorkingSet {
        source: crate::sense::working_set::Source::Mglru,
        at_ms: 0,
        used_10_s_bytes: 0,
        used_60_s_bytes: 200 * MIB,
        used_300_s_bytes: 200 * MIB,
        total_bytes: 260 * MIB,
        file_60_s_bytes,
        cost_us: 0,
    }
}

#[test]
fn file_pages_that_were_used_within_a_minute_are_needed_whatever_list_they_are_on() {
    for (file, need_mib) in [(None, 240), (Some(5 * MIB), 222), (Some(90 * MIB), 290), (Some(900 * MIB), 340)] {
        let mut guest = Guest::new(calm());
        guest.estimator.know(Some(seen(file)));
        let demand = guest.after(1_000, |_| {}).demand;
        let needed = demand.need_bytes.within(u64::MAX).0 / MIB;
        assert_eq!(needed, need_mib, "{file:?}: hard use, and file pages of which there are 140 MiB at most");
        assert_eq!(demand.floor_bytes, ((200 + 16) * MIB + 200 * MIB / 32).into());
        assert_eq!(demand.signals.working_set.unwrap().age_ms, 1_000.into());
    }
}

#[test]
fn a_stream_through_the_cache_is_no_working_set() {
    let mut guest = Guest::new(calm());
    let estimate = guest.after(1_000, |sample| sample.refault_file_bytes += 5_000 * MIB);
    assert_eq!(estimate.demand.need_bytes, ((240 + 64) * MIB).into());
}

#[test]
fn an_oom_kill_is_critical_for_a_while() {
    let mut guest = Guest::new(calm());
    let estimate = guest.after(1_000, |sample| sample.oom_kills += 2);
    assert_eq!(estimate.outlook.new_oom_kills, 2);
    assert_eq!((estimate.outlook.urgency, estimate.demand.reason), (Urgency::Critical, MemoryReason::Exhausted));
    assert!(estimate.outlook.need_bytes > estimate.outlook.present_bytes);
    assert_eq!(guest.calm_for(5).outlook.urgency, Urgency::Critical);
    assert!(guest.calm_for(15).outlook.urgency < Urgency::Pressed);
}

#[test]
fn no_psi_still_gives_a_demand() {
    let mut guest = Guest::new(MemorySample { stall: None, ..calm() });
    assert_eq!(guest.calm_for(3).demand.need_bytes, (240 * MIB).into());
}

#[test]
fn the_operators_maximum_is_never_passed() {
    let mut estimator = MemoryEstimator::new(GRANT_MS);
    let mut sample = calm();
    estimator.update(0, &sample, None);
    stalled_us(&mut sample, 500_000);
    let demand = estimator.update(1_000, &sample, Some(1024 * MIB)).unwrap().demand;
    assert_eq!(demand.need_bytes, (1024 * MIB).into());
}

prop_compose! {
    /// Anything that could stand in a sample.
    fn any_sample()(
        bytes in prop::collection::vec(any_number(), 11),
        counts in prop::collection::vec(any_number(), 2),
        stall in prop::option::of((any_number(), any_number())),
    ) -> MemorySample {
        MemorySample {
            total_bytes: bytes[0], available_bytes: bytes[1], free_bytes: bytes[2], anon_bytes: bytes[3],
            active_file_bytes: bytes[4], inactive_file_bytes: bytes[5], balloon_bytes: bytes[6],
            swap_used_bytes: bytes[7], refault_file_bytes: bytes[8], refault_anon_bytes: bytes[9],
            swap_in_bytes: bytes[10], alloc_stalls: counts[0], oom_kills: counts[1],
            stall: stall.map(|(some_us, full_us)| Stall { some_us, full_us }),
        }
    }
}

#[test]
fn who_frees_what_stalled_takes_the_lesson_along() {
    let mut guest = Guest::new(calm());
    let squeezed = |sample: &mut MemorySample| {
        use_more(sample, 100 * MIB);
        stalled_us(sample, 300_000);
    };
    for _ in 0..8 {
        guest.after(1_000, squeezed);
    }
    let before = guest.after(1_000, |sample| stalled_us(sample, 300_000)).outlook;
    assert!(before.need_bytes > 1_024 * MIB, "{before:?}");
    // The tasks end; those that remain stall for a moment more.
    guest.after(1_000, |sample| {
        sample.available_bytes += 800 * MIB;
        sample.anon_bytes -= 800 * MIB;
        stalled_us(sample, 300_000);
    });
    let after = guest.after(1_000, |sample| stalled_us(sample, 50_000)).outlook;
    assert!(after.need_bytes < 600 * MIB, "{after:?}");
}

#[test]
fn a_lesson_shrinks_with_the_guest_that_learnt_it() {
    let mut guest = Guest::new(calm());
    guest.after(1_000, |sample| use_more(sample, 700 * MIB));
    let large = guest.after(1_000, |sample| stalled_us(sample, 300_000)).outlook;
    assert_eq!(large.need_bytes, (1024 + 128) * MIB, "252 MiB more than the 900 in use");
    let frees = |sample: &mut MemorySample| {
        sample.available_bytes += 700 * MIB;
        sample.anon_bytes -= 700 * MIB;
    };
    guest.after(1_000, frees);
    let small = guest.calm_for(20).outlook;
    assert_eq!(small.need_bytes, (200 + 252 * 200 / 900) * MIB, "of 200 MiB in use, two ninths are left");
    guest.after(1_000, |sample| use_more(sample, 700 * MIB));
    let large_again = guest.calm_for(5).outlook;
    assert_eq!(large_again.need_bytes, large.need_bytes, "who grows back finds its lesson");
}

#[test]
fn who_thrashes_needs_what_is_swapped_out() {
    let swapped = |sample: &mut MemorySample| {
        sample.swap_used_bytes = 300 * MIB;
        sample.swap_in_bytes += 8 * MIB;
    };
    let mut guest = Guest::new(calm());
    let calm_reader = guest.after(1_000, swapped).outlook;
    assert!(calm_reader.need_bytes < 300 * MIB, "nobody waits for it: {calm_reader:?}");
    let mut guest = Guest::new(calm());
    let mut thrashes = None;
    for _ in 0..3 {
        thrashes = Some(guest.after(1_000, |sample| {
            swapped(sample);
            stalled_us(sample, 400_000);
        }));
    }
    let thrashes = thrashes.unwrap();
    assert!(thrashes.outlook.need_bytes >= 500 * MIB, "{:?}", thrashes.outlook);
}

#[test]
fn fast_grants_let_a_guest_ask_later() {
    let exhausted_in_a_second = |guest: &mut Guest| guest.after(100, |sample| use_more(sample, 40 * MIB)).outlook;
    let mut guest = Guest::new(calm());
    assert_eq!(exhausted_in_a_second(&mut guest).grant_ms, GRANT_MS);
    let mut asks = guest.after(100, |_| {}).outlook;
    while asks.urgency < Urgency::Pressed || asks.need_bytes < asks.present_bytes + 16 * MIB {
        asks = exhausted_in_a_second(&mut guest);
    }
    // The host answers at once: the balloon gives back half of what was missing and more.
    let answered = guest.after(100, |sample| {
        sample.total_bytes += 1_024 * MIB;
        sample.available_bytes += 1_024 * MIB;
    });
    assert_eq!(answered.outlook.grant_ms, GRANT_MS / 4);
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), 0..2_048 * MIB, any::<u64>()]
}

prop_compose! {
    /// What may happen to a guest between two samples: time, use, cache, refaults, stall.
    fn any_step()(
        step_ms in 1u64..12_000,
        used_mib in 100u64..900,
        active_mib in 0u64..100,
        refaulted_mib in 0u64..50,
        stalled_permille in prop_oneof![3 => Just(0u64), 1 => 0u64..1_000],
    ) -> (u64, u64, u64, u64, u64) {
        (step_ms, used_mib, active_mib, refaulted_mib, stalled_permille)
    }
}

proptest! {
    #[test]
    fn nothing_a_kernel_could_write_panics_and_need_covers_the_floor(
        samples in prop::collection::vec((any_sample(), 0u64..20_000), 1..20),
        maximum_bytes in prop::option::of(any_number()),
    ) {
        let mut estimator = MemoryEstimator::new(GRANT_MS);
        let mut now_ms = 0;
        for (sample, step_ms) in &samples {
            now_ms += step_ms;
            let Some(estimate) = estimator.update(now_ms, sample, maximum_bytes) else { continue };
            let floor_bytes = estimate.demand.floor_bytes.within(u64::MAX).0;
            prop_assert!(estimate.outlook.need_bytes >= floor_bytes);
            prop_assert!(estimate.outlook.need_bytes <= maximum_bytes.unwrap_or(u64::MAX));
        }
    }

    #[test]
    fn constant_input_gives_constant_demand(sample in any_sample(), step_ms in 1u64..12_000) {
        let mut guest = Guest::new(sample);
        let first = guest.after(step_ms, |_| {}).demand;
        for _ in 0..20 {
            prop_assert_eq!(&guest.after(step_ms, |_| {}).demand, &first);
        }
    }

    #[test]
    fn the_balloon_alone_moves_nothing(moves in prop::collection::vec((1u64..12_000, 0u64..700), 1..20)) {
        let mut guest = Guest::new(calm());
        let before = guest.after(1_000, |_| {}).demand;
        for (step_ms, balloon_mib) in moves {
            let estimate = guest.after(step_ms, |sample| {
                *sample = calm();
                inflate(sample, balloon_mib * MIB);
            });
            prop_assert_eq!(&estimate.demand.need_bytes, &before.need_bytes);
            prop_assert_eq!(&estimate.demand.floor_bytes, &before.floor_bytes);
            prop_assert!(estimate.outlook.urgency <= Urgency::Normal);
            prop_assert_eq!(estimate.outlook.exhausted_in_ms, None);
        }
    }

    #[test]
    fn more_anonymous_memory_never_needs_less(
        steps in prop::collection::vec(any_step(), 1..30),
        more_mib in 1u64..100,
    ) {
        let grown = |mut sample: MemorySample| { use_more(&mut sample, more_mib * MIB); sample };
        let (mut less, mut more) = (MemoryEstimator::new(GRANT_MS), MemoryEstimator::new(GRANT_MS));
        let (mut sample, mut now_ms) = (calm(), 0);
        less.update(0, &sample, None);
        more.update(0, &grown(sample), None);
        for (step_ms, used_mib, active_mib, refaulted_mib, stalled_permille) in steps {
            now_ms += step_ms;
            sample.available_bytes = (1024 - used_mib) * MIB;
            sample.active_file_bytes = active_mib * MIB;
            sample.refault_file_bytes += refaulted_mib * MIB;
            stalled_us(&mut sample, stalled_permille * step_ms);
            let less = less.update(now_ms, &sample, None).unwrap().outlook.need_bytes;
            let more = more.update(now_ms, &grown(sample), None).unwrap().outlook.need_bytes;
            // The lesson is kept in whole bytes.
            prop_assert!(more + 1 >= less, "{less} bytes, and {more} with {more_mib} MiB more");
        }
    }
}
