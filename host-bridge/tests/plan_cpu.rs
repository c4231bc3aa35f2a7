//! The planner for CPU time, as its caller uses it: a tick each second, and every change carried out by the next.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use proptest::prelude::*;
use vmtide_bridge::plan::cpu::{CpuDemand, CpuHost, CpuLimits, CpuPlanner, CpuRule, CpuVerdict, CpuView, Vcpus};
use vmtide_bridge::plan::{Policy, Urgency};

const HOST: CpuHost = CpuHost { cpus: 2, is_short: false };

/// A VM of up to four vCPUs, all there and online, whose guest wants so much.
fn vm(shares: u32, need_millicpus: u64) -> CpuView {
    let urgency = if need_millicpus > 4000 { Urgency::Pressed } else { Urgency::Normal };
    CpuView {
        limits: CpuLimits { shares, minimum_millicpus: 0, maximum_millicpus: None },
        demand: Some(CpuDemand { need_millicpus, urgency }),
        used_millicpus: None,
        waited_millicpus: None,
        online: Some(4),
        vcpus: Some(Vcpus { plugged: 4, possible: 4, removable: 3, is_removing: false }),
        is_ready: true,
        least_online: 0,
        most_online: u32::MAX,
    }
}

/// A host whose VMs do what the planner says.
struct Story {
    planner: CpuPlanner,
    host: CpuHost,
    second: u64,
    vms: Vec<CpuView>,
}

impl Story {
    fn of(vms: impl Into<Vec<CpuView>>) -> Self {
        Self { planner: CpuPlanner::default(), host: HOST, second: 0, vms: vms.into() }
    }

    fn wants(&mut self, vm: usize, need_millicpus: u64) -> &mut Self {
        self.vms[vm].demand.as_mut().unwrap().need_millicpus = need_millicpus;
        self
    }

    /// One plan, carried out.
    fn tick(&mut self) -> Vec<CpuVerdict> {
        let verdicts = self.planner.plan(self.second * 1000, self.host, &self.vms, &Policy::default()).verdicts;
        for (vm, verdict) in self.vms.iter_mut().zip(&verdicts) {
            vm.online = verdict.online.or(vm.online);
            let vcpus = vm.vcpus.as_mut().unwrap();
            vcpus.plugged = verdict.plugged.unwrap_or(vcpus.plugged);
        }
        self.second += 1;
        verdicts
    }

    fn passes(&mut self, seconds: u64) -> Vec<CpuVerdict> {
        (0..seconds).map(|_| self.tick()).last().unwrap()
    }

    fn online(&self) -> Vec<u32> {
        self.vms.iter().map(|vm| vm.online.unwrap()).collect()
    }
}

#[test]
fn two_that_want_all_of_two_cpus_share_them_and_run_on_two_each() {
    let mut story = Story::of([vm(3000, 4000), vm(1000, 4000)]);
    let verdicts = story.passes(4);
    assert_eq!([0, 1].map(|vm| verdicts[vm].entitled_millicpus), [1500, 500]);
    assert_eq!([0, 1].map(|vm| verdicts[vm].weight_shares), [3000, 1000]);
    assert!(verdicts.iter().all(|verdict| verdict.quota_millicpus.is_none()), "weights do it");
    assert_eq!(story.online(), [4, 4], "it has to last");
    story.passes(4);
    assert_eq!(story.online(), [2, 2]);
}

#[test]
fn idle_vcpus_go_back_within_five_seconds_and_are_online_again_when_wanted() {
    let mut story = Story::of([vm(3000, 4000), vm(1000, 4000)]);
    story.passes(30);
    story.wants(1, 20).passes(4);
    assert_eq!(story.online(), [2, 1]);
    // Nobody waits for it, so what was taken just now comes back in its time; who waits gets it at once.
    story.wants(1, 3000).passes(3);
    assert_eq!(story.online(), [2, 1]);
    story.vms[1].demand.as_mut().unwrap().urgency = Urgency::Pressed;
    story.passes(2);
    assert_eq!(story.online(), [2, 2]);
}

