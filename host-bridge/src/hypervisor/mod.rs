//! The hypervisors: one trait, one folder or file each.
//!
//! A [`Machine`] is a live connection to one VM's hypervisor. [`driver`] owns it in a task of its own, so that a
//! hypervisor that does not answer delays nobody else:
//!
//! ```text
//!            connect            read, set_target, events
//!  absent ----------> attached -------------------------+
//!    ^  ^                |  ^                            |
//!    |  |  process gone  |  +----------------------------+
//!    |  +----------------+
//!    |                   | no answer in time, connection lost, process alive
//!    |   process gone    v
//!    +-------------- unreachable: what the VM had counts on; connect again with back-off
//! ```
//!
//! What the VM has is never assumed from what was asked: it is read back.

pub mod actuators;
pub mod driver;
mod plugging;
mod process;
pub mod qemu;

pub use process::Process;

use crate::plan::actuator::{Parts, Split};
use crate::plan::cpu::Vcpus;
use crate::plan::storage::Throttle;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::path::PathBuf;

/// What a hypervisor says of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineState {
    /// The most that it can have: an empty balloon, and all plugged in that can be.
    pub ram_bytes: u64,
    /// What it has now.
    pub allocation_bytes: u64,
    /// Whether the guest executes.
    pub running: bool,
    /// Whether there is a balloon to move.
    pub has_balloon: bool,
    /// In use as the balloon's statistics show it: allocation minus what the guest calls available. `None`
    /// without a recent and possible statistic.
    pub shown_use_bytes: Option<u64>,
    /// What the guest calls free (MemFree), from the same statistic.
    pub shown_free_bytes: Option<u64>,
    /// What the hypervisor's process holds of the guest's memory, about: a guest does not touch all that it has. `None`
    /// where the kernel does not tell.
    pub resident_bytes: Option<u64>,
    /// What its memory is made of.
    pub memory: Makeup,
}

/// What a VM's memory is made of, and what moves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Makeup {
    /// Boot memory, balloon, virtio-mem.
    pub parts: Parts,
    /// How the last target is reached.
    pub split: Option<Split>,
    /// Whether there is virtio-mem to which nobody in the guest answers.
    pub is_plug_dead: bool,
    /// Whether the guest tells QEMU which pages are free. They go back to the host, and are no promise: the guest takes them again
    /// when it likes, so they count for it as before.
    pub free_page_reporting: bool,
}

impl MachineState {
    /// Whether there is something to move.
    pub fn is_movable(&self) -> bool {
        self.has_balloon || self.memory.parts.pluggable_bytes > 0
    }
}

/// What a VM's disks did, counted since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoSeen {
    /// Disks that its hypervisor can hold to a rate.
    pub disks: usize,
    /// Reads and writes done.
    pub ops: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// Reads and writes done on disks that nobody limits.
    pub timed_ops: u64,
    /// How long those took together, queueing included, microseconds.
    pub timed_us: u64,
    /// The images that are files.
    pub images: Vec<PathBuf>,
}

/// What came of holding a VM's disks to a rate, or of letting them go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Disks that can be held.
    pub disks: usize,
    /// Those that were changed.
    pub changed: usize,
    /// What was left alone, with the reason.
    pub left: Vec<String>,
}

/// What a hypervisor reports by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The VM has this much now.
    Allocation(u64),
    /// Something else changed (stopped, resumed, reset, …): read the state.
    Changed,
}

/// Why a hypervisor cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens on the socket: there is no such VM now.
    #[error("{path}: no VM listens there ({source})")]
    Absent {
        /// The monitor's socket.
        path: String,
        /// What the connect said.
        source: std::io::Error,
    },
    /// The connection broke or could not be made.
    #[error("{path}: {source}")]
    Lost {
        /// The monitor's socket.
        path: String,
        /// What happened.
        source: std::io::Error,
    },
    /// It did not answer in time.
    #[error("{path}: no answer to {command} within {timeout_ms} ms")]
    Timeout {
        /// The monitor's socket.
        path: String,
        /// What was asked.
        command: &'static str,
        /// How long it was waited for.
        timeout_ms: u64,
    },
    /// It answered with an error.
    #[error("{path}: {command} was refused: {message}")]
    Refused {
        /// The monitor's socket.
        path: String,
        /// What was asked.
        command: &'static str,
        /// The hypervisor's words.
        message: String,
    },
    /// It answered something that cannot be understood.
    #[error("{path}: the answer to {command} makes no sense: {message}")]
    Senseless {
        /// The monitor's socket.
        path: String,
        /// What was asked.
        command: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

/// A live connection to one VM's hypervisor.
///
/// Every method returns within a bounded time. After an error the connection is of no use, but for
/// [`Error::Refused`].
pub trait Machine: Send + Sized + 'static {
    /// Where a machine is found.
    type Address: Clone + Send + Sync + 'static;

    /// Connects.
    ///
    /// # Errors
    /// [`Error::Absent`] where there is no VM, any other for a VM that cannot be talked to.
    fn connect(address: &Self::Address) -> impl Future<Output = Result<Self, Error>> + Send;

    /// Reads the state of the VM.
    ///
    /// # Errors
    /// Any [`Error`].
    fn read(&mut self) -> impl Future<Output = Result<MachineState, Error>> + Send;

    /// Reads only what the VM has now: what is asked often while memory moves. `u64::MAX` for a VM that says
    /// nothing sensible: it counts with all of its memory.
    ///
    /// # Errors
    /// Any [`Error`].
    fn allocation_bytes(&mut self) -> impl Future<Output = Result<u64, Error>> + Send;

    /// What the VM's memory was made of at the last reading.
    fn memory(&self) -> Makeup;

    /// Asks for an allocation of `target_bytes`; it is reached, or not, later.
    ///
    /// # Errors
    /// Any [`Error`].
    fn set_target(&mut self, target_bytes: u64) -> impl Future<Output = Result<(), Error>> + Send;

    /// The VM's vCPUs; `None` for a machine whose vCPUs are as they are.
    ///
    /// # Errors
    /// Any [`Error`].
    fn vcpus(&mut self) -> impl Future<Output = Result<Option<Vcpus>, Error>> + Send;

    /// Plugs one vCPU in; the guest takes notice later.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Refused`] where the machine cannot, or has no place left.
    fn plug_vcpu(&mut self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Asks the guest to let go of a vCPU that was plugged in before; it goes, or not, later.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Refused`] where none was plugged in.
    fn unplug_vcpu(&mut self) -> impl Future<Output = Result<(), Error>> + Send;
    /// Reads what the VM's disks did.
    ///
    /// # Errors
    /// Any [`Error`].
    fn io(&mut self) -> impl Future<Output = Result<IoSeen, Error>> + Send;

    /// Holds the VM's disks to a rate, all of them together, and with `None` gives them back the limits that they had
    /// before vmtide: also those that an earlier bridge held.
    ///
    /// # Errors
    /// Any [`Error`]; after [`Error::Refused`] all disks have what they had before the call.
    fn hold_io(&mut self, throttle: Option<Throttle>) -> impl Future<Output = Result<Held, Error>> + Send;

    /// Waits for the hypervisor to report something. Cancel safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Lost`] when the connection ends.
    fn notice(&mut self) -> impl Future<Output = Result<Notice, Error>> + Send;

    /// The process behind the connection, where the kernel tells.
    fn process(&self) -> Option<Process>;
}
