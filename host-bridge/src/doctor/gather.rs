//! Reads what the checks go by; the only part that touches anything.

use super::facts::{Bridge, Facts, Group, Known, Monitor, Running, Socket, Vm};
use crate::api::client::{Client, Error};
use crate::api::types;
use crate::cgroup;
use crate::config::{Address, Config, DEFAULT_CONTROL_SOCKET, VmConfig};
use crate::guests::hybrid_path;
use crate::host::Host;
use crate::hypervisor;
use crate::hypervisor::qemu::qmp::Qmp;
use crate::init::{self, FoundVm};
use nix::unistd::{AccessFlags, access};
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Looks at the host below `root`, its configuration at `path` and the bridge at `control_socket`: at the configured one where
/// that is the default.
pub async fn gather(path: &Path, control_socket: &Path, root: &Path) -> Facts {
    let (config, limit_bytes) = match read(path, root) {
        Ok((config, limit_bytes)) => (Ok(config), Some(limit_bytes)),
        Err(error) => (Err(error), None),
    };
    let control_socket = match &config {
        Ok(config) if control_socket == Path::new(DEFAULT_CONTROL_SOCKET) => config.control_socket.clone(),
        _ => control_socket.to_owned(),
    };
    let (bridge, known) = ask(&control_socket).await;
    let found = init::look(root);
    let mut vms = Vec::new();
    let is_free = matches!(bridge, Bridge::Absent(_));
    for vm in config.as_ref().map(|config| config.vms.as_slice()).unwrap_or_default() {
        let known = known.iter().find(|known| known.name == vm.name);
        vms.push(look(vm, known, &found.vms, root));
    }
    if is_free {
        // All at once: one that hangs holds up no other.
        let asked = vms.iter().map(|vm| (vm.socket == Socket::There).then(|| vm.config.qmp.clone()));
        let asked: Vec<_> = asked.map(|path| path.map(|path| tokio::spawn(monitor(path)))).collect();
        for (vm, asked) in vms.iter_mut().zip(asked) {
            if let Some(task) = asked {
                vm.monitor = Some(task.await.unwrap_or_else(|error| Err(error.to_string())));
            }
        }
    }
    let controllers = fs::read_to_string(root.join("sys/fs/cgroup/cgroup.controllers")).unwrap_or_default();
    Facts {
        path: path.to_owned(),
        config,
        limit_bytes,
        control_socket,
        bridge,
        has_psi: found.has_psi,
        has_cgroup_v2: found.has_cgroup_v2,
        controllers: controllers.trim().to_owned(),
        has_vhost_vsock: found.has_vhost_vsock,
        is_vhost_loaded: root.join("sys/module/vhost_vsock").exists(),
        vms,
    }
}

/// The configuration, held against the host as the bridge does when it starts.
fn read(path: &Path, root: &Path) -> Result<(Config, u64), String> {
    let config = Config::load(path).map_err(|error| crate::full_text(&error))?;
    let host = Host::new(root, config.capacity_bytes, config.reserve_bytes);
    let limit_bytes = host.map_err(|error| crate::full_text(&error))?.limit_bytes();
    config.check_reservations(limit_bytes).map_err(|error| error.to_string())?;
    Ok((config, limit_bytes))
}

async fn ask(control_socket: &Path) -> (Bridge, Vec<types::Vm>) {
    let client = Client::new(control_socket);
    let asked = async { Ok::<_, Error>((client.status().await?, client.vms().await?)) };
    match asked.await {
        Ok((status, vms)) => {
            let reload_error = status.reload.and_then(|reload| reload.error);
            (Bridge::Running(Running { version: status.version, uptime_ms: status.uptime_ms, reload_error }), vms)
        }
        Err(error) => {
            let text = error.to_string();
            let bridge = match error {
                Error::Connect { source, .. } => match source.kind() {
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused => Bridge::Absent(text),
                    ErrorKind::PermissionDenied => Bridge::Hidden(text),
                    _ => Bridge::Broken(text),
                },
                _ => Bridge::Broken(text),
            };
            (bridge, Vec::new())
        }
    }
}

fn look(vm: &VmConfig, known: Option<&types::Vm>, found: &[FoundVm], root: &Path) -> Vm {
    let has_it = |found: &&FoundVm| found.monitors.iter().any(|path| Path::new(path) == vm.qmp);
    let process = found.iter().find(has_it).cloned();
    let group = process.as_ref().map(|process| group(process.pid, root));
    let has_hybrid = match &vm.address {
        Address::Cid(_) => false,
        Address::Hybrid(path) => hybrid_path(path).exists(),
    };
    Vm {
        name: vm.name.clone(),
        config: vm.clone(),
        socket: socket(&vm.qmp),
        known: known.map(Known::from),
        monitor: None,
        process,
        group,
        has_hybrid,
    }
}

impl From<&types::Vm> for Known {
    fn from(vm: &types::Vm) -> Self {
        let agent = &vm.agent;
        Self {
            state: vm.state,
            detail: vm.detail.clone(),
            memory: vm.memory,
            allocation_bytes: vm.allocation_bytes,
            connected_for_ms: agent.connected_for_ms,
            agent: agent.hello.as_ref().map(|hello| (hello.agent.clone(), hello.protocol)),
            report_age_ms: agent.demand_age_ms,
            last_end: agent.last_end.clone(),
        }
    }
}

fn socket(path: &Path) -> Socket {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Socket::Closed,
        Err(_) => Socket::Absent,
        Ok(metadata) if !metadata.file_type().is_socket() => Socket::NoSocket,
        Ok(_) if access(path, AccessFlags::R_OK | AccessFlags::W_OK).is_err() => Socket::Closed,
        Ok(_) => Socket::There,
    }
}

/// Asks, sets nothing, and leaves the monitor to whoever comes next.
async fn monitor(path: PathBuf) -> Result<Monitor, String> {
    let asked = async {
        let mut qmp = Qmp::connect(&path).await?;
        let status = qmp.execute("query-status", json!({})).await?;
        let has_balloon = match qmp.execute("query-balloon", json!({})).await {
            Ok(_) => true,
            Err(hypervisor::Error::Refused { .. }) => false,
            Err(error) => return Err(error),
        };
        Ok(Monitor { is_running: status.get("running").and_then(Value::as_bool).unwrap_or(false), has_balloon })
    };
    asked.await.map_err(|error: hypervisor::Error| error.to_string())
}

fn group(pid: u32, root: &Path) -> Result<Group, String> {
    let pid = i32::try_from(pid).map_err(|error| error.to_string())?;
    let (directory, weight) = cgroup::of(root, pid).map_err(|error| error.to_string())?;
    let closed = access(&weight, AccessFlags::W_OK).err();
    let controllers = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    Ok(Group {
        closed: closed.map(|error| format!("{}: {error}", weight.display())),
        has_io: controllers.split_whitespace().any(|controller| controller == "io"),
        directory,
    })
}
