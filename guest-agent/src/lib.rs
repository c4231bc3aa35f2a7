//! The agent that runs inside a VM: senses what the guest needs and tells the bridge on its host.
//!
//! ```text
//! sense ---> demand ---> agent ---> link ---> bridge
//! reads      pure        loop       session
//!                          |
//!                          +------> status: what `vmtide-agent status` shows
//!                          +------> supervisor: tells systemd that it is ready and runs
//!                          +------> tune: sets the guest's knobs, and sets them back, by the crate vmtide-tuning
//!                          +------> cooperate: frees memory when the bridge asks
//! doctor: what `vmtide-agent doctor` finds out about all of that, with or without a running agent
//! ```

pub mod agent;
mod alarm;
pub mod config;
pub mod confine;
pub mod cooperate;
pub mod demand;
pub mod doctor;
#[cfg(test)]
mod fake_bridge;
pub mod link;
pub mod measure;
pub mod observer;
mod said;
pub mod sense;
pub mod status;
pub mod supervisor;
mod table;
pub mod tune;
mod watched;

pub use table::table;
pub use vmtide_tuning::full_text;
