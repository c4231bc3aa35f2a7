use super::*;
use proptest::prelude::*;

const MAXIMUM: Each<u64> = Each { memory: PPM, cpu: PPM, io: PPM };

fn part(memory: u64) -> Each<u64> {
    Each { memory, ..MAXIMUM }
}

/// A guest of one vCPU that waited for so long until `at_ms`, each time in all its tasks.
fn told(at_ms: u64, memory_ms: u64) -> Each<Option<Totals>> {
    let totals = Totals { at_ms, some_us: memory_ms * 1000, full_us: memory_ms * 1000, ..Totals::default() };
    Each { memory: Some(totals), cpu: None, io: None }
}

fn memory(meter: &Meter, since: &Each<Account>) -> Option<Index> {
    meter.since(since).memory
}

/// The index of CPU where some task waited for `some_ms` of a second in which so much was used and stolen.
fn cpu(some_ms: u64, used_ms: u64, steal_ms: u64) -> Index {
    let mut account = Account::default();
    account.hold(1_000, PPM);
    let after = Totals {
        at_ms: 1_000,
        some_us: some_ms * 1000,
        full_us: 0,
        used_us: used_ms * 1000,
        steal_us: steal_ms * 1000,
    };
    account.tell(Resource::Cpu, &Totals::default(), &after);
    account.index().unwrap()
}

#[test]
fn half_the_maximum_that_waits_a_fifth_of_the_time_is_worth_two_fifths() {
    let mut meter = Meter::default();
    meter.hold(0, Some(part(PPM / 2)));
    meter.tell(told(0, 0));
    meter.hold(10_000, Some(part(PPM / 2)));
    meter.tell(told(10_000, 2_000));
    let index = memory(&meter, &Each::default()).unwrap();
    assert_eq!(index, Index { r_ppm: 500_000, t_permille: Some(1_250), p_ppm: 400_000, e_ppm: 800_000 });
}

#[test]
fn an_allocation_counts_for_as_long_as_it_lasted() {
    let mut meter = Meter::default();
    for (at_ms, ppm) in [(0, PPM), (1_000, PPM / 4), (4_000, PPM / 4)] {
        meter.hold(at_ms, Some(part(ppm)));
        meter.tell(told(at_ms, 0));
    }
    assert_eq!(memory(&meter, &Each::default()).unwrap().r_ppm, (1_000_000 + 3 * 250_000) / 4);
}

#[test]
fn a_guest_that_only_waits_turns_nothing_into_work() {
    let mut meter = Meter::default();
    meter.hold(0, Some(part(PPM)));
    meter.tell(told(0, 0));
    meter.hold(1_000, Some(part(PPM)));
    meter.tell(told(1_000, 5_000));
    let index = memory(&meter, &Each::default()).unwrap();
    assert_eq!((index.p_ppm, index.t_permille), (0, None), "also one that claims more than time went by");
}

#[test]
fn a_guest_that_does_not_tell_or_stops_telling_has_no_index() {
    let mut meter = Meter::default();
    meter.hold(0, Some(part(PPM)));
    meter.hold(1_000, Some(part(PPM)));
    assert_eq!(memory(&meter, &Each::default()), None, "nothing told");
    meter.tell(told(0, 0));
    assert_eq!(memory(&meter, &Each::default()), None, "one total is no window");
    meter.tell(told(1_000, 0));
    assert!(memory(&meter, &Each::default()).is_some());
    meter.hold(1_000 + LATE_MS, Some(part(PPM)));
    assert!(memory(&meter, &Each::default()).is_some(), "its next report may be on its way");
    meter.hold(1_001 + LATE_MS, Some(part(PPM)));
    assert_eq!(memory(&meter, &Each::default()), None, "it is late, and told less than half");
    meter.tell(told(1_000 + LATE_MS, 0));
    meter.hold(2_000 + 2 * LATE_MS, Some(part(PPM)));
    assert!(memory(&meter, &Each::default()).is_some(), "it told half");
}

#[test]
fn another_boot_and_a_clock_that_went_back_lose_their_interval_only() {
    let mut meter = Meter::default();
    meter.hold(0, Some(part(PPM)));
    for (at_ms, waited_ms) in [(50_000, 40_000), (51_000, 40_500), (100, 0), (1_100, 500)] {
        meter.tell(told(at_ms, waited_ms));
    }
    meter.hold(2_000, Some(part(PPM)));
    assert_eq!(memory(&meter, &Each::default()).unwrap().e_ppm, 500_000, "two seconds told, one of them waited");
    meter.begin_anew();
    meter.tell(told(60_000, 59_000));
    assert_eq!(memory(&meter, &Each::default()).unwrap().e_ppm, 500_000, "no bridge over a new session");
    // The host's clock never goes back; were it to, nothing would be counted twice.
    let before = meter.now();
    meter.hold(1_000, Some(part(PPM)));
    assert_eq!(meter.now(), before);
}

#[test]
fn a_vm_that_is_gone_has_nothing_and_loses_nothing() {
    let mut meter = Meter::default();
    meter.hold(0, Some(part(PPM)));
    meter.tell(told(0, 0));
    meter.hold(1_000, None);
    meter.tell(told(1_000, 0));
    meter.hold(900_000, Some(part(PPM)));
    assert_eq!(memory(&meter, &Each::default()).unwrap().r_ppm, PPM);
    let now = meter.now();
    assert_eq!(memory(&meter, &now), None, "a window without time");
}

