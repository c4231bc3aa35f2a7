//! The checks of one VM: pure.

use super::facts::{Bridge, Known, Socket, Vm};
use crate::api::types::VmState;
use crate::config::{Address, Bytes};
use vmtide_protocol::PORT;
use vmtide_protocol::doctor::Check;

/// Judges the links of `vm`, whose agent's report counts for `expiry_ms`.
pub(super) fn checks(vm: &Vm, bridge: &Bridge, expiry_ms: u64) -> [Check; 6] {
    [monitor(vm, bridge), balloon(vm), virtio_mem(vm), address(vm, bridge), agent(vm, expiry_ms), group(vm)]
}

fn check(vm: &Vm, link: &str, why: &str) -> Check {
    Check::new(format!("{}: {link}", vm.name), why)
}

/// What the bridge says goes first: where it runs, the monitor is its own.
fn monitor(vm: &Vm, bridge: &Bridge) -> Check {
    let check = check(vm, "monitor", "how the bridge moves its memory");
    let path = vm.config.qmp.display();
    if let Some(known) = &vm.known {
        return attached(check, vm, known);
    }
    if let Bridge::Running(_) = bridge {
        return check.fail("the bridge that runs does not know this VM", "systemctl reload vmtide-bridge");
    }
    match (vm.socket, &vm.monitor) {
        (_, Some(Ok(monitor))) if monitor.is_running => check.ok(format!("{path} answers: the guest runs")),
        (_, Some(Ok(_))) => check.warn(format!("{path} answers: the guest does not run"), "start or resume the guest"),
        (_, Some(Err(error))) => check.fail(error, format!("see who else is connected: ss -xp | grep {path}")),
        (Socket::There, None) => check.skip(format!("{path}: not asked, a bridge may be connected")),
        _ => no_socket(check, vm),
    }
}

fn attached(check: Check, vm: &Vm, known: &Known) -> Check {
    let detail = known.detail.as_deref().unwrap_or("no reason is known");
    match (known.state, vm.socket) {
        (VmState::Running, _) => {
            check.ok(format!("the bridge is connected: it runs and has {}", Bytes(known.allocation_bytes)))
        }
        (VmState::Stopped, _) => {
            check.warn("the bridge is connected: the guest does not run", "start or resume the guest")
        }
        (VmState::Starting, _) => {
            check.warn("the bridge has not heard of it yet", "wait ten seconds, then: vmtide doctor")
        }
        (VmState::Off, _) => check.skip(format!("the VM is off: {detail}")),
        (VmState::Unreachable, Socket::There) => check.fail(
            format!("the bridge cannot use it: {detail}"),
            format!("see who else is connected: ss -xp | grep {}", vm.config.qmp.display()),
        ),
        (VmState::Unreachable, _) => no_socket(check, vm),
    }
}

fn no_socket(check: Check, vm: &Vm) -> Check {
    let path = vm.config.qmp.display();
    match vm.socket {
        Socket::NoSocket => check.fail(format!("{path} is no socket"), format!("ls -l {path}")),
        Socket::Closed => check.fail(format!("{path}: this user may not open it"), "sudo vmtide doctor"),
        // A VM that is off is nothing broken.
        Socket::Absent | Socket::There => check
            .warn(format!("no VM listens at {path}"), format!("start the VM with -qmp unix:{path},server=on,wait=off")),
    }
}

fn balloon(vm: &Vm) -> Check {
    let check = check(vm, "balloon", "how memory leaves the VM and comes back");
    let memory = vm.known.as_ref().and_then(|known| known.memory);
    let by_monitor = vm.monitor.as_ref().and_then(|monitor| Some(monitor.as_ref().ok()?.has_balloon));
    let has_balloon = memory.map(|memory| memory.parts.balloon_bytes.is_some()).or(by_monitor);
    let has_balloon = has_balloon.or(vm.process.as_ref().map(|process| process.has_balloon));
    let add = "add -device virtio-balloon-pci,deflate-on-oom=on to QEMU";
    match (has_balloon, &vm.process) {
        (None, _) => check.skip("the VM is not seen"),
        (Some(false), _) if memory.is_some_and(|memory| memory.parts.pluggable_bytes > 0) => {
            check.warn("QEMU has none: boot memory is the least that it can be left with", add)
        }
        (Some(false), _) => check.fail("QEMU has none", add),
        (Some(true), Some(process)) if process.has_balloon && !process.deflates_on_oom => {
            check.warn("there; it keeps memory although its guest would kill", "add deflate-on-oom=on to the device")
        }
        (Some(true), _) => check.ok("there"),
    }
}

