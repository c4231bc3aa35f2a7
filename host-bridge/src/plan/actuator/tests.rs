use super::*;
use proptest::prelude::*;

const BOOT: u64 = 512 * MIB;
const BLOCK: u64 = 2 * MIB;

/// A VM of 512 MiB with as much again to plug in; MiB.
fn parts(plugged: u64, balloon: u64) -> Parts {
    Parts {
        boot_bytes: BOOT,
        balloon_bytes: Some(balloon * MIB),
        plugged_bytes: plugged * MIB,
        requested_bytes: plugged * MIB,
        pluggable_bytes: 512 * MIB,
        block_bytes: BLOCK,
    }
}

fn to(parts: &Parts, target_mib: u64) -> (u64, u64, Why) {
    let split = split(parts, target_mib * MIB, &Speeds::default(), false);
    (split.to.plugged_bytes / MIB, split.to.balloon_bytes / MIB, split.why)
}

#[test]
fn big_moves_are_virtio_mem_s_and_the_rest_is_the_balloon_s() {
    assert_eq!(to(&parts(0, 0), 800), (288, 0, Why::PlugFaster));
    assert_eq!(to(&parts(288, 0), 600), (88, 0, Why::PlugFaster));
    assert_eq!(to(&parts(288, 0), 300), (0, 212, Why::PlugFaster), "what is not plugged cannot be unplugged");
    assert_eq!(to(&parts(100, 50), 501), (40, 51, Why::PlugFaster), "61 MiB are 30 blocks and one to hold");
    assert_eq!(to(&parts(100, 50), 572), (100, 40, Why::Trimming));
    assert_eq!(to(&parts(0, 200), 412), (100, 200, Why::PlugFaster));
    assert_eq!(to(&parts(500, 200), 1024), (512, 0, Why::PlugFaster), "all that there is");
}

#[test]
fn what_one_cannot_the_other_does() {
    assert_eq!(to(&parts(0, 0), 520), (8, 0, Why::NoBalloon), "trimming, with nothing in the balloon");
    assert_eq!(to(&parts(0, 0), 513), (2, 1, Why::NoBalloon), "the balloon holds what a block is too much");
    assert_eq!(to(&parts(0, 300), 500), (288, 300, Why::PlugFaster));
    assert_eq!(to(&parts(0, 0), 300), (0, 212, Why::NothingToPlug));
    let dead = Parts { pluggable_bytes: 0, ..parts(0, 300) };
    assert_eq!(to(&dead, 500), (0, 12, Why::NothingToPlug));
    let bare = Parts { balloon_bytes: None, ..parts(0, 0) };
    assert_eq!(to(&bare, 601), (88, 0, Why::NoBalloon));
    assert_eq!(to(&bare, 300), (0, 0, Why::NoBalloon), "boot memory stays");
    let stuck = split(&parts(288, 0), 600 * MIB, &Speeds::default(), true);
    assert_eq!((stuck.to.plugged_bytes / MIB, stuck.to.balloon_bytes / MIB, stuck.why), (288, 200, Why::UnplugStuck));
}

#[test]
fn what_was_measured_here_outweighs_what_others_measured() {
    let mut speeds = Speeds::default();
    assert!(!speeds.rate(Actuator::Plug, Direction::Shrink).is_measured);
    speeds.saw(Actuator::Plug, Direction::Shrink, 16 * MIB, 60_000);
    assert!(!speeds.rate(Actuator::Plug, Direction::Shrink).is_measured, "too little to tell");
    speeds.saw(Actuator::Plug, Direction::Shrink, 400 * MIB, 2_000);
    assert_eq!(speeds.rate(Actuator::Plug, Direction::Shrink), Rate { bytes_per_s: 200 * MIB, is_measured: true });
    let shrink = split(&parts(400, 0), 600 * MIB, &speeds, false);
    assert_eq!((shrink.why, shrink.to.plugged_bytes), (Why::BalloonFaster, 400 * MIB));
    // Faster again: an old figure fades.
    for _ in 0..8 {
        speeds.saw(Actuator::Plug, Direction::Shrink, 400 * MIB, 100);
    }
    assert_eq!(split(&parts(400, 0), 600 * MIB, &speeds, false).why, Why::PlugFaster);
}

#[test]
fn no_more_is_plugged_than_boot_memory_can_serve() {
    assert_eq!(Parts::movable_limit(1000 * MIB, 2000 * MIB), 2000 * MIB);
    assert_eq!(Parts::movable_limit(1000 * MIB, 8000 * MIB), 3010 * MIB);
    assert_eq!(description_bytes(1024 * MIB), 16 * MIB);
}

#[test]
fn a_plug_waits_for_the_balloon_that_is_to_make_up_for_it() {
    let (now, target) = (parts(0, 0), 513 * MIB);
    let goal = split(&now, target, &Speeds::default(), false).to;
    assert_eq!(orders(&now, target, &goal), Goal { plugged_bytes: 0, balloon_bytes: MIB });
    assert_eq!(orders(&parts(0, 1), target, &goal), goal);
}

