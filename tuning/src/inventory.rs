//! All that tuning rests on, read at one moment: what commands show, with or without a running daemon.

use crate::catalogue::{Catalogue, CatalogueError, Knob};
use crate::claims::Claims;
use crate::domain::{Domain, Settings};
use crate::journal::{self, JournalError, Ledger, Record};
use crate::{Facts, Mode, Row, Survey};
use nix::time::{ClockId, clock_gettime};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A name that is neither a knob's nor a group's.
    #[error("no knob {name:?}; `{list}` shows them")]
    Unknown {
        /// The name.
        name: String,
        /// The command.
        list: &'static str,
    },
}

/// The catalogue, the machine and the journal.
#[derive(Debug)]
pub struct Inventory {
    root: PathBuf,
    now_ms: u64,
    /// The overall mode.
    pub mode: Mode,
    /// The knobs.
    pub catalogue: Catalogue,
    /// Entries of the catalogue that are wrong.
    pub errors: Vec<CatalogueError>,
    /// The machine.
    pub facts: Facts,
    /// What was done in this boot.
    pub records: Vec<Record>,
    /// What that adds up to.
    pub ledger: Ledger,
    claims: Claims,
    /// Units that an operator had reverted.
    pub held: BTreeSet<String>,
    /// What is no knob, and is shown like one.
    also: Vec<(Knob, Row)>,
}

impl Inventory {
    /// Reads everything but the `facts` of the machine below `root`. Only a running daemon knows which units are `held` back
    /// on request.
    ///
    /// # Errors
    /// [`InventoryError`] when the journal cannot be read.
    pub fn take(
        domain: &'static Domain,
        root: &Path,
        settings: &Settings<'_>,
        facts: Facts,
        held: BTreeSet<String>,
    ) -> Result<Self, InventoryError> {
        let (catalogue, errors) = Catalogue::load(domain, settings.catalogue);
        let records = journal::read(settings.journal, &boot_id(root))?;
        let ledger = Ledger::of_records(&records);
        let claims = Claims::read(root);
        let (mode, now_ms) = (settings.mode, now_ms());
        Ok(Self {
            root: root.into(),
            now_ms,
            mode,
            catalogue,
            errors,
            facts,
            records,
            ledger,
            claims,
            held,
            also: Vec::new(),
        })
    }

    /// With what is no knob, and is shown like one.
    #[must_use]
    pub fn with(mut self, knob: Knob, row: Row) -> Self {
        self.also.push((knob, row));
        self
    }

    /// How every knob stands.
    pub fn rows(&self) -> Vec<Row> {
        let also = self.also.iter().map(|(_, row)| row.clone());
        self.survey().rows().into_iter().chain(also).collect()
    }

    /// The knobs of the unit that has or holds `name`, and how they stand.
    ///
    /// # Errors
    /// [`InventoryError::Unknown`] when there is no such name.
    pub fn unit(&self, name: &str) -> Result<Vec<(Knob, Vec<Row>)>, InventoryError> {
        if let Some((knob, row)) = self.also.iter().find(|(knob, _)| knob.id == name) {
            return Ok(vec![(knob.clone(), vec![row.clone()])]);
        }
        let knobs = self.catalogue.unit(name);
        if knobs.is_empty() {
            return Err(InventoryError::Unknown { name: name.into(), list: self.catalogue.domain.list });
        }
        let survey = self.survey();
        Ok(knobs.into_iter().map(|knob| (knob.clone(), survey.rows_of(knob))).collect())
    }

    fn survey(&self) -> Survey<'_> {
        Survey {
            root: &self.root,
            catalogue: &self.catalogue,
            facts: &self.facts,
            ledger: &self.ledger,
            claims: &self.claims,
            mode: self.mode,
            held: &self.held,
            now_ms: self.now_ms,
        }
    }
}

/// Tells one boot from another; empty where the machine does not say.
pub fn boot_id(root: &Path) -> String {
    fs::read_to_string(root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default().trim().to_owned()
}

/// Milliseconds since boot, time asleep included.
pub fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
