//! Follows the guest: looks at every knob when something may have changed, and does what the assessment says.
//!
//! In: samples from the agent's loop, host hints, an operator's requests. Out: writes, and [`TuneEvent`]s for the bridge.
//! It looks at once when the host's hints change, soon when the guest's memory does, and else each [`CHECK_MS`], which is
//! also how long somebody else's value may go unnoticed. While no fact changes, only what it has set is looked at, and
//! the rest each [`FULL_MS`].

use super::assess::{Action, Standing};
use super::catalogue::Catalogue;
use super::claims::Claims;
use super::control::{Answer, Request};
use super::hand::{Hand, Undone};
use super::inventory::boot_id;
use super::journal::{Journal, Ledger, Lock, LockError, Outcome};
use super::revert::ids_of;
use super::trials::Trials;
use super::value::Value;
use super::window::Windows;
use super::{Facts, Mode, Row, Survey, zram};
use crate::config::{Tuning, Zram};
use crate::observer::Samples;
use crate::sense::{MemorySample, offline_bytes};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tracing::{info, warn};
use vmtide_protocol::bridge::Host;

/// How often what was set is looked at, and whether facts may have changed.
pub const CHECK_MS: u64 = 60_000;
/// How often all facts are read and every knob is looked at, and the files of sysctl.d, while nothing moves.
pub const FULL_MS: u64 = 300_000;
/// The shortest time between two looks because memory moved.
const SOON_MS: u64 = 2_000;
/// The balance of refaults is taken over this time at least, and twice as long at most.
const BALANCE_MS: u64 = 60_000;

/// Something that happened to a knob, for a person.
pub type TuneEvent = String;

/// The engine's state.
#[derive(Debug)]
pub struct Tuner {
    root: PathBuf,
    mode: Mode,
    catalogue: Catalogue,
    claims: Claims,
    /// When every knob was looked at.
    full_ms: Option<u64>,
    /// `None`: nothing is written, as there is no journal.
    hand: Option<Hand>,
    _lock: Option<Lock>,
    host: Host,
    zram: Option<Zram>,
    facts: Facts,
    /// Nothing seemed to have moved since they were read.
    facts_are_old: bool,
    /// Units that an operator had reverted.
    held: BTreeSet<String>,
    /// What the kernel refused, and when to try it again.
    refused: BTreeMap<String, (Value, u64)>,
    /// An older and a newer sample, for the balance of refaults.
    balance: Option<[(u64, MemorySample); 2]>,
    looked_ms: Option<u64>,
    host_changed: bool,
    paused_until_ms: u64,
    windows: Windows,
    trials: Trials,
    /// What was set since the last look.
    set: Vec<String>,
    events: Vec<TuneEvent>,
    /// What was offline at the last full look.
    offline_bytes: u64,
}

impl Tuner {
    /// Takes the journal's lock, puts back what a killed agent left, and sets up compressed swap where an operator asked
    /// for it.
    ///
    /// # Errors
    /// [`LockError::Held`] when another agent runs. Without a place for a journal it only observes.
    pub fn start(root: &Path, tuning: &Tuning, now_ms: u64) -> Result<Self, LockError> {
        let (catalogue, errors) = Catalogue::load(&tuning.catalogue);
        for error in errors {
            warn!("{}", crate::full_text(&error));
        }
        let lock = match Lock::take(&tuning.journal) {
            Ok(lock) => Some(lock),
            Err(error @ LockError::Held { .. }) => return Err(error),
            Err(error) => {
                warn!("nothing will be tuned: {}", crate::full_text(&error));
                None
            }
        };
        let journal = lock.as_ref().and_then(|_| match Journal::open(&tuning.journal, &boot_id(root)) {
            Ok(journal) => Some(journal),
            Err(error) => {
                warn!("nothing will be tuned: {}", crate::full_text(&error));
                None
            }
        });
        let mut tuner = Self {
            root: root.into(),
            mode: tuning.mode,
            catalogue,
            claims: Claims::default(),
            full_ms: None,
            hand: journal.map(|journal| Hand::new(root, journal)),
            _lock: lock,
            host: Host::default(),
            zram: tuning.zram.clone(),
            facts: Facts::default(),
            facts_are_old: false,
            held: BTreeSet::new(),
            refused: BTreeMap::new(),
            balance: None,
            looked_ms: None,
            host_changed: false,
            paused_until_ms: 0,
            windows: Windows::default(),
            trials: Trials::default(),
            set: Vec::new(),
            events: Vec::new(),
            offline_bytes: 0,
        };
        let undone = tuner.restore(|_| true, now_ms);
        let back = undone.iter().filter(|file| file.outcome == Some(Outcome::Restored)).count();
        if back > 0 {
            tuner.say(format!("put back {back} files that an agent left when it was killed"));
        }
        tuner.set_up_zram(now_ms);
        Ok(tuner)
    }

