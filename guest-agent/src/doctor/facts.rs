//! What is known of the chain before it is judged.

use crate::link::{Address, Greeting};
use crate::status::Status;
use std::path::PathBuf;
use vmtide_tuning::Mode;

/// A virtio device of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// The host gives the guest none.
    NoDevice,
    /// No driver serves it.
    Unbound,
    /// A driver serves it.
    Bound,
}

/// The device file of vsock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vsock {
    /// There is none.
    Absent,
    /// It cannot be opened; why.
    Closed(String),
    /// It gives the guest's context id; `None` where the guest is not this machine.
    Open(Option<u32>),
}

/// The agent of this guest.
#[derive(Clone, Debug, PartialEq)]
pub enum Agent {
    /// It answers.
    Running(Box<Status>),
    /// It holds its lock, and does not answer.
    Mute {
        /// The process.
        pid: String,
        /// What asking it gave.
        error: String,
    },
    /// This user may not ask.
    Hidden(String),
    /// None runs.
    Absent,
}

/// The bridge's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// Not dialled; why.
    NotTried(String),
    /// Dialled.
    Tried(Greeting),
}

/// Whether the kernel tells how long tasks wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// It does.
    Told,
    /// It does not; why.
    Silent(String),
}

/// Whether the guest's knobs can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knobs {
    /// They cannot be looked at; why.
    Unknown(String),
    /// They were looked at.
    Seen {
        /// The most that the operator lets the agent do.
        mode: Mode,
        /// Files of knobs.
        files: usize,
        /// Those that this user cannot read or write, and why.
        closed: Vec<(String, String)>,
        /// Entries of the catalogue that are wrong.
        errors: Vec<String>,
    },
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent of each other, each a fact")]
pub struct Facts {
    /// The files that make the configuration, or what is wrong with them.
    pub config: Result<Vec<PathBuf>, String>,
    /// Where the bridge listens.
    pub bridge: Address,
    /// Whether this is a VM.
    pub is_vm: bool,
    /// Its agent.
    pub agent: Agent,
    /// Its way to the host.
    pub vsock_device: Driver,
    /// The same, as programs reach it.
    pub vsock: Vsock,
    /// The other end.
    pub port: Port,
    /// Its balloon.
    pub balloon: Driver,
    /// Whether the balloon gives way before the kernel kills.
    pub deflates_on_oom: bool,
    /// Whether the balloon tells the host which memory is free.
    pub reports_free_pages: bool,
    /// Memory that can be plugged.
    pub virtio_mem: Driver,
    /// Plugged memory that nobody has put to use.
    pub offline_bytes: u64,
    /// How long tasks wait.
    pub pressure: Pressure,
    /// Whether cgroups are those of version 2.
    pub has_cgroup_v2: bool,
    /// Whether the kernel frees memory on request.
    pub has_reclaim: bool,
    /// What can be tuned.
    pub knobs: Knobs,
}
