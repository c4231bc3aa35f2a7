//! Facts in, the report out: pure.

use super::facts::{Agent, Driver, Facts, Knobs, Port, Pressure, Vsock};
use crate::link::{Address, Greeting, LinkState};
use crate::status::SessionStatus;
use std::io::ErrorKind;
use vmtide_protocol::SUPPORTED;
use vmtide_protocol::bridge::RejectReason;
use vmtide_protocol::doctor::{Check, Report};
use vmtide_tuning::Mode;

/// Of closed knobs this many are named.
const NAMED: usize = 3;
const HOST_DOCTOR: &str = "on the host: vmtide doctor";
const LOAD_VSOCK: &str = "modprobe vmw_vsock_virtio_transport";
const AS_ROOT: &str = "sudo vmtide-agent doctor";

/// Judges each link, in the order in which they depend on each other.
pub fn report(facts: &Facts) -> Report {
    let mut checks = vec![configuration(facts), vm(facts), agent(facts)];
    checks.extend(vsock(facts));
    checks.push(port(facts));
    checks.push(protocol(facts));
    checks.extend(memory(facts));
    checks.push(pressure(facts));
    checks.push(cgroup(facts));
    checks.push(knobs(facts));
    Report::new(checks)
}

fn configuration(facts: &Facts) -> Check {
    let check = Check::new("configuration", "with a wrong one the agent does not start");
    match &facts.config {
        Err(error) => check.fail(error, "vmtide-agent config check"),
        Ok(files) if files.is_empty() => check.ok("the defaults: there are no files"),
        Ok(files) => {
            let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
            check.ok(format!("valid: {}", files.join(", ")))
        }
    }
}

fn vm(facts: &Facts) -> Check {
    let check = Check::new("virtual machine", "the agent is for guests; on a host it has nobody to report to");
    match (&facts.bridge, facts.is_vm) {
        (_, true) => check.ok("the CPU says that there is a hypervisor"),
        (Address::Unix(_), false) => check.skip("none, and the bridge is on a unix socket"),
        (Address::Vsock { .. }, false) => check.fail("none: the CPU says nothing of a hypervisor", HOST_DOCTOR),
    }
}

fn agent(facts: &Facts) -> Check {
    let check = Check::new("agent", "without it the host knows only what the balloon tells");
    match &facts.agent {
        Agent::Running(status) => check.ok(format!("{} runs for {} s", status.agent, status.running_ms / 1000)),
        Agent::Mute { pid, error } => {
            check.fail(format!("process {pid} runs and does not answer: {error}"), "systemctl restart vmtide-agent")
        }
        Agent::Hidden(error) => check.warn(error, AS_ROOT),
        Agent::Absent => check.warn("none runs", "systemctl start vmtide-agent"),
    }
}

/// The device, its file and the guest's number.
fn vsock(facts: &Facts) -> [Check; 3] {
    let device = Check::new("vsock device", "the way to the host");
    let file = Check::new("/dev/vsock", "the agent's unit starts when it is there");
    let cid = Check::new("context id", "by it the bridge knows which VM this is");
    let Address::Vsock { .. } = facts.bridge else {
        return [device, file, cid].map(|check| check.skip(format!("the bridge is at {}", facts.bridge)));
    };
    let device = match facts.vsock_device {
        Driver::Bound => device.ok("virtio, served by its driver"),
        Driver::Unbound => device.fail("virtio, and no driver serves it", LOAD_VSOCK),
        Driver::NoDevice => device.fail(
            "the host gives this VM none",
            "on the host: add -device vhost-vsock-pci,guest-cid=N to QEMU, N from 3 on and a number of its own",
        ),
    };
    let (file, number) = match &facts.vsock {
        Vsock::Absent => (file.fail("there is none", LOAD_VSOCK), None),
        Vsock::Closed(error) => (file.fail(error, AS_ROOT), None),
        Vsock::Open(number) => (file.ok("there, and can be opened"), *number),
    };
    let cid = match number {
        None => cid.skip("not known"),
        Some(number @ 3..u32::MAX) => cid.ok(number.to_string()),
        Some(u32::MAX) => cid.fail("none: no transport is loaded", LOAD_VSOCK),
        Some(number) => cid.fail(format!("{number}, which is no guest's"), HOST_DOCTOR),
    };
    [device, file, cid]
}

