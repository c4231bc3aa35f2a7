//! Reads what the checks go by; the only part that touches anything.

use super::facts::{Agent, Driver, Facts, Knobs, Port, Pressure, Vsock};
use crate::agent::hello;
use crate::config::layers::Layered;
use crate::config::{Config, ConfigError};
use crate::cooperate::RECLAIM;
use crate::full_text;
use crate::link::{Address, greet};
use crate::sense::{balloon_deflates_on_oom, balloon_reports_free_pages, offline_bytes};
use crate::status::{self, StatusError};
use crate::tune::facts::is_vm;
use crate::tune::inventory;
use nix::unistd::{AccessFlags, access};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use vmtide_protocol::agent::Hello;
use vmtide_protocol::bridge::Host;
use vmtide_tuning::Mode;
use vmtide_tuning::assess::Standing;
use vmtide_tuning::journal::Lock;

/// Virtio's numbers of its devices (virtio specification, section 5).
const BALLOON: u32 = 5;
const VSOCK: u32 = 19;
const MEMORY: u32 = 24;
/// The first context id that is a guest's.
const FIRST_GUEST: u32 = 3;

/// Looks at the guest below `root`, whose configuration is `config` or wrong. Dials the bridge where no agent does.
pub async fn gather(config: Result<Layered, ConfigError>, root: &Path) -> Facts {
    let (config, files) = match config {
        Ok(layered) => (layered.config, Ok(layered.files)),
        Err(error) => (Config::default(), Err(full_text(&error))),
    };
    let is_machine = root == Path::new("/");
    let mut facts = Facts {
        config: files,
        is_vm: is_vm(root),
        agent: agent(&config),
        vsock_device: driver(root, VSOCK),
        vsock: vsock(root, is_machine),
        port: Port::NotTried(String::new()),
        balloon: driver(root, BALLOON),
        deflates_on_oom: balloon_deflates_on_oom(root),
        reports_free_pages: balloon_reports_free_pages(root),
        virtio_mem: driver(root, MEMORY),
        offline_bytes: offline_bytes(root),
        pressure: pressure(root),
        has_cgroup_v2: root.join("sys/fs/cgroup/cgroup.controllers").exists(),
        has_reclaim: root.join(RECLAIM.trim_start_matches('/')).exists(),
        knobs: knobs(&config, root),
        bridge: config.bridge,
    };
    facts.port = if let Some(reason) = reason_not_to_dial(&facts, is_machine) {
        Port::NotTried(reason.to_owned())
    } else {
        // Nothing is to be asked of a session that ends at once. The boot is the agent's: the bridge keeps what it knows.
        let hello = Hello { capabilities: Vec::new(), ..hello(root, []) };
        Port::Tried(greet(&facts.bridge, &hello).await)
    };
    facts
}

/// Why the bridge is left alone: its address is not known, the session is another's, or this is no guest of its host.
fn reason_not_to_dial(facts: &Facts, is_machine: bool) -> Option<&'static str> {
    let is_guest = facts.is_vm && facts.vsock_device == Driver::Bound;
    match (&facts.config, &facts.agent, &facts.bridge) {
        (Err(_), ..) => Some("not dialled: the configuration is wrong"),
        (_, Agent::Running(_) | Agent::Mute { .. }, _) => Some("not dialled: the session is the running agent's"),
        (_, Agent::Hidden(_), _) => Some("not dialled: an agent may run"),
        (_, Agent::Absent, Address::Unix(_)) => None,
        (_, Agent::Absent, Address::Vsock { .. }) => match facts.vsock {
            Vsock::Open(Some(cid)) if is_machine && is_guest && (FIRST_GUEST..u32::MAX).contains(&cid) => None,
            _ => Some("not dialled: this is no VM with a vsock device"),
        },
    }
}

fn agent(config: &Config) -> Agent {
    match status::ask(&config.status_socket) {
        Ok(status) => Agent::Running(Box::new(status)),
        Err(StatusError::NotRunning { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            Agent::Hidden(format!("{}: {source}", config.status_socket.display()))
        }
        Err(error) => match Lock::holder(&config.tuning.journal) {
            Some(pid) => Agent::Mute { pid, error: full_text(&error) },
            None => Agent::Absent,
        },
    }
}

/// How the first virtio device of that number is served; a second one does not make up for it.
fn driver(root: &Path, number: u32) -> Driver {
    let devices = fs::read_dir(root.join("sys/bus/virtio/devices")).into_iter().flatten().flatten();
    let is_it = |device: &fs::DirEntry| {
        let text = fs::read_to_string(device.path().join("device")).unwrap_or_default();
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16) == Ok(number)
    };
    match devices.filter(is_it).map(|device| device.path().join("driver").exists()).min() {
        None => Driver::NoDevice,
        Some(false) => Driver::Unbound,
        Some(true) => Driver::Bound,
    }
}

fn vsock(root: &Path, is_machine: bool) -> Vsock {
    match File::open(root.join("dev/vsock")) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vsock::Absent,
        Err(error) => Vsock::Closed(error.to_string()),
        Ok(_) if is_machine => {
            vsock::get_local_cid().map_or_else(|error| Vsock::Closed(error.to_string()), |cid| Vsock::Open(Some(cid)))
        }
        Ok(_) => Vsock::Open(None),
    }
}

fn pressure(root: &Path) -> Pressure {
    // With `psi=0` the file may be there, and only reading it tells.
    match fs::read_to_string(root.join("proc/pressure/memory")) {
        Ok(text) if text.contains("some") => Pressure::Told,
        Ok(_) => Pressure::Silent("/proc/pressure/memory says nothing".to_owned()),
        Err(error) => Pressure::Silent(format!("/proc/pressure/memory: {error}")),
    }
}

fn knobs(config: &Config, root: &Path) -> Knobs {
    let inventory = match inventory::take(root, &config.tuning, Host::default(), BTreeSet::new()) {
        Ok(inventory) => inventory,
        Err(error) => return Knobs::Unknown(full_text(&error)),
    };
    let mut closed = Vec::new();
    let rows = inventory.rows();
    for row in &rows {
        if matches!(row.standing, Standing::NotPermitted | Standing::Failed) {
            closed.push((row.path.clone(), row.detail.clone()));
        } else if row.current.is_some() && row.wanted.is_some() && row.mode > Mode::Observe {
            // Asks, and writes nothing: /proc/sys may be read-only, as in a container.
            let path = root.join(row.path.trim_start_matches('/'));
            closed.extend(access(&path, AccessFlags::W_OK).err().map(|error| (row.path.clone(), error.to_string())));
        }
    }
    let errors = inventory.errors.iter().map(|error| full_text(error)).collect();
    Knobs::Seen { mode: config.tuning.mode, files: rows.len(), closed, errors }
}
