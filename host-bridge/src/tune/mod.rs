//! Tunes the host's own kernel, by the engine that guests share ([`vmtide_tuning`]).
//!
//! ```text
//! /proc, /sys --> senses: shortages that last, whether merging pages pays --> facts --.
//!             --> reading: how the host does -----------------------------------------+--> engine --> /proc/sys, /sys
//! catalogue/*.toml -------------------------------------------------------------------'
//! ```
//!
//! It is a process of its own, `vmtide-bridge tune`: writing the kernel's files takes root, and the bridge, which listens
//! to guests, is not to have that. It listens to nobody but root's `vmtide tuning revert`. By default it sets nothing
//! (`[tuning] mode = "observe"`), and `vmtide tuning list` tells what it would.

mod daemon;
mod facts;
mod ksm;
mod senses;
mod tuner;

pub use daemon::{DaemonError, run};
pub use senses::Senses;
pub use tuner::{Tuner, TunerError};

use crate::config::TuningConfig;
use std::path::Path;
use vmtide_tuning::{Catalogue, Domain, Settings};

/// The host's knobs and facts.
pub static DOMAIN: Domain = Domain {
    machine: "host",
    daemon: "tuner",
    list: "vmtide tuning list",
    files: &[
        ("memory.toml", include_str!("catalogue/memory.toml")),
        ("cpu.toml", include_str!("catalogue/cpu.toml")),
        ("storage.toml", include_str!("catalogue/storage.toml")),
    ],
    facts: facts::KNOWN,
    reserved: &[],
    undo: |_, _| None,
};

/// The knobs as they are without an operator's files.
pub fn built_in() -> Catalogue {
    Catalogue::load(&DOMAIN, Path::new("/dev/null/none")).0
}

/// What the configuration says, for the engine.
pub fn settings(config: &TuningConfig) -> Settings<'_> {
    Settings { mode: config.mode, catalogue: &config.catalogue, journal: &config.journal }
}

#[cfg(test)]
mod tests;