fn port(facts: &Facts) -> Check {
    let check = Check::new("bridge", "who takes reports and moves memory");
    let bridge = &facts.bridge;
    if let Agent::Running(status) = &facts.agent {
        return session(check, &status.session);
    }
    let greeting = match &facts.port {
        Port::NotTried(reason) => return check.skip(reason),
        Port::Tried(greeting) => greeting,
    };
    match greeting {
        Greeting::Welcome { vm, .. } => check.ok(format!("{bridge} welcomes VM {vm}")),
        Greeting::Unreachable { kind, text } => {
            let next = match kind {
                ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::NotFound => {
                    "on the host: systemctl start vmtide-bridge"
                }
                // Behind hybrid vsock nobody says that nobody listens.
                ErrorKind::TimedOut => "on the host: systemctl start vmtide-bridge; vmtide doctor",
                ErrorKind::PermissionDenied => AS_ROOT,
                _ => HOST_DOCTOR,
            };
            check.fail(format!("{bridge}: {text}"), next)
        }
        Greeting::Rejected { reason, message } => {
            let next = match reason {
                RejectReason::UnknownVm => {
                    "on the host: give a [[vm]] of /etc/vmtide/bridge.toml this VM's cid, then: systemctl reload vmtide-bridge"
                }
                RejectReason::Version => "vmtide-agent --version; on the host: vmtide --version; upgrade the older",
                RejectReason::TooMany | RejectReason::Slow => "wait a minute, then: vmtide-agent doctor",
                _ => HOST_DOCTOR,
            };
            check.fail(format!("{bridge} rejects this VM ({reason:?}): {message}"), next)
        }
        Greeting::Version(_) => check.ok(format!("{bridge} answers")),
        Greeting::Silent(text) | Greeting::Broken(text) => check.fail(format!("{bridge}: {text}"), HOST_DOCTOR),
    }
}

/// The bridge as the running agent sees it.
fn session(check: Check, session: &SessionStatus) -> Check {
    let (bridge, seconds) = (&session.bridge, session.state_ms / 1000);
    let vm = session.vm.as_deref().unwrap_or("without a name");
    match (session.state, &session.last_error) {
        (LinkState::Connected, _) => {
            check.ok(format!("the running agent has a session with {bridge} for {seconds} s, as VM {vm}"))
        }
        (LinkState::Connecting, None) => check.warn(
            format!("the running agent dials {bridge} for {seconds} s"),
            "wait ten seconds, then: vmtide-agent doctor",
        ),
        (_, error) => {
            let error = error.as_deref().unwrap_or("no reason is known");
            check.fail(format!("the running agent has no session with {bridge}: {error}"), HOST_DOCTOR)
        }
    }
}

fn protocol(facts: &Facts) -> Check {
    let check = Check::new("protocol", "what agent and bridge speak with each other");
    let range = format!("this agent speaks {} to {}", SUPPORTED.min, SUPPORTED.max);
    match (&facts.agent, &facts.port) {
        (Agent::Running(status), _) => match status.session.protocol {
            Some(version) => check.ok(format!("version {version}; {range}")),
            None => check.skip(format!("no session yet; {range}")),
        },
        (_, Port::Tried(Greeting::Welcome { protocol, .. })) => check.ok(format!("version {protocol}; {range}")),
        (_, Port::Tried(Greeting::Version(chosen))) => check.fail(
            format!("the bridge wants version {chosen}; {range}"),
            "vmtide-agent --version; on the host: vmtide --version; upgrade the older",
        ),
        _ => check.skip(format!("no session; {range}")),
    }
}