    /// Takes over what the bridge says; returns whether to [`Tuner::tend`] at once.
    pub fn hear(&mut self, host: Host) -> bool {
        let is_new = self.host != host;
        self.host = host;
        self.host_changed |= is_new;
        is_new
    }

    /// Leaves the knobs as they are until `until_ms`.
    pub fn pause(&mut self, until_ms: u64) {
        self.paused_until_ms = until_ms;
    }

    /// Looks at the knobs if it is time; returns what happened.
    pub fn tend(&mut self, now_ms: u64, samples: &Samples) -> Vec<TuneEvent> {
        if self.mode != Mode::Off
            && now_ms >= self.paused_until_ms
            && let Some(memory) = &samples.memory
        {
            if self.mode == Mode::Adaptive {
                self.windows.add(now_ms, samples);
            }
            if self.is_time(now_ms, memory) {
                self.look(now_ms, memory);
            }
            self.try_out(now_ms);
        }
        if !self.set.is_empty() {
            let set = std::mem::take(&mut self.set).join(", ");
            self.events.push(format!("set {set}"));
        }
        std::mem::take(&mut self.events)
    }

    /// Does what an operator asks.
    pub fn serve(&mut self, request: &Request, now_ms: u64) -> Answer {
        let Request::Revert { name } = request;
        let ids = match name.as_deref().map(|name| ids_of(&self.catalogue, name)).transpose() {
            Ok(ids) => ids,
            Err(error) => return Answer::Failed { message: error.to_string() },
        };
        let is_meant = |id: &str| ids.as_ref().is_none_or(|ids| ids.iter().any(|meant| meant == id));
        let units = self.catalogue.knobs.iter().filter(|knob| is_meant(&knob.id)).map(|knob| knob.unit().to_owned());
        self.held.extend(units);
        if is_meant(zram::ID) {
            self.held.insert(zram::ID.into());
        }
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

    /// How many files hold vmtide's value.
    pub fn applied(&self) -> usize {
        self.ledger().owned.len()
    }

    /// Units that an operator had reverted.
    pub fn held(&self) -> &BTreeSet<String> {
        &self.held
    }

    fn ledger(&self) -> &Ledger {
        const NONE: &Ledger = &Ledger { owned: Vec::new(), taken: BTreeMap::new(), tried: BTreeMap::new() };
        self.hand.as_ref().map_or(NONE, |hand| hand.journal().ledger())
    }

    fn is_time(&self, now_ms: u64, memory: &MemorySample) -> bool {
        let Some(looked_ms) = self.looked_ms else { return true };
        let since_ms = now_ms.saturating_sub(looked_ms);
        self.host_changed
            || since_ms >= CHECK_MS
            || (since_ms >= SOON_MS && Some(Facts::memory_now(memory)) != self.facts.get("memory_now_bytes"))
    }

    /// Reads the guest and does what each knob's assessment says.
    fn look(&mut self, now_ms: u64, memory: &MemorySample) {
        self.looked_ms = Some(now_ms);
        let is_due = self.full_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= FULL_MS);
        if is_due {
            self.full_ms = Some(now_ms);
            self.claims = Claims::read(&self.root);
        }
        let may_differ = std::mem::take(&mut self.host_changed) || self.has_moved(memory);
        self.facts_are_old = true;
        let has_changed = (is_due || may_differ) && self.renews_facts(memory);
        let is_full = is_due || has_changed;
        if is_full && self.look_after_zram(now_ms) {
            self.read_facts(memory);
        }
        if is_full {
            self.look_for_offline_memory();
        }
        let [_, newer] = *self.balance.get_or_insert([(now_ms, *memory); 2]);
        if now_ms.saturating_sub(newer.0) >= BALANCE_MS {
            self.balance = Some([newer, (now_ms, *memory)]);
        }
        let mut units: Vec<_> = self.catalogue.knobs.iter().map(|knob| knob.unit().to_owned()).collect();
        units.dedup();
        units.retain(|unit| is_full || self.ledger().owned.iter().any(|owned| self.is_of(unit, &owned.knob)));
        for unit in units {
            // What the kernel computed anew is let go, and then looked at once more.
            let were_set = self.set.len();
            if self.apply(&unit, now_ms, memory) {
                self.apply(&unit, now_ms, memory);
            }
            if self.set.len() > were_set {
                // One knob may be another's fact: huge pages decide what the kernel keeps free.
                self.read_facts(memory);
            }
        }
    }

