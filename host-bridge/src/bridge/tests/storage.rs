//! Throttles from what the hypervisors counted.

use super::*;
use crate::api::types::IoLever;
use crate::cgroup::IoCount;
use crate::hypervisor::{Held, IoSeen};
use crate::plan::HostLoad;
use crate::plan::storage::Throttle;

/// What a VM's disks did by now: `ops` a second of 4 KiB, each of which took so long.
fn counted(second: u64, ops: u64, latency_us: u64) -> Sighting {
    let ops = second * ops;
    let (bytes, timed_us) = (ops * 4096, ops * latency_us);
    Sighting::Io(IoSeen { disks: 1, ops, bytes, timed_ops: ops, timed_us, images: Vec::new() })
}

impl Bridge {
    /// One second; the throttles that the shell would set.
    fn second(&mut self, second: u64, a: Sighting, b: Sighting) -> Vec<(usize, Option<Throttle>)> {
        self.time(second * 1000);
        self.on_sighting(A, a);
        self.on_sighting(B, b);
        self.on_host(self.host, &HostLoad::default());
        let throttle = |effect| match effect {
            Effect::SetThrottle { vm, throttle } => Some((vm, throttle)),
            _ => None,
        };
        self.take_effects().into_iter().filter_map(throttle).collect()
    }

    fn seconds(
        &mut self,
        seconds: std::ops::Range<u64>,
        a: (u64, u64),
        b: (u64, u64),
    ) -> Vec<(usize, Option<Throttle>)> {
        seconds.flat_map(|second| self.second(second, counted(second, a.0, a.1), counted(second, b.0, b.1))).collect()
    }
}

const FLOOD: (u64, u64) = (8_000, 60_000);
const WAITS: (u64, u64) = (20, 50_000);

#[test]
fn a_flood_is_held_while_another_waits_and_nobody_is_told_anything_new_without_need() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    assert_eq!(bridge.seconds(1..30, FLOOD, (0, 0)), []);
    let asked = bridge.seconds(30..36, FLOOD, WAITS);
    assert!(asked.iter().all(|(vm, throttle)| *vm == A && throttle.is_some()) && !asked.is_empty(), "{asked:?}");
    let events = Control::events(&bridge, 0);
    let told = events.iter().find(|event| event.message.contains("its disks are held to")).unwrap();
    assert!(told.message.contains("its share is") && told.vm.as_deref() == Some("a"), "{told:?}");
}

#[test]
fn a_pause_lets_go_and_so_does_a_vm_that_is_gone() {
    for leave in [
        |bridge: &mut Bridge| bridge.pause(Some("a"), true).unwrap(),
        |bridge: &mut Bridge| {
            bridge.on_sighting(A, Sighting::Absent(absent()));
        },
    ] {
        let mut bridge = Bridge::settled(2048, 300, 300);
        assert!(!bridge.seconds(1..20, FLOOD, WAITS).is_empty());
        leave(&mut bridge);
        assert_eq!(bridge.seconds(20..22, FLOOD, WAITS), [(A, None)]);
        assert_eq!(bridge.seconds(22..30, FLOOD, WAITS), []);
    }
}

#[test]
fn who_refuses_is_left_alone_for_a_while_and_what_cannot_be_held_is_said_once() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    assert!(!bridge.seconds(1..20, FLOOD, WAITS).is_empty());
    let held = || Held { disks: 1, changed: 1, left: vec!["cd: an empty drive".to_owned()] };
    for _ in 0..3 {
        bridge.on_sighting(
            A,
            Sighting::Throttled { throttle: Some(Throttle { bytes_per_s: 1, ops_per_s: 1 }), held: held() },
        );
    }
    let error = Error::Refused { path: "/a".into(), command: "block_set_io_throttle", message: "no".into() };
    bridge.on_sighting(A, Sighting::ThrottleRefused { throttle: None, error });
    assert_eq!(bridge.seconds(20..70, FLOOD, WAITS), [(A, None)]);
    assert!(!bridge.seconds(70..100, FLOOD, WAITS).is_empty(), "tried again");
    let said = |what: &str| Control::events(&bridge, 0).iter().filter(|event| event.message.contains(what)).count();
    assert_eq!((said("an empty drive"), said("cannot be held")), (1, 1));
}