#[test]
fn while_the_host_has_cpus_to_spare_nothing_is_taken() {
    let mut story = Story::of([vm(3000, 10), vm(1000, 1000)]);
    let verdicts = story.passes(600);
    assert_eq!(story.online(), [4, 4]);
    assert!(verdicts.iter().all(|verdict| verdict.rule == CpuRule::Satisfied));
}

#[test]
fn a_vcpu_is_plugged_when_the_need_lasts_and_unplugged_when_it_is_offline_for_long() {
    let one = CpuView {
        online: Some(1),
        vcpus: Some(Vcpus { plugged: 1, possible: 4, removable: 3, is_removing: false }),
        ..vm(1000, 4000)
    };
    let mut story = Story::of([one, one]);
    story.passes(10);
    assert_eq!(story.vms[0].vcpus.unwrap().plugged, 1);
    let verdicts = story.tick();
    assert_eq!((verdicts[0].plugged, verdicts[0].rule), (Some(2), CpuRule::Plug));
    story.passes(30);
    assert_eq!((story.online(), story.vms[0].vcpus.unwrap().plugged), (vec![2, 2], 2), "no more than the host has");
    story.wants(0, 10).passes(30);
    assert_eq!((story.online(), story.vms[0].vcpus.unwrap().plugged), (vec![1, 2], 2));
    story.passes(10);
    assert_eq!(story.vms[0].vcpus.unwrap().plugged, 1);
}

#[test]
fn a_vcpu_on_its_way_out_is_not_asked_for_again_nor_is_one_that_is_not_ours() {
    for vcpus in [
        Vcpus { plugged: 4, possible: 4, removable: 3, is_removing: true },
        Vcpus { plugged: 4, possible: 4, removable: 0, is_removing: false },
    ] {
        let mut story = Story::of([CpuView { online: Some(1), vcpus: Some(vcpus), ..vm(1000, 10) }, vm(1000, 4000)]);
        for _ in 0..120 {
            assert_eq!(story.tick()[0].plugged, None);
        }
    }
}

#[test]
fn a_maximum_is_a_quota_with_room_and_never_the_number_itself() {
    let limits = CpuLimits { shares: 1000, minimum_millicpus: 0, maximum_millicpus: Some(1500) };
    let mut story = Story::of([CpuView { limits, ..vm(1000, 4000) }]);
    let verdict = story.passes(20)[0];
    assert_eq!((verdict.entitled_millicpus, verdict.quota_millicpus), (1500, Some(1750)));
    assert_eq!(story.online(), [4], "alone on the host");
}

#[test]
fn who_keeps_getting_more_while_another_lacks_is_held_until_the_host_is_calm() {
    let minimum = CpuLimits { shares: 1000, minimum_millicpus: 1000, maximum_millicpus: None };
    // By shares alone the second would get a quarter.
    let mut story = Story::of([vm(3000, 4000), CpuView { limits: minimum, ..vm(1000, 4000) }]);
    (story.vms[0].used_millicpus, story.vms[1].used_millicpus) = (Some(1500), Some(500));
    assert_eq!(story.passes(5)[0].quota_millicpus, None, "it has to last");
    let verdict = story.passes(2)[0];
    assert_eq!((verdict.entitled_millicpus, verdict.quota_millicpus), (1000, Some(1250)));
    // Held, the other lacks nothing any more: no reason to let go while both want more than there is.
    (story.vms[0].used_millicpus, story.vms[1].used_millicpus) = (Some(1000), Some(1000));
    assert_eq!(story.passes(60)[0].quota_millicpus, Some(1250));
    story.wants(1, 100);
    assert!(story.passes(60)[0].quota_millicpus.unwrap() > 1250, "what the other leaves is its");
    assert_eq!(story.wants(0, 900).passes(12)[0].quota_millicpus, None);
}

