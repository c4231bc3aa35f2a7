//! The part of the engine that tries units out: it follows what [`Trials`] say.

use super::Engine;
use crate::assess::Standing;
use crate::catalogue::{Mode, Risk, Signal};
use crate::journal::{Record, Tried};
use crate::show;
use crate::trial::LEAST_WINDOWS;
use crate::trials::{Doing, Trials};
use tracing::{debug, warn};

impl Engine {
    /// Whether a unit is tried out before it is set. Where a wrong value costs little it is set at once, and tried the other
    /// way round once its signal shows something.
    pub(super) fn waits_for_a_trial(&self, unit: &str) -> bool {
        let Some((_, risk)) = self.judged_by(unit) else { return false };
        self.catalogue.mode_of(unit).min(self.mode) == Mode::Adaptive && risk > Risk::Low
    }

    fn judged_by(&self, unit: &str) -> Option<(Signal, Risk)> {
        let knobs = self.catalogue.unit(unit);
        let risk = knobs.iter().map(|knob| knob.risk).max()?;
        Some((knobs.first()?.signal?, risk))
    }

    /// Moves the trial that runs, or begins the next.
    pub fn try_out(&mut self, now_ms: u64) {
        let Some(hand) = &self.hand else { return };
        let doing = if self.trials.is_running() {
            self.trials.step(&self.windows, now_ms)
        } else if self.windows.is_loud() && self.windows.steady() >= LEAST_WINDOWS && self.mode == Mode::Adaptive {
            let ledger = hand.journal().ledger();
            let next = self.catalogue.knobs.iter().find_map(|knob| {
                let unit = knob.unit();
                let (signal, risk) = self.judged_by(unit)?;
                let is_adaptive =
                    self.catalogue.mode_of(unit).min(self.mode) == Mode::Adaptive && !self.held.contains(unit);
                let last = ledger.tried.get(unit);
                if !is_adaptive || self.windows.is_quiet(signal) || !self.trials.may(unit, last, now_ms) {
                    return None;
                }
                let rows = self.rows(unit, now_ms);
                let applied = rows.iter().any(|row| row.standing == Standing::Applied);
                let pending = rows.iter().any(|row| row.standing == Standing::Pending);
                (applied || pending).then(|| (unit.to_owned(), signal, risk, applied))
            });
            let Some((unit, signal, risk, applied)) = next else { return };
            self.trials.begin(&unit, signal, risk, applied, &self.windows, now_ms)
        } else {
            return;
        };
        self.follow(doing, now_ms);
    }

    /// Does what a trial needs.
    fn follow(&mut self, doing: Doing, now_ms: u64) {
        match doing {
            Doing::Wait => {}
            Doing::With(unit) => self.set_unit(&unit, now_ms),
            Doing::Without(unit) => self.put_unit_back(&unit, now_ms),
            Doing::GiveUp { unit, keep, why } => {
                debug!(unit, why, "a trial was given up");
                if keep { self.set_unit(&unit, now_ms) } else { self.put_unit_back(&unit, now_ms) }
            }
            Doing::Judged { unit, verdict } => {
                let reverts = self.ledger().tried.get(&unit).map_or(0, |tried| tried.reverts);
                let written: Vec<_> = self
                    .ledger()
                    .owned
                    .iter()
                    .filter(|owned| self.is_of(&unit, &owned.knob))
                    .map(|owned| owned.written.clone())
                    .collect();
                let tried = Tried {
                    at_ms: now_ms,
                    unit: unit.clone(),
                    verdict,
                    written,
                    retry_at_ms: (!verdict.keep).then(|| now_ms.saturating_add(Trials::back_off_ms(reverts))),
                    reverts: reverts + u32::from(!verdict.keep),
                };
                self.say(format!("{unit}: {}", show::trial(&tried)));
                if verdict.keep {
                    self.set_unit(&unit, now_ms);
                } else {
                    self.put_unit_back(&unit, now_ms);
                }
                if let Some(hand) = &mut self.hand
                    && let Err(error) = hand.note(&Record::Tried(tried))
                {
                    warn!("{}", crate::full_text(&error));
                }
            }
        }
    }

    fn set_unit(&mut self, unit: &str, now_ms: u64) {
        for row in self.rows(unit, now_ms).iter().rev() {
            self.write(row, now_ms);
        }
    }

    fn put_unit_back(&mut self, unit: &str, now_ms: u64) {
        let ids: Vec<_> = self.catalogue.unit(unit).iter().map(|knob| knob.id.clone()).collect();
        self.restore(|id| ids.iter().any(|of_unit| of_unit == id), now_ms);
    }

    pub(super) fn is_of(&self, unit: &str, id: &str) -> bool {
        self.catalogue.knobs.iter().any(|knob| knob.id == id && knob.unit() == unit)
    }
}
