//! What is said of each broken link, and what of a guest that lies or lacks everything.

use super::*;
use crate::config::layers::Layered;
use crate::fake_bridge::FakeBridge;
use crate::link::{Address, Greeting};
use crate::sense::fixture::{guest, write};
use std::io::ErrorKind;
use std::path::Path;
use vmtide_protocol::bridge::{Reject, RejectReason};
use vmtide_protocol::doctor::{Report, State};
use vmtide_protocol::{AgentMessage, BridgeMessage};
use vmtide_tuning::Mode;

fn sound() -> Facts {
    Facts {
        config: Ok(vec!["/etc/vmtide/agent.toml".into()]),
        bridge: Address::default(),
        is_vm: true,
        agent: Agent::Absent,
        vsock_device: Driver::Bound,
        vsock: Vsock::Open(Some(3)),
        port: Port::Tried(Greeting::Welcome { vm: "web".into(), protocol: 1 }),
        balloon: Driver::Bound,
        deflates_on_oom: true,
        reports_free_pages: true,
        virtio_mem: Driver::Bound,
        offline_bytes: 0,
        pressure: Pressure::Told,
        has_cgroup_v2: true,
        has_reclaim: true,
        knobs: Knobs::Seen { mode: Mode::Adaptive, files: 30, closed: Vec::new(), errors: Vec::new() },
    }
}

fn unreachable(kind: ErrorKind) -> Port {
    Port::Tried(Greeting::Unreachable { kind, text: kind.to_string() })
}

fn rejected(reason: RejectReason) -> Port {
    Port::Tried(Greeting::Rejected { reason, message: "no".into() })
}

#[test]
fn a_sound_chain_has_nothing_to_try_but_to_start_the_agent() {
    let report = report(&sound());
    assert!(report.ok);
    let to_do: Vec<_> = report.checks.iter().filter_map(|check| check.next.as_deref()).collect();
    assert_eq!(to_do, ["systemctl start vmtide-agent"], "{}", report.text());
    assert!(report.checks.iter().all(|check| !check.found.is_empty() && !check.why.is_empty()));
}

/// What breaks, the check that says so, how it stands, and a part of what to try.
type Broken = (fn(&mut Facts), &'static str, State, &'static str);

#[test]
fn each_broken_link_is_said_with_what_to_type_next() {
    let broken: [Broken; 26] = [
        (|f| f.config = Err("line 2: brigde".into()), "configuration", State::Fail, "vmtide-agent config check"),
        (|f| f.is_vm = false, "virtual machine", State::Fail, "vmtide doctor"),
        (
            |f| f.agent = Agent::Mute { pid: "7".into(), error: "late".into() },
            "agent",
            State::Fail,
            "restart vmtide-agent",
        ),
        (|f| f.agent = Agent::Hidden("EACCES".into()), "agent", State::Warn, "sudo"),
        (|f| f.vsock_device = Driver::NoDevice, "vsock device", State::Fail, "-device vhost-vsock-pci,guest-cid=N"),
        (|f| f.vsock_device = Driver::Unbound, "vsock device", State::Fail, "modprobe vmw_vsock_virtio_transport"),
        (|f| f.vsock = Vsock::Absent, "/dev/vsock", State::Fail, "modprobe vmw_vsock_virtio_transport"),
        (|f| f.vsock = Vsock::Closed("Permission denied".into()), "/dev/vsock", State::Fail, "sudo"),
        (|f| f.vsock = Vsock::Open(Some(u32::MAX)), "context id", State::Fail, "modprobe"),
        (|f| f.vsock = Vsock::Open(Some(2)), "context id", State::Fail, "vmtide doctor"),
        (|f| f.vsock = Vsock::Open(Some(0)), "context id", State::Fail, "vmtide doctor"),
        (|f| f.port = unreachable(ErrorKind::ConnectionReset), "bridge", State::Fail, "systemctl start vmtide-bridge"),
        (|f| f.port = unreachable(ErrorKind::TimedOut), "bridge", State::Fail, "vmtide doctor"),
        (|f| f.port = rejected(RejectReason::UnknownVm), "bridge", State::Fail, "systemctl reload vmtide-bridge"),
        (|f| f.port = rejected(RejectReason::Version), "bridge", State::Fail, "upgrade the older"),
        (|f| f.port = rejected(RejectReason::Other), "bridge", State::Fail, "vmtide doctor"),
        (|f| f.port = Port::Tried(Greeting::Silent("late".into())), "bridge", State::Fail, "vmtide doctor"),
        (|f| f.port = Port::Tried(Greeting::Version(9)), "protocol", State::Fail, "upgrade the older"),
        (|f| f.balloon = Driver::NoDevice, "balloon", State::Fail, "-device virtio-balloon-pci"),
        (|f| f.balloon = Driver::Unbound, "balloon", State::Fail, "modprobe virtio_balloon"),
        (|f| f.deflates_on_oom = false, "balloon", State::Warn, "deflate-on-oom=on"),
        (|f| f.virtio_mem = Driver::Unbound, "virtio-mem", State::Warn, "modprobe virtio_mem"),
        (|f| f.offline_bytes = 1 << 27, "virtio-mem", State::Warn, "auto_online_blocks"),
        (|f| f.pressure = Pressure::Silent("psi=0".into()), "pressure (PSI)", State::Warn, "psi=1"),
        (|f| f.has_cgroup_v2 = false, "cgroup", State::Warn, "systemd.unified_cgroup_hierarchy=1"),
        (|f| f.has_reclaim = false, "cgroup", State::Warn, "5.19"),
    ];
    for (at, (break_it, name, state, next)) in broken.into_iter().enumerate() {
        let mut facts = sound();
        break_it(&mut facts);
        let report = report(&facts);
        let check = report.check(name).unwrap_or_else(|| panic!("{at}: no {name}"));
        assert_eq!(check.state, state, "{at}: {check:?}");
        assert!(check.next.as_ref().is_some_and(|text| text.contains(next)), "{at}: {check:?}");
        assert_eq!(report.ok, state != State::Fail, "{at}: {}", report.text());
    }
}

