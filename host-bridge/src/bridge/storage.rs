//! What the VMs' disks did, as their hypervisors counted it, to the planner; its throttles to the hypervisors.
//!
//! ```text
//!  hypervisor: what its disks did ---+--> planner --> throttle --> hypervisor, where it answers and has disks to hold
//!  cgroup: what its devices did -----'                     `----> cgroup, where it does not, or would not
//! ```
//!
//! One lever at a time holds a VM. A cgroup tells nothing of how long an operation took: such a VM can be held, and never waits.

use super::effect::Effect;
use super::optimize::Moved;
use super::state::Bridge;
use super::vm::{Hypervisor, Vm};
use crate::api::types::{self, IoLever};
use crate::cgroup::{self, IoCount};
use crate::config::Bytes;
use crate::hypervisor::{Error, Held, IoSeen};
use crate::performance::{PPM, Resource};
use crate::plan::Millis;
use crate::plan::storage::{IoLimits, IoPlanner, IoRule, IoUse, IoVerdict, IoView, Throttle};
use crate::record::{Lever, LeverOutcome, rule_name};
use std::collections::VecDeque;
use std::path::PathBuf;

/// How far back a rate looks.
const WINDOW_MS: Millis = 3_000;
/// Counters that are older say nothing about now: quiet disks are looked at every 5 s.
const EXPIRY_MS: Millis = 8_000;
/// A throttle that changes by less than this part is not worth a command.
const WORTH_PART: u64 = 16;
/// How long a VM whose hypervisor refused is left alone.
const REFUSED_MS: Millis = 60_000;

/// What is kept of all VMs' disks.
#[derive(Debug)]
pub(super) struct Storage {
    planner: IoPlanner,
    pub(super) vms: Vec<Disks>,
}

/// What is kept of one VM's.
#[derive(Debug, Default)]
pub(super) struct Disks {
    seen: Window,
    /// The same, as its cgroup counts it; only while that is its lever.
    counted: Window,
    pub(super) verdict: Option<IoVerdict>,
    asked: Option<Throttle>,
    pub(super) lever: Option<IoLever>,
    /// Where its cgroup for I/O is.
    pub(super) group: Option<String>,
    /// Throttle and weight that this was given last.
    group_set: (Option<Throttle>, Option<u32>),
    /// What it took when it was held first.
    free_rate: u64,
    left: Vec<String>,
    refused_ms: Option<Millis>,
    group_refused_ms: Option<Millis>,
}

/// Counters of the last seconds.
#[derive(Debug, Default)]
struct Window(VecDeque<(Millis, IoSeen)>);

impl Storage {
    pub(super) fn new(vms: usize) -> Self {
        Self { planner: IoPlanner::new(vms), vms: (0..vms).map(|_| Disks::default()).collect() }
    }

    /// Takes in another VM.
    pub(super) fn add(&mut self) {
        self.planner.add();
        self.vms.push(Disks::default());
    }

    /// Drops all that is known of a VM that is steered no longer.
    pub(super) fn forget(&mut self, number: usize) {
        self.vms[number] = Disks::default();
    }
}

impl Window {
    fn see(&mut self, now_ms: Millis, seen: IoSeen) {
        let Self(kept) = self;
        // Counters of another QEMU.
        if kept.back().is_some_and(|(_, last)| seen.ops < last.ops || seen.timed_us < last.timed_us) {
            kept.clear();
        }
        kept.push_back((now_ms, seen));
        while kept.get(1).is_some_and(|(at, _)| at.saturating_add(WINDOW_MS) <= now_ms) {
            kept.pop_front();
        }
    }

    fn last(&self) -> Option<&IoSeen> {
        self.0.back().map(|(_, seen)| seen)
    }

    fn done(&self, now_ms: Millis) -> IoUse {
        let (Some((from_ms, from)), Some((to_ms, to))) = (self.0.front(), self.0.back()) else {
            return IoUse::default();
        };
        let window_ms = to_ms.saturating_sub(*from_ms);
        if window_ms == 0 || now_ms.saturating_sub(*to_ms) > EXPIRY_MS {
            return IoUse::default();
        }
        let counted = |from: u64, to: u64| to.saturating_sub(from);
        let per_s = |count: u64| count.saturating_mul(1000).div_ceil(window_ms);
        let timed_us = counted(from.timed_us, to.timed_us);
        IoUse {
            bytes_per_s: per_s(counted(from.bytes, to.bytes)),
            ops_per_s: per_s(counted(from.ops, to.ops)),
            // A disk that became free, or was limited, within the window makes the difference senseless.
            latency_us: timed_us.checked_div(counted(from.timed_ops, to.timed_ops)),
        }
    }
}

