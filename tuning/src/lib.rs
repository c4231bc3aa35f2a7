//! Sets a kernel's knobs: the only part of agent and bridge that writes outside their own files and their VMs'.
//!
//! ```text
//! catalogue (data) --.
//! facts -------------+--> survey --> assess: how each knob stands, what to do (pure)
//! journal (what was) -'                |
//!                                      v
//!                      engine: journal, write, read back ---> trial: did it help? (pure)
//! ```
//!
//! The guest's agent and the host's tuner share it. Each brings a [`Domain`]: its catalogue, the facts that there are, and
//! how those are read. In: facts, readings of how the machine does, the operator's mode. Out: values in `/proc/sys` and
//! `/sys`, each with a record in the journal before it is written, and events for people. What was changed goes back when
//! the daemon stops, when an operator says so, and after a crash; what somebody else has set is theirs.

pub mod assess;
pub mod catalogue;
pub mod claims;
pub mod command;
pub mod confine;
pub mod control;
mod domain;
pub mod engine;
pub mod expression;
pub mod facts;
pub mod hand;
pub mod inventory;
pub mod journal;
pub mod place;
pub mod revert;
pub mod show;
pub mod suggest;
pub mod survey;
pub mod trial;
pub mod trials;
pub mod trust;
pub mod value;
pub mod windows;

#[cfg(test)]
mod example;

pub use catalogue::{Catalogue, Knob, Mode};
pub use domain::{Domain, Settings};
pub use engine::Engine;
pub use facts::Facts;
pub use inventory::{Inventory, InventoryError};
pub use survey::{Row, Survey};

/// An error and all its sources, on one line or more.
pub fn full_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