#[test]
fn a_window_begins_at_what_was_kept_and_reaches_back_five_minutes_at_most() {
    let mut meter = Meter::default();
    for second in 0..=400 {
        let ppm = if second < 390 { 0 } else { PPM };
        meter.hold(second * 1000, Some(part(ppm)));
        meter.tell(told(second * 1000, 0));
    }
    let r = |ago_ms| memory(&meter, &meter.before(400_000, ago_ms)).unwrap().r_ppm;
    assert_eq!(r(10_000), PPM);
    assert_eq!(r(20_000), PPM / 2);
    assert_eq!(r(12_000), PPM * 10 / 15, "at the slot before it");
    assert_eq!(r(KEPT_MS * 2), r(KEPT_MS));
}

#[test]
fn a_busy_cpu_without_a_queue_is_no_stall_and_a_queue_is_no_standstill() {
    assert_eq!(cpu(0, 1_000, 0).e_ppm, PPM);
    assert_eq!(cpu(1_000, 1_000, 0).e_ppm, PPM / 2, "one waits for each that runs");
    assert_eq!(cpu(1_000, 2_000, 0).e_ppm, PPM / 2, "on two CPUs as on one");
    assert_eq!(cpu(0, 500, 500).e_ppm, PPM / 2, "stolen");
    assert_eq!(cpu(0, 0, 0).e_ppm, PPM, "idle");
    assert_eq!(cpu(1_000, 0, 1_000).e_ppm, 0, "all of it stolen");
}

#[test]
fn the_host_weighs_its_vms_by_their_maximums_and_skips_those_it_does_not_know() {
    let of = |p_ppm| Index { r_ppm: PPM, t_permille: None, p_ppm, e_ppm: p_ppm };
    let vm = |memory: Option<u64>| Indices::of(Each { memory: memory.map(of), cpu: None, io: None }, &Resource::ALL);
    let weights = |memory| Each { memory, cpu: 1, io: 1 };
    let host =
        whole_host(&[(vm(Some(PPM)), weights(3)), (vm(Some(PPM / 5)), weights(1)), (vm(None), weights(1_000_000))]);
    assert_eq!(host.each.memory.unwrap().p_ppm, 800_000);
    assert_eq!((host.each.cpu, host.overall.unwrap().p_ppm), (None, 800_000));
    assert_eq!(whole_host(&[]), Indices::default());
}

#[test]
fn a_vm_s_overall_is_the_mean_of_what_was_asked_for() {
    let of = |r_ppm, p_ppm| Some(Index::new(r_ppm, p_ppm, PPM));
    let each = Each { memory: of(PPM / 2, PPM / 4), cpu: of(PPM, PPM * 3 / 4), io: None };
    let overall = Indices::of(each, &Resource::ALL).overall.unwrap();
    assert_eq!((overall.p_ppm, overall.e_ppm), (PPM / 2, 666_666));
    let only = Indices::of(each, &[Resource::Memory]);
    assert_eq!((only.overall.unwrap().p_ppm, only.each.cpu), (PPM / 4, None));
}

fn anything() -> impl Strategy<Value = Totals> {
    let number = prop_oneof![0..10_000_u64, 0..=1_u64 << 50, Just(u64::MAX)];
    [number.clone(), number.clone(), number.clone(), number.clone(), number]
        .prop_map(|[at_ms, some_us, full_us, used_us, steal_us]| Totals { at_ms, some_us, full_us, used_us, steal_us })
}

proptest! {
    #[test]
    fn whatever_guests_and_clocks_say_every_part_is_a_part(
        steps in prop::collection::vec((prop_oneof![0..100_000_u64, 0..=u64::MAX], 0..=2 * PPM, anything()), 1..40)
    ) {
        let mut meter = Meter::default();
        let mut marks = vec![meter.now()];
        for (at_ms, ppm, totals) in steps {
            meter.hold(at_ms, Some(part(ppm)));
            meter.tell(Each { memory: Some(totals), cpu: Some(totals), io: Some(totals) });
            marks.push(meter.now());
        }
        for mark in &marks {
            let indices = Indices::of(meter.since(mark), &Resource::ALL);
            let known = [indices.each.memory, indices.each.cpu, indices.each.io, indices.overall];
            for index in known.into_iter().flatten() {
                prop_assert!(index.r_ppm <= PPM && index.e_ppm <= PPM, "{index:?}");
                prop_assert!(index.p_ppm <= index.r_ppm, "nothing is worth more than was given: {index:?}");
                prop_assert!(index.t_permille.is_none_or(|t| t >= 1000), "work does not take less than its time");
            }
        }
    }

    #[test]
    fn who_waits_longer_is_worth_less(first_ms in 0..=1_000_u64, second_ms in 0..=1_000_u64, ppm in 0..=PPM) {
        let p = |waited_ms| {
            let mut meter = Meter::default();
            meter.hold(0, Some(part(ppm)));
            meter.tell(told(0, 0));
            meter.hold(1_000, Some(part(ppm)));
            meter.tell(told(1_000, waited_ms));
            memory(&meter, &Each::default()).map(|index| index.p_ppm)
        };
        prop_assert!(first_ms > second_ms || p(first_ms) >= p(second_ms));
    }

    #[test]
    fn a_window_cut_in_two_is_the_same_window(cut in 1..99_u64, waited in 0..=100_u64) {
        let run = |cuts: &[u64]| {
            let mut meter = Meter::default();
            meter.hold(0, Some(part(PPM)));
            for &at in cuts {
                meter.hold(at * 10, Some(part(PPM)));
                meter.tell(told(at * 10, waited * at / 10));
            }
            memory(&meter, &Each::default())
        };
        prop_assert_eq!(run(&[0, 100]), run(&[0, cut, 100]));
    }
}
