//! Shares of the disks, only while they are short: what each VM's disks did in, a throttle for each VM or none out. Pure.
//!
//! ```text
//!         somebody within its share waits, or the host stalls, for 2 s
//!  free ----------------------------------------------------------------> tightening: who takes more than its share is
//!    ^                                                                      |   ^      held to 3/4 every 2 s, not below it
//!    | all that was ever                                    nobody waits    v   | somebody waits
//!    | done is allowed                                                   resting, 10 s
//!    |                                                                      v   | somebody waits again: back to what was
//!    +----------------------------------------------------- easing: twice as much every 3 s    enough; rest twice as long
//! ```
//!
//! **What counts** is what the hypervisor measured. A guest's own report of its I/O is not looked at: it could gain by it.
//! The *rate* of a VM is its bytes and [`OP_BYTES`] for each operation, so that small operations are not free.
//!
//! **Who waits**: a VM whose operations take longer than `io_latency_ms` on average (half of that while somebody is held)
//! though it does no more than its share. A VM
//! that floods the store waits in its own queue, and one that is throttled waits for its throttle: neither is a
//! sign of shortage, the first by this rule, the second because throttled disks' times are not counted.
//! Besides, the host's own hint counts ([`super::Shortage`]), for waiting that no VM shows.
//!
//! **What a share is**: the most that all did together since it got short, divided by shares. A VM that keeps to its part and
//! does not wait is given what it does and a quarter more; what it leaves is the others'.
//! With no other VM at work nobody is held, and a rate is never below `io_floor_bytes_per_s`, nor below the VM's own minimum: that is its
//! before anything is shared, and who does less than that and waits keeps to its share.
//!
//! An operator's **maximum** holds always, whoever waits, also while planning is paused.

use super::policy::narrow;
use super::{Millis, Policy};
use serde::{Deserialize, Serialize};

/// What an operation costs besides its bytes.
pub const OP_BYTES: u64 = 16 * 1024;
/// Fewer operations a second are a journal's heartbeat: such a VM neither waits nor shares.
const IDLE_OPS_PER_S: u64 = 4;
/// Waiting is believed when it lasts.
const COMES_AFTER_MS: Millis = 2_000;
/// Between two steps down: long enough to see what the last one did.
const STEP_MS: Millis = 2_000;
/// Between two steps up.
const EASE_MS: Millis = 3_000;
/// How long nobody has to wait before the first step up, and the most that this grows to.
const REST_MS: Millis = 10_000;
const LONGEST_REST_MS: Millis = 300_000;
/// The same when no other VM is at work.
const ALONE_MS: Millis = 2_000;
/// Waiting so soon after a step up came of it.
const BLAME_MS: Millis = 10_000;

/// The most that a VM's disks may do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// Bytes read and written, per second.
    pub bytes_per_s: u64,
    /// Reads and writes, per second.
    pub ops_per_s: u64,
}

impl Throttle {
    /// The throttle of a VM that is held to `rate`: it lets through as much whatever the operations' size.
    fn of(rate: u64) -> Self {
        Self { bytes_per_s: rate.max(1), ops_per_s: (rate / OP_BYTES).max(1) }
    }
}

/// What a VM's disks did in the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoUse {
    /// Bytes read and written, per second.
    pub bytes_per_s: u64,
    /// Reads and writes, per second.
    pub ops_per_s: u64,
    /// How long one took on average, on disks that nobody throttles; `None` when there was none.
    pub latency_us: Option<u64>,
}

impl IoUse {
    /// What it takes of the store, bytes per second.
    pub fn rate(&self) -> u64 {
        self.bytes_per_s.saturating_add(self.ops_per_s.saturating_mul(OP_BYTES))
    }

    /// Whether it does more than a heartbeat, or would if it did not have to wait.
    fn is_at_work(&self, line_us: u64) -> bool {
        self.ops_per_s >= IDLE_OPS_PER_S || self.is_slow(line_us)
    }

    fn is_slow(&self, line_us: u64) -> bool {
        self.latency_us.is_some_and(|latency_us| latency_us >= line_us)
    }
}

/// What an operator set for a VM's disks, as [`IoUse::rate`] counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoLimits {
    /// Its weight in contention.
    pub shares: u32,
    /// It is never held to less.
    pub minimum: u64,
    /// It never does more.
    pub maximum: Option<u64>,
}

/// One VM, as far as storage goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoView {
    /// The operator's limits.
    pub limits: IoLimits,
    /// What its disks did; nothing while that is not known.
    pub done: IoUse,
    /// Whether it can be held: its hypervisor or its group takes a rate.
    pub is_ready: bool,
    /// Whether somebody paused it: then its maximum alone holds.
    pub is_paused: bool,
}

impl IoView {
    fn is_planned(&self) -> bool {
        self.is_ready && !self.is_paused
    }