impl Disks {
    /// The images that are files, as last seen.
    pub(super) fn images(&self) -> &[PathBuf] {
        self.seen().map_or(&[], |seen| &seen.images)
    }

    /// What they did since their QEMU started, as last seen.
    pub(super) fn seen(&self) -> Option<&IoSeen> {
        self.seen.last()
    }

    pub(super) fn done(&self, now_ms: Millis) -> IoUse {
        let window = if self.lever == Some(IoLever::Group) { &self.counted } else { &self.seen };
        window.done(now_ms)
    }

    /// What can hold it now, while its hypervisor stands so.
    fn lever_at(&self, now_ms: Millis, hypervisor: &Hypervisor) -> Option<IoLever> {
        let is_rested =
            |refused_ms: Option<Millis>| refused_ms.is_none_or(|at| now_ms.saturating_sub(at) >= REFUSED_MS);
        let by_hypervisor = match hypervisor {
            Hypervisor::Attached(state) if state.running => {
                self.seen.last().is_none_or(|seen| seen.disks > 0) && is_rested(self.refused_ms)
            }
            Hypervisor::Unreachable { .. } => false,
            _ => return None,
        };
        let by_group = || self.group.is_some() && is_rested(self.group_refused_ms);
        if by_hypervisor { Some(IoLever::Hypervisor) } else { by_group().then_some(IoLever::Group) }
    }
}

impl Bridge {
    pub(super) fn on_io(&mut self, number: usize, seen: IoSeen) {
        self.storage.vms[number].seen.see(self.now.ms, seen);
    }

    /// A VM's process is gone, and its cgroup with it.
    pub(super) fn on_disks_gone(&mut self, number: usize) {
        let disks = &mut self.storage.vms[number];
        (disks.group, disks.group_set) = (None, (None, None));
        for lever in [Lever::IoWeight, Lever::IoRate] {
            self.settle_lever(number, lever, LeverOutcome::Lost);
        }
    }

    /// Takes in where a VM's group for I/O is, or why there is none to set.
    pub fn on_io_group(&mut self, number: usize, found: Result<String, String>) {
        let disks = &mut self.storage.vms[number];
        disks.group_set = (None, None);
        disks.group = found.as_ref().ok().cloned();
        if disks.lever == Some(IoLever::Group) {
            // Another group than the one that was held.
            disks.asked = None;
        }
        self.say(
            number,
            match found {
                Ok(path) => format!("disks: its cgroup is {path}"),
                Err(why) => format!("disks: neither weight nor rate by a cgroup: {why}"),
            },
        );
    }

    /// Whether a VM's cgroup is what counts its I/O.
    pub fn is_io_of_group(&self, number: usize) -> bool {
        let lever = self.storage.vms[number].lever_at(self.now.ms, &self.vms[number].hypervisor);
        lever == Some(IoLever::Group)
    }

    /// Takes in what a VM's cgroup counted.
    pub fn on_group_io(&mut self, number: usize, count: IoCount) {
        let seen = IoSeen { bytes: count.bytes, ops: count.ops, ..IoSeen::default() };
        self.storage.vms[number].counted.see(self.now.ms, seen);
    }

    /// Takes in that a VM's group took what it was given.
    pub fn on_io_group_set(&mut self, number: usize) {
        self.lever_done(number, Lever::IoWeight);
        if self.storage.vms[number].lever == Some(IoLever::Group) {
            self.lever_done(number, Lever::IoRate);
        }
    }

    /// Takes in that a VM's group did not take a value.
    pub fn on_io_group_refused(&mut self, number: usize, error: &cgroup::Error) {
        self.lever_refused(number, Lever::IoWeight, &error.to_string());
        if self.storage.vms[number].lever == Some(IoLever::Group) {
            self.lever_refused(number, Lever::IoRate, &error.to_string());
        }
        // What somebody else took is theirs; the rest is held.
        if !matches!(error, cgroup::Error::Taken { .. }) {
            self.storage.vms[number].group_refused_ms = Some(self.now.ms);
        }
        self.say(number, format!("disks: {error}"));
    }

