//! How every knob stands: the catalogue, the machine and the journal side by side. Never writes.

use crate::assess::{Action, Assessment, Situation, Standing, assess};
use crate::catalogue::{Catalogue, Knob, Mode, Risk};
use crate::claims::Claims;
use crate::facts::Facts;
use crate::journal::{Ledger, Tried};
use crate::place;
use crate::value::Value;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// What a survey looks at.
#[derive(Clone, Copy, Debug)]
pub struct Survey<'a> {
    /// Above the machine's files.
    pub root: &'a Path,
    /// The knobs.
    pub catalogue: &'a Catalogue,
    /// The machine.
    pub facts: &'a Facts,
    /// What vmtide did.
    pub ledger: &'a Ledger,
    /// What operators wrote.
    pub claims: &'a Claims,
    /// The overall mode: no knob does more.
    pub mode: Mode,
    /// Units that an operator had reverted.
    pub held: &'a BTreeSet<String>,
    /// Milliseconds since boot.
    pub now_ms: u64,
}

/// One file of a knob, as a person sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The knob.
    pub knob: String,
    /// Its file, or the pattern that no file fits.
    pub path: String,
    /// What it holds.
    pub current: Option<Value>,
    /// What it should hold.
    pub wanted: Option<Value>,
    /// What it held before vmtide changed it.
    pub original: Option<Value>,
    /// Who set it: `kernel`, `vmtide`, `someone else`, or a file.
    pub owner: String,
    /// Its mode here.
    pub mode: Mode,
    /// What a wrong value costs.
    pub risk: Risk,
    /// How it stands.
    pub standing: Standing,
    /// Why it stands so.
    pub detail: String,
    /// The last trial of its unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<Tried>,
    /// What a daemon would do.
    #[serde(skip)]
    pub action: Action,
}

impl Survey<'_> {
    /// Every file of every knob, in the order in which they are applied.
    pub fn rows(&self) -> Vec<Row> {
        self.catalogue.knobs.iter().flat_map(|knob| self.rows_of(knob)).collect()
    }

    /// The files of one knob; a single row when there are none.
    pub fn rows_of(&self, knob: &Knob) -> Vec<Row> {
        let mut paths = place::places(self.root, &knob.path);
        // What vmtide wrote is looked after even when the device is gone.
        paths.extend(self.ledger.owned.iter().filter(|owned| owned.knob == knob.id).map(|owned| owned.path.clone()));
        paths.sort();
        paths.dedup();
        if paths.is_empty() {
            paths.push(knob.path.clone());
        }
        paths.iter().map(|path| self.row(knob, path)).collect()
    }

    fn row(&self, knob: &Knob, path: &str) -> Row {
        let current = place::value(self.root, path);
        let twin = knob.twin.as_ref().and_then(|twin| place::value(self.root, twin).ok());
        let owned = self.ledger.of(path);
        let claim = self.claims.of(path).or_else(|| self.claims.of(knob.twin.as_deref()?));
        let tried = self.ledger.tried.get(knob.unit());
        let mode = self.catalogue.mode_of(knob.unit()).min(self.mode);
        let Assessment { standing, action, wanted, detail } = assess(&Situation {
            knob,
            mode,
            current: &current,
            twin: twin.as_ref(),
            owned,
            taken: self.ledger.taken.get(path).copied(),
            claim,
            tried,
            held: self.held.contains(knob.unit()),
            domain: self.catalogue.domain,
            facts: self.facts,
            root: self.root,
            path,
            now_ms: self.now_ms,
        });
        let whose = match standing {
            Standing::TakenBySomeoneElse => "someone else",
            Standing::OtherOwner => claim.unwrap_or("someone else"),
            _ if owned.is_some() => "vmtide",
            _ => claim.unwrap_or("kernel"),
        };
        Row {
            knob: knob.id.clone(),
            path: path.to_owned(),
            original: owned.map(|owned| Value::read(&owned.original)),
            owner: if current.as_ref().is_err_and(place::is_gone) { "-".into() } else { whose.into() },
            current: current.ok(),
            wanted,
            mode,
            risk: knob.risk,
            standing,
            detail,
            trial: tried.cloned(),
            action,
        }
    }
}
