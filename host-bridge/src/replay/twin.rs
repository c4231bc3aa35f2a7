//! A host that wants what was recorded and gets what a planner gives it.

use super::{Pace, Wish};
use crate::model::{Speeds, send};
use crate::plan::{HostView, Millis, Planning, Policy, Reach, Shown, VmView};
use crate::record::{Header, Tick};
use std::collections::BTreeMap;

pub(super) struct Twin<'a> {
    wish: &'a Wish,
    pace: &'a Pace,
    run: Option<Run>,
}

/// One run of the bridge.
struct Run {
    unix_ms: u64,
    planner: Planning,
    policy: Policy,
    last_ms: Millis,
    /// By number.
    vms: BTreeMap<usize, (VmView, Speeds)>,
}

impl<'a> Twin<'a> {
    pub fn new(wish: &'a Wish, pace: &'a Pace) -> Self {
        Self { wish, pace, run: None }
    }

    /// What stands where `recorded` stood: the same time and VMs, memory as planned here.
    ///
    /// # Errors
    /// What of the wish cannot be with the recorded policy.
    pub fn tick(&mut self, header: &Header, recorded: &Tick) -> Result<Tick, String> {
        let run = match self.run.take().filter(|run| run.unix_ms == header.run_unix_ms) {
            Some(run) => run,
            None => Run {
                unix_ms: header.run_unix_ms,
                planner: self.wish.planner.unwrap_or(header.planner).start(),
                policy: self.wish.policy(&header.policy)?,
                last_ms: recorded.ms,
                vms: BTreeMap::new(),
            },
        };
        let run = self.run.insert(run);
        run.move_balloons(recorded.ms);
        run.take_over(header, recorded, self.pace);
        Ok(run.plan(recorded))
    }
}

impl Run {
    fn move_balloons(&mut self, now_ms: Millis) {
        let elapsed_ms = now_ms.saturating_sub(self.last_ms);
        self.last_ms = now_ms;
        for (view, speeds) in self.vms.values_mut().filter(|(view, _)| view.reach != Reach::Unreachable) {
            view.allocation_bytes = speeds.moved(view.allocation_bytes, view.target_bytes, elapsed_ms);
            view.history = view.history.after_observation(now_ms, view.allocation_bytes, view.target_bytes);
        }
    }

    /// What is not the planner's: who is there, its limits, its demand. A VM begins as it was recorded first.
    fn take_over(&mut self, header: &Header, recorded: &Tick, pace: &Pace) {
        self.vms.retain(|number, _| recorded.numbers.binary_search(number).is_ok());
        for (number, theirs) in recorded.numbers.iter().zip(&recorded.views) {
            let name = header.vms.get(*number).map_or("", String::as_str);
            let (view, _) = self.vms.entry(*number).or_insert_with(|| (theirs.clone(), pace.of(name)));
            let VmView { allocation_bytes, target_bytes, history, .. } = *view;
            *view = VmView {
                allocation_bytes,
                target_bytes,
                history: history.with_guest_of(&theirs.history),
                shown: shown(theirs, allocation_bytes),
                ..theirs.clone()
            };
        }
    }

    fn plan(&mut self, recorded: &Tick) -> Tick {
        let mut views: Vec<VmView> = self.vms.values().map(|(view, _)| view.clone()).collect();
        let host = HostView { available_bytes: available_bytes(recorded, &views), ..recorded.host };
        let plan = self.planner.plan(recorded.ms, &host, &views, &self.policy);
        let tick = Tick { host, views: views.clone(), plan, ..recorded.clone() };
        send(recorded.ms, &mut views, &tick.plan);
        for ((view, _), sent) in self.vms.values_mut().zip(views) {
            *view = sent;
        }
        tick
    }
}

/// What a VM would show that has `allocation_bytes`: it uses what it used, and the rest is free.
fn shown(recorded: &VmView, allocation_bytes: u64) -> Shown {
    let used = |free: u64| recorded.allocation_bytes.saturating_sub(free);
    Shown {
        free_bytes: recorded.shown.free_bytes.map(|free| allocation_bytes.saturating_sub(used(free))),
        resident_bytes: recorded.shown.resident_bytes.map(|resident| resident.min(allocation_bytes)),
        ..recorded.shown
    }
}

/// What the host would have available: a byte that a VM does not have here is one that the host has.
fn available_bytes(recorded: &Tick, views: &[VmView]) -> Option<u64> {
    let total = |views: &[VmView]| views.iter().map(|view| view.allocation_bytes).fold(0, u64::saturating_add);
    let theirs = recorded.host.available_bytes?.saturating_add(total(&recorded.views));
    Some(theirs.saturating_sub(total(views)))
}