    /// Plans the throttles, and turns what changed into effects.
    pub(super) fn plan_storage(&mut self) {
        let now_ms = self.now.ms;
        let old: Vec<Option<IoLever>> = self.storage.vms.iter().map(|disks| disks.lever).collect();
        for (disks, vm) in self.storage.vms.iter_mut().zip(&self.vms) {
            disks.lever = disks.lever_at(now_ms, &vm.hypervisor);
        }
        let views = self.io_views(|number| self.is_paused_of(number, Resource::Io));
        let host_short = self.shortage.io().is_short();
        let verdicts = self.storage.planner.plan(now_ms, host_short, &views, &self.policy);
        let is_anybody_held = verdicts
            .iter()
            .any(|verdict| verdict.throttle.is_some() && !matches!(verdict.rule, IoRule::Free | IoRule::Capped));
        for ((number, verdict), old) in verdicts.into_iter().enumerate().zip(old) {
            let disks = &mut self.storage.vms[number];
            disks.verdict = Some(verdict);
            if disks.lever != old && disks.lever.is_some() && disks.asked.take().is_some() {
                // The other lever takes over.
                self.effects.extend(hold(number, old, None));
            }
            self.hold_disks(number, &verdict, old);
            let disks = &mut self.storage.vms[number];
            let view = &views[number];
            let weight = (is_anybody_held && view.is_ready && !view.is_paused).then_some(view.limits.shares);
            let throttle = disks.asked.filter(|_| disks.lever == Some(IoLever::Group));
            if disks.group.is_some() && disks.group_set != (throttle, weight) {
                let (_, before) = std::mem::replace(&mut disks.group_set, (throttle, weight));
                if before != weight {
                    self.decide(number, &weighed(before, weight, &verdict));
                }
                self.effects.push(Effect::SetGroupIo { vm: number, throttle, shares: weight });
            }
        }
    }

    fn hold_disks(&mut self, number: usize, verdict: &IoVerdict, old: Option<IoLever>) {
        let disks = &mut self.storage.vms[number];
        let (before, now) = (disks.asked, verdict.throttle);
        if !is_worth(before, now) {
            return;
        }
        disks.asked = now;
        if before.is_none() {
            disks.free_rate = verdict.rate;
        }
        let lever = disks.lever.or(old);
        let moved = moved(before, verdict, lever);
        self.effects.extend(hold(number, lever, now));
        self.decide(number, &moved);
        if before.is_some() == now.is_some() {
            self.remember(number, moved.reason);
        } else {
            self.note(number, moved.reason);
        }
    }

    fn io_views(&self, is_paused: impl Fn(usize) -> bool) -> Vec<IoView> {
        let now_ms = self.now.ms;
        let view = |(number, (vm, disks)): (usize, (&Vm, &Disks))| {
            let is_there = match &vm.hypervisor {
                Hypervisor::Attached(state) => state.running,
                _ => disks.lever.is_some(),
            };
            IoView {
                limits: self.io_limits(number),
                done: if is_there { disks.done(now_ms) } else { IoUse::default() },
                is_ready: disks.lever.is_some(),
                is_paused: is_paused(number),
            }
        };
        self.vms.iter().zip(&self.storage.vms).enumerate().map(view).collect()
    }

    fn io_limits(&self, number: usize) -> IoLimits {
        let config = &self.vms[number].config;
        IoLimits {
            shares: config.io.shares.unwrap_or(config.limits.shares),
            minimum: config.io.minimum_bytes_per_s,
            maximum: config.io.maximum_bytes_per_s,
        }
    }

    /// What an operator sees of it.
    pub(super) fn describe_disks(&self, number: usize) -> types::Disks {
        let (limits, disks) = (self.io_limits(number), &self.storage.vms[number]);
        types::Disks {
            shares: limits.shares,
            minimum_bytes_per_s: limits.minimum,
            maximum_bytes_per_s: limits.maximum,
            lever: disks.lever,
            group: disks.group.clone(),
        }
    }

