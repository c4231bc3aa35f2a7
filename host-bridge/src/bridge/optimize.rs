//! VMs that are planned for a while only, whoever paused them: a lease that ends by itself.
//!
//! ```text
//!            asked for                  time is up, ended, not asked after, paused by an operator
//!  as it was ---------> leased: planned ------------------------------------------> as it was, the summary is kept
//! ```
//!
//! Nothing that an operator set is changed, so there is nothing to put back: while a lease goes on, its VMs count as not
//! paused. All other VMs stay as they are, planned or paused.

use super::performance::WINDOW_MS;
use super::state::Bridge;
use crate::api::optimize::{DURATION_MS, Optimized, Progress, RENEW_WITHIN_MS, Taken, Wish};
use crate::api::types::Refusal;
use crate::performance::{Account, Each, Indices, KEPT_MS, Resource};
use crate::plan::{Millis, Plan, VmView};
use crate::record::{DECISIONS_KEPT, Decision, Lever, sentence, standing};
use std::collections::VecDeque;
use std::time::Duration;

/// Changes of CPU time and disks have numbers from here on; those of memory are decisions and have theirs.
const FIRST_CHANGE: u64 = 1 << 40;
/// A shorter window before says too little.
const SHORTEST_BEFORE_MS: u64 = 10_000;

/// A lease, also after it ended.
#[derive(Debug)]
pub(super) struct Lease {
    id: u64,
    resources: Vec<Resource>,
    began_ms: Millis,
    ends_ms: Millis,
    asked_ms: Millis,
    /// The last decision before it.
    first_decision: u64,
    vms: Vec<Leased>,
    /// How many changes of CPU time and disks there were.
    changes: u64,
    /// When and why it ended, and what had come of it by then.
    over: Option<(Millis, String)>,
}

#[derive(Debug)]
struct Leased {
    number: usize,
    was_paused: bool,
    before: Indices,
    accounts: Each<Account>,
    /// The last changes of its CPU time and its disks.
    changes: VecDeque<Taken>,
    /// As of its end.
    summary: Option<(Indices, Vec<Taken>)>,
}

impl Lease {
    fn is_live(&self) -> bool {
        self.over.is_none()
    }

    fn has(&self, number: usize) -> bool {
        self.is_live() && self.vms.iter().any(|vm| vm.number == number)
    }
}

/// A change of CPU time or disks; 0 is no quota and no throttle.
pub(super) struct Moved {
    pub(super) lever: Lever,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) rule: String,
    pub(super) reason: String,
}

impl Moved {
    fn taken(&self, id: u64, at_unix_ms: u64) -> Taken {
        let Self { lever, from, to, reason, .. } = self;
        let (resource, unit, reason) = (lever.resource(), lever.unit().to_owned(), reason.clone());
        Taken { id, at_unix_ms, resource, unit, from: *from, to: *to, reason, outcome: None }
    }
}

impl Bridge {
    /// Whether no memory is moved of a VM now because an operator paused it.
    pub(super) fn is_paused(&self, number: usize) -> bool {
        self.is_paused_of(number, Resource::Memory)
    }

    /// Whether nothing is asked of a VM in this resource now because an operator paused it.
    pub(super) fn is_paused_of(&self, number: usize, resource: Resource) -> bool {
        let is_leased =
            self.lease.as_ref().is_some_and(|lease| lease.resources.contains(&resource) && lease.has(number));
        (self.paused || self.vms[number].paused) && !is_leased
    }

    /// Takes in what was just asked for a VM, if that is being optimized.
    pub(super) fn lease_change(&mut self, number: usize, moved: &Moved) {
        let at_unix_ms = self.now.unix_ms;
        let Some(lease) = self.lease.as_mut().filter(|lease| lease.resources.contains(&moved.lever.resource())) else {
            return;
        };
        if !lease.has(number) {
            return;
        }
        let id = FIRST_CHANGE + lease.changes;
        lease.changes += 1;
        let vm = lease.vms.iter_mut().find(|vm| vm.number == number);
        if let Some(Leased { changes, .. }) = vm {
            changes.push_back(moved.taken(id, at_unix_ms));
            if changes.len() > DECISIONS_KEPT {
                changes.pop_front();
            }
        }
    }

    /// Whether there is nobody to plan for.
    pub(super) fn is_all_paused(&self) -> bool {
        self.paused && !self.lease.as_ref().is_some_and(Lease::is_live)
    }

