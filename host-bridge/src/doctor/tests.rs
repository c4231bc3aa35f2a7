//! What is said of each broken link, and what of a host that lacks everything.

use super::*;
use crate::api::types::VmState;
use crate::config::{Address, Config, CpuConfig, IoConfig, VmConfig};
use crate::hypervisor::Makeup;
use crate::init::FoundVm;
use crate::plan::actuator::Parts;
use crate::plan::{Limits, MIB};
use std::path::Path;
use vmtide_protocol::doctor::{Check, State};

const GIB: u64 = 1024 * MIB;

fn config() -> Config {
    let limits = Limits { minimum_bytes: 128 * MIB, reservation_bytes: 0, maximum_bytes: 3 * GIB, shares: 1000 };
    let vm = VmConfig {
        name: "web".into(),
        limits,
        cpu: CpuConfig::default(),
        io: IoConfig::default(),
        qmp: "/run/web.qmp".into(),
        address: Address::Cid(5),
    };
    Config { vms: vec![vm], ..Config::default() }
}

fn process() -> FoundVm {
    FoundVm {
        pid: 7,
        monitors: vec!["/run/web.qmp".into()],
        cid: Some(5),
        has_balloon: true,
        deflates_on_oom: true,
        ..FoundVm::default()
    }
}

fn sound() -> Facts {
    let parts = Parts { boot_bytes: GIB, balloon_bytes: Some(0), ..Parts::default() };
    let known = Known {
        state: VmState::Running,
        detail: None,
        memory: Some(Makeup { parts, ..Makeup::default() }),
        allocation_bytes: GIB,
        connected_for_ms: Some(9_000),
        agent: Some(("0.1.0".into(), 1)),
        report_age_ms: Some(400),
        last_end: None,
    };
    let vm = Vm {
        name: "web".into(),
        config: config().vms.remove(0),
        socket: Socket::There,
        known: Some(known),
        monitor: None,
        process: Some(process()),
        group: Some(Ok(Group { directory: "/sys/fs/cgroup/web.scope".into(), closed: None, has_io: true })),
        has_hybrid: false,
    };
    Facts {
        path: "/etc/vmtide/bridge.toml".into(),
        config: Ok(config()),
        limit_bytes: Some(2 * GIB),
        control_socket: "/run/vmtide/control.sock".into(),
        bridge: running(None),
        has_psi: true,
        has_cgroup_v2: true,
        controllers: "cpuset cpu io memory".into(),
        has_vhost_vsock: true,
        is_vhost_loaded: true,
        vms: vec![vm],
    }
}

fn running(reload_error: Option<&str>) -> Bridge {
    Bridge::Running(Running {
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_ms: 60_000,
        reload_error: reload_error.map(Into::into),
    })
}

fn known(facts: &mut Facts) -> &mut Known {
    facts.vms[0].known.as_mut().unwrap()
}

fn parts(facts: &mut Facts) -> &mut Parts {
    &mut known(facts).memory.as_mut().unwrap().parts
}

/// What a doctor finds that asks the monitors itself.
fn without_a_bridge(facts: &mut Facts, monitor: Result<Monitor, String>) {
    facts.bridge = Bridge::Absent("no".into());
    (facts.vms[0].known, facts.vms[0].monitor) = (None, Some(monitor));
}

#[test]
fn a_sound_host_has_nothing_to_try_and_overcommit_is_no_fault() {
    let report = report(&sound());
    assert!(report.ok && report.checks.iter().all(|check| check.next.is_none()), "{}", report.text());
    assert!(report.checks.iter().all(|check| !check.found.is_empty() && !check.why.is_empty()));
    let capacity = &report.check("capacity").unwrap().found;
    assert_eq!(capacity, "2048 MiB for all; maximums 3072 MiB (150 %), minimums 128 MiB, reservations 0 B");
}

/// What breaks, the check that says so, how it stands, and a part of what to try.
type Broken = (fn(&mut Facts), &'static str, State, &'static str);

fn each_is_said<const N: usize>(broken: [Broken; N]) {
    for (at, (break_it, name, state, next)) in broken.into_iter().enumerate() {
        let mut facts = sound();
        break_it(&mut facts);
        let report = report(&facts);
        let check: &Check = report.check(name).unwrap_or_else(|| panic!("{at}: no {name}"));
        assert_eq!(check.state, state, "{at}: {check:?}");
        assert!(check.next.as_ref().is_some_and(|text| text.contains(next)), "{at}: {check:?}");
        assert!(state != State::Fail || !report.ok, "{at}: {}", report.text());
    }
}

#[test]
fn what_is_wrong_with_the_host_is_said_with_what_to_type_next() {
    each_is_said([
        (|f| f.config = Err("line 3".into()), "configuration", State::Fail, "check --config /etc/vmtide/bridge.toml"),
        (|f| f.config = Ok(Config::default()), "configuration", State::Warn, "vmtide init"),
        (|f| f.bridge = Bridge::Absent("no".into()), "bridge", State::Fail, "systemctl start vmtide-bridge"),
        (|f| f.bridge = Bridge::Hidden("EACCES".into()), "bridge", State::Fail, "sudo"),
        (|f| f.bridge = Bridge::Broken("late".into()), "bridge", State::Fail, "systemctl restart"),
        (|f| f.bridge = running(Some("line 3")), "reload", State::Fail, "config check"),
        (|f| f.has_vhost_vsock = false, "kernel vsock", State::Fail, "modprobe vhost_vsock"),
        (|f| f.has_psi = false, "pressure (PSI)", State::Warn, "psi=1"),
        (|f| f.has_cgroup_v2 = false, "cgroup", State::Warn, "systemd.unified_cgroup_hierarchy=1"),
        (|f| f.controllers = "memory pids".into(), "cgroup", State::Warn, "unified"),
        (|f| f.limit_bytes = Some(64 * MIB), "capacity", State::Warn, "lower minimums"),
    ]);
}