#[test]
fn what_is_optional_or_not_asked_for_is_no_failure() {
    let mut facts = sound();
    facts.bridge = "unix:/run/b.sock".parse().unwrap();
    (facts.vsock_device, facts.vsock, facts.virtio_mem) = (Driver::NoDevice, Vsock::Absent, Driver::NoDevice);
    (facts.reports_free_pages, facts.is_vm) = (false, false);
    facts.knobs = Knobs::Seen { mode: Mode::Observe, files: 30, closed: Vec::new(), errors: Vec::new() };
    let report = report(&facts);
    assert!(report.ok, "{}", report.text());
    for name in
        ["virtual machine", "vsock device", "/dev/vsock", "context id", "free page reporting", "virtio-mem", "tuning"]
    {
        assert_eq!(report.check(name).unwrap().state, State::Skip, "{name}");
    }
}

#[test]
fn closed_knobs_are_named_as_far_as_a_line_holds_them() {
    let mut facts = sound();
    let closed: Vec<_> = (0..40).map(|at| (format!("/proc/sys/vm/{at}"), "EROFS: Read-only".to_owned())).collect();
    facts.knobs = Knobs::Seen { mode: Mode::Static, files: 50, closed, errors: vec!["x.toml: line 3".into()] };
    let found = report(&facts).check("tuning").unwrap().found.clone();
    assert!(found.starts_with("40 of 50 knobs are closed: /proc/sys/vm/0: EROFS"), "{found}");
    assert!(found.contains("and 37 more") && found.ends_with("x.toml: line 3"), "{found}");
}

/// A guest whose agent would be at a bridge of the test's.
fn layered(root: &Path, bridge: &Address) -> Layered {
    let root_text = root.display();
    let text = format!(
        "bridge = \"{bridge}\"\nstatus_socket = \"{root_text}/run/agent.sock\"\n\
         [tuning]\njournal = \"{root_text}/run/tuning.journal\"\ncatalogue = \"{root_text}/none\"\n"
    );
    write(root, "agent.toml", &text);
    crate::config::layers::load(Some(&root.join("agent.toml"))).unwrap()
}

#[tokio::test]
async fn without_an_agent_it_says_hello_once_and_hangs_up() {
    let (dir, bridge) = (guest(), FakeBridge::listen());
    let layered = layered(dir.path(), &bridge.address());
    let (facts, end) = tokio::join!(gather(Ok(layered), dir.path()), async {
        let mut agent = bridge.accept().await;
        let AgentMessage::Hello(hello) = agent.hears().await else { panic!("no hello") };
        assert_eq!(hello.capabilities, Vec::<String>::new(), "nothing is to be asked of it");
        agent.says(&crate::fake_bridge::welcome()).await;
        agent.hears_or_end().await
    });
    assert_eq!(end, None, "it hangs up");
    assert_eq!(facts.port, Port::Tried(Greeting::Welcome { vm: "a".into(), protocol: 1 }));
}

