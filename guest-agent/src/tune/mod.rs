//! Tunes the guest, by the engine that it shares with the host ([`vmtide_tuning`]).
//!
//! ```text
//! catalogue/*.toml ----.
//! facts (the guest) ---+--> engine --> /proc/sys, /sys
//! zram (compressed swap, in the same journal)
//! ```
//!
//! In: samples and host hints from the agent's loop, the operator's mode. Out: knobs that hold what suits the guest, and events
//! for the bridge.

pub mod facts;
pub mod inventory;
pub mod tuner;
pub mod zram;

pub use tuner::Tuner;

use std::path::Path;
use vmtide_tuning::{Catalogue, Domain};

/// The guest's knobs and facts.
pub static DOMAIN: Domain = Domain {
    machine: "guest",
    daemon: "agent",
    list: "vmtide-agent tuning list",
    files: &[
        ("memory.toml", include_str!("catalogue/memory.toml")),
        ("cpu.toml", include_str!("catalogue/cpu.toml")),
        ("storage.toml", include_str!("catalogue/storage.toml")),
        ("network.toml", include_str!("catalogue/network.toml")),
    ],
    facts: facts::KNOWN,
    reserved: &[(zram::ID, "it is no knob: [tuning.zram] in agent.toml says what it should be")],
    undo: |root, owned| (owned.knob == zram::ID).then(|| zram::remove(root, owned)),
};

/// The knobs as they are without an operator's files.
pub fn built_in() -> Catalogue {
    Catalogue::load(&DOMAIN, Path::new("/dev/null/none")).0
}

#[cfg(test)]
mod tests;
