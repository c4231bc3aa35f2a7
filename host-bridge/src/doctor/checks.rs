//! Facts in, the report out: pure. What is of a single VM is in [`super::vm`].

use super::facts::{Bridge, Facts};
use super::vm;
use crate::config::{Address, Bytes, Config};
use vmtide_protocol::doctor::{Check, Report};

const AS_ROOT: &str = "sudo vmtide doctor";

/// Judges each link, in the order in which they depend on each other.
pub fn report(facts: &Facts) -> Report {
    let mut checks = vec![configuration(facts), bridge(facts), taken_in(facts), vhost(facts), pressure(facts)];
    checks.push(cgroup(facts));
    checks.push(capacity(facts));
    let expiry_ms = facts.config.as_ref().map_or(u64::MAX, expiry_ms);
    for vm in &facts.vms {
        checks.extend(vm::checks(vm, &facts.bridge, expiry_ms));
    }
    Report::new(checks)
}

/// A report older than this counts no more.
fn expiry_ms(config: &Config) -> u64 {
    vmtide_protocol::EXPIRY_INTERVALS.saturating_mul(config.intervals.quiet_ms)
}

fn configuration(facts: &Facts) -> Check {
    let check = Check::new("configuration", "with a wrong one the bridge does not start");
    let path = facts.path.display();
    match &facts.config {
        Err(error) => check.fail(error, format!("vmtide-bridge config check --config {path}")),
        Ok(config) if config.vms.is_empty() => check.warn(format!("{path}: valid, no VMs"), "vmtide init"),
        Ok(config) => check.ok(format!("{path}: valid, {} VMs", config.vms.len())),
    }
}

fn bridge(facts: &Facts) -> Check {
    let check = Check::new("bridge", "it plans; without it balloons stay where they are");
    let own = env!("CARGO_PKG_VERSION");
    match &facts.bridge {
        Bridge::Running(running) if running.version != own => check.warn(
            format!("version {} runs, and this command is {own}", running.version),
            "systemctl restart vmtide-bridge",
        ),
        Bridge::Running(running) => {
            let (socket, seconds) = (facts.control_socket.display(), running.uptime_ms / 1000);
            check.ok(format!("{socket} answers: version {}, runs for {seconds} s", running.version))
        }
        Bridge::Absent(error) => check.fail(error, "systemctl start vmtide-bridge"),
        Bridge::Hidden(error) => check.fail(error, AS_ROOT),
        Bridge::Broken(error) => check.fail(error, "systemctl restart vmtide-bridge"),
    }
}

fn taken_in(facts: &Facts) -> Check {
    let check = Check::new("reload", "whether the bridge runs by the files as they are");
    match &facts.bridge {
        Bridge::Running(running) => match &running.reload_error {
            Some(error) => check.fail(
                format!("not taken in, the configuration from before holds: {error}"),
                format!("vmtide-bridge config check --config {}", facts.path.display()),
            ),
            None => check.ok("nothing was refused"),
        },
        _ => check.skip("no bridge answers"),
    }
}

fn vhost(facts: &Facts) -> Check {
    let check = Check::new("kernel vsock", "the way of guests with a cid to the bridge");
    let loaded = if facts.is_vhost_loaded { "loaded" } else { "built in, or loaded when it is opened" };
    let cids = facts.vms.iter().filter(|vm| matches!(vm.config.address, Address::Cid(_))).count();
    match (facts.has_vhost_vsock, cids) {
        (true, _) => check.ok(format!("/dev/vhost-vsock is there, vhost_vsock is {loaded}")),
        (false, 0) => check.skip("no /dev/vhost-vsock, and no VM has a cid"),
        (false, cids) => check.fail(format!("no /dev/vhost-vsock, and {cids} VMs have a cid"), "modprobe vhost_vsock"),
    }
}

fn pressure(facts: &Facts) -> Check {
    let check = Check::new("pressure (PSI)", "tells whether the host itself waits for memory, CPUs and I/O");
    if facts.has_psi {
        return check.ok("the kernel tells how long tasks wait");
    }
    check.warn("/proc/pressure/memory is not there", "add psi=1 to the kernel's command line, then reboot")
}

fn cgroup(facts: &Facts) -> Check {
    let check = Check::new("cgroup", "weights and quotas of CPU time");
    let missing = |name: &&str| !facts.controllers.split_whitespace().any(|controller| controller == *name);
    let missing: Vec<_> = ["cpu", "io"].into_iter().filter(missing).collect();
    let next = "add systemd.unified_cgroup_hierarchy=1 to the kernel's command line, then reboot";
    match (facts.has_cgroup_v2, missing.is_empty()) {
        (true, true) => check.ok(format!("version 2: {}", facts.controllers)),
        (true, false) => {
            check.warn(format!("version 2 without {}: another hierarchy has it", missing.join(" and ")), next)
        }
        (false, _) => check.warn("not version 2; CPU weights work where version 1 has the controller", next),
    }
}

/// More than there is may be promised: that is what a bridge is for.
fn capacity(facts: &Facts) -> Check {
    let check = Check::new("capacity", "what the VMs may have together, and what they were promised");
    let (Ok(config), Some(limit_bytes)) = (&facts.config, facts.limit_bytes) else {
        return check.skip("not known without a valid configuration");
    };
    let sum =
        |of: fn(&crate::plan::Limits) -> u64| config.vms.iter().map(|vm| of(&vm.limits)).fold(0, u64::saturating_add);
    let maximums_bytes = sum(|limits| limits.maximum_bytes);
    let percent = u128::from(maximums_bytes) * 100 / u128::from(limit_bytes.max(1));
    let found = format!(
        "{} for all; maximums {} ({percent} %), minimums {}, reservations {}",
        Bytes(limit_bytes),
        Bytes(maximums_bytes),
        Bytes(sum(|limits| limits.minimum_bytes)),
        Bytes(sum(|limits| limits.reservation_bytes))
    );
    match config.warning(limit_bytes) {
        Some(_) => check.warn(
            format!("{found}: not all can have their minimum at the same time"),
            format!("lower minimums in {}, then: systemctl reload vmtide-bridge", facts.path.display()),
        ),
        None => check.ok(found),
    }
}
