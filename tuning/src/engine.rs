//! Follows the machine: looks at every knob when something may have changed, and does what the assessment says.
//!
//! In: facts and readings from its owner's loop, an operator's requests. Out: writes, and [`Event`]s. While no fact changes,
//! only what it has set is looked at, and the rest each [`FULL_MS`]; what calls for a look is the owner's to know, each
//! [`CHECK_MS`] at the latest, which is also how long somebody else's value may go unnoticed.

use crate::assess::{Action, Standing};
use crate::catalogue::{Catalogue, Knob, Mode};
use crate::claims::Claims;
use crate::control::{Answer, Request};
use crate::domain::{Domain, Settings};
use crate::facts::Facts;
use crate::hand::{Hand, Undone};
use crate::inventory::boot_id;
use crate::journal::{Journal, Ledger, Lock, LockError, Outcome};
use crate::revert::ids_of;
use crate::survey::{Row, Survey};
use crate::trials::Trials;
use crate::value::Value;
use crate::windows::{Reading, Windows};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tracing::{info, warn};

/// How often what was set is looked at, and whether facts may have changed.
pub const CHECK_MS: u64 = 60_000;
/// How often all facts are read and every knob is looked at, and the files of sysctl.d, while nothing moves.
pub const FULL_MS: u64 = 300_000;

/// Something that happened to a knob, for a person.
pub type Event = String;

/// The engine's state.
#[derive(Debug)]
pub struct Engine {
    root: PathBuf,
    mode: Mode,
    catalogue: Catalogue,
    claims: Claims,
    /// When every knob was looked at.
    full_ms: Option<u64>,
    /// `None`: nothing is written, as there is no journal.
    hand: Option<Hand>,
    _lock: Option<Lock>,
    facts: Facts,
    /// Nothing seemed to have moved since they were read.
    facts_are_old: bool,
    /// Units that an operator had reverted.
    held: BTreeSet<String>,
    /// What the kernel refused, and when to try it again.
    refused: BTreeMap<String, (Value, u64)>,
    looked_ms: Option<u64>,
    windows: Windows,
    trials: Trials,
    /// What was set since the last look.
    set: Vec<String>,
    /// How often a file was written or put back.
    changes: u64,
    events: Vec<Event>,
}

impl Engine {
    /// Takes the journal's lock, and puts back what a killed daemon left.
    ///
    /// # Errors
    /// [`LockError::Held`] when another one runs. Without a place for a journal it only observes.
    pub fn start(
        domain: &'static Domain,
        root: &Path,
        settings: &Settings<'_>,
        now_ms: u64,
    ) -> Result<Self, LockError> {
        let (catalogue, errors) = Catalogue::load(domain, settings.catalogue);
        for error in errors {
            warn!("{}", crate::full_text(&error));
        }
        let lock = match Lock::take(settings.journal) {
            Ok(lock) => Some(lock),
            Err(error @ LockError::Held { .. }) => return Err(error),
            Err(error) => {
                warn!("nothing will be tuned: {}", crate::full_text(&error));
                None
            }
        };
        let journal = lock.as_ref().and_then(|_| match Journal::open(settings.journal, &boot_id(root)) {
            Ok(journal) => Some(journal),
            Err(error) => {
                warn!("nothing will be tuned: {}", crate::full_text(&error));
                None
            }
        });
        let mut engine = Self {
            root: root.into(),
            mode: settings.mode,
            catalogue,
            claims: Claims::default(),
            full_ms: None,
            hand: journal.map(|journal| Hand::new(domain, root, journal)),
            _lock: lock,
            facts: Facts::default(),
            facts_are_old: false,
            held: BTreeSet::new(),
            refused: BTreeMap::new(),
            looked_ms: None,
            windows: Windows::default(),
            trials: Trials::default(),
            set: Vec::new(),
            changes: 0,
            events: Vec::new(),
        };
        let undone = engine.restore(|_| true, now_ms);
        let back = undone.iter().filter(|file| file.outcome == Some(Outcome::Restored)).count();
        if back > 0 {
            let killed = domain.daemon;
            engine.say(format!("put back {back} files that a killed {killed} had left"));
        }
        Ok(engine)
    }

