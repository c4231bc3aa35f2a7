//! The part of the tuner that looks after compressed swap.

use super::Tuner;
use crate::sense::MemoryReader;
use crate::tune::zram;
use vmtide_tuning::Row;
use vmtide_tuning::assess::{Action, Standing};
use vmtide_tuning::full_text;
use vmtide_tuning::value::Value;

impl Tuner {
    /// Sets up compressed swap, where an operator asked for it and the guest has none; says why not.
    pub(super) fn set_up_zram(&mut self, now_ms: u64) {
        if self.zram.is_none() {
            return;
        }
        // Without that there is no size, and the loop will say so itself.
        let Ok(memory) = MemoryReader::open(&self.root).and_then(|mut reader| reader.sample()) else { return };
        self.engine.renew(self.read_facts(&memory));
        let row = self.zram_row();
        let (Action::Write(Value::Number(bytes)), Some(hand)) = (&row.action, self.engine.hand()) else {
            if row.standing != Standing::Applied {
                self.engine.say(format!("zram: not set up: {}", row.detail));
            }
            return;
        };
        let algorithm = self.zram.as_ref().and_then(|zram| zram.algorithm.as_deref());
        let said = match zram::set_up(&self.root, hand, bytes.unsigned_abs(), algorithm, now_ms) {
            Ok(path) => format!("zram: {path} of {} MiB is the guest's swap", bytes >> 20),
            Err(error) => format!("zram: {}", full_text(&error)),
        };
        self.engine.say(said);
    }

    /// Lets go of compressed swap that is not vmtide's any more; returns whether something changed.
    pub(super) fn look_after_zram(&mut self, now_ms: u64) -> bool {
        let row = self.zram_row();
        match row.action {
            Action::Close(outcome) => self.engine.let_go(&row, outcome, now_ms),
            Action::Restore => {
                self.engine.say(format!("zram: {}: {}", row.path, row.detail));
                self.engine.restore(|id| id == zram::ID, now_ms);
            }
            Action::Leave | Action::Write(_) => return false,
        }
        true
    }

    /// What stopping will write, besides the catalogue's files.
    pub fn also_writes(&self) -> Vec<String> {
        let owned = self.engine.ledger().owned.iter().filter(|owned| owned.knob == zram::ID);
        owned.flat_map(zram::removed_through).collect()
    }

    fn zram_row(&self) -> Row {
        let view = zram::View {
            root: &self.root,
            settings: self.zram.as_ref(),
            mode: self.engine.mode(),
            facts: self.engine.facts(),
            ledger: self.engine.ledger(),
            held: self.engine.held().contains(zram::ID),
            may_swap: zram::may_swap(&self.root, "self"),
        };
        view.row()
    }
}
