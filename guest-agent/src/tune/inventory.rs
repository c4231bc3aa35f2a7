//! All that tuning rests on, read at one moment: what commands show, with or without a running agent.

use super::catalogue::{Catalogue, CatalogueError, Knob};
use super::claims::Claims;
use super::journal::{self, JournalError, Ledger, Lock, Record};
use super::zram;
use super::{Facts, Mode, Row, Survey};
use crate::config::{Tuning, Zram};
use crate::sense::{MemoryReader, SenseError};
use nix::time::{ClockId, clock_gettime};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use vmtide_protocol::bridge::Host;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The guest's memory cannot be read.
    #[error(transparent)]
    Sense(#[from] SenseError),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A name that is neither a knob's nor a group's.
    #[error("no knob {name:?}; `vmtide-agent tuning list` shows them")]
    Unknown {
        /// The name.
        name: String,
    },
}

/// The catalogue, the guest and the journal.
#[derive(Debug)]
pub struct Inventory {
    root: PathBuf,
    mode: Mode,
    now_ms: u64,
    /// The knobs.
    pub catalogue: Catalogue,
    /// Entries of the catalogue that are wrong.
    pub errors: Vec<CatalogueError>,
    /// The guest.
    pub facts: Facts,
    /// What was done in this boot.
    pub records: Vec<Record>,
    ledger: Ledger,
    claims: Claims,
    held: BTreeSet<String>,
    zram: Option<Zram>,
    /// The agent that runs, or else this process.
    pid: String,
}

impl Inventory {
    /// Reads everything for the guest below `root`. Only a running agent knows what its `host` is short of, and which units
    /// are `held` back on request.
    ///
    /// # Errors
    /// [`InventoryError`] when the guest's memory or the journal cannot be read.
    pub fn take(root: &Path, tuning: &Tuning, host: Host, held: BTreeSet<String>) -> Result<Self, InventoryError> {
        let memory = MemoryReader::open(root)?.sample()?;
        let (catalogue, errors) = Catalogue::load(&tuning.catalogue);
        let records = journal::read(&tuning.journal, &boot_id(root))?;
        let ledger = Ledger::of_records(&records);
        Ok(Self {
            root: root.into(),
            mode: tuning.mode,
            now_ms: now_ms(),
            catalogue,
            errors,
            facts: Facts::read(root, &memory, None, host),
            records,
            ledger,
            claims: Claims::read(root),
            held,
            zram: tuning.zram.clone(),
            pid: Lock::holder(&tuning.journal).unwrap_or_else(|| "self".into()),
        })
    }

    /// How every knob stands.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = self.of(|survey| survey.rows());
        rows.push(self.zram_row());
        rows
    }

    /// The knobs of the unit that has or holds `name`, and how they stand.
    ///
    /// # Errors
    /// [`InventoryError::Unknown`] when there is no such name.
    pub fn unit(&self, name: &str) -> Result<Vec<(Knob, Vec<Row>)>, InventoryError> {
        if name == zram::ID {
            return Ok(vec![(zram::knob(self.zram.as_ref()), vec![self.zram_row()])]);
        }
        let knobs = self.catalogue.unit(name);
        if knobs.is_empty() {
            return Err(InventoryError::Unknown { name: name.into() });
        }
        Ok(self.of(|survey| knobs.into_iter().map(|knob| (knob.clone(), survey.rows_of(knob))).collect()))
    }

    fn zram_row(&self) -> Row {
        let view = zram::View {
            root: &self.root,
            settings: self.zram.as_ref(),
            mode: self.mode,
            facts: &self.facts,
            ledger: &self.ledger,
            held: self.held.contains(zram::ID),
            may_swap: zram::may_swap(&self.root, &self.pid),
        };
        view.row()
    }

    fn of<T>(&self, look: impl FnOnce(Survey<'_>) -> T) -> T {
        look(Survey {
            root: &self.root,
            catalogue: &self.catalogue,
            facts: &self.facts,
            ledger: &self.ledger,
            claims: &self.claims,
            mode: self.mode,
            held: &self.held,
            now_ms: self.now_ms,
        })
    }
}

/// Tells one boot from another; empty where the guest does not say.
pub fn boot_id(root: &Path) -> String {
    fs::read_to_string(root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default().trim().to_owned()
}

/// Milliseconds since boot, time asleep included.
pub fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