fn memory(facts: &Facts) -> [Check; 3] {
    let balloon = Check::new("balloon", "how memory leaves this VM and comes back");
    let reporting = Check::new("free page reporting", "gives free memory back without being asked");
    let plugged = Check::new("virtio-mem", "memory that is plugged and unplugged");
    let balloon = match (facts.balloon, facts.deflates_on_oom) {
        (Driver::NoDevice, _) => balloon.fail(
            "the host gives this VM none",
            "on the host: add -device virtio-balloon-pci,deflate-on-oom=on to QEMU",
        ),
        (Driver::Unbound, _) => balloon.fail("there, and no driver serves it", "modprobe virtio_balloon"),
        (Driver::Bound, false) => balloon.warn(
            "served by its driver; it keeps memory although the kernel would kill",
            "on the host: add deflate-on-oom=on to the device",
        ),
        (Driver::Bound, true) => balloon.ok("served by its driver; gives memory back before the kernel kills"),
    };
    let reporting = match (facts.balloon, facts.reports_free_pages) {
        (Driver::Bound, true) => reporting.ok("on"),
        (Driver::Bound, false) => {
            reporting.skip("off: the device has no free-page-reporting=on; vmtide does not need it")
        }
        _ => reporting.skip("no balloon that is served"),
    };
    let plugged = match facts.virtio_mem {
        Driver::NoDevice => plugged.skip("none; vmtide does not need it"),
        Driver::Unbound => plugged.warn("there, and no driver serves it", "modprobe virtio_mem"),
        Driver::Bound if facts.offline_bytes > 0 => plugged.warn(
            format!("{} MiB are plugged in, and nobody has put them to use", facts.offline_bytes >> 20),
            "vmtide-agent tuning explain auto_online_blocks",
        ),
        Driver::Bound => plugged.ok("served by its driver"),
    };
    [balloon, reporting, plugged]
}

fn pressure(facts: &Facts) -> Check {
    let check = Check::new("pressure (PSI)", "tells stalls; without it demand rests on slopes and reclaim events");
    match &facts.pressure {
        Pressure::Told => check.ok("the kernel tells how long tasks wait"),
        Pressure::Silent(error) => {
            check.warn(error, "add psi=1 to the kernel's command line (GRUB_CMDLINE_LINUX), then reboot")
        }
    }
}

fn cgroup(facts: &Facts) -> Check {
    let check = Check::new("cgroup", "memory.reclaim lets the agent free memory when the host asks");
    match (facts.has_cgroup_v2, facts.has_reclaim) {
        (true, true) => check.ok("version 2, with memory.reclaim"),
        (true, false) => check.warn("version 2, without memory.reclaim at its root", "boot Linux 5.19 or later"),
        (false, _) => check
            .warn("not version 2", "add systemd.unified_cgroup_hierarchy=1 to the kernel's command line, then reboot"),
    }
}

fn knobs(facts: &Facts) -> Check {
    let check = Check::new("tuning", "which of the guest's knobs the agent can set");
    match &facts.knobs {
        Knobs::Unknown(error) => check.warn(error, "vmtide-agent tuning list"),
        Knobs::Seen { mode: Mode::Off | Mode::Observe, files, .. } => {
            check.skip(format!("{files} knobs; tuning.mode lets the agent write none"))
        }
        Knobs::Seen { files, closed, errors, .. } if closed.is_empty() && errors.is_empty() => {
            check.ok(format!("{files} knobs, all that apply can be written"))
        }
        Knobs::Seen { files, closed, errors, .. } => {
            let named: Vec<_> = closed.iter().take(NAMED).map(|(path, error)| format!("{path}: {error}")).collect();
            let wrong = errors.iter().take(1).map(|error| format!("the catalogue is wrong: {error}"));
            let rest = closed.len().saturating_sub(NAMED);
            let more = (rest > 0).then(|| format!("and {rest} more"));
            let all: Vec<_> = named.into_iter().chain(more).chain(wrong).collect();
            let found = format!("{} of {files} knobs are closed: {}", closed.len(), all.join("; "));
            let is_permission = closed.iter().any(|(_, error)| error.contains("ermission") || error.contains("EACCES"));
            check.warn(found, if is_permission { AS_ROOT } else { "vmtide-agent tuning list" })
        }
    }
}
