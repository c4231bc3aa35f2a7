//! Made-up guests that are asked before a calm shrink, as the bridge asks real ones: [`crate::plan::asking`] decides, their law
//! of reuse answers.

use super::guest::{Guest, Laws};
use crate::guests::Views;
use crate::hypervisor::driver::PAGE_BYTES;
use crate::plan::asking::{Asking, Shrink, Way, is_asked_about};
use crate::plan::progress::GUESS_BYTES_PER_S;
use crate::plan::{Millis, Pace, Plan, Policy, Rule, Step, Verdict, VmView};
use serde::Serialize;

/// A guest stops reclaiming at this share of the time stalled, thousandths: as the real agent does, at a PSI of 1 %.
const YIELD_STALL_PERMILLE: u64 = 10;

/// What came of asking, over all VMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// How often a guest was asked.
    pub asked: u64,
    /// Answers with all that was asked for.
    pub in_full: u64,
    /// How often a balloon reached what its guest had said is spare.
    pub kept: u64,
    /// How often it did not.
    pub broken: u64,
}

/// Who was asked for what.
#[derive(Debug)]
pub(super) struct Desk {
    lines: Vec<Line>,
    requests: u64,
    in_full: u64,
}

#[derive(Clone, Debug, Default)]
struct Line {
    asking: Asking,
    /// The request that the guest works at: its number, the bytes, and when it will answer.
    works_at: Option<(u64, u64, Millis)>,
}

/// What decides about a shrink besides its VM.
pub(super) struct Scene<'a> {
    pub now_ms: Millis,
    pub reports: &'a Views,
    pub guests: &'a [Guest],
    pub laws: &'a Laws,
    pub policy: &'a Policy,
}

impl Desk {
    pub fn new(vms: usize) -> Self {
        Self { lines: vec![Line::default(); vms], requests: 0, in_full: 0 }
    }

    /// `plan` with the steps that are taken now: guests answer, and are asked.
    pub fn agree(&mut self, plan: &Plan, views: &[VmView], scene: &Scene<'_>) -> Plan {
        let mut agreed = plan.clone();
        for (number, (verdict, view)) in agreed.verdicts.iter_mut().zip(views).enumerate() {
            self.answer(number, view, scene);
            self.lines[number].asking.has_broken(scene.now_ms);
            verdict.step = verdict.step.and_then(|step| self.step(number, step, verdict, view, scene));
        }
        agreed
    }

    /// The guest answers when it has done what it could.
    fn answer(&mut self, number: usize, view: &VmView, scene: &Scene<'_>) {
        let line = &mut self.lines[number];
        let Some((id, bytes, _)) = line.works_at.take_if(|(.., at_ms)| scene.now_ms >= *at_ms) else { return };
        let spare_bytes = scene.guests[number].spare_bytes(view.allocation_bytes, scene.laws).min(bytes);
        if line.asking.on_answer(scene.now_ms, id, Some(spare_bytes)) {
            self.in_full += u64::from(spare_bytes == bytes);
        }
    }

    fn step(&mut self, number: usize, step: Step, verdict: &Verdict, view: &VmView, scene: &Scene<'_>) -> Option<Step> {
        let now_ms = scene.now_ms;
        let line = &mut self.lines[number];
        let step = Step { to_bytes: step.to_bytes - step.to_bytes % PAGE_BYTES, ..step };
        if step.to_bytes == step.from_bytes {
            return None;
        }
        if !is_asked_about(&step, verdict, view.limits.maximum_bytes) {
            line.asking.on_moved(now_ms, step.pace == Pace::GiveBack);
            return Some(step);
        }
        let shrink = Shrink {
            bytes: step.from_bytes - step.to_bytes,
            spare_bytes: scene.reports.spare_bytes(number, now_ms, view.target_bytes),
            slice_bytes: scene.policy.slice_bytes(view.allocation_bytes).max(PAGE_BYTES),
            least_bytes: scene.policy.urgent_step_bytes.max(PAGE_BYTES),
            for_others: verdict.rule == Rule::Revoke,
            can_ask: true,
            leaves: *view.history.leaves(),
        };
        match line.asking.way(now_ms, &shrink, scene.policy) {
            Way::Inflate { bytes, .. } => {
                let to_bytes = step.from_bytes - (bytes - bytes % PAGE_BYTES);
                (to_bytes < step.from_bytes).then_some(Step { to_bytes, ..step })
            }
            Way::Ask { bytes, deadline_ms } => {
                self.requests += 1;
                line.asking.on_asked(now_ms, self.requests, bytes, deadline_ms);
                let works_ms = bytes.saturating_mul(1000) / GUESS_BYTES_PER_S;
                line.works_at = Some((self.requests, bytes, now_ms + works_ms.min(deadline_ms)));
                None
            }
            Way::Wait => None,
        }
    }

    /// Balloons moved.
    pub fn moved(&mut self, views: &[VmView]) {
        for (line, view) in self.lines.iter_mut().zip(views) {
            if view.allocation_bytes == view.target_bytes {
                line.asking.on_reached();
            }
        }
    }

    /// What came of it.
    pub fn total(&self, now_ms: Millis) -> Requests {
        let told = self.lines.iter().map(|line| line.asking.summary(now_ms));
        let (kept, broken) = told.fold((0, 0), |(kept, broken), told| (kept + told.kept, broken + told.broken));
        Requests { asked: self.requests, in_full: self.in_full, kept, broken }
    }
}

impl Guest {
    /// What it could give of `has_bytes` without stalling for want of it, and keep its floor.
    fn spare_bytes(&self, has_bytes: u64, laws: &Laws) -> u64 {
        let needs_bytes = laws.least_bytes(self, YIELD_STALL_PERMILLE).max(self.floor_bytes(has_bytes));
        has_bytes.saturating_sub(needs_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::MIB;
    use vmtide_protocol::bridge::Intervals;

    /// A guest that uses so many MiB.
    fn guest(uses_mib: u64) -> Guest {
        let (mut guest, _) = Guest::new(1, 1, Intervals::default());
        guest.uses_bytes = uses_mib * MIB;
        guest
    }

    #[test]
    fn a_guest_gives_what_it_does_not_use_and_little_of_what_it_does() {
        let laws = Laws::default();
        let spare = |uses, has| guest(uses).spare_bytes(has * MIB, &laws) / MIB;
        let beyond = spare(600, 1_000);
        assert!((400..=430).contains(&beyond), "{beyond}");
        assert_eq!(spare(600, 500), 0, "who stalls has nothing to give");
    }
}