#[test]
fn counters_that_begin_anew_are_no_flood() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    bridge.seconds(1..10, (10, 900), WAITS);
    bridge.time(10_000).on_sighting(A, counted(0, 0, 0));
    assert_eq!(bridge.storage.vms[A].done(10_000).ops_per_s, 0);
    assert_eq!(bridge.storage.vms[B].done(18_000).ops_per_s, 0, "too old to tell");
}

/// What the bridge asked of a VM's two levers: its hypervisor's throttle, and its group's with the weight.
#[derive(Debug, PartialEq)]
enum Asked {
    Hypervisor(usize, bool),
    Group(usize, bool, Option<u32>),
}

impl Bridge {
    /// Both in groups of their own; seconds in which A floods as its group counts, and B waits for its disk.
    fn by_group(&mut self, seconds: std::ops::Range<u64>, b: (u64, u64)) -> Vec<Asked> {
        let mut asked = Vec::new();
        for second in seconds {
            self.time(second * 1000);
            if self.is_io_of_group(A) {
                self.on_group_io(A, IoCount { ops: second * FLOOD.0, bytes: second * FLOOD.0 * 4096 });
            }
            self.on_sighting(B, counted(second, b.0, b.1));
            self.on_host(self.host, &HostLoad::default());
            asked.extend(self.take_effects().into_iter().filter_map(|effect| match effect {
                Effect::SetThrottle { vm, throttle } => Some(Asked::Hypervisor(vm, throttle.is_some())),
                Effect::SetGroupIo { vm, throttle, shares } => Some(Asked::Group(vm, throttle.is_some(), shares)),
                _ => None,
            }));
        }
        asked
    }

    fn in_groups() -> Self {
        let mut bridge = Bridge::settled(2048, 300, 300);
        for vm in [A, B] {
            bridge.on_io_group(vm, Ok(format!("/vms/{vm}")));
        }
        bridge
    }
}

/// A QEMU that has no disk with a block backend, as with vhost-user.
fn no_disks() -> Sighting {
    Sighting::Io(IoSeen::default())
}

fn unreachable() -> Sighting {
    Sighting::Unreachable(Error::Timeout { path: "/a".into(), command: "query-status", timeout_ms: 2000 })
}

#[test]
fn a_vm_without_a_disk_to_throttle_is_held_by_its_group_and_weights_come_and_go_with_it() {
    let mut bridge = Bridge::in_groups();
    bridge.on_sighting(A, no_disks());
    let asked = bridge.by_group(1..12, WAITS);
    assert_eq!(asked[..2], [Asked::Group(A, true, Some(1000)), Asked::Group(B, false, Some(1000))]);
    assert!(!asked.iter().any(|asked| matches!(asked, Asked::Hypervisor(..))), "{asked:?}");
    assert_eq!(bridge.storage.vms[A].lever, Some(IoLever::Group));
    let told =
        Control::events(&bridge, 0).iter().any(|event| event.message.contains("held by its cgroup, reads and writes"));
    assert!(told);
    let asked = bridge.by_group(12..60, (0, 0));
    assert_eq!(asked[asked.len() - 2..], [Asked::Group(A, false, None), Asked::Group(B, false, None)]);
}

#[test]
fn without_a_group_nothing_is_asked_and_that_is_said_once() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    for _ in 0..3 {
        bridge.on_io_group(A, Err("no io controller in either cgroup version".to_owned()));
    }
    bridge.on_sighting(A, no_disks());
    assert_eq!(bridge.by_group(1..30, WAITS), []);
    let events = Control::events(&bridge, 0);
    assert_eq!(events.iter().filter(|event| event.message.contains("no io controller")).count(), 1, "{events:?}");
}

