//! The agent that runs inside a VM: senses what the guest needs and tells the bridge on its host.
//!
//! ```text
//! sense -> demand -> agent -> link -> bridge
//! reads    pure      loop     session
//! ```

pub mod demand;
pub mod sense;
mod watched;
