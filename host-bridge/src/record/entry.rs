//! What is recorded, and its way to lines: a full picture each minute, and in between what changed. Pure.

use super::{LeverEntry, Outcome};
use super::{frame, patch};
use crate::plan::{HostView, Millis, Plan, Planner, Policy, Verdict, VmView};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What a reader must understand to make sense of the lines. A field more is no new format.
pub const FORMAT: u32 = 1;
/// A full picture is written at least this often: so much is lost at most behind a damaged record.
pub const FULL_EACH_MS: Millis = 60_000;

/// Under which conditions a run of the bridge planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// See [`FORMAT`].
    pub format: u32,
    /// The version that wrote.
    pub bridge: String,
    /// Tells runs apart: when the run began, in milliseconds since 1970.
    pub run_unix_ms: u64,
    /// Who planned.
    #[serde(default)]
    pub planner: Planner,
    /// The planner's numbers.
    pub policy: Policy,
    /// The VMs' names, by their numbers.
    pub vms: Vec<String>,
}

impl Header {
    /// The header of a run of this version.
    pub fn new(run_unix_ms: u64, planner: Planner, policy: Policy, vms: Vec<String>) -> Self {
        Self { format: FORMAT, bridge: env!("CARGO_PKG_VERSION").to_owned(), run_unix_ms, planner, policy, vms }
    }
}

/// One plan: what went in and what came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    /// The planner's time.
    pub ms: Millis,
    /// The same moment for people, milliseconds since 1970.
    pub unix_ms: u64,
    /// The host.
    pub host: HostView,
    /// The numbers of the VMs that were there, rising.
    pub numbers: Vec<usize>,
    /// Their views, in that order.
    pub views: Vec<VmView>,
    /// What the planner made of it.
    pub plan: Plan,
    /// What VMs used of CPUs and disks, by their numbers: with one tick each minute, empty in the others.
    pub used: BTreeMap<usize, Used>,
    /// What was decided about CPU time and disks since the tick before, and what came of what had been.
    pub levers: Vec<LeverEntry>,
}

/// The most that a VM took in a minute. Memory is in the views.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Used {
    /// The CPU time that its guest needed, or that it used where it tells nothing, thousandths of a CPU.
    pub cpu_millicpus: u64,
    /// Bytes that its disks read and wrote, per second.
    pub io_bytes_per_s: u64,
    /// Their operations, per second.
    pub io_ops_per_s: u64,
}

impl Used {
    /// The more of each.
    pub(crate) fn peak(self, other: Self) -> Self {
        Self {
            cpu_millicpus: self.cpu_millicpus.max(other.cpu_millicpus),
            io_bytes_per_s: self.io_bytes_per_s.max(other.io_bytes_per_s),
            io_ops_per_s: self.io_ops_per_s.max(other.io_ops_per_s),
        }
    }
}

/// What came of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When, on the planner's clock.
    pub ms: Millis,
    /// Which VM.
    pub vm: String,
    /// What it had when it was decided.
    pub from_bytes: u64,
    /// What it was to have.
    pub to_bytes: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// A line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// Header and state.
    Full { number: u64, header: Value, state: Value },
    /// What makes the state of the line with the number before into that of this one.
    Change { number: u64, state: Value },
    /// What came of a decision.
    Ended(Ended),
}

impl Line {
    pub fn text(&self) -> serde_json::Result<String> {
        Ok(frame::line(&serde_json::to_string(self)?))
    }
}

/// Turns the ticks of one run into lines.
#[derive(Debug)]
pub(super) struct Encoder {
    header: Header,
    /// The last tick that was written, its number and when the last full one was.
    last: Option<(Tick, u64, Millis)>,
}

impl Encoder {
    pub fn new(header: Header) -> Self {
        Self { header, last: None }
    }

    /// Leaves out of `tick` what only peers' rules go by where vmtide plans and nothing else of the VM changed: what a guest
    /// has touched changes each second, and would be most of the record.
    pub fn thin(&self, tick: &mut Tick) {
        let Some((last, ..)) = self.last.as_ref().filter(|_| self.header.planner == Planner::Vmtide) else { return };
        let mut before = last.numbers.iter().zip(&last.views).zip(&last.plan.verdicts).peekable();
        for ((number, view), verdict) in tick.numbers.iter().zip(&mut tick.views).zip(&tick.plan.verdicts) {
            while before.next_if(|((before, _), _)| *before < number).is_some() {}
            if let Some(((_, old), old_verdict)) = before.next_if(|((before, _), _)| *before == number) {
                let new = std::mem::replace(&mut view.shown, old.shown);
                if view != old || verdict != old_verdict {
                    view.shown = new;
                }
            }
        }
    }

