//! Ticks and outcomes of one run to the segments of a folder.

use super::entry::{Encoder, Ended, Header, Line, Tick};
use super::store::{Store, StoreError};
use std::path::Path;

/// Writes a recording. After an error the next tick begins a segment, so whoever owns it decides when to try again.
#[derive(Debug)]
pub struct Writer {
    encoder: Encoder,
    store: Store,
}

impl Writer {
    /// A writer of segments in `folder`, of at most `cap_bytes` together.
    ///
    /// # Errors
    /// [`StoreError`] when nothing can be recorded there.
    pub fn open(folder: &Path, cap_bytes: u64, header: Header) -> Result<Self, StoreError> {
        Ok(Self { encoder: Encoder::new(header), store: Store::open(folder, cap_bytes)? })
    }

    /// Writes a plan: what changed since the last one that was written, or all.
    ///
    /// # Errors
    /// [`StoreError`]; the plan is not in the record then.
    pub fn tick(&mut self, mut tick: Tick) -> Result<(), StoreError> {
        self.encoder.thin(&mut tick);
        let line = self.encoder.line(&tick, false)?;
        let begins = !self.store.has_room(line.len());
        let line = if begins { self.encoder.line(&tick, true)? } else { line };
        if begins {
            self.store.begin()?;
        }
        self.store.append(line.as_bytes())?;
        self.encoder.wrote(tick, begins);
        Ok(())
    }

    /// Writes what came of a decision. Before the first plan there is none.
    ///
    /// # Errors
    /// [`StoreError`]; it is not in the record then.
    pub fn ended(&mut self, ended: Ended) -> Result<(), StoreError> {
        if !self.has_begun() {
            return Ok(());
        }
        self.store.append(Line::Ended(ended).text()?.as_bytes())
    }

    /// Whether there is a plan that an outcome can follow.
    pub(super) fn has_begun(&self) -> bool {
        self.store.open_bytes() > 0
    }

    /// What all segments have together.
    pub(super) fn bytes(&self) -> u64 {
        self.store.total_bytes()
    }

    /// Puts on the disk what was written.
    ///
    /// # Errors
    /// [`StoreError`] when the disk does not take it.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.store.sync()
    }
}
