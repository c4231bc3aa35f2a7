//! How compressed swap stands, and what follows. Never writes.

use super::device::Device;
use super::{CONTROL, ID, knob};
use crate::config::Zram;
use std::fs;
use std::path::Path;
use vmtide_tuning::Facts;
use vmtide_tuning::assess::{Action, Standing};
use vmtide_tuning::journal::{Ledger, Outcome, Owned};
use vmtide_tuning::value::Value;
use vmtide_tuning::{Mode, Row};

/// `CAP_SYS_ADMIN` of linux/capability.h.
const SYS_ADMIN: u32 = 21;

/// What a look at compressed swap rests on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Above the guest's files.
    pub root: &'a Path,
    /// What an operator asked for.
    pub settings: Option<&'a Zram>,
    /// The overall mode.
    pub mode: Mode,
    /// The guest.
    pub facts: &'a Facts,
    /// What vmtide did.
    pub ledger: &'a Ledger,
    /// Whether an operator had it taken away.
    pub held: bool,
    /// Whether the process that would do it may.
    pub may_swap: bool,
}

/// What decides.
struct Seen {
    device: Option<Device>,
    has_control: bool,
    mode: Mode,
    held: bool,
    may_swap: bool,
    /// The size, or why none; `None` when nobody asked.
    wanted: Option<Result<Value, (Standing, String)>>,
}

impl View<'_> {
    /// It as a row among the knobs.
    pub fn row(&self) -> Row {
        let knob = knob(self.settings);
        let owned = self.ledger.owned.iter().find(|owned| owned.knob == ID);
        let seen = self.seen(owned);
        let (standing, action, detail) = stands(&seen);
        let current = match &seen.device {
            Some(Device::Swapped { bytes, .. }) => Some((*bytes).into()),
            _ => self.facts.get("swap_kind").filter(|_| seen.has_control),
        };
        let whose = match (&seen.device, &current) {
            (Some(Device::Swapped { .. } | Device::Off), _) => "vmtide",
            (Some(Device::Theirs), _) => "someone else",
            (_, None) => "-",
            (_, Some(kind)) => {
                if *kind == "none".into() {
                    "kernel"
                } else {
                    "someone else"
                }
            }
        };
        Row {
            knob: knob.id,
            path: owned.map_or(knob.path, |owned| owned.path.clone()),
            current,
            wanted: seen.wanted.and_then(Result::ok),
            original: owned.map(|owned| Value::read(&owned.original)),
            owner: whose.into(),
            mode: seen.mode,
            risk: knob.risk,
            standing,
            detail,
            trial: None,
            action,
        }
    }

    fn seen(&self, owned: Option<&Owned>) -> Seen {
        let knob = knob(self.settings);
        let fact = |name: &str| self.facts.get(name);
        let applies = owned.is_some() || knob.when.as_ref().is_some_and(|when| when.holds(&fact).unwrap_or(false));
        let wanted = knob.value.as_ref().map(|value| match value.value(&fact) {
            _ if !applies => Err((Standing::NotApplicable, "there is swap already".to_owned())),
            Ok(size @ Value::Number(1..)) => Ok(size),
            Ok(_) => Err((Standing::Failed, "the guest's memory is not known".to_owned())),
            Err(error) => Err((Standing::Failed, error.to_string())),
        });
        Seen {
            device: owned.map(|owned| Device::seen(self.root, owned)),
            has_control: self.root.join(&CONTROL[1..]).exists(),
            mode: knob.mode.min(self.mode),
            held: self.held,
            may_swap: self.may_swap,
            wanted,
        }
    }
}

/// How it stands and what to do: pure.
fn stands(seen: &Seen) -> (Standing, Action, String) {
    let leave = |standing, detail: &str| (standing, Action::Leave, detail.to_owned());
    match &seen.device {
        Some(Device::Gone) => return (Standing::Absent, Action::Close(Outcome::Gone), "the device is gone".into()),
        Some(Device::Theirs) => {
            let detail = "the device is another swap now";
            return (Standing::TakenBySomeoneElse, Action::Close(Outcome::Taken), detail.into());
        }
        Some(Device::Off) => {
            return (Standing::TakenBySomeoneElse, Action::Restore, "switched off by someone else".into());
        }
        Some(Device::Swapped { .. }) if seen.held => {
            return (Standing::Held, Action::Restore, "taken away on request".into());
        }
        Some(Device::Swapped { .. }) if !seen.mode.writes() => {
            return (Standing::Off, Action::Restore, "its mode is not to write".into());
        }
        Some(Device::Swapped { used_bytes, .. }) => {
            return leave(Standing::Applied, &format!("{} MiB are in it", used_bytes >> 20));
        }
        None => {}
    }
    let value = match &seen.wanted {
        None => return leave(Standing::Off, "nobody asked for it: size_percent in [tuning.zram]"),
        Some(_) if seen.mode == Mode::Off => return leave(Standing::Off, "the mode of all tuning is off"),
        Some(_) if !seen.has_control => return leave(Standing::Absent, "the module zram is not loaded"),
        Some(Err((standing, detail))) => return leave(*standing, detail),
        Some(Ok(value)) => value.clone(),
    };
    if seen.mode == Mode::Observe {
        return leave(Standing::WouldApply, "mode observe");
    }
    if seen.held {
        return leave(Standing::Held, "taken away on request until the agent starts again");
    }
    if !seen.may_swap {
        return leave(Standing::NotPermitted, "the agent lacks CAP_SYS_ADMIN");
    }
    (Standing::Pending, Action::Write(value), "it is set up when the agent starts".into())
}

/// Whether process `pid` of the guest (`self`, say) may swap.
pub fn may_swap(root: &Path, pid: &str) -> bool {
    let status = fs::read_to_string(root.join("proc").join(pid).join("status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> SYS_ADMIN & 1 == 1)
}

#[cfg(test)]
mod tests;
