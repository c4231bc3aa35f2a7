//! The messages between the agent in a VM and the bridge on its host.
//!
//! One message is one JSON object on one line of at most [`MAX_LINE_BYTES`] bytes. The guest dials port
//! [`PORT`]; the first line is [`agent::Hello`], the answer [`bridge::Welcome`] or [`bridge::Reject`]. Then the
//! agent sends reports and the bridge tells it its allocation:
//!
//! ```text
//! agent                          bridge
//!   | hello ------------------------> |   who runs here, which protocol versions
//!   | <------------------- welcome    |   version, name, intervals, allocation   (or reject, and the end)
//!   | report ------------------------>|   each interval
//!   | urgent ------------------------>|   at once, at most 4 a second
//!   | <---------------- allocation    |   after each confirmed change
//!   | <--- yield_memory {id, …}       |   a request …
//!   | reply {id, …} ----------------->|   … and its one reply
//! ```
//!
//! No message does I/O: [`frame`] cuts bytes into lines, [`decode`] turns a line into a message and says
//! what it did not know. Both sides use the same code, so they cannot disagree. Two modules are no messages: [`doctor`] is the
//! form in which both sides' commands tell how the chain between them stands, and `journal` how both daemons log under systemd.

pub mod agent;
mod amount;
pub mod bridge;
mod decode;
pub mod demand;
pub mod doctor;
pub mod frame;
#[cfg(feature = "journal")]
pub mod journal;
pub mod stalls;
mod version;

pub use agent::AgentMessage;
pub use amount::Amount;
pub use bridge::BridgeMessage;
pub use decode::{DecodeError, Decoded, Wire, decode};
pub use frame::{FrameError, LineBuffer, encode};
pub use stalls::Stalls;
pub use version::{SUPPORTED, VersionRange};

/// The vsock port that a bridge listens on.
pub const PORT: u32 = 7670;

/// The longest line, its newline included.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// The shortest time between two [`agent::AgentMessage::Urgent`] messages: four a second.
pub const URGENT_INTERVAL_MS: u64 = 250;

/// A demand counts for this many *quiet* intervals after it came, also from a busy agent; then the VM is stale.
pub const EXPIRY_INTERVALS: u64 = 3;