    fn is_leased(&self, number: usize) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.has(number))
    }

    /// Begins a lease, or says what one would do now.
    pub(super) fn begin_lease(&mut self, wish: &Wish) -> Result<Progress, Refusal> {
        let refuse = |message: String| Err(Refusal { not_found: false, message });
        if wish.vms.is_empty() || wish.resources.is_empty() {
            return refuse("vms and resources: name one of each at least".to_owned());
        }
        if !DURATION_MS.contains(&wish.duration_ms) {
            return refuse(format!("duration_ms: {} cannot be; allowed is 1s to 24h", wish.duration_ms));
        }
        let mut numbers = Vec::new();
        for name in &wish.vms {
            let number = self.number(name)?;
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        if wish.dry_run {
            return Ok(self.try_lease(&numbers, wish));
        }
        self.expire_lease();
        if let Some(lease) = self.lease.as_ref().filter(|lease| lease.is_live()) {
            let seconds = lease.ends_ms.saturating_sub(self.now.ms) / 1000;
            return refuse(format!("other VMs are being optimized, for {seconds} s more; only one at a time is"));
        }
        let before_ms = wish.duration_ms.clamp(SHORTEST_BEFORE_MS, KEPT_MS);
        let leased = |number: usize| {
            self.meter(number);
            let meter = &self.vms[number].meter;
            let each = meter.since(&meter.before(self.now.ms, before_ms));
            let was_paused = self.paused || self.vms[number].paused;
            let before = Indices::of(each, &wish.resources);
            Leased { number, was_paused, before, accounts: meter.now(), changes: VecDeque::new(), summary: None }
        };
        let vms: Vec<Leased> = numbers.iter().copied().map(leased).collect();
        self.leases += 1;
        let lease = Lease {
            id: self.leases,
            resources: wish.resources.clone(),
            began_ms: self.now.ms,
            ends_ms: self.now.ms.saturating_add(wish.duration_ms),
            asked_ms: self.now.ms,
            first_decision: self.decisions,
            vms,
            changes: 0,
            over: None,
        };
        let progress_of = lease.id;
        self.lease = Some(lease);
        for number in numbers {
            self.note(number, format!("is optimized for {} s", wish.duration_ms / 1000));
            if wish.resources.contains(&Resource::Memory) && (self.paused || self.vms[number].paused) {
                // Nothing was asked for a while: nothing is assumed.
                self.resume(number);
            }
        }
        self.want_plan(Duration::ZERO);
        self.lease_progress(progress_of)
    }

    /// How a lease goes; who asks is there, so it goes on.
    pub(super) fn lease_progress(&mut self, id: u64) -> Result<Progress, Refusal> {
        self.expire_lease();
        let now_ms = self.now.ms;
        let Some(lease) = self.lease.as_mut().filter(|lease| lease.id == id) else {
            let message = format!("no optimization {id} here: another took its place, or the bridge restarted");
            return Err(Refusal { not_found: true, message });
        };
        lease.asked_ms = now_ms;
        for number in 0..self.vms.len() {
            self.meter(number);
        }
        let Some(lease) = &self.lease else { return Err(Refusal { not_found: true, message: String::new() }) };
        let optimized = |vm: &Leased| {
            let (after, changes) = vm.summary.clone().unwrap_or_else(|| self.lease_summary(lease, vm));
            let name = self.vms[vm.number].config.name.clone();
            Optimized { name, was_paused: vm.was_paused, before: vm.before, after, changes }
        };
        let ended_ms = lease.over.as_ref().map_or(now_ms, |(ended_ms, _)| *ended_ms);
        Ok(Progress {
            id,
            over: lease.over.as_ref().map(|(_, why)| why.clone()),
            elapsed_ms: ended_ms.saturating_sub(lease.began_ms),
            measured_only: self.measured_only(&lease.resources, lease.vms.iter().map(|vm| vm.number)),
            vms: lease.vms.iter().map(optimized).collect(),
        })
    }

    /// Ends the lease that goes on, if there is one.
    pub(super) fn end_lease(&mut self, why: &str) {
        let Some(mut lease) = self.lease.take_if(|lease| lease.is_live()) else { return };
        for number in 0..self.vms.len() {
            self.meter(number);
        }
        let summaries: Vec<_> = lease.vms.iter().map(|vm| self.lease_summary(&lease, vm)).collect();
        for (vm, summary) in lease.vms.iter_mut().zip(summaries) {
            let again = if vm.was_paused { ", and is paused again" } else { "" };
            self.note(vm.number, format!("is not optimized any more{again}: {why}"));
            vm.summary = Some(summary);
        }
        lease.over = Some((self.now.ms, why.to_owned()));
        self.lease = Some(lease);
        self.want_plan(Duration::ZERO);
    }

    /// Ends the lease whose time is up, or whose client is gone.
    pub(super) fn expire_lease(&mut self) {
        let Some(lease) = &self.lease else { return };
        if self.now.ms >= lease.ends_ms {
            self.end_lease("its time is up");
        } else if self.now.ms.saturating_sub(lease.asked_ms) > RENEW_WITHIN_MS {
            self.end_lease("nobody asked after it any more");
        }
    }

    /// Ends the lease that goes on, if this VM has a part in it.
    pub(super) fn end_lease_of(&mut self, number: usize, why: &str) {
        if self.is_leased(number) {
            self.end_lease(why);
        }
    }

    /// An operator's pause wins.
    pub(super) fn pause_leased(&mut self, number: Option<usize>) {
        if number.is_none_or(|number| self.is_leased(number)) {
            self.end_lease("an operator paused it");
        }
    }

    fn lease_summary(&self, lease: &Lease, vm: &Leased) -> (Indices, Vec<Taken>) {
        let after = Indices::of(self.vms[vm.number].meter.since(&vm.accounts), &lease.resources);
        let decisions = self.vms[vm.number].decisions.last(DECISIONS_KEPT);
        let since = decisions.iter().filter(|decision| decision.id > lease.first_decision);
        // What was moved by other rules than the lease's is no change of its.
        let is_moved = lease.resources.contains(&Resource::Memory);
        let mut changes: Vec<Taken> = since.filter(|_| is_moved).map(taken).collect();
        changes.extend(vm.changes.iter().cloned());
        changes.sort_by_key(|change| change.at_unix_ms);
        (after, changes)
    }

    /// What a lease would do at this moment; changes nothing.
    fn try_lease(&self, numbers: &[usize], wish: &Wish) -> Progress {
        let wants = |resource: Resource| wish.resources.contains(&resource);
        let is_paused = |number: usize, resource: Resource| {
            self.is_paused_of(number, resource) && !(numbers.contains(&number) && wants(resource))
        };
        let (planned, views, plan) = self.would_plan(|number| is_paused(number, Resource::Memory));
        let mut others = self.would_move_cpu(|number| is_paused(number, Resource::Cpu));
        others.extend(self.would_hold(|number| is_paused(number, Resource::Io)));
        let change = |number: usize| {
            let at = planned.iter().position(|planned| *planned == number)?;
            let (verdict, view): (_, &VmView) = (plan.verdicts.get(at)?, views.get(at)?);
            let step = verdict.step.filter(|_| wants(Resource::Memory))?;
            Some(Taken {
                id: 0,
                at_unix_ms: self.now.unix_ms,
                resource: Resource::Memory,
                unit: "bytes".to_owned(),
                from: step.from_bytes,
                to: step.to_bytes,
                reason: standing(&view.demand, verdict),
                outcome: None,
            })
        };
        let moves = |number: usize| {
            let its = others.iter().filter(move |(of, moved)| *of == number && wants(moved.lever.resource()));
            its.map(|(_, moved)| moved.taken(0, self.now.unix_ms))
        };
        let optimized = |&number: &usize| {
            let meter = &self.vms[number].meter;
            let each = meter.since(&meter.before(self.now.ms, WINDOW_MS));
            Optimized {
                name: self.vms[number].config.name.clone(),
                was_paused: self.paused || self.vms[number].paused,
                before: Indices::of(each, &wish.resources),
                after: Indices::default(),
                changes: change(number).into_iter().chain(moves(number)).collect(),
            }
        };
        Progress {
            id: 0,
            over: Some("a dry run: nothing was asked".to_owned()),
            elapsed_ms: 0,
            measured_only: self.measured_only(&wish.resources, numbers.iter().copied()),
            vms: numbers.iter().map(optimized).collect(),
        }
    }

    /// Of these resources those that nothing here can move: none of these VMs has a lever.
    fn measured_only(&self, resources: &[Resource], mut numbers: impl Iterator<Item = usize>) -> Vec<Resource> {
        let has_cpu = numbers.any(|number| self.has_cpu_lever(number));
        resources.iter().copied().filter(|resource| *resource == Resource::Cpu && !has_cpu).collect()
    }

    /// The plan of this moment if just these VMs were paused.
    fn would_plan(&self, is_paused: impl Fn(usize) -> bool) -> (Vec<usize>, Vec<VmView>, Plan) {
        let (numbers, views) = self.views(is_paused);
        let plan = self.planning.clone().plan(self.now.ms, &self.host, &views, &self.policy);
        (numbers, views, plan)
    }
}

fn taken(decision: &Decision) -> Taken {
    Taken {
        id: decision.id,
        at_unix_ms: decision.at_unix_ms,
        resource: Resource::Memory,
        unit: "bytes".to_owned(),
        from: decision.step.from_bytes,
        to: decision.step.to_bytes,
        reason: sentence(decision),
        outcome: Some(decision.outcome.clone()),
    }
}
