//! All that tuning rests on, read at one moment: what commands show, with or without a running agent.

use super::{DOMAIN, facts, zram};
use crate::config::Tuning;
use crate::sense::{MemoryReader, SenseError};
use std::collections::BTreeSet;
use std::path::Path;
use vmtide_protocol::bridge::Host;
use vmtide_tuning::journal::Lock;
use vmtide_tuning::{Inventory, InventoryError};

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum GuestInventoryError {
    /// The guest's memory cannot be read.
    #[error(transparent)]
    Sense(#[from] SenseError),
    /// The journal cannot be read.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
}

/// Reads everything for the guest below `root`, compressed swap among the knobs. Only a running agent knows what its `host` is
/// short of, and which units are `held` back on request.
///
/// # Errors
/// [`GuestInventoryError`] when the guest's memory or the journal cannot be read.
pub fn take(
    root: &Path,
    tuning: &Tuning,
    host: Host,
    held: BTreeSet<String>,
) -> Result<Inventory, GuestInventoryError> {
    let memory = MemoryReader::open(root)?.sample()?;
    let facts = facts::read(root, &memory, None, host);
    let inventory = Inventory::take(&DOMAIN, root, &tuning.settings(), facts, held)?;
    // The agent that runs, or else this process.
    let pid = Lock::holder(&tuning.journal).unwrap_or_else(|| "self".into());
    let view = zram::View {
        root,
        settings: tuning.zram.as_ref(),
        mode: tuning.mode,
        facts: &inventory.facts,
        ledger: &inventory.ledger,
        held: inventory.held.contains(zram::ID),
        may_swap: zram::may_swap(root, &pid),
    };
    let row = view.row();
    Ok(inventory.with(zram::knob(tuning.zram.as_ref()), row))
}