    /// What would be asked now if just these VMs were paused.
    pub(super) fn would_hold(&self, is_paused: impl Fn(usize) -> bool) -> Vec<(usize, Moved)> {
        let views = self.io_views(is_paused);
        let host_short = self.shortage.io().is_short();
        let verdicts = self.storage.planner.clone().plan(self.now.ms, host_short, &views, &self.policy);
        let changes = verdicts.iter().zip(&self.storage.vms).enumerate();
        let changes = changes.filter(|(_, (verdict, disks))| is_worth(disks.asked, verdict.throttle));
        changes.map(|(number, (verdict, disks))| (number, moved(disks.asked, verdict, disks.lever))).collect()
    }

    /// The part that a VM's disks may do of what they did before they were held, millionths.
    pub(super) fn io_part_ppm(&self, number: usize) -> u64 {
        let disks = &self.storage.vms[number];
        let part = |throttle: Throttle| throttle.bytes_per_s.saturating_mul(PPM).checked_div(disks.free_rate);
        disks.asked.and_then(part).unwrap_or(PPM).min(PPM)
    }

    pub(super) fn on_throttled(&mut self, number: usize, throttle: Option<Throttle>, held: Held) {
        let asked = throttle.map_or(0, |throttle| throttle.bytes_per_s);
        if self.vms[number].levers.open(Lever::IoRate).is_some_and(|open| open.to == asked) {
            self.lever_done(number, Lever::IoRate);
        }
        let disks = &mut self.storage.vms[number];
        if throttle.is_some() && disks.left != held.left {
            let left = held.left.join("; ");
            disks.left = held.left;
            self.note(number, format!("of its disks {} can be held; left alone: {left}", held.disks));
        }
    }

    pub(super) fn on_throttle_refused(&mut self, number: usize, error: &Error) {
        let now_ms = self.now.ms;
        let disks = &mut self.storage.vms[number];
        disks.refused_ms = Some(now_ms);
        self.lever_refused(number, Lever::IoRate, &error.to_string());
        self.note(number, format!("its disks cannot be held for now, nothing was changed: {error}"));
    }
}

fn is_worth(before: Option<Throttle>, now: Option<Throttle>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => {
            now.bytes_per_s.abs_diff(before.bytes_per_s) >= before.bytes_per_s.div_ceil(WORTH_PART)
        }
        (before, now) => before.is_some() != now.is_some(),
    }
}

/// What the hypervisor is asked for; what a cgroup is given goes with its weight.
fn hold(vm: usize, lever: Option<IoLever>, throttle: Option<Throttle>) -> Option<Effect> {
    (lever == Some(IoLever::Hypervisor)).then_some(Effect::SetThrottle { vm, throttle })
}

fn moved(before: Option<Throttle>, verdict: &IoVerdict, lever: Option<IoLever>) -> Moved {
    let bytes_per_s = |throttle: Option<Throttle>| throttle.map_or(0, |throttle| throttle.bytes_per_s);
    let reason = match verdict.throttle {
        None => "its disks are let go".to_owned(),
        Some(throttle) => {
            let by = if lever == Some(IoLever::Group) { " by its cgroup, reads and writes each" } else { "" };
            format!("its disks are held{by} to {}", sentence(&throttle, verdict))
        }
    };
    let (from, to) = (bytes_per_s(before), bytes_per_s(verdict.throttle));
    Moved { lever: Lever::IoRate, from, to, rule: rule_name(&verdict.rule), reason }
}

/// A cgroup's weight, of a VM for which this was said.
fn weighed(before: Option<u32>, now: Option<u32>, verdict: &IoVerdict) -> Moved {
    let reason = match now {
        Some(shares) => format!("its disks weigh {shares} shares, as somebody is held"),
        None => "its disks weigh what they did before, as nobody is held".to_owned(),
    };
    let shares = |weight: Option<u32>| u64::from(weight.unwrap_or(0));
    Moved { lever: Lever::IoWeight, from: shares(before), to: shares(now), rule: rule_name(&verdict.rule), reason }
}

fn sentence(throttle: &Throttle, verdict: &IoVerdict) -> String {
    let rate = format!("{}/s and {} operations/s", Bytes(throttle.bytes_per_s), throttle.ops_per_s);
    let others = match verdict.rule {
        IoRule::Capped => return format!("{rate}: its maximum"),
        IoRule::Easing => "do not wait any more",
        _ => "wait",
    };
    let (did, share) = (Bytes(verdict.rate), Bytes(verdict.share));
    format!("{rate}: it did {did}/s, an operation counted as 16 KiB, its share is {share}/s, and others {others}")
}
