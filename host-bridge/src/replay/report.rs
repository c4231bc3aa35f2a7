//! What a replay comes to.

use super::{Header, Ledger, LeverCounts, Losses, Tick, Verification};
use crate::model::{Figures, Time, VmFigures};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What the recording covers.
    pub span: Span,
    /// What of it cannot be used.
    pub losses: Losses,
    /// Whether the planner is still the same.
    pub verification: Verification,
    /// How often the levers of CPU time and disks were moved.
    pub levers: LeverCounts,
    /// The recorded run; with a wish, also as modelled and as wished.
    pub columns: Vec<Column>,
}

/// What a recording covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Runs of the bridge.
    pub runs: u64,
    /// The versions that wrote.
    pub bridges: BTreeSet<String>,
    /// VMs.
    pub vms: usize,
    /// The first plan, milliseconds since 1970.
    pub from_unix_ms: u64,
    /// The last one in the file; earlier than the first when the wall clock went back.
    pub to_unix_ms: u64,
    /// How often the wall clock went back.
    pub wall_clock_back: u64,
    #[serde(skip)]
    names: BTreeSet<String>,
    #[serde(skip)]
    run: Option<u64>,
    #[serde(skip)]
    has_tick: bool,
}

impl Span {
    pub(super) fn header(&mut self, header: &Header) {
        if self.run.replace(header.run_unix_ms) != Some(header.run_unix_ms) {
            self.runs += 1;
            self.bridges.insert(header.bridge.clone());
        }
    }

    pub(super) fn tick(&mut self, header: &Header, tick: &Tick) {
        self.header(header);
        for name in tick.numbers.iter().filter_map(|number| header.vms.get(*number)) {
            if !self.names.contains(name) {
                self.names.insert(name.clone());
            }
        }
        if !std::mem::replace(&mut self.has_tick, true) {
            self.from_unix_ms = tick.unix_ms;
        } else if tick.unix_ms < self.to_unix_ms {
            self.wall_clock_back += 1;
        }
        self.to_unix_ms = tick.unix_ms;
    }

    pub(super) fn close(self) -> Self {
        Self { vms: self.names.len(), names: BTreeSet::new(), run: None, has_tick: false, ..self }
    }
}

/// The figures of one way to plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Which.
    pub name: String,
    /// The time that the figures cover.
    pub time: Time,
    /// All VMs together.
    pub total: Figures,
    /// Each VM.
    pub vms: BTreeMap<String, VmFigures>,
}

/// A ledger for each run of the bridge, summed by name in the end.
pub(super) struct Books {
    column: Column,
    run: Option<Header>,
    ledger: Ledger,
}

impl Books {
    pub fn new(name: &str) -> Self {
        let column = Column { name: name.to_owned(), ..Column::default() };
        Self { column, run: None, ledger: Ledger::default() }
    }

    /// Takes in `tick`, which stands where `recorded` stood.
    pub fn tick(&mut self, header: &Header, recorded: &Tick, tick: &Tick) {
        if self.run.as_ref().is_none_or(|run| run.run_unix_ms != header.run_unix_ms) {
            self.end_run();
            self.run = Some(header.clone());
        }
        self.ledger.tick(recorded.ms, &recorded.host, &tick.numbers, &tick.views, &tick.plan);
    }

    fn end_run(&mut self) {
        let ledger = std::mem::take(&mut self.ledger);
        let Some(run) = self.run.take() else { return };
        self.column.time = self.column.time.plus(&ledger.time());
        self.column.total = self.column.total.plus(&ledger.total());
        for (number, name) in run.vms.into_iter().enumerate() {
            let figures = self.column.vms.entry(name).or_default();
            *figures = figures.plus(&ledger.vm(number));
        }
    }

    pub fn close(mut self) -> Column {
        self.end_run();
        self.column
    }
}
