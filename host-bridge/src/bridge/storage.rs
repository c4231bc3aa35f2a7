//! What the VMs' disks did, as their hypervisors counted it, to the planner; its throttles to the hypervisors.

use super::effect::Effect;
use super::optimize::Moved;
use super::state::Bridge;
use super::vm::{Hypervisor, Vm};
use crate::config::Bytes;
use crate::hypervisor::{Error, Held, IoSeen};
use crate::performance::{PPM, Resource};
use crate::plan::Millis;
use crate::plan::storage::{IoPlanner, IoRule, IoUse, IoVerdict, IoView, Throttle};
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
    seen: VecDeque<(Millis, IoSeen)>,
    pub(super) verdict: Option<IoVerdict>,
    asked: Option<Throttle>,
    /// What it took when it was held first.
    free_rate: u64,
    left: Vec<String>,
    refused_ms: Option<Millis>,
}

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

impl Disks {
    fn see(&mut self, now_ms: Millis, seen: IoSeen) {
        // Counters of another QEMU.
        if self.seen.back().is_some_and(|(_, last)| seen.ops < last.ops || seen.timed_us < last.timed_us) {
            self.seen.clear();
        }
        self.seen.push_back((now_ms, seen));
        while self.seen.get(1).is_some_and(|(at, _)| at.saturating_add(WINDOW_MS) <= now_ms) {
            self.seen.pop_front();
        }
    }

    /// The images that are files, as last seen.
    pub(super) fn images(&self) -> &[PathBuf] {
        self.seen.back().map_or(&[], |(_, seen)| &seen.images)
    }

    pub(super) fn done(&self, now_ms: Millis) -> IoUse {
        let (Some((from_ms, from)), Some((to_ms, to))) = (self.seen.front(), self.seen.back()) else {
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

impl Bridge {
    pub(super) fn on_io(&mut self, number: usize, seen: IoSeen) {
        self.storage.vms[number].see(self.now.ms, seen);
    }

    /// Plans the throttles, and turns what changed into effects.
    pub(super) fn plan_storage(&mut self) {
        let views = self.io_views(|number| self.is_paused_of(number, Resource::Io));
        let host_short = self.shortage.io().is_short();
        let verdicts = self.storage.planner.plan(self.now.ms, host_short, &views, &self.policy);
        for (number, verdict) in verdicts.into_iter().enumerate() {
            let disks = &mut self.storage.vms[number];
            disks.verdict = Some(verdict);
            let (before, now) = (disks.asked, verdict.throttle);
            if !is_worth(before, now) {
                continue;
            }
            disks.asked = now;
            if before.is_none() {
                disks.free_rate = verdict.rate;
            }
            let moved = moved(before, &verdict);
            self.effects.push(Effect::SetThrottle { vm: number, throttle: now });
            self.lease_change(number, &moved);
            if before.is_some() == now.is_some() {
                self.remember(number, moved.reason);
            } else {
                self.note(number, moved.reason);
            }
        }
    }

    fn io_views(&self, is_paused: impl Fn(usize) -> bool) -> Vec<IoView> {
        let now_ms = self.now.ms;
        let view = |(number, (vm, disks)): (usize, (&Vm, &Disks))| {
            let is_attached = matches!(vm.hypervisor, Hypervisor::Attached(state) if state.running);
            let is_refused = disks.refused_ms.is_some_and(|at| now_ms.saturating_sub(at) < REFUSED_MS);
            IoView {
                shares: vm.config.limits.shares,
                done: if is_attached { disks.done(now_ms) } else { IoUse::default() },
                is_ready: is_attached && !is_refused && !is_paused(number),
            }
        };
        self.vms.iter().zip(&self.storage.vms).enumerate().map(view).collect()
    }

    /// What would be asked now if just these VMs were paused.
    pub(super) fn would_hold(&self, is_paused: impl Fn(usize) -> bool) -> Vec<(usize, Moved)> {
        let views = self.io_views(is_paused);
        let host_short = self.shortage.io().is_short();
        let verdicts = self.storage.planner.clone().plan(self.now.ms, host_short, &views, &self.policy);
        let asked = self.storage.vms.iter().map(|disks| disks.asked);
        let changes = verdicts.iter().zip(asked).enumerate();
        let changes = changes.filter(|(_, (verdict, asked))| is_worth(*asked, verdict.throttle));
        changes.map(|(number, (verdict, asked))| (number, moved(asked, verdict))).collect()
    }

    /// The part that a VM's disks may do of what they did before they were held, millionths.
    pub(super) fn io_part_ppm(&self, number: usize) -> u64 {
        let disks = &self.storage.vms[number];
        let part = |throttle: Throttle| throttle.bytes_per_s.saturating_mul(PPM).checked_div(disks.free_rate);
        disks.asked.and_then(part).unwrap_or(PPM).min(PPM)
    }

    pub(super) fn on_throttled(&mut self, number: usize, throttle: Option<Throttle>, held: Held) {
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

fn moved(before: Option<Throttle>, verdict: &IoVerdict) -> Moved {
    let bytes_per_s = |throttle: Option<Throttle>| throttle.map_or(0, |throttle| throttle.bytes_per_s);
    let reason = match verdict.throttle {
        None => "its disks are let go".to_owned(),
        Some(throttle) => format!("its disks are held to {}", sentence(&throttle, verdict)),
    };
    let (from, to) = (bytes_per_s(before), bytes_per_s(verdict.throttle));
    Moved { resource: Resource::Io, unit: "bytes_per_s", from, to, reason }
}

fn sentence(throttle: &Throttle, verdict: &IoVerdict) -> String {
    format!(
        "{}/s and {} operations/s: it did {}/s, an operation counted as 16 KiB, its share is {}/s, and others {}",
        Bytes(throttle.bytes_per_s),
        throttle.ops_per_s,
        Bytes(verdict.rate),
        Bytes(verdict.share),
        if verdict.rule == IoRule::Easing { "do not wait any more" } else { "wait" }
    )
}