#[test]
fn where_the_hypervisor_falls_silent_or_refuses_the_group_takes_over_and_gives_way_again() {
    let no = Error::Refused { path: "/a".into(), command: "block_set_io_throttle", message: "no".into() };
    let refuses = Sighting::ThrottleRefused { throttle: None, error: no };
    for (leaves, comes) in [(unreachable(), Some(Sighting::Attached(state(300)))), (refuses, None)] {
        let mut bridge = Bridge::in_groups();
        assert!(!bridge.seconds(1..20, FLOOD, WAITS).is_empty());
        bridge.on_sighting(A, leaves);
        let asked = bridge.by_group(20..30, WAITS);
        assert_eq!(asked[..2], [Asked::Hypervisor(A, false), Asked::Group(A, true, Some(1000))], "{asked:?}");
        if let Some(comes) = comes {
            bridge.on_sighting(A, comes);
            let asked = bridge.by_group(30..31, WAITS);
            assert!(asked.contains(&Asked::Group(A, false, Some(1000))), "{asked:?}");
        }
    }
}

#[test]
fn a_pause_lets_the_group_go_and_so_does_one_that_refuses() {
    let mut bridge = Bridge::in_groups();
    bridge.on_sighting(A, no_disks());
    bridge.by_group(1..12, WAITS);
    let no_device = crate::cgroup::Error::NoDevice { path: "/vms/0".into() };
    bridge.on_io_group_refused(A, &no_device);
    bridge.on_io_group_refused(A, &no_device);
    let asked = bridge.by_group(12..60, WAITS);
    assert_eq!(asked, [Asked::Group(A, false, None), Asked::Group(B, false, None)], "left alone for a minute");
    let events = Control::events(&bridge, 0);
    assert_eq!(events.iter().filter(|event| event.message.contains("no block device")).count(), 1);
    assert!(bridge.by_group(60..90, WAITS).contains(&Asked::Group(A, true, Some(1000))), "tried again");
    bridge.pause(Some("a"), true).unwrap();
    assert_eq!(bridge.by_group(90..92, WAITS)[0], Asked::Group(A, false, None));
}

/// One second without I/O; what A's disks are held to.
fn cap(bridge: &mut Bridge, second: u64) -> Vec<Option<Throttle>> {
    let asked = bridge.second(second, counted(0, 0, 0), counted(0, 0, 0));
    asked.into_iter().filter(|(vm, _)| *vm == A).map(|(_, throttle)| throttle).collect()
}

#[test]
fn limits_of_the_disks_are_set_shown_and_hold_and_what_cannot_be_is_refused() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    let change = |minimum: Option<u64>, maximum: Option<u64>, shares: Option<u32>| Change {
        io_minimum_bytes_per_s: minimum,
        io_maximum_bytes_per_s: maximum,
        io_shares: shares,
        ..Change::default()
    };
    for (wrong, told) in [
        (change(None, None, Some(0)), "io.shares: 0 is out of range; allowed is 1 to 1000000"),
        (change(None, Some(0), None), "io.maximum: 0 B/s cannot be; allowed is 64KiB/s to 1TiB/s"),
        (change(Some(u64::MAX), None, None), "io.minimum: 17592186044415 MiB/s is too much; allowed is up to 1TiB/s"),
        (change(Some(2 * MIB), Some(MIB), None), "io.maximum: 1 MiB/s is less than the minimum of 2 MiB/s"),
    ] {
        assert_eq!(bridge.set("a", wrong).unwrap_err().message, told);
    }
    assert_eq!(cap(&mut bridge, 1), [], "nothing of it was taken in");
    let set = bridge.set("a", change(Some(MIB), Some(2 * MIB), Some(50))).unwrap().disks;
    assert_eq!((set.shares, set.minimum_bytes_per_s, set.maximum_bytes_per_s), (50, MIB, Some(2 * MIB)));
    assert_eq!(cap(&mut bridge, 2), [Some(Throttle { bytes_per_s: 2 * MIB, ops_per_s: 128 })]);
    let events = Control::events(&bridge, 0);
    assert!(
        events.iter().any(|event| event.message == "its disks are held to 2 MiB/s and 128 operations/s: its maximum")
    );
    bridge.pause(Some("a"), true).unwrap();
    assert_eq!(cap(&mut bridge, 3), [], "it holds on");
    bridge.on_sighting(A, Sighting::Absent(absent()));
    assert_eq!(cap(&mut bridge, 4), [None]);
    assert_eq!(bridge.vm("b").unwrap().disks.shares, 1000, "those of its memory");
}
