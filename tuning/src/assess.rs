//! What to do with one file of a knob, and how it stands: pure.
//!
//! ```text
//!              differs from wanted                 condition over, mode off, trial lost
//! not ours ------------------------> ours -----------------------------------------------> not ours
//!    |                                |  \
//!    | not the kernel's default,      |   \ facts that the kernel follows have changed: it is the kernel's own value
//!    | claimed in sysctl.d            v    `--> not ours
//!    +---> somebody else's        neither ours nor original, or the original again: somebody else's, hands off
//! ```

use crate::catalogue::{Knob, Mode};
use crate::domain::Domain;
use crate::facts::{self, Facts};
use crate::journal::{Outcome, Owned, Tried};
use crate::place;
use crate::value::Value;
use serde::Serialize;
use std::io;
use std::path::Path;

/// What is known of one file of a knob.
#[derive(Debug)]
pub struct Situation<'a> {
    /// The knob.
    pub knob: &'a Knob,
    /// Its mode, or the overall one where that is less.
    pub mode: Mode,
    /// What the file holds.
    pub current: &'a io::Result<Value>,
    /// What the twin holds.
    pub twin: Option<&'a Value>,
    /// vmtide's write, where it holds its value.
    pub owned: Option<&'a Owned>,
    /// How somebody else has taken it.
    pub taken: Option<Outcome>,
    /// The file in which an operator claims it.
    pub claim: Option<&'a str>,
    /// The last trial of its unit.
    pub tried: Option<&'a Tried>,
    /// Whether an operator asked to leave it alone.
    pub held: bool,
    /// For the words.
    pub domain: &'a Domain,
    /// The machine.
    pub facts: &'a Facts,
    /// For the facts of a disk.
    pub root: &'a Path,
    /// The file.
    pub path: &'a str,
    /// Milliseconds since boot.
    pub now_ms: u64,
}

/// How a file of a knob stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It holds vmtide's value.
    Applied,
    /// It holds what it should by itself.
    RightAlready,
    /// It will be set: vmtide waits for its turn, or no daemon runs.
    Pending,
    /// It would be set in another mode.
    WouldApply,
    /// Its condition does not hold.
    NotApplicable,
    /// This machine has no such file.
    Absent,
    /// It may not be read: not root.
    NotPermitted,
    /// It cannot be read or written, or its value cannot be computed.
    Failed,
    /// It is only told.
    OnlyTold,
    /// It is off.
    Off,
    /// It was somebody's choice before vmtide saw it.
    OtherOwner,
    /// Somebody else changed vmtide's value.
    TakenBySomeoneElse,
    /// A trial of it was reverted not long ago.
    BackingOff,
    /// An operator had it reverted.
    Held,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing.
    Leave,
    /// Write this.
    Write(Value),
    /// Write the original.
    Restore,
    /// It is not ours any more.
    Close(Outcome),
}

/// How a file stands, and what follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// How it stands.
    pub standing: Standing,
    /// What to do.
    pub action: Action,
    /// What it should hold; `None` when that does not apply.
    pub wanted: Option<Value>,
    /// Why it stands so, for a person.
    pub detail: String,
}

/// What a knob should hold here.
enum Wanted {
    This(Value),
    NotHere(String),
    Nothing(String),
}

/// How the file stands and what to do with it.
pub fn assess(situation: &Situation<'_>) -> Assessment {
    let wanted = situation.wanted();
    let value = if let Wanted::This(value) = &wanted { Some(value.clone()) } else { None };
    let (standing, action, detail) = match (situation.owned, situation.current) {
        (Some(owned), Ok(current)) => situation.ours(owned, current, &wanted),
        (None, Ok(current)) => situation.not_ours(current, wanted),
        (owned, Err(error)) => unreadable(owned.is_some(), error, situation.domain),
    };
    Assessment { standing, action, wanted: value, detail }
}

