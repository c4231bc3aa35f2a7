//! The part of the engine that has knobs written and put back, and says what came of it.

use super::{CHECK_MS, Engine};
use crate::Row;
use crate::assess::Action;
use crate::catalogue::Knob;
use crate::hand::Undone;
use crate::journal::Outcome;
use crate::value::Value;
use tracing::{debug, info};

/// What the kernel refused is not tried again for this time.
pub const REFUSED_MS: u64 = 600_000;

impl Engine {
    /// Writes what a row says, if it says so.
    pub fn write(&mut self, row: &Row, now_ms: u64) {
        let Action::Write(value) = &row.action else { return };
        let is_refused = |(refused, until_ms): &(Value, u64)| refused == value && *until_ms > now_ms;
        if self.refused.get(&row.path).is_some_and(is_refused) {
            return;
        }
        let Some(knob) = self.catalogue.knobs.iter().find(|knob| knob.id == row.knob) else { return };
        let Some(hand) = &mut self.hand else { return };
        match hand.write(knob, &row.path, value, &self.facts, now_ms) {
            Ok(()) => {
                info!(knob = row.knob, path = row.path, %value, "set");
                let is_tried = self.trials.has(knob.unit());
                self.set.push(format!("{}={value}", row.knob));
                self.changed(is_tried);
            }
            Err(error) => {
                let passes = error.passes();
                if passes {
                    self.full_ms = None;
                }
                let until_ms = now_ms.saturating_add(if passes { CHECK_MS } else { REFUSED_MS });
                self.refused.insert(row.path.clone(), (value.clone(), until_ms));
                self.say(crate::full_text(&error));
            }
        }
    }

    /// A setting is another one from now on.
    fn changed(&mut self, by_trial: bool) {
        self.changes += 1;
        self.windows.clear();
        if !by_trial {
            self.trials.disturb();
        }
    }

    /// A file is not vmtide's any more.
    pub fn let_go(&mut self, row: &Row, outcome: Outcome, now_ms: u64) {
        let found = row.current.as_ref().map(ToString::to_string).unwrap_or_default();
        if let Some(hand) = &mut self.hand {
            hand.close(&row.knob, &row.path, outcome, &found, now_ms);
        }
        match outcome {
            Outcome::Taken | Outcome::PutBack => {
                self.trials.disturb();
                self.say(format!("{}: {}, {} is now {found}", row.knob, row.detail, row.path));
            }
            _ => debug!(knob = row.knob, path = row.path, ?outcome, "let go"),
        }
    }

    /// Puts back, in reverse order, all files of the knobs that `whose` names.
    pub fn restore(&mut self, whose: impl Fn(&str) -> bool, now_ms: u64) -> Vec<Undone> {
        let undone = self.hand.as_mut().map(|hand| hand.restore_all(whose, now_ms)).unwrap_or_default();
        self.report(&undone);
        undone
    }

    /// Puts files back whose reason to be set is over.
    pub(super) fn restore_files(&mut self, paths: &[String], now_ms: u64) {
        let owned: Vec<_> = self.ledger().owned.iter().filter(|owned| paths.contains(&owned.path)).cloned().collect();
        let Some(hand) = &mut self.hand else { return };
        let undone: Vec<_> = owned.iter().rev().map(|owned| hand.restore(owned, now_ms)).collect();
        self.report(&undone);
        let back = undone.iter().filter(|file| file.outcome == Some(Outcome::Restored));
        let back: Vec<_> = back.map(|file| file.knob.as_str()).collect();
        if !back.is_empty() {
            self.events.push(format!("put back {}", back.join(", ")));
        }
    }

    fn report(&mut self, undone: &[Undone]) {
        for file in undone {
            let unit = self.catalogue.knobs.iter().find(|knob| knob.id == file.knob).map(Knob::unit);
            let is_tried = unit.is_some_and(|unit| self.trials.has(unit));
            self.changed(is_tried);
            match file.outcome {
                Some(outcome) => info!(knob = file.knob, path = file.path, ?outcome, "put back"),
                None => self.say(format!("{}: cannot put {} back: {}", file.knob, file.path, file.detail)),
            }
        }
    }
}