    /// It is never held to less, but for its maximum.
    fn floor(&self, policy: &Policy) -> u64 {
        self.limits.minimum.max(policy.io_floor_bytes_per_s)
    }
}

/// Why a VM is held to a rate, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoRule {
    /// Nobody waits.
    Free,
    /// It takes no more than its share.
    WithinShare,
    /// It takes more than its share, and others wait.
    OverShare,
    /// Nobody waits any more: it is held until that has lasted.
    Resting,
    /// It is let go, step by step.
    Easing,
    /// Nobody waits, and its maximum holds.
    Capped,
}

/// What the planner says of one VM's disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoVerdict {
    /// What it is held to.
    pub throttle: Option<Throttle>,
    /// What it takes.
    pub rate: u64,
    /// What it may take while the store is short.
    pub share: u64,
    /// Why.
    pub rule: IoRule,
}

/// The planner of the disks' throttles.
#[derive(Clone, Debug)]
pub struct IoPlanner {
    /// What each VM is held to, and was before it was eased.
    held: Vec<Held>,
    short_since: Option<Millis>,
    calm_since: Option<Millis>,
    stepped_ms: Millis,
    eased_ms: Option<Millis>,
    rest_ms: Millis,
    /// The most that all did together since it got short.
    capacity: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    rate: Option<u64>,
    /// What was enough for the others; kept a while after it was given up.
    enough: Option<u64>,
}

impl IoPlanner {
    /// Of so many VMs, none of them held.
    pub fn new(vms: usize) -> Self {
        Self {
            held: vec![Held::default(); vms],
            short_since: None,
            calm_since: None,
            stepped_ms: 0,
            eased_ms: None,
            rest_ms: REST_MS,
            capacity: 0,
        }
    }

    /// Takes in another VM, which is not held.
    pub fn add(&mut self) {
        self.held.push(Held::default());
    }

    /// What each VM may do from `now_ms` on; `host_short` is the host's own hint.
    pub fn plan(&mut self, now_ms: Millis, host_short: bool, vms: &[IoView], policy: &Policy) -> Vec<IoVerdict> {
        for (held, _) in self.held.iter_mut().zip(vms).filter(|(_, vm)| !vm.is_planned()) {
            *held = Held::default();
        }
        let total: u64 = vms.iter().map(|vm| vm.done.rate()).fold(0, u64::saturating_add);
        let is_held = self.held.iter().any(|held| held.rate.is_some());
        if is_held || self.short_since.is_some() {
            self.capacity = self.capacity.max(total);
        } else {
            self.capacity = total;
        }
        // While somebody is held the line is half as high: to be just under it is not worth stopping at.
        let line_us = policy.io_latency_ms.saturating_mul(if is_held { 500 } else { 1000 });
        let works: Vec<&IoView> = vms.iter().filter(|vm| vm.done.is_at_work(line_us)).collect();
        let weights: u128 = works.iter().map(|vm| weight(vm)).sum();
        let capacity = u128::from(self.capacity);
        let keeps_to_part = |vm: &IoView| {
            let rate = vm.done.rate();
            u128::from(rate) * weights <= capacity * weight(vm) || rate <= vm.limits.minimum
        };
        let others_work = works.len() > 1;
        let waits = works.iter().any(|vm| vm.done.is_slow(line_us) && keeps_to_part(vm));
        let is_short = others_work && (host_short || waits);
        let is_content =
            |(vm, held): (&IoView, &Held)| held.rate.is_none() && keeps_to_part(vm) && !vm.done.is_slow(line_us);
        let content: Vec<bool> = vms.iter().zip(&self.held).map(is_content).collect();
        let shares = self.shares(vms, &content, line_us, policy);
        let rules = if is_short {
            self.calm_since = None;
            let since = *self.short_since.get_or_insert(now_ms);
            self.tighten(now_ms, since, vms, &shares)
        } else {
            self.short_since = None;
            let since = *self.calm_since.get_or_insert(now_ms);
            self.ease(now_ms, since, others_work)
        };
        let verdict = |((vm, held), (share, rule)): ((&IoView, &mut Held), (u64, IoRule))| {
            // A share that grew takes the throttle along.
            held.rate = held.rate.map(|rate| rate.max(share));
            let maximum = vm.limits.maximum.filter(|_| vm.is_ready);
            let rate = held.rate.into_iter().chain(maximum).min();
            let rule = if rule == IoRule::Free && rate.is_some() { IoRule::Capped } else { rule };
            IoVerdict { throttle: rate.map(Throttle::of), rate: vm.done.rate(), share, rule }
        };
        vms.iter().zip(&mut self.held).zip(shares.into_iter().zip(rules)).map(verdict).collect()
    }