#[test]
fn weights_follow_what_contenders_got_and_are_the_shares_again_when_all_fits() {
    let mut story = Story::of([vm(3000, 4000), vm(1000, 4000)]);
    (story.vms[0].used_millicpus, story.vms[1].used_millicpus) = (Some(1390), Some(610));
    let weights = |verdicts: Vec<CpuVerdict>| [0, 1].map(|vm| verdicts[vm].weight_shares);
    assert_eq!(weights(story.passes(60)), [3000, 1000], "nobody was seen to wait");
    for vm in &mut story.vms {
        vm.waited_millicpus = Some(1000);
    }
    let [a, b] = weights(story.passes(5));
    assert!(a > 3 * b && a + b <= 4004, "{a} {b}");
    story.wants(1, 100);
    assert_eq!(weights(story.passes(1)), [3000, 1000]);
}

#[test]
fn who_cannot_be_asked_is_left_alone_and_keeps_its_weight() {
    let no_report = CpuView { demand: None, used_millicpus: Some(2000), ..vm(500, 0) };
    let stopped = CpuView { is_ready: false, ..vm(1000, 10) };
    let mut story = Story::of([no_report, stopped, vm(1000, 4000)]);
    for _ in 0..60 {
        let verdicts = story.tick();
        assert!(verdicts[..2].iter().all(|verdict| verdict.online.is_none() && verdict.plugged.is_none()));
        assert_eq!((verdicts[0].rule, verdicts[0].weight_shares), (CpuRule::NotYet, 500));
    }
    assert_eq!(story.online()[..2], [4, 4]);
}

#[test]
fn a_guest_that_refused_is_not_asked_for_as_much_again() {
    let firm = CpuView { least_online: 3, most_online: 3, ..vm(1000, 10) };
    let mut story = Story::of([firm, vm(1000, 4000)]);
    story.passes(10);
    assert_eq!(story.online()[0], 3);
    story.host.cpus = 64;
    story.wants(0, 4000).passes(60);
    assert_eq!(story.online()[0], 3);
}

fn any_view() -> impl Strategy<Value = CpuView> {
    let limits = (1..=10_000_u32, 0..4000_u64, prop::option::of(1..8000_u64));
    let vcpus = (1..=8_u32, 0..=8_u32, 0..=8_u32, any::<bool>());
    let demand = prop::option::of((0..20_000_u64, any::<bool>()));
    (limits, vcpus, demand, prop::option::of(0..8000_u64), any::<bool>(), any::<bool>()).prop_map(
        |(
            (shares, minimum_millicpus, maximum_millicpus),
            (plugged, more, removable, is_removing),
            demand,
            used,
            said,
            is_ready,
        )| {
            let maximum_millicpus = maximum_millicpus.map(|maximum| maximum.max(minimum_millicpus).max(1));
            let urgency = |pressed| if pressed { Urgency::Pressed } else { Urgency::Normal };
            CpuView {
                limits: CpuLimits { shares, minimum_millicpus, maximum_millicpus },
                demand: demand.map(|(need_millicpus, pressed)| CpuDemand { need_millicpus, urgency: urgency(pressed) }),
                used_millicpus: used,
                waited_millicpus: used,
                online: said.then_some(plugged),
                vcpus: Some(Vcpus {
                    plugged,
                    possible: plugged + more,
                    removable: removable.min(plugged - 1),
                    is_removing,
                }),
                is_ready,
                least_online: 0,
                most_online: u32::MAX,
            }
        },
    )
}