/// Any VM, however odd; not all of them could be built.
fn arbitrary_parts() -> impl Strategy<Value = Parts> {
    let pages = |most: u64| (0..=most).prop_map(|pages| pages * PAGE_BYTES);
    let block = prop_oneof![Just(MIB), Just(BLOCK), Just(128 * MIB)];
    (block, 16_u64..=2048, any::<bool>()).prop_flat_map(move |(block_bytes, boot_mib, has_balloon)| {
        let boot_bytes = boot_mib * MIB;
        let blocks = 4096 * MIB / block_bytes;
        (0..=blocks, 0..=blocks, 0..=blocks, pages(boot_bytes / PAGE_BYTES - 1)).prop_map(move |(a, b, c, balloon)| {
            Parts {
                boot_bytes,
                balloon_bytes: has_balloon.then_some(balloon),
                plugged_bytes: a.min(b) * block_bytes,
                requested_bytes: c.min(b) * block_bytes,
                pluggable_bytes: b * block_bytes,
                block_bytes,
            }
        })
    })
}

fn arbitrary_speeds() -> impl Strategy<Value = Speeds> {
    let moves = prop::collection::vec((any::<[bool; 2]>(), 1_u64..4096, 1_u64..10_000), 0..6);
    moves.prop_map(|moves| {
        let mut speeds = Speeds::default();
        for ([plug, grow], mib, ms) in moves {
            let actuator = if plug { Actuator::Plug } else { Actuator::Balloon };
            speeds.saw(actuator, if grow { Direction::Grow } else { Direction::Shrink }, mib * MIB, ms);
        }
        speeds
    })
}

/// `parts` after the guest did all that was asked.
fn done(parts: &Parts, goal: &Goal) -> Parts {
    Parts {
        balloon_bytes: parts.balloon_bytes.map(|_| goal.balloon_bytes),
        plugged_bytes: goal.plugged_bytes,
        requested_bytes: goal.plugged_bytes,
        ..*parts
    }
}

proptest! {
    #[test]
    fn a_split_makes_the_target_in_whole_blocks_and_moves_one_way(
        parts in arbitrary_parts(), speeds in arbitrary_speeds(), stuck: bool, share in 0_u64..=1000,
    ) {
        let most = parts.most_bytes();
        let least = parts.least_bytes().max(PAGE_BYTES);
        let target = (least + (most - least) / 1000 * share) / PAGE_BYTES * PAGE_BYTES;
        let split = split(&parts, target, &speeds, stuck);
        let reached = done(&parts, &split.to).allocation_bytes();
        prop_assert!(split.to.plugged_bytes <= parts.pluggable_bytes);
        prop_assert_eq!(split.to.plugged_bytes % parts.block_bytes, 0);
        if parts.balloon_bytes.is_some() && parts.block_bytes < parts.boot_bytes {
            prop_assert_eq!(reached, target);
        } else {
            // There is no balloon, or it cannot hold what a block is too much.
            prop_assert!(reached <= target && target - reached < parts.block_bytes, "{} for {}", reached, target);
        }

        // Neither undoes what the other does, but for less than a block.
        let grows = target >= parts.allocation_bytes();
        let (plug_back, balloon_back) = if grows {
            (split.from.plugged_bytes.saturating_sub(split.to.plugged_bytes), split.to.balloon_bytes.saturating_sub(split.from.balloon_bytes))
        } else {
            (split.to.plugged_bytes.saturating_sub(split.from.plugged_bytes), split.from.balloon_bytes.saturating_sub(split.to.balloon_bytes))
        };
        prop_assert!(plug_back < parts.block_bytes && balloon_back < parts.block_bytes, "{:?}", split);

        // Who is there stays there.
        let there = done(&parts, &split.to);
        let again = super::split(&there, reached, &speeds, stuck);
        prop_assert_eq!(again.to, split.to);
    }

    #[test]
    fn no_order_lets_a_guest_pass_its_target_or_what_it_had(
        parts in arbitrary_parts(), share in 0_u64..=1000, guest in prop::collection::vec((0_u64..=100, 0_u64..=100), 1..12),
    ) {
        let target = (parts.most_bytes() / 1000 * share).max(parts.least_bytes()).max(PAGE_BYTES) / PAGE_BYTES * PAGE_BYTES;
        let goal = split(&parts, target, &Speeds::default(), false).to;
        let (mut now, had) = (parts, parts.allocation_bytes());
        for (plug_percent, balloon_percent) in guest.into_iter().chain([(100, 100); 4]) {
            let orders = orders(&now, target, &goal);
            // However far the guest goes, in whichever order.
            let towards = |from: u64, to: u64, percent: u64, grain: u64| {
                let way = to.abs_diff(from) / 100 * percent / grain * grain;
                if percent == 100 { to } else if to < from { from - way } else { from + way }
            };
            let asked = done(&now, &orders);
            let steps = [
                Parts { plugged_bytes: now.plugged_bytes.max(orders.plugged_bytes), ..now },
                Parts { balloon_bytes: now.balloon_bytes.map(|held| held.min(orders.balloon_bytes)), ..now },
                Parts {
                    plugged_bytes: now.plugged_bytes.max(orders.plugged_bytes),
                    balloon_bytes: now.balloon_bytes.map(|held| held.min(orders.balloon_bytes)),
                    ..now
                },
            ];
            let most = target.max(had).max(now.allocation_bytes());
            for step in steps {
                prop_assert!(step.allocation_bytes() <= most, "{:?} may become {:?} on the way to {}", now, step, target);
            }
            now = Parts {
                plugged_bytes: towards(now.plugged_bytes, asked.plugged_bytes, plug_percent, parts.block_bytes),
                balloon_bytes: now.balloon_bytes.map(|held| towards(held, orders.balloon_bytes, balloon_percent, PAGE_BYTES)),
                requested_bytes: orders.plugged_bytes,
                ..now
            };
        }
        prop_assert_eq!((now.plugged_bytes, now.balloon_bytes.unwrap_or(0)), (goal.plugged_bytes, goal.balloon_bytes));
    }
}