#[test]
fn what_is_wrong_with_a_vm_is_said_with_what_to_type_next() {
    each_is_said([
        (|f| f.vms[0].known = None, "web: monitor", State::Fail, "systemctl reload vmtide-bridge"),
        (|f| known(f).state = VmState::Stopped, "web: monitor", State::Warn, "resume"),
        (|f| known(f).state = VmState::Unreachable, "web: monitor", State::Fail, "ss -xp | grep /run/web.qmp"),
        (
            |f| (known(f).state, f.vms[0].socket) = (VmState::Unreachable, Socket::Absent),
            "web: monitor",
            State::Warn,
            "start the VM with -qmp unix:/run/web.qmp",
        ),
        (
            |f| (known(f).state, f.vms[0].socket) = (VmState::Unreachable, Socket::NoSocket),
            "web: monitor",
            State::Fail,
            "ls -l",
        ),
        (|f| without_a_bridge(f, Err("no greeting".into())), "web: monitor", State::Fail, "ss -xp"),
        (
            |f| without_a_bridge(f, Ok(Monitor { is_running: true, has_balloon: false })),
            "web: balloon",
            State::Fail,
            "virtio-balloon-pci",
        ),
        (|f| parts(f).balloon_bytes = None, "web: balloon", State::Fail, "virtio-balloon-pci"),
        (
            |f| (parts(f).balloon_bytes, parts(f).pluggable_bytes) = (None, GIB),
            "web: balloon",
            State::Warn,
            "virtio-balloon-pci",
        ),
        (
            |f| f.vms[0].process = Some(FoundVm { deflates_on_oom: false, ..process() }),
            "web: balloon",
            State::Warn,
            "deflate-on-oom=on",
        ),
        (
            |f| {
                parts(f).pluggable_bytes = GIB;
                known(f).memory.as_mut().unwrap().is_plug_dead = true;
            },
            "web: virtio-mem",
            State::Warn,
            "modprobe virtio_mem",
        ),
        (
            |f| f.vms[0].process = Some(FoundVm { cid: Some(6), ..process() }),
            "web: address",
            State::Fail,
            "set cid = 6",
        ),
        (|f| f.vms[0].process = Some(FoundVm { cid: None, ..process() }), "web: address", State::Fail, "guest-cid=5"),
        (
            |f| f.vms[0].config.address = Address::Hybrid("/run/web.vsock".into()),
            "web: address",
            State::Fail,
            "journalctl -u vmtide-bridge",
        ),
        (|f| known(f).connected_for_ms = None, "web: agent", State::Warn, "in the guest: vmtide-agent doctor"),
        (|f| known(f).report_age_ms = None, "web: agent", State::Warn, "in the guest"),
        (|f| known(f).report_age_ms = Some(30_001), "web: agent", State::Warn, "in the guest"),
        (|f| f.vms[0].group = Some(Err("the root group".into())), "web: cgroup", State::Warn, "systemd-run --scope"),
    ]);
}

#[test]
fn a_vm_that_is_off_and_one_that_is_not_seen_break_nothing() {
    let mut facts = sound();
    known(&mut facts).state = VmState::Off;
    known(&mut facts).memory = None;
    (facts.vms[0].process, facts.vms[0].group) = (None, None);
    let report = report(&facts);
    assert!(report.ok, "{}", report.text());
    for link in ["monitor", "balloon", "virtio-mem", "address", "agent", "cgroup"] {
        assert_eq!(report.check(&format!("web: {link}")).unwrap().state, State::Skip, "{link}");
    }
}

#[test]
fn a_monitor_is_a_bridge_s_unless_nobody_can_be_there() {
    let mut facts = sound();
    (facts.bridge, facts.vms[0].known) = (Bridge::Hidden("EACCES".into()), None);
    let check = report(&facts).check("web: monitor").cloned().unwrap();
    assert_eq!((check.state, check.next), (State::Skip, None));
}

#[tokio::test]
async fn a_host_without_anything_gets_a_whole_report() {
    let root = tempfile::tempdir().unwrap();
    let (path, socket) = (root.path().join("bridge.toml"), root.path().join("control.sock"));
    let report = report(&gather(&path, &socket, root.path()).await);
    let failed: Vec<_> = report.checks.iter().filter(|check| check.state == State::Fail).map(|c| &*c.name).collect();
    assert_eq!(failed, ["configuration", "bridge"], "{}", report.text());
    assert!(report.check("configuration").unwrap().found.contains("bridge.toml"));
}

#[tokio::test]
async fn more_reserved_than_there_is_is_a_wrong_configuration_as_it_is_to_the_bridge() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc")).unwrap();
    let meminfo = include_str!("../host/fixtures/meminfo").replace("@AVAILABLE@", "10");
    std::fs::write(root.path().join("proc/meminfo"), meminfo).unwrap();
    let path = root.path().join("bridge.toml");
    let vm = "[[vm]]\nname = 'a'\nminimum = '1GiB'\nreservation = '32GiB'\nmaximum = '32GiB'\nqmp = '/q'\ncid = 3\n";
    std::fs::write(&path, vm).unwrap();
    let facts = gather(&path, Path::new("/no/control.sock"), root.path()).await;
    assert!(facts.config.as_ref().unwrap_err().contains("reservation"), "{:?}", facts.config);
    assert_eq!((facts.limit_bytes, report(&facts).check("capacity").unwrap().state), (None, State::Skip));
}
