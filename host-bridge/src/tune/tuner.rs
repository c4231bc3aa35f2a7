//! Follows the host: gives the engine its facts and readings, and has it look when something may have changed.

use super::{DOMAIN, Senses, settings};
use crate::config::TuningConfig;
use crate::host::HostError;
use crate::host::monitor::reading;
use crate::plan::Policy;
use std::path::{Path, PathBuf};
use vmtide_tuning::control::{Answer, Request};
use vmtide_tuning::engine::{CHECK_MS, Event};
use vmtide_tuning::hand::Undone;
use vmtide_tuning::journal::LockError;
use vmtide_tuning::{Catalogue, Engine, Mode};

/// Why the host is not tuned.
#[derive(Debug, thiserror::Error)]
pub enum TunerError {
    /// Its memory cannot be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Another process tunes it.
    #[error("another tuner runs")]
    Locked(#[from] LockError),
}

/// The engine, and what its facts come from.
#[derive(Debug)]
pub struct Tuner {
    root: PathBuf,
    mode: Mode,
    senses: Senses,
    engine: Engine,
}

impl Tuner {
    /// Takes the journal's lock, and puts back what a killed tuner left.
    ///
    /// # Errors
    /// [`TunerError`] when another one runs, or the host's memory cannot be read.
    pub fn start(root: &Path, config: &TuningConfig, policy: Policy, now_ms: u64) -> Result<Self, TunerError> {
        let senses = Senses::open(root, policy)?;
        let engine = Engine::start(&DOMAIN, root, &settings(config), now_ms)?;
        Ok(Self { root: root.into(), mode: config.mode, senses, engine })
    }

    /// Looks at the host, and at the knobs if it is time; returns what happened.
    ///
    /// # Errors
    /// [`HostError`] when its memory cannot be read.
    pub fn tend(&mut self, now_ms: u64) -> Result<Vec<Event>, HostError> {
        let has_changed = self.senses.look(now_ms)?;
        if self.mode == Mode::Adaptive
            && let Some(reading) = reading(&self.root, now_ms)
        {
            self.engine.see(now_ms, &reading);
        }
        if has_changed || self.engine.since_look_ms(now_ms).is_none_or(|since_ms| since_ms >= CHECK_MS) {
            let mut read = || self.senses.facts();
            let is_full = self.engine.begin_look(now_ms, true, &mut read);
            self.engine.look(now_ms, is_full, &mut read);
        }
        self.engine.try_out(now_ms);
        Ok(self.engine.take_events())
    }

    /// Does what an operator asks.
    pub fn serve(&mut self, request: &Request, now_ms: u64) -> Answer {
        self.engine.serve(request, now_ms)
    }

    /// Puts everything back.
    pub fn stop(&mut self, now_ms: u64) -> Vec<Undone> {
        self.engine.stop(now_ms)
    }

    /// The knobs, with what an operator changed of them.
    pub fn catalogue(&self) -> &Catalogue {
        self.engine.catalogue()
    }

    /// How many files hold vmtide's value.
    pub fn applied(&self) -> usize {
        self.engine.applied()
    }
}
