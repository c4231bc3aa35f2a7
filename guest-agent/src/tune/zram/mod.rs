//! Compressed swap in memory, for a guest that has no swap at all and an operator who asked for it.
//!
//! ```text
//! settings, facts, journal --> view: how it stands (pure) --> set_up: record, hot_add, disksize, header, swapon
//!                                                             remove: swapoff, hot_remove
//! ```
//!
//! In: `[tuning.zram]`, the guest below a root, the journal. Out: a device that is swapped to, with a record like a knob's:
//! what is written is the UUID in the swap's header. It is set up when the agent starts, before the agent gives up the right
//! to write other files, and it goes away with the knobs: on a clean stop, on request, after a crash. A device without that
//! UUID is somebody else's.

mod device;
mod header;
mod view;

pub use device::{remove, removed_through};
pub use view::{View, may_swap};

use crate::config::Zram;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use vmtide_tuning::catalogue::{Knob, Mode, Risk};
use vmtide_tuning::hand::Hand;
use vmtide_tuning::journal::{JournalError, Outcome, Owned, Record};

/// Its name among the knobs.
pub const ID: &str = "zram";

/// Its place while there is no device.
const CONTROL: &str = "/sys/class/zram-control";

/// Why there is no compressed swap.
#[derive(Debug, thiserror::Error)]
pub enum ZramError {
    /// Nothing is done without a record.
    #[error("no compressed swap")]
    Journal(#[from] JournalError),
    /// The kernel does not take a step.
    #[error("cannot swap to {path}: {step}")]
    Step {
        /// The device.
        path: String,
        /// What was tried.
        step: String,
        /// Why not.
        source: io::Error,
    },
}

/// It as a knob, for people and for its expressions.
pub fn knob(settings: Option<&Zram>) -> Knob {
    let value =
        |settings: &Zram| format!("memory_now_bytes * {} / 100 / 1MiB * 1MiB", settings.size_percent).parse().ok();
    Knob {
        id: ID.into(),
        path: CONTROL.into(),
        twin: None,
        default: Vec::new(),
        twin_default: None,
        group: None,
        value: settings.and_then(value),
        when: "swap_kind == \"none\"".parse().ok(),
        mode: if settings.is_some() { Mode::Static } else { Mode::Off },
        risk: Risk::Medium,
        signal: None,
        kernel_resets_on: Vec::new(),
        why: "Without swap, anonymous memory that nobody touches cannot be given back: the guest evicts the files that it needs. \
              Compressed, it takes a part of its room, for some CPU."
            .into(),
        source: "Documentation/admin-guide/blockdev/zram.rst; section [tuning.zram] of agent.toml".into(),
    }
}

/// Swaps to a new device of `bytes`; returns its path.
///
/// # Errors
/// [`ZramError`]; then there is no device of vmtide's.
pub fn set_up(
    root: &Path,
    hand: &mut Hand,
    bytes: u64,
    algorithm: Option<&str>,
    now_ms: u64,
) -> Result<String, ZramError> {
    // The number is the kernel's to choose, and it takes the lowest. Known beforehand, it can be written down beforehand.
    let number = device::next(root);
    let path = device::path(number);
    let failed = |(step, source)| ZramError::Step { path: path.clone(), step, source };
    let uuid = header::new_uuid(root).map_err(|source| failed(("a new UUID".into(), source)))?;
    hand.note(&Record::Write(Owned {
        at_ms: now_ms,
        knob: ID.into(),
        path: path.clone(),
        original: "none".into(),
        written: uuid.clone(),
        replaced: None,
        twin: None,
        why: knob(None).why,
        facts: BTreeMap::new(),
    }))?;
    let Err(error) = device::create(root, number, bytes, algorithm, &uuid) else { return Ok(path) };
    hand.close(ID, &path, Outcome::Refused, "", now_ms);
    Err(failed(error))
}

#[cfg(test)]
mod tests;
