//! What is known of the chain before it is judged.

use crate::api::types::VmState;
use crate::config::{Config, VmConfig};
use crate::hypervisor::Makeup;
use crate::init::FoundVm;
use std::path::PathBuf;

/// The bridge that runs, as far as it is of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its version.
    pub version: String,
    /// How long it runs.
    pub uptime_ms: u64,
    /// Why it did not take in the files as they are now.
    pub reload_error: Option<String>,
}

/// The bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bridge {
    /// It answers.
    Running(Running),
    /// Nobody serves its socket; what connecting gave.
    Absent(String),
    /// This user may not ask it.
    Hidden(String),
    /// Its answer is none.
    Broken(String),
}

/// What the bridge says of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// How its hypervisor stands.
    pub state: VmState,
    /// Why it stands like that.
    pub detail: Option<String>,
    /// What its memory is made of; `None` while its hypervisor does not answer.
    pub memory: Option<Makeup>,
    /// What it has.
    pub allocation_bytes: u64,
    /// How long its agent's session lasts; `None` without one.
    pub connected_for_ms: Option<u64>,
    /// The version of the last session's agent, and of its protocol.
    pub agent: Option<(String, u32)>,
    /// How old the agent's last report is.
    pub report_age_ms: Option<u64>,
    /// Why the agent's last connection ended.
    pub last_end: Option<String>,
}

/// The file of a VM's monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// There is none.
    Absent,
    /// It is something else.
    NoSocket,
    /// This user may not open it.
    Closed,
    /// It can be opened.
    There,
}

/// A VM's monitor, asked by the doctor itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// Whether the guest executes.
    pub is_running: bool,
    /// Whether there is a balloon.
    pub has_balloon: bool,
}

/// The control group of a VM's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Where it is.
    pub directory: PathBuf,
    /// Why this user cannot write its weight.
    pub closed: Option<String>,
    /// Whether it has the io controller.
    pub has_io: bool,
}

/// A VM.
#[derive(Clone, Debug, PartialEq)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// What the files say.
    pub config: VmConfig,
    /// Its monitor's file.
    pub socket: Socket,
    /// What the bridge says; `None` where none runs, or it does not know the VM.
    pub known: Option<Known>,
    /// What its monitor says; `None` where a bridge may hold that.
    pub monitor: Option<Result<Monitor, String>>,
    /// The QEMU that has this monitor, as its command line tells.
    pub process: Option<FoundVm>,
    /// That process' group; `None` without a process.
    pub group: Option<Result<Group, String>>,
    /// Whether the bridge listens at its hybrid socket.
    pub has_hybrid: bool,
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent of each other, each a fact")]
pub struct Facts {
    /// Where the configuration is.
    pub path: PathBuf,
    /// The configuration, or what is wrong with it.
    pub config: Result<Config, String>,
    /// What the VMs may have together; `None` where the host does not tell, or the configuration is wrong.
    pub limit_bytes: Option<u64>,
    /// The bridge's control socket.
    pub control_socket: PathBuf,
    /// Who serves it.
    pub bridge: Bridge,
    /// Whether the kernel tells how long tasks wait.
    pub has_psi: bool,
    /// Whether cgroups are those of version 2.
    pub has_cgroup_v2: bool,
    /// The controllers of version 2.
    pub controllers: String,
    /// Whether there is `/dev/vhost-vsock`.
    pub has_vhost_vsock: bool,
    /// Whether its module is loaded.
    pub is_vhost_loaded: bool,
    /// The VMs of the configuration.
    pub vms: Vec<Vm>,
}