    /// Above the machine's files.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What the machine is like, as last read.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// All knobs.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Units that an operator had reverted.
    pub fn held(&self) -> &BTreeSet<String> {
        &self.held
    }

    /// What the journal adds up to.
    pub fn ledger(&self) -> &Ledger {
        const NONE: &Ledger = &Ledger { owned: Vec::new(), taken: BTreeMap::new(), tried: BTreeMap::new() };
        self.hand.as_ref().map_or(NONE, |hand| hand.journal().ledger())
    }

    /// What writes; `None` where there is no journal.
    pub fn hand(&mut self) -> Option<&mut Hand> {
        self.hand.as_mut()
    }

    /// The overall mode; without a journal nothing is written.
    pub fn mode(&self) -> Mode {
        if self.hand.is_some() { self.mode } else { self.mode.min(Mode::Observe) }
    }

    /// How many files hold vmtide's value.
    pub fn applied(&self) -> usize {
        self.ledger().owned.len()
    }

    /// How long ago the last look was; `None` before the first.
    pub fn since_look_ms(&self, now_ms: u64) -> Option<u64> {
        self.looked_ms.map(|looked_ms| now_ms.saturating_sub(looked_ms))
    }

    /// Takes in how the machine does: trials compare such readings.
    pub fn see(&mut self, now_ms: u64, reading: &Reading) {
        if self.mode == Mode::Adaptive {
            self.windows.add(now_ms, reading);
        }
    }