impl Situation<'_> {
    fn fact(&self, name: &str) -> Option<Value> {
        match name {
            "original" => self.owned.map(|owned| Value::read(&owned.original)).or_else(|| self.current().cloned()),
            "current" => self.current().cloned(),
            _ => self.facts.get(name).or_else(|| facts::of_device(self.root, self.path, name)),
        }
    }

    fn current(&self) -> Option<&Value> {
        self.current.as_ref().ok()
    }

    fn wanted(&self) -> Wanted {
        let fact = |name: &str| self.fact(name);
        let Some(value) = &self.knob.value else { return Wanted::Nothing("it is only told, never changed".into()) };
        if let Some(when) = &self.knob.when {
            match when.holds(&fact) {
                Ok(true) => {}
                Ok(false) => return Wanted::NotHere(format!("applies when {}", one_line(&when.to_string()))),
                Err(error) => return Wanted::Nothing(format!("when: {error}")),
            }
        }
        match value.value(&fact) {
            Ok(value) => Wanted::This(value),
            Err(error) => Wanted::Nothing(format!("value: {error}")),
        }
    }

    /// vmtide wrote it.
    fn ours(&self, owned: &Owned, current: &Value, wanted: &Wanted) -> (Standing, Action, String) {
        if !owned.is_ours(current) {
            let moved =
                owned.facts.iter().find(|(name, was)| self.facts.get(name).is_some_and(|is| is != Value::read(was)));
            if let Some((name, _)) = moved {
                let detail = format!("the kernel computed it anew when {name} changed");
                return (Standing::Pending, Action::Close(Outcome::KernelReset), detail);
            }
            let outcome = if owned.is_original(current) { Outcome::PutBack } else { Outcome::Taken };
            return (Standing::TakenBySomeoneElse, Action::Close(outcome), took(outcome).into());
        }
        if self.held {
            return (Standing::Held, Action::Restore, self.held_detail());
        }
        if !self.mode.writes() {
            return (Standing::Off, Action::Restore, "its mode is not to write".into());
        }
        match wanted {
            Wanted::This(value) if value == current || self.mode == Mode::Static => {
                (Standing::Applied, Action::Leave, owned.why.clone())
            }
            Wanted::This(value) if owned.is_original(value) => {
                (Standing::RightAlready, Action::Restore, "its own value is right again".into())
            }
            Wanted::This(value) => (Standing::Applied, Action::Write(value.clone()), owned.why.clone()),
            Wanted::NotHere(why) => (Standing::NotApplicable, Action::Restore, why.clone()),
            Wanted::Nothing(why) => (Standing::Applied, Action::Leave, why.clone()),
        }
    }

    /// vmtide did not write it.
    fn not_ours(&self, current: &Value, wanted: Wanted) -> (Standing, Action, String) {
        let leave = |standing, detail: String| (standing, Action::Leave, detail);
        if self.mode == Mode::Off {
            return leave(Standing::Off, "its mode is off".into());
        }
        if let Some(outcome) = self.taken {
            return leave(Standing::TakenBySomeoneElse, took(outcome).into());
        }
        let value = match wanted {
            Wanted::This(value) => value,
            Wanted::NotHere(why) => return leave(Standing::NotApplicable, why),
            Wanted::Nothing(why) if self.knob.value.is_none() => return leave(Standing::OnlyTold, why),
            Wanted::Nothing(why) => return leave(Standing::Failed, why),
        };
        if value == *current {
            return leave(Standing::RightAlready, "it holds what it should".into());
        }
        if let Some(claim) = self.claim {
            return leave(Standing::OtherOwner, format!("set in {claim}"));
        }
        if !self.is_default(current) {
            return leave(Standing::OtherOwner, "not the kernel's default: someone has set it".into());
        }
        if self.mode == Mode::Observe {
            return leave(Standing::WouldApply, format!("mode observe, risk {:?}", self.knob.risk).to_lowercase());
        }
        if self.held {
            return leave(Standing::Held, self.held_detail());
        }
        match self.tried.and_then(|tried| tried.retry_at_ms).filter(|&at_ms| at_ms > self.now_ms) {
            Some(at_ms) => leave(
                Standing::BackingOff,
                format!("a trial was reverted; again in {} s", (at_ms - self.now_ms) / 1000),
            ),
            None => (Standing::Pending, Action::Write(value), "it will be set".into()),
        }
    }

    fn held_detail(&self) -> String {
        format!("reverted on request until the {} starts again", self.domain.daemon)
    }

    fn is_default(&self, current: &Value) -> bool {
        let knob = self.knob;
        let fits = knob.default.is_empty() || knob.default.contains(current);
        fits && (knob.twin_default.is_none() || knob.twin_default.as_ref() == self.twin)
    }
}

fn unreadable(is_ours: bool, error: &io::Error, domain: &Domain) -> (Standing, Action, String) {
    if place::is_gone(error) {
        let action = if is_ours { Action::Close(Outcome::Gone) } else { Action::Leave };
        return (Standing::Absent, action, format!("this {} has no such file", domain.machine));
    }
    match error.kind() {
        io::ErrorKind::PermissionDenied => (Standing::NotPermitted, Action::Leave, "not root".into()),
        _ => (Standing::Failed, Action::Leave, error.to_string()),
    }
}

fn took(outcome: Outcome) -> &'static str {
    if outcome == Outcome::PutBack { "put back by someone else" } else { "taken by someone else" }
}

/// Without the line breaks of a long expression.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