#[tokio::test]
async fn what_the_bridge_says_no_with_is_passed_on() {
    let (dir, bridge) = (guest(), FakeBridge::listen());
    let layered = layered(dir.path(), &bridge.address());
    let (facts, ()) = tokio::join!(gather(Ok(layered), dir.path()), async {
        let mut agent = bridge.accept().await;
        agent.hears().await;
        let reject = Reject { reason: RejectReason::UnknownVm, message: "no VM has cid 9".into() };
        agent.says(&BridgeMessage::Reject(reject)).await;
    });
    let expected = Greeting::Rejected { reason: RejectReason::UnknownVm, message: "no VM has cid 9".into() };
    assert_eq!(facts.port, Port::Tried(expected));
}

#[tokio::test(start_paused = true)]
async fn a_bridge_that_never_answers_holds_it_up_for_seconds_only() {
    let (dir, bridge) = (guest(), FakeBridge::listen());
    let facts = gather(Ok(layered(dir.path(), &bridge.address())), dir.path()).await;
    assert!(matches!(&facts.port, Port::Tried(Greeting::Silent(text)) if text.contains("3s")), "{:?}", facts.port);
}

#[tokio::test]
async fn a_bridge_that_speaks_nonsense_is_broken() {
    let (dir, bridge) = (guest(), FakeBridge::listen());
    let layered = layered(dir.path(), &bridge.address());
    let (facts, ()) = tokio::join!(gather(Ok(layered), dir.path()), async {
        bridge.accept().await.says_bytes(b"SSH-2.0-OpenSSH_9.2\n").await;
    });
    assert!(matches!(&facts.port, Port::Tried(Greeting::Broken(_))), "{:?}", facts.port);
}

#[tokio::test]
async fn the_host_is_not_dialled_for_another_root_nor_by_a_wrong_configuration() {
    let dir = guest();
    write(dir.path(), "proc/cpuinfo", "flags : fpu hypervisor\n");
    write(dir.path(), "dev/vsock", "");
    write(dir.path(), "sys/bus/virtio/devices/virtio1/device", "0x0013\n");
    write(dir.path(), "sys/bus/virtio/devices/virtio1/driver/bind", "");
    let facts = gather(Ok(layered(dir.path(), &Address::default())), dir.path()).await;
    assert_eq!((facts.is_vm, facts.vsock_device, &facts.vsock), (true, Driver::Bound, &Vsock::Open(None)));
    assert!(matches!(facts.port, Port::NotTried(_)), "{:?}", facts.port);

    write(dir.path(), "agent.toml", "brigde = 1\n");
    let wrong = crate::config::layers::load(Some(&dir.path().join("agent.toml")));
    let facts = gather(wrong, dir.path()).await;
    assert!(facts.config.as_ref().unwrap_err().contains("did you mean `bridge`?"), "{:?}", facts.config);
    assert_eq!(facts.port, Port::NotTried("not dialled: the configuration is wrong".into()));
}

#[tokio::test]
async fn a_guest_without_anything_gets_a_whole_report() {
    let dir = tempfile::tempdir().unwrap();
    let facts = gather(Ok(layered(dir.path(), &Address::default())), dir.path()).await;
    let Report { ok, checks } = report(&facts);
    let failed: Vec<_> =
        checks.iter().filter(|check| check.state == State::Fail).map(|check| check.name.as_str()).collect();
    assert!(!ok);
    assert_eq!(failed, ["virtual machine", "vsock device", "/dev/vsock", "balloon"]);
    assert!(matches!(facts.knobs, Knobs::Unknown(_)), "{:?}", facts.knobs);
}

#[tokio::test]
async fn devices_without_a_driver_and_files_of_nonsense_are_seen_for_what_they_are() {
    let dir = guest();
    for (device, number) in [("virtio0", "0x0005\n"), ("virtio1", "garbage"), ("virtio2", "0x0018\n"), ("virtio3", "")]
    {
        write(dir.path(), &format!("sys/bus/virtio/devices/{device}/device"), number);
    }
    write(dir.path(), "sys/bus/virtio/devices/virtio2/driver/bind", "");
    write(dir.path(), "proc/pressure/memory", "");
    let facts = gather(Ok(layered(dir.path(), &Address::default())), dir.path()).await;
    let seen = (facts.balloon, facts.virtio_mem, facts.vsock_device);
    assert_eq!(seen, (Driver::Unbound, Driver::Bound, Driver::NoDevice));
    assert!(matches!(facts.pressure, Pressure::Silent(_)));
}