    /// Begins a look: `read` is asked for facts if it is time for all of them, or if they `may_differ`. Returns whether every
    /// knob is to be looked at.
    pub fn begin_look(&mut self, now_ms: u64, may_differ: bool, read: &mut dyn FnMut() -> Facts) -> bool {
        self.looked_ms = Some(now_ms);
        let is_due = self.full_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= FULL_MS);
        if is_due {
            self.full_ms = Some(now_ms);
            self.claims = Claims::read(&self.root);
        }
        self.facts_are_old = true;
        let has_changed = (is_due || may_differ) && self.renew(read());
        is_due || has_changed
    }

    /// Takes over facts; whether any has changed.
    pub fn renew(&mut self, facts: Facts) -> bool {
        let has_changed = self.facts != facts;
        self.facts = facts;
        self.facts_are_old = false;
        has_changed
    }

    /// Does what each knob's assessment says: of every knob, or of those that it has set.
    pub fn look(&mut self, now_ms: u64, is_full: bool, read: &mut dyn FnMut() -> Facts) {
        let mut units: Vec<_> = self.catalogue.knobs.iter().map(|knob| knob.unit().to_owned()).collect();
        units.dedup();
        units.retain(|unit| is_full || self.ledger().owned.iter().any(|owned| self.is_of(unit, &owned.knob)));
        for unit in units {
            // What the kernel computed anew is let go, and then looked at once more.
            let were_changed = self.changes;
            if self.apply(&unit, now_ms, read) {
                self.apply(&unit, now_ms, read);
            }
            if self.changes > were_changed {
                // One knob may be another's fact: huge pages decide what the kernel keeps free.
                self.renew(read());
            }
        }
    }

    /// What happened since it was last asked.
    pub fn take_events(&mut self) -> Vec<Event> {
        if !self.set.is_empty() {
            let set = std::mem::take(&mut self.set).join(", ");
            self.events.push(format!("set {set}"));
        }
        std::mem::take(&mut self.events)
    }

    /// Does what an operator asks.
    pub fn serve(&mut self, request: &Request, now_ms: u64) -> Answer {
        let Request::Revert { name } = request else {
            let facts = self.facts.all().iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            return Answer::Stands { held: self.held.clone(), facts };
        };
        let ids = match name.as_deref().map(|name| ids_of(&self.catalogue, name)).transpose() {
            Ok(ids) => ids,
            Err(error) => return Answer::Failed { message: error.to_string() },
        };
        let is_meant = |id: &str| ids.as_ref().is_none_or(|ids| ids.iter().any(|meant| meant == id));
        let units = self.catalogue.knobs.iter().filter(|knob| is_meant(&knob.id)).map(Knob::unit);
        let reserved = self.catalogue.domain.reserved.iter().map(|(id, _)| *id).filter(|id| is_meant(id));
        self.held.extend(units.chain(reserved).map(str::to_owned));
        self.trials.stop();
        let files = self.restore(is_meant, now_ms);
        self.say(format!("reverted on request: {} files", files.len()));
        Answer::Undone { files }
    }

    /// Puts everything back.
    pub fn stop(&mut self, now_ms: u64) -> Vec<Undone> {
        self.trials.stop();
        self.restore(|_| true, now_ms)
    }

    /// The files of a unit's knobs, and how they stand.
    pub fn rows(&self, unit: &str, now_ms: u64) -> Vec<Row> {
        let survey = Survey {
            root: &self.root,
            catalogue: &self.catalogue,
            facts: &self.facts,
            ledger: self.ledger(),
            claims: &self.claims,
            mode: self.mode(),
            held: &self.held,
            now_ms,
        };
        let knobs = self.catalogue.knobs.iter().filter(|knob| knob.unit() == unit);
        knobs.flat_map(|knob| survey.rows_of(knob)).collect()
    }

    /// Tells of something, in the log and in the events.
    pub fn say(&mut self, event: Event) {
        info!("{event}");
        self.events.push(event);
    }

    /// Does what a unit needs; returns whether something of it has to be looked at again.
    fn apply(&mut self, unit: &str, now_ms: u64, read: &mut dyn FnMut() -> Facts) -> bool {
        let mut rows = self.rows(unit, now_ms);
        if self.facts_are_old && rows.iter().any(|row| matches!(row.action, Action::Close(_))) {
            // Whether somebody else was at it or the kernel computed it anew, only the facts tell.
            if self.renew(read()) {
                self.full_ms = None;
            }
            rows = self.rows(unit, now_ms);
        }
        let mut again = false;
        for row in &rows {
            if let Action::Close(outcome) = row.action {
                again |= outcome == Outcome::KernelReset;
                self.let_go(row, outcome, now_ms);
            }
        }
        if again {
            return true;
        }
        if self.trials.has(unit) {
            return false;
        }
        let is_group = self.catalogue.unit(unit).len() > 1;
        let waits = rows.iter().filter(|row| matches!(row.action, Action::Write(_)));
        if is_group && rows.iter().any(breaks_its_group) {
            let owned: Vec<_> = rows.iter().filter(|row| row.original.is_some()).map(|row| row.knob.clone()).collect();
            self.restore(|id| owned.iter().any(|owned| owned == id), now_ms);
            return false;
        }
        let is_new = waits.clone().count() > 0 && rows.iter().all(|row| row.original.is_none());
        if is_new && self.waits_for_a_trial(unit) {
            return false;
        }
        for row in waits {
            self.write(row, now_ms);
        }
        let over: Vec<_> =
            rows.iter().filter(|row| row.action == Action::Restore).map(|row| row.path.clone()).collect();
        if !over.is_empty() {
            self.restore_files(&over, now_ms);
        }
        false
    }
}

/// A unit is changed as one: where one of its files cannot be, none is.
fn breaks_its_group(row: &Row) -> bool {
    use Standing::{Absent, Failed, NotPermitted, OtherOwner, TakenBySomeoneElse};
    matches!(row.standing, Absent | Failed | NotPermitted | OtherOwner | TakenBySomeoneElse)
}

mod changing;
mod trying;

pub use changing::REFUSED_MS;