    /// What each may take: the capacity by shares, where nobody who is content is given much more than it takes.
    fn shares(&self, vms: &[IoView], content: &[bool], line_us: u64, policy: &Policy) -> Vec<u64> {
        let want = |(vm, content): (&IoView, &bool)| {
            let rate = vm.done.rate();
            // How much those want who wait or are held, nobody knows.
            let want = if *content { rate.saturating_add(rate / 4) } else { u64::MAX };
            want.min(vm.limits.maximum.unwrap_or(u64::MAX))
        };
        let wants: Vec<u64> = vms.iter().zip(content).map(want).collect();
        let mut given = vec![0; vms.len()];
        let mut left = self.capacity;
        let mut open: Vec<usize> = (0..vms.len()).filter(|vm| vms[*vm].done.is_at_work(line_us)).collect();
        while !open.is_empty() {
            let weights: u128 = open.iter().map(|vm| weight(&vms[*vm])).sum();
            let part = |vm: usize| narrow(u128::from(left) * weight(&vms[vm]) / weights.max(1));
            let least = |vm: usize| vms[vm].limits.minimum.min(wants[vm]);
            // First who wants no more than its part; then who has a minimum that is more; then all others.
            let mut is_last = false;
            let (mut settled, mut rest): (Vec<usize>, Vec<usize>) =
                open.iter().partition(|vm| wants[**vm] <= part(**vm));
            if settled.is_empty() {
                (settled, rest) = open.iter().partition(|vm| least(**vm) > part(**vm));
            }
            if settled.is_empty() {
                (settled, is_last) = (std::mem::take(&mut rest), true);
            }
            let parts: Vec<u64> = settled.iter().map(|vm| wants[*vm].min(part(*vm)).max(least(*vm))).collect();
            for (vm, part) in settled.iter().zip(parts) {
                given[*vm] = part;
                left = left.saturating_sub(part);
            }
            open = if is_last { Vec::new() } else { rest };
        }
        let bounded =
            |(share, vm): (u64, &IoView)| share.max(vm.floor(policy)).min(vm.limits.maximum.unwrap_or(u64::MAX));
        given.into_iter().zip(vms).map(bounded).collect()
    }

    fn tighten(&mut self, now_ms: Millis, since: Millis, vms: &[IoView], shares: &[u64]) -> Vec<IoRule> {
        let is_due = now_ms.saturating_sub(since) >= COMES_AFTER_MS;
        let was_eased = self.eased_ms.is_some_and(|eased_ms| since.saturating_sub(eased_ms) <= BLAME_MS);
        if is_due && was_eased {
            self.rest_ms = (self.rest_ms * 2).min(LONGEST_REST_MS);
            self.eased_ms = None;
            self.stepped_ms = now_ms;
            for held in &mut self.held {
                held.rate = held.enough.or(held.rate);
            }
        }
        let steps = is_due && now_ms.saturating_sub(self.stepped_ms) >= STEP_MS;
        let mut has_stepped = false;
        let rule = |((vm, held), share): ((&IoView, &mut Held), &u64)| {
            let rate = vm.done.rate();
            if !vm.is_planned() || rate <= share.saturating_add(share / 8) {
                return IoRule::WithinShare;
            }
            if steps {
                held.rate = Some((held.rate.unwrap_or(rate).min(rate) / 4 * 3).max(*share));
                held.enough = held.rate;
                has_stepped = true;
            }
            IoRule::OverShare
        };
        let rules = vms.iter().zip(&mut self.held).zip(shares).map(rule).collect();
        if has_stepped {
            self.stepped_ms = now_ms;
        }
        rules
    }

    fn ease(&mut self, now_ms: Millis, since: Millis, others_work: bool) -> Vec<IoRule> {
        let rest_ms = if others_work { self.rest_ms } else { ALONE_MS };
        let calm_ms = now_ms.saturating_sub(since);
        let is_held = self.held.iter().any(|held| held.rate.is_some());
        if !is_held && calm_ms >= self.rest_ms.max(BLAME_MS) {
            // It went well without.
            self.rest_ms = REST_MS;
            self.held.fill(Held::default());
        }
        let eases = calm_ms >= rest_ms;
        if is_held && eases && now_ms.saturating_sub(self.stepped_ms) >= EASE_MS {
            (self.stepped_ms, self.eased_ms) = (now_ms, Some(now_ms));
            for held in &mut self.held {
                // What all did together binds nobody.
                held.rate = held.rate.map(|rate| rate.saturating_mul(2)).filter(|rate| *rate / 2 < self.capacity);
            }
        }
        let rule = |held: &Held| match held.rate {
            None => IoRule::Free,
            Some(_) if eases => IoRule::Easing,
            Some(_) => IoRule::Resting,
        };
        self.held.iter().map(rule).collect()
    }
}

fn weight(vm: &IoView) -> u128 {
    u128::from(vm.limits.shares.max(1))
}

#[cfg(test)]
mod tests;
