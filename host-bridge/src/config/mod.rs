//! The bridge's configuration: `bridge.toml`, then the files of `conf.d` beside it in the order of their names.
//!
//! Files in, one checked [`Config`] out, or an [`Error`] that names the file, the key and what is allowed. A
//! later file adds `[[vm]]` entries and overrides single keys of the other sections. A file that somebody else than
//! root and the bridge's user could write is refused; [`Layered`] also knows which line each value is from.

mod bytes;
mod cpus;
mod file;
mod io;
mod layers;
mod policy;
#[cfg(feature = "schema")]
mod schema;
mod trust;

pub(crate) use file::{check_cpu_limits, check_limits};
pub(crate) use io::check_io_limits;

pub use bytes::Bytes;
pub use cpus::Millicpus;
pub use io::Rate;
pub use layers::Layered;
pub use policy::assign;
#[cfg(feature = "schema")]
pub use schema::schema;

use crate::plan::{Limits, Planner, Policy};
use std::path::{Path, PathBuf};
use vmtide_protocol::bridge::Intervals;
use vmtide_tuning::Mode;

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/vmtide/bridge.toml";
/// Where the control socket is unless the configuration says otherwise.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/vmtide/control.sock";
/// Where the history is recorded unless the configuration says otherwise.
pub const DEFAULT_RECORD_DIRECTORY: &str = "/var/lib/vmtide/record";
/// How much history is kept unless the configuration says otherwise.
pub const DEFAULT_RECORD_BYTES: u64 = 64 << 20;
/// Where an operator's knobs of the host are unless the configuration says otherwise.
pub const DEFAULT_CATALOGUE: &str = "/etc/vmtide/host-tuning.d";
/// Where it is written down what was changed of the host unless the configuration says otherwise.
pub const DEFAULT_JOURNAL: &str = "/run/vmtide-tuning/host.journal";
/// Shares of a VM that has none of its own.
pub const DEFAULT_SHARES: u32 = 1000;
/// The most shares a VM can have.
pub const MAXIMUM_SHARES: u32 = 1_000_000;

/// The most that a VM can have, as minimum or as maximum: what an x86-64 address space of 46 bits holds.
pub const MAXIMUM_BYTES: u64 = 64 << 40;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file or folder cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody else could write it.
    #[error("{}: {reason}", path.display())]
    Untrusted {
        /// The file or folder.
        path: PathBuf,
        /// Who could, and what to do.
        reason: String,
    },
    /// Not TOML, an unknown key or a value of the wrong kind; the source has the line.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column, key and what is allowed.
        message: String,
    },
    /// A value that cannot be meant.
    #[error("{}: {key}: {message}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, with the VM's name where it belongs to one.
        key: String,
        /// What was found and what is allowed.
        message: String,
    },
}

/// More is reserved than there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reservation: all VMs together have {} reserved, and capacity less reserve is {}", Bytes(*.reserved_bytes), Bytes(*.limit_bytes))]
pub struct Overreserved {
    /// What is reserved.
    reserved_bytes: u64,
    /// What there is.
    limit_bytes: u64,
}

/// Checks that VMs with these limits can all have their reservations of `limit_bytes`.
pub(crate) fn check_reservations(limits: impl Iterator<Item = Limits>, limit_bytes: u64) -> Result<(), Overreserved> {
    let reserved_bytes = limits.map(|limits| limits.reservation_bytes).fold(0, u64::saturating_add);
    if reserved_bytes > limit_bytes { Err(Overreserved { reserved_bytes, limit_bytes }) } else { Ok(()) }
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What the VMs may have together; `None`: MemTotal of the host.
    pub capacity_bytes: Option<u64>,
    /// What is never given out; `None`: [`crate::host`]'s default for the capacity.
    pub reserve_bytes: Option<u64>,
    /// The control API's socket.
    pub control_socket: PathBuf,
    /// How often agents report.
    pub intervals: Intervals,
    /// Who plans.
    pub planner: Planner,
    /// The planner's numbers.
    pub policy: Policy,
    /// What is kept of the past.
    pub record: RecordConfig,
    /// How the host's own kernel is tuned.
    pub tuning: TuningConfig,
    /// The VMs, in the order they were written.
    pub vms: Vec<VmConfig>,
}