    /// Says so when memory that the host plugged in is of no use here.
    fn look_for_offline_memory(&mut self) {
        let bytes = if self.facts.get("virtio_mem") == Some(true.into()) { offline_bytes(&self.root) } else { 0 };
        if bytes > 0 && bytes != self.offline_bytes {
            self.say(format!("{} MiB were plugged in and stay offline: set auto_online_blocks", bytes >> 20));
        }
        self.offline_bytes = bytes;
    }

    /// Without a journal nothing is written.
    fn mode_here(&self) -> Mode {
        if self.hand.is_some() { self.mode } else { self.mode.min(Mode::Observe) }
    }

    /// Whether memory or refaults differ from what the facts rest on. In a guest where nothing moves the other facts wait for
    /// the look at everything: reading them is most of what a look costs.
    fn has_moved(&self, memory: &MemorySample) -> bool {
        let refaulted = |sample: &MemorySample| (sample.refault_anon_bytes, sample.refault_file_bytes);
        Some(Facts::memory_now(memory)) != self.facts.get("memory_now_bytes")
            || self.balance.is_none_or(|[_, (_, newer)]| refaulted(&newer) != refaulted(memory))
    }

    /// Reads the facts; whether any has changed.
    fn renews_facts(&mut self, memory: &MemorySample) -> bool {
        let before = std::mem::take(&mut self.facts);
        self.read_facts(memory);
        self.facts != before
    }

    fn read_facts(&mut self, memory: &MemorySample) {
        let before = self.balance.as_ref().map(|[(_, older), _]| older);
        self.facts = Facts::read(&self.root, memory, before, self.host);
        self.facts_are_old = false;
    }

    /// The files of a unit's knobs, and how they stand.
    fn rows(&self, unit: &str, now_ms: u64) -> Vec<Row> {
        let survey = Survey {
            root: &self.root,
            catalogue: &self.catalogue,
            facts: &self.facts,
            ledger: self.ledger(),
            claims: &self.claims,
            mode: self.mode_here(),
            held: &self.held,
            now_ms,
        };
        let knobs = self.catalogue.knobs.iter().filter(|knob| knob.unit() == unit);
        knobs.flat_map(|knob| survey.rows_of(knob)).collect()
    }

    /// Does what a unit needs; returns whether something of it has to be looked at again.
    fn apply(&mut self, unit: &str, now_ms: u64, memory: &MemorySample) -> bool {
        let mut rows = self.rows(unit, now_ms);
        if self.facts_are_old && rows.iter().any(|row| matches!(row.action, Action::Close(_))) {
            // Whether somebody else was at it or the kernel computed it anew, only the facts tell.
            if self.renews_facts(memory) {
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

    fn say(&mut self, event: TuneEvent) {
        info!("{event}");
        self.events.push(event);
    }
}

/// A unit is changed as one: where one of its files cannot be, none is.
fn breaks_its_group(row: &Row) -> bool {
    use Standing::{Absent, Failed, NotPermitted, OtherOwner, TakenBySomeoneElse};
    matches!(row.standing, Absent | Failed | NotPermitted | OtherOwner | TakenBySomeoneElse)
}

mod changing;
mod swapping;
mod trying;

#[cfg(test)]
mod tests;