    /// The line for `tick`: what changed, or everything when that is asked for or due.
    pub fn line(&self, tick: &Tick, full: bool) -> serde_json::Result<String> {
        let line = match &self.last {
            Some((last, number, full_ms)) if !full && tick.ms.saturating_sub(*full_ms) < FULL_EACH_MS => {
                Line::Change { number: number + 1, state: self.change(last, tick)? }
            }
            last => {
                let number = last.as_ref().map_or(0, |(_, number, _)| number + 1);
                Line::Full { number, header: json(&self.header)?, state: self.state(tick)? }
            }
        };
        line.text()
    }

    /// Takes in that `tick` was written, all of it or what changed.
    pub fn wrote(&mut self, tick: Tick, full: bool) {
        let (number, full_ms) = match &self.last {
            Some((_, number, full_ms)) => (number + 1, *full_ms),
            None => (0, tick.ms),
        };
        let is_full = full || tick.ms.saturating_sub(full_ms) >= FULL_EACH_MS;
        let full_ms = if is_full { tick.ms } else { full_ms };
        self.last = Some((tick, number, full_ms));
    }

    fn state(&self, tick: &Tick) -> serde_json::Result<Value> {
        let mut vms = Map::new();
        for (index, number) in tick.numbers.iter().enumerate() {
            vms.insert(self.name(*number), vm(tick, index)?);
        }
        let mut state = Map::new();
        state.insert("ms".into(), tick.ms.into());
        state.insert("unix_ms".into(), tick.unix_ms.into());
        state.insert("host".into(), json(&tick.host)?);
        state.insert("plan".into(), summary(&tick.plan)?);
        state.insert("vms".into(), vms.into());
        self.add_events(&mut state, tick)?;
        Ok(state.into())
    }

    /// What belongs to this tick alone, and is no change of what was before.
    fn add_events(&self, state: &mut Map<String, Value>, tick: &Tick) -> serde_json::Result<()> {
        if !tick.used.is_empty() {
            let used = tick.used.iter().map(|(number, used)| Ok((self.name(*number), json(used)?)));
            state.insert("used".into(), used.collect::<serde_json::Result<Map<_, _>>>()?.into());
        }
        if !tick.levers.is_empty() {
            state.insert("levers".into(), json(&tick.levers)?);
        }
        Ok(())
    }

    /// As [`patch::diff`] over both states, which looks into those VMs only that differ.
    fn change(&self, last: &Tick, tick: &Tick) -> serde_json::Result<Value> {
        let mut state = Map::new();
        state.insert("ms".into(), tick.ms.into());
        state.insert("unix_ms".into(), tick.unix_ms.into());
        if let Some(host) = patch::diff(&json(&last.host)?, &json(&tick.host)?) {
            state.insert("host".into(), host);
        }
        if let Some(plan) = patch::diff(&summary(&last.plan)?, &summary(&tick.plan)?) {
            state.insert("plan".into(), plan);
        }
        let vms = self.changed_vms(last, tick)?;
        if !vms.is_empty() {
            state.insert("vms".into(), vms.into());
        }
        self.add_events(&mut state, tick)?;
        Ok(state.into())
    }

    fn changed_vms(&self, last: &Tick, tick: &Tick) -> serde_json::Result<Map<String, Value>> {
        let mut vms = Map::new();
        let mut before = last.numbers.iter().enumerate().peekable();
        for (index, number) in tick.numbers.iter().enumerate() {
            while let Some((_, gone)) = before.next_if(|(_, before)| *before < number) {
                vms.insert(self.name(*gone), Value::Null);
            }
            let Some((old, _)) = before.next_if(|(_, before)| *before == number) else {
                vms.insert(self.name(*number), vm(tick, index)?);
                continue;
            };
            let is_same = last.views[old] == tick.views[index] && verdict(last, old) == verdict(tick, index);
            let change = if is_same { None } else { patch::diff(&vm(last, old)?, &vm(tick, index)?) };
            if let Some(change) = change {
                vms.insert(self.name(*number), change);
            }
        }
        for (_, gone) in before {
            vms.insert(self.name(*gone), Value::Null);
        }
        Ok(vms)
    }

    fn name(&self, number: usize) -> String {
        self.header.vms.get(number).cloned().unwrap_or_else(|| number.to_string())
    }
}

fn verdict(tick: &Tick, index: usize) -> Option<&Verdict> {
    tick.plan.verdicts.get(index)
}

/// View and verdict of one VM.
fn vm(tick: &Tick, index: usize) -> serde_json::Result<Value> {
    let mut vm = Map::new();
    vm.insert("view".into(), json(&tick.views[index])?);
    vm.insert("verdict".into(), json(&verdict(tick, index))?);
    Ok(vm.into())
}

/// A plan without its verdicts, which go with their VMs.
fn summary(plan: &Plan) -> serde_json::Result<Value> {
    json(&Plan { verdicts: Vec::new(), ..plan.clone() })
}

fn json(value: &impl Serialize) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(value)?;
    patch::strip(&mut value);
    Ok(value)
}