/// The recording of views, decisions and outcomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordConfig {
    /// The folder of its segments.
    pub directory: PathBuf,
    /// The most that all segments may have together; 0: nothing is recorded.
    pub size_bytes: u64,
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self { directory: DEFAULT_RECORD_DIRECTORY.into(), size_bytes: DEFAULT_RECORD_BYTES }
    }
}

/// The tuning of the host's own kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TuningConfig {
    /// No knob does more than this.
    pub mode: Mode,
    /// The folder of files that change or add knobs.
    pub catalogue: PathBuf,
    /// Where it is written down what was changed.
    pub journal: PathBuf,
}

impl Default for TuningConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Observe,
            catalogue: DEFAULT_CATALOGUE.into(),
            // A folder of root's alone: whoever writes the journal says what is put back.
            journal: DEFAULT_JOURNAL.into(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            capacity_bytes: None,
            reserve_bytes: None,
            control_socket: DEFAULT_CONTROL_SOCKET.into(),
            intervals: Intervals::default(),
            planner: Planner::default(),
            policy: Policy::default(),
            record: RecordConfig::default(),
            tuning: TuningConfig::default(),
            vms: Vec::new(),
        }
    }
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// Its name on this host.
    pub name: String,
    /// What the operator set.
    pub limits: Limits,
    /// The same for its CPU time.
    pub cpu: CpuConfig,
    /// The same for its disks.
    pub io: IoConfig,
    /// QEMU's monitor socket.
    pub qmp: PathBuf,
    /// How its agent reaches the bridge.
    pub address: Address,
}

/// What the operator set for a VM's CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuConfig {
    /// Its weight; `None`: as for memory.
    pub shares: Option<u32>,
    /// The least that it can have when it wants it, thousandths of a CPU.
    pub minimum_millicpus: u64,
    /// The most that it gets.
    pub maximum_millicpus: Option<u64>,
}

/// What the operator set for a VM's disks, bytes and operations together: an operation counts as
/// [`crate::plan::storage::OP_BYTES`] besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoConfig {
    /// Its weight; `None`: as for memory.
    pub shares: Option<u32>,
    /// It is never held to less.
    pub minimum_bytes_per_s: u64,
    /// It never does more.
    pub maximum_bytes_per_s: Option<u64>,
}

/// How an agent reaches the bridge; it tells which VM that is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Kernel vsock: the guest's context id.
    Cid(u32),
    /// Hybrid vsock (vhost-user, Firecracker, Cloud Hypervisor): the bridge listens at this path + `_7670`.
    Hybrid(PathBuf),
}

impl Config {
    /// Reads `path` and `conf.d/*.toml` beside it.
    ///
    /// # Errors
    /// [`Error`] for the first thing that is wrong, in the order in which the files are read.
    pub fn load(path: &Path) -> Result<Self, Error> {
        file::load(path)
    }

    /// Checks that all VMs together can have their reservations of `limit_bytes`.
    ///
    /// # Errors
    /// What they are together, and what there is.
    pub fn check_reservations(&self, limit_bytes: u64) -> Result<(), Overreserved> {
        check_reservations(self.vms.iter().map(|vm| vm.limits), limit_bytes)
    }

    /// What an operator should know before it is used with VMs that may have `limit_bytes` together.
    pub fn warning(&self, limit_bytes: u64) -> Option<String> {
        let minimums_bytes = self.vms.iter().map(|vm| vm.limits.minimum_bytes).fold(0, u64::saturating_add);
        (minimums_bytes > limit_bytes).then(|| {
            format!(
                "the minimums of all VMs are {} together, and capacity less reserve is {}: \
                 they cannot all have theirs at the same time",
                Bytes(minimums_bytes),
                Bytes(limit_bytes)
            )
        })
    }
}
