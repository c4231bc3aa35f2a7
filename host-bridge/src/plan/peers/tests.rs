//! The peers' rules against the figures that are known of them.

use super::super::*;

const GIB: u64 = 1024;

/// A VM of `maximum` MiB that has `has`.
fn vm(has: u64, maximum: u64) -> VmView {
    VmView {
        limits: Limits { minimum_bytes: 128 * MIB, reservation_bytes: 0, maximum_bytes: maximum * MIB, shares: 1000 },
        allocation_bytes: has * MIB,
        target_bytes: has * MIB,
        reach: Reach::Ready,
        demand: Demand::Unknown { shown_use_bytes: None },
        history: History::default(),
        shown: Shown { free_bytes: Some(0), ..Shown::default() },
    }
}

fn host(mib: u64) -> HostView {
    HostView { capacity_bytes: mib * MIB, reserve_bytes: 0, available_bytes: None, stall_full_permille: 0 }
}

/// A host whose balloons move at once, planned for each second.
struct World {
    planning: Planning,
    host: HostView,
    vms: Vec<VmView>,
    seconds: u64,
}

impl World {
    fn new(planner: Planner, capacity_mib: u64, vms: &[VmView]) -> Self {
        Self { planning: planner.start(), host: host(capacity_mib), vms: vms.to_vec(), seconds: 0 }
    }

    fn second(&mut self) {
        let plan = self.planning.plan(self.seconds * 1000, &self.host, &self.vms, &Policy::default());
        for (vm, verdict) in self.vms.iter_mut().zip(plan.verdicts) {
            if let Some(step) = verdict.step {
                (vm.allocation_bytes, vm.target_bytes) = (step.to_bytes, step.to_bytes);
            }
        }
        self.seconds += 1;
    }

    fn after(&mut self, seconds: u64) -> Vec<u64> {
        (0..seconds).for_each(|_| self.second());
        self.has()
    }

    fn has(&self) -> Vec<u64> {
        self.vms.iter().map(|vm| vm.allocation_bytes / MIB).collect()
    }
}

/// The guest keeps a hundredth free, as Linux does, and uses the rest as soon as it gets it.
#[test]
fn mom_takes_280_s_for_a_guest_that_needs_8_gib_and_has_one() {
    let mut world = World::new(Planner::MomRules, 64 * GIB, &[vm(GIB, 8 * GIB)]);
    while world.has()[0] < 8 * GIB {
        world.vms[0].shown.free_bytes = Some(world.vms[0].allocation_bytes / 100);
        world.second();
    }
    assert_eq!(world.seconds - 1, 280);
}

#[test]
fn mom_drives_a_guest_that_uses_all_it_has_into_swap_when_the_host_is_critical() {
    let (busy, mut fixed) = (vm(8 * GIB, 8 * GIB), vm(4 * GIB, 4 * GIB));
    fixed.reach = Reach::Fixed;
    let mut world = World::new(Planner::MomRules, 8 * GIB, &[busy, fixed]);
    let has = world.after(300);
    assert!(has[0] * 10 < 54 * GIB, "{has:?}");
}

#[test]
fn mom_leaves_a_guest_its_used_memory_while_the_host_is_only_short() {
    // 15 % of the host are free; so is a half of the guest.
    let mut guest = vm(8500, 8500);
    guest.shown.free_bytes = Some(4000 * MIB);
    let mut world = World::new(Planner::MomRules, 10_000, &[guest]);
    assert_eq!(world.after(5), [8500 * 95 / 100]);
    world.vms[0].shown.free_bytes = None;
    assert_eq!(world.after(5), [8500 * 95 / 100], "once in 10 s");
}

#[test]
fn mom_counts_averages_so_a_jump_takes_time_to_show() {
    let mut guest = vm(500, 2000);
    guest.shown.free_bytes = Some(400 * MIB);
    let mut world = World::new(Planner::MomRules, 10_000, &[guest]);
    world.after(50);
    let before = world.has()[0];
    world.vms[0].shown.free_bytes = Some(0);
    let after = world.after(10)[0];
    assert!(after <= before * 106 / 100, "{before} -> {after}");
}

#[test]
fn proxmox_takes_819_s_for_8_gib() {
    let mut world = World::new(Planner::ProxmoxRules, 64 * GIB, &[vm(128, 128 + 8 * GIB)]);
    // 81 moves of 100 MiB, the first at once, and one of 92.
    assert_eq!(world.after(801), [128 + 8100]);
    assert_eq!(world.after(9), [128 + 8100]);
    assert_eq!(world.after(1), [128 + 8 * GIB], "the 82nd interval, which is not used up: 819 s");
}

#[test]
fn proxmox_fills_the_host_to_80_percent_by_shares_whatever_is_used() {
    let (mut a, b) = (vm(200, 2000), vm(200, 2000));
    a.limits.shares = 3000;
    let mut world = World::new(Planner::ProxmoxRules, 1000, &[a, b]);
    let has = world.after(100);
    // 80 % of 1000 less both minimums: 544, three to one.
    assert_eq!(has, [128 + 408, 128 + 136]);
}