fn virtio_mem(vm: &Vm) -> Check {
    let check = check(vm, "virtio-mem", "memory that is plugged in and unplugged");
    match (vm.known.as_ref().and_then(|known| known.memory), &vm.process) {
        (Some(memory), _) if memory.parts.pluggable_bytes > 0 => {
            let parts = memory.parts;
            let found = format!("{} of {} plugged in", Bytes(parts.plugged_bytes), Bytes(parts.pluggable_bytes));
            if memory.is_plug_dead {
                return check
                    .warn(format!("{found}; nobody in the guest answers"), "in the guest: modprobe virtio_mem");
            }
            check.ok(found)
        }
        (None, Some(process)) if process.has_virtio_mem => check.ok("on QEMU's command line"),
        (None, None) => check.skip("the VM is not seen"),
        _ => check.skip("none; vmtide does not need it"),
    }
}

/// What the configuration says against what QEMU was started with.
fn address(vm: &Vm, bridge: &Bridge) -> Check {
    let check = check(vm, "address", "by it the bridge knows which VM an agent is in");
    let reload = "then: systemctl reload vmtide-bridge";
    match (&vm.config.address, &vm.process) {
        (Address::Cid(cid), None) => check.skip(format!("cid {cid}; no QEMU with this monitor is seen")),
        (Address::Cid(cid), Some(process)) => match process.cid {
            Some(other) if other == *cid => check.ok(format!("cid {cid}, as QEMU's")),
            Some(other) => {
                check.fail(format!("cid {cid}, and QEMU has {other}"), format!("set cid = {other}, {reload}"))
            }
            None => check.fail(
                format!("cid {cid}, and QEMU has no vsock device with one"),
                format!("add -device vhost-vsock-pci,guest-cid={cid} to QEMU"),
            ),
        },
        (Address::Hybrid(path), process) => {
            let path = path.display();
            let other = process.as_ref().and_then(|process| process.vsock.as_deref());
            match (other, bridge) {
                (Some(other), _) if other != path.to_string() => check.fail(
                    format!("vsock {path}, and QEMU's vhost-device-vsock has {other}"),
                    format!("set vsock = \"{other}\", {reload}"),
                ),
                (_, Bridge::Running(_)) if !vm.has_hybrid => check.fail(
                    format!("the bridge does not listen at {path}_{PORT}"),
                    format!("journalctl -u vmtide-bridge | grep {path}"),
                ),
                (_, Bridge::Running(_)) => check.ok(format!("the bridge listens at {path}_{PORT}")),
                _ => check.skip(format!("vsock {path}; no bridge listens")),
            }
        }
    }
}

fn agent(vm: &Vm, expiry_ms: u64) -> Check {
    let check = check(vm, "agent", "tells what its guest needs; without it the balloon's statistics have to do");
    let Some(known) = &vm.known else { return check.skip("only a bridge knows") };
    if known.state != VmState::Running {
        return check.skip("the guest does not run");
    }
    let next = "in the guest: vmtide-agent doctor";
    let (version, protocol) = known.agent.clone().unwrap_or_default();
    match (known.connected_for_ms, known.report_age_ms) {
        (None, _) => {
            let end = known.last_end.as_ref().map_or("it never came".to_owned(), |end| format!("it ended: {end}"));
            check.warn(format!("no session; {end}"), next)
        }
        (Some(since_ms), None) => check.warn(
            format!("{version} has a session for {} s, protocol {protocol}, without a report", since_ms / 1000),
            next,
        ),
        (Some(_), Some(age_ms)) if age_ms > expiry_ms => {
            check.warn(format!("{version} has a session; its last report is {} s old", age_ms / 1000), next)
        }
        (Some(since_ms), Some(age_ms)) => check.ok(format!(
            "{version} has a session for {} s, protocol {protocol}; last report {age_ms} ms ago",
            since_ms / 1000
        )),
    }
}

fn group(vm: &Vm) -> Check {
    let check = check(vm, "cgroup", "how the VM gets its share of CPU time; it has to be alone in it");
    match &vm.group {
        None => check.skip("no QEMU with this monitor is seen"),
        Some(Err(error)) => check.warn(error, "start QEMU with: systemd-run --scope qemu-system-x86_64 …"),
        Some(Ok(group)) => {
            let io =
                if group.has_io { "the io controller is on" } else { "the io controller is off, vmtide needs none" };
            match &group.closed {
                Some(error) => check.warn(error, "sudo vmtide doctor"),
                None => check.ok(format!("{}: its weight can be written; {io}", group.directory.display())),
            }
        }
    }
}
