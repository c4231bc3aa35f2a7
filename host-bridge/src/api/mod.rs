//! The control API: JSON over HTTP/1.1 on a unix socket, and metrics as text.
//!
//! ```text
//! vmtide --HTTP--> server --a closure--> bridge loop --its answer--> server --JSON--> vmtide
//! ```
//!
//! The socket's mode (0600, or 0660 for a group that the operator gives the socket to) is the authorization:
//! who can open it can steer the host's VMs.

pub mod client;
pub mod counts;
pub mod metrics;
pub mod optimize;
pub mod server;
pub mod trims;
pub mod types;

use crate::record::{Decision, Event, LeverChange};
use optimize::{Progress, Wish};
use trims::Trim;
use types::{Change, Refusal, Status, Vm};

/// What the API needs of the bridge.
pub trait Control {
    /// The host and the bridge at a glance.
    fn status(&self) -> Status;
    /// All VMs, in the order of the configuration; those that it gained later at the end.
    fn vms(&self) -> Vec<Vm>;
    /// One VM.
    ///
    /// # Errors
    /// An unknown name.
    fn vm(&self, name: &str) -> Result<Vm, Refusal>;
    /// The last `count` decisions of a VM, or of all VMs together, oldest first.
    ///
    /// # Errors
    /// An unknown name.
    fn decisions(&self, vm: Option<&str>, count: usize) -> Result<Vec<Decision>, Refusal>;
    /// The events that came after the one with this sequence.
    fn events(&self, after: u64) -> Vec<Event>;
    /// The last `count` events of a VM and the last `count` of the host, together, oldest first.
    ///
    /// # Errors
    /// An unknown name.
    fn events_about(&self, vm: &str, count: usize) -> Result<Vec<Event>, Refusal>;
    /// The last `count` changes of a VM's CPU time and disks, oldest first.
    ///
    /// # Errors
    /// An unknown name.
    fn levers(&self, vm: &str, count: usize) -> Result<Vec<LeverChange>, Refusal>;
    /// Changes a VM's limits until the bridge restarts.
    ///
    /// # Errors
    /// An unknown name, or limits that cannot be meant; then nothing is changed.
    fn set(&mut self, vm: &str, change: Change) -> Result<Vm, Refusal>;
    /// Pauses or resumes the planning of one VM, or of all.
    ///
    /// # Errors
    /// An unknown name.
    fn pause(&mut self, vm: Option<&str>, paused: bool) -> Result<(), Refusal>;
    /// Asks the guest of a VM to give unused blocks back.
    ///
    /// # Errors
    /// An unknown name, no agent there, or that somebody is at it already.
    fn trim(&mut self, vm: &str) -> Result<Trim, Refusal>;
    /// Begins to optimize VMs for a while, or says what that would do now.
    ///
    /// # Errors
    /// An unknown name, a time that cannot be, or that others are being optimized.
    fn optimize(&mut self, wish: &Wish) -> Result<Progress, Refusal>;
    /// How it goes. It ends when nobody asks for [`optimize::RENEW_WITHIN_MS`].
    ///
    /// # Errors
    /// An unknown id.
    fn optimizing(&mut self, id: u64) -> Result<Progress, Refusal>;
    /// Ends it, if it has not ended.
    ///
    /// # Errors
    /// An unknown id.
    fn end_optimizing(&mut self, id: u64) -> Result<Progress, Refusal>;
}

/// Something to run in the bridge loop.
pub type Call = Box<dyn FnOnce(&mut dyn Control) + Send>;