#[test]
fn proxmox_gives_to_who_has_little_free_and_takes_from_who_has_much() {
    let (pressed, mut easy) = (vm(300, 2000), vm(300, 2000));
    easy.shown.free_bytes = Some(200 * MIB);
    let mut world = World::new(Planner::ProxmoxRules, 1000, &[pressed.clone(), easy.clone()]);
    assert_eq!(world.after(1), [400, 300]);
    let mut world = World::new(Planner::ProxmoxRules, 600, &[pressed, easy]);
    assert_eq!(world.after(1), [300, 200]);
}

#[test]
fn proxmox_leaves_10_mib_alone() {
    let mut world = World::new(Planner::ProxmoxRules, 1000, &[vm(790, 2000)]);
    assert_eq!(world.after(30), [790]);
    let mut world = World::new(Planner::ProxmoxRules, 1000, &[vm(811, 2000)]);
    assert_eq!(world.after(30), [800]);
}

/// As their originals do: only what guests have touched is missing on the host.
#[test]
fn mom_and_proxmox_give_out_more_than_there_is_until_it_is_used() {
    for planner in [Planner::MomRules, Planner::ProxmoxRules] {
        let mut guests = [vm(500, 1000), vm(500, 1000)];
        for vm in &mut guests {
            vm.shown = Shown { free_bytes: Some(300 * MIB), resident_bytes: Some(200 * MIB), ..vm.shown };
        }
        let mut world = World::new(planner, 1000, &guests);
        assert_eq!(world.after(300), [1000, 1000], "{planner}");
        for vm in &mut world.vms {
            vm.shown = Shown { free_bytes: Some(0), resident_bytes: Some(2000 * MIB), ..vm.shown };
        }
        let has = world.after(100);
        assert!(has.iter().all(|mib| *mib < 1000), "{planner}: {has:?}");
    }
}

#[test]
fn hyper_v_gives_what_is_committed_a_floor_and_a_fifth() {
    let mut guest = vm(1000, 2048);
    guest.shown.committed_bytes = Some(500 * MIB);
    let mut world = World::new(Planner::HypervRules, 4 * GIB, &[guest.clone()]);
    // (500 + 104 + 2048 / 8) * 1.2 = 1032, whatever is cached.
    assert_eq!(world.after(1), [1032]);
    guest.shown.committed_bytes = None;
    assert_eq!(World::new(Planner::HypervRules, 4 * GIB, &[guest]).after(10), [1000], "nothing is known of it");
}

#[test]
fn hyper_v_splits_by_weight_what_does_not_fit_and_gives_what_is_there() {
    let mut guests = [vm(600, 2048), vm(400, 2048)];
    for vm in &mut guests {
        vm.shown.committed_bytes = Some(1500 * MIB);
    }
    let mut world = World::new(Planner::HypervRules, 1000, &guests);
    assert_eq!(world.after(1), [500, 400], "b waits for what a gives");
    assert_eq!(world.after(1), [500, 500]);
}

#[test]
fn the_static_split_goes_by_shares_and_never_over_the_budget() {
    let (mut a, b, small) = (vm(2000, 2000), vm(300, 2000), vm(200, 200));
    a.limits.shares = 2000;
    let mut world = World::new(Planner::Static, 1200, &[a, b, small]);
    world.second();
    assert_eq!(world.has()[1], 300, "nothing is free yet");
    let split = world.after(5);
    // 72 are all that the smallest can have above its minimum; the rest, 1200 - 3 * 128 - 72, goes two to one.
    assert_eq!(split, [128 + 496 - 1, 128 + 248 - 1, 200], "rounded down");
    world.vms[1].shown.free_bytes = Some(100 * MIB);
    assert_eq!(world.after(60), split, "and stays");
}

#[test]
fn no_peer_moves_a_vm_that_cannot_be_moved_or_out_of_its_limits() {
    for planner in Planner::ALL {
        let mut paused = vm(500, 800);
        paused.reach = Reach::Paused;
        let mut small = vm(140, 400);
        small.shown = Shown {
            free_bytes: Some(130 * MIB),
            committed_bytes: Some(0),
            resident_bytes: Some(0),
            ..Shown::default()
        };
        let mut large = vm(700, 800);
        large.shown.committed_bytes = Some(5000 * MIB);
        for capacity in [600, 1400, 5000] {
            let mut world = World::new(planner, capacity, &[paused.clone(), small.clone(), large.clone()]);
            for _ in 0..100 {
                world.second();
                assert_eq!(world.has()[0], 500, "{planner}");
                for vm in &world.vms {
                    let limits = vm.limits.minimum_bytes..=vm.limits.maximum_bytes;
                    assert!(limits.contains(&vm.allocation_bytes), "{planner}: {:?}", world.has());
                }
            }
        }
    }
}