proptest! {
    #[test]
    fn limits_hold_and_no_lever_moves_back_before_its_time(
        vms in prop::collection::vec(any_view(), 1..6),
        needs in prop::collection::vec((0..6_usize, 0..20_000_u64, any::<bool>(), 0..8000_u64), 1..200),
        cpus in 1..16_u32,
        is_short: bool,
    ) {
        let policy = Policy::default();
        let mut story = Story { host: CpuHost { cpus, is_short }, ..Story::of(vms) };
        let count = story.vms.len();
        // When each VM's vCPUs last became more.
        let mut grown: Vec<Option<u64>> = vec![None; count];
        for (vm, need, pressed, used) in needs {
            let view = &mut story.vms[vm % count];
            view.demand = view.demand.map(|_| CpuDemand {
                need_millicpus: need,
                urgency: if pressed { Urgency::Pressed } else { Urgency::Normal },
            });
            view.used_millicpus = Some(used);
            let (before, now_ms) = (story.vms.clone(), story.second * 1000);
            let verdicts = story.tick();
            prop_assert!(verdicts.iter().map(|v| v.entitled_millicpus).sum::<u64>() <= u64::from(cpus) * 1000);
            for (at, (verdict, view)) in verdicts.iter().zip(&before).enumerate() {
                let CpuLimits { minimum_millicpus, maximum_millicpus, shares } = view.limits;
                prop_assert!(verdict.weight_shares >= (shares / 4).max(1) && verdict.weight_shares <= shares * 4);
                prop_assert!(verdict.entitled_millicpus <= verdict.wanted_millicpus);
                if let Some(maximum) = maximum_millicpus {
                    prop_assert!(verdict.entitled_millicpus <= maximum);
                    let quota = verdict.quota_millicpus.unwrap();
                    prop_assert!(quota <= maximum + (maximum / 10).max(250));
                }
                prop_assert!(verdict.quota_millicpus.is_none_or(|quota| quota >= 250));
                let vcpus = view.vcpus.unwrap();
                if !view.is_ready || view.demand.is_none() || view.online.is_none() {
                    prop_assert!(verdict.online.is_none() && verdict.plugged.is_none());
                }
                if let Some(online) = verdict.online {
                    prop_assert!(online >= 1 && online <= vcpus.plugged && Some(online) != view.online);
                    let most = maximum_millicpus.map_or(u64::MAX, |maximum| maximum.div_ceil(1000));
                    if online < view.online.unwrap() {
                        let kept = minimum_millicpus.div_ceil(1000).min(most).min(u64::from(cpus));
                        prop_assert!(u64::from(online) >= kept, "its minimum needs {kept}");
                        prop_assert!(grown[at].is_none_or(|grown_ms| now_ms - grown_ms >= policy.cpu_block_ms));
                    } else {
                        grown[at] = Some(now_ms);
                    }
                }
                if let Some(plugged) = verdict.plugged {
                    prop_assert!(plugged >= 1 && plugged <= vcpus.possible && plugged.abs_diff(vcpus.plugged) == 1);
                    prop_assert!(plugged > vcpus.plugged || vcpus.removable > 0);
                    prop_assert!(plugged >= view.online.unwrap(), "only an offline one goes");
                }
            }
        }
    }

    #[test]
    fn noise_around_a_steady_need_does_not_make_vcpus_come_and_go(
        needs in prop::collection::vec((0..400_u64, 0..400_u64), 120),
        steady in (200..4000_u64, 200..4000_u64),
    ) {
        let mut story = Story::of([vm(3000, 0), vm(1000, 0)]);
        // For each VM: the last move, and how often one went the other way than that before.
        let mut moved = [(0, 0); 2];
        for (noise_a, noise_b) in needs {
            story.wants(0, steady.0 + noise_a).wants(1, steady.1 + noise_b);
            let before = story.online();
            story.tick();
            for ((before, after), (last, reversals)) in before.into_iter().zip(story.online()).zip(&mut moved) {
                let direction = after.cmp(&before) as i32;
                *reversals += u32::from(direction * *last < 0);
                *last = if direction == 0 { *last } else { direction };
            }
        }
        // Taken, wanted back, and once more after a minute.
        prop_assert!(moved.iter().all(|(_, reversals)| *reversals <= 3), "{moved:?}");
    }
}
