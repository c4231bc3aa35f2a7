//! What a simulation comes to.

use super::Parameters;
use super::desk::Requests;
use super::fairness::{Jain, PPM, satisfaction_ppm};
use super::guest::Guest;
use crate::config::Bytes;
use crate::model::{Figures, Ledger, Time};
use crate::plan::{HostState, HostView, Millis, VmView};
use serde::Serialize;
use std::time::Duration;

/// What a simulation came to.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What was simulated.
    pub parameters: Parameters,
    /// What there was for all VMs, bytes.
    pub capacity_bytes: u64,
    /// The time that the figures cover.
    pub time: Time,
    /// Bytes moved, steps, violations, and the stall that reports alone would predict.
    pub total: Figures,
    /// The stall that the guests' law of reuse makes of it, all together, milliseconds.
    pub stall_ms: u64,
    /// The same over the time of all VMs, millionths.
    pub stall_ppm: u64,
    /// How evenly they were served.
    pub fairness: Fairness,
    /// How much they used.
    pub load: Load,
    /// How the host stood.
    pub states: States,
    /// Reports taken in.
    pub reports: u64,
    /// What came of asking guests; `None` where they are not.
    pub requests: Option<Requests>,
    /// What depends on the machine that simulates.
    pub wall: Wall,
}

/// How evenly VMs were served; the index is Jain's, weighted by shares, millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fairness {
    /// Over each VM's satisfaction in the whole time.
    pub jain_ppm: u64,
    /// At a tick, the mean over all.
    pub tick_mean_ppm: u64,
    /// At a tick, the one that one in a hundred is below.
    pub tick_p1_ppm: u64,
    /// At the worst tick.
    pub tick_least_ppm: u64,
    /// The satisfaction of the VM that was served worst in the whole time.
    pub worst_vm_ppm: u64,
}

/// Working sets of all VMs together over what there is, millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Over all ticks.
    pub mean_ppm: u64,
    /// At the tick where they used most.
    pub most_ppm: u64,
}

/// Ticks by the state of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct States {
    /// Everything that is wanted fits.
    pub calm: u64,
    /// Shares decide.
    pub short: u64,
    /// More is committed than there is.
    pub emergency: u64,
}

/// What depends on the machine that simulates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wall {
    /// The planner alone: the median of all ticks, microseconds.
    pub tick_p50_us: u64,
    /// The one that one tick in a hundred is above, microseconds.
    pub tick_p99_us: u64,
    /// The longest, microseconds.
    pub tick_most_us: u64,
    /// The whole simulation.
    pub run_ms: u64,
}

/// What is measured while it runs.
#[derive(Debug, Default)]
pub(super) struct Measures {
    pub reports: u64,
    planned_ns: Vec<u64>,
    states: States,
    index_ppm: Vec<u64>,
    stall_permille: u64,
    load_ppm: u64,
    most_load_ppm: u64,
}

impl Measures {
    /// A plan took so long.
    pub fn planned(&mut self, took: Duration, state: HostState) {
        self.planned_ns.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        match state {
            // No plan says tight.
            HostState::Calm | HostState::Tight => self.states.calm += 1,
            HostState::Short => self.states.short += 1,
            HostState::Emergency => self.states.emergency += 1,
        }
    }

    /// How all fare at a tick.
    pub fn served(&mut self, guests: &[Guest], views: &[VmView], host: &HostView) {
        let mut jain = Jain::default();
        let mut used: u64 = 0;
        for (guest, view) in guests.iter().zip(views) {
            jain.add(view.limits.shares, satisfaction_ppm(view.allocation_bytes, guest.uses_bytes));
            used = used.saturating_add(guest.uses_bytes);
            self.stall_permille += guest.stall_permille;
        }
        self.index_ppm.push(jain.index_ppm());
        let load_ppm = ratio_ppm(used.into(), host.limit_bytes().into());
        self.load_ppm += load_ppm;
        self.most_load_ppm = self.most_load_ppm.max(load_ppm);
    }

    /// What it all comes to.
    pub fn outcome(
        mut self,
        parameters: &Parameters,
        requests: Option<Requests>,
        host: &HostView,
        guests: &[Guest],
        ledger: &Ledger,
        took: Duration,
    ) -> Outcome {
        let ticks = self.index_ppm.len() as u64;
        let vm_ticks = ticks * guests.len() as u64;
        let load = Load { mean_ppm: self.load_ppm / ticks.max(1), most_ppm: self.most_load_ppm };
        Outcome {
            capacity_bytes: host.capacity_bytes,
            time: ledger.time(),
            total: ledger.total(),
            stall_ms: self.stall_permille * parameters.step_ms / 1000,
            stall_ppm: self.stall_permille * 1000 / vm_ticks.max(1),
            fairness: self.fairness(guests),
            load,
            states: self.states,
            reports: self.reports,
            requests,
            wall: self.wall(took),
            parameters: parameters.clone(),
        }
    }

    fn fairness(&mut self, guests: &[Guest]) -> Fairness {
        self.index_ppm.sort_unstable();
        let mut jain = Jain::default();
        let mut worst_vm_ppm = PPM;
        for guest in guests {
            let satisfaction_ppm = ratio_ppm(guest.served_bytes, guest.used_bytes);
            worst_vm_ppm = worst_vm_ppm.min(satisfaction_ppm);
            jain.add(guest.shares, satisfaction_ppm);
        }
        Fairness {
            jain_ppm: jain.index_ppm(),
            tick_mean_ppm: self.index_ppm.iter().sum::<u64>() / (self.index_ppm.len() as u64).max(1),
            tick_p1_ppm: rank(&self.index_ppm, 1),
            tick_least_ppm: rank(&self.index_ppm, 0),
            worst_vm_ppm,
        }
    }

    fn wall(&mut self, took: Duration) -> Wall {
        self.planned_ns.sort_unstable();
        let us = |percent| rank(&self.planned_ns, percent) / 1000;
        let run_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Wall { tick_p50_us: us(50), tick_p99_us: us(99), tick_most_us: us(100), run_ms }
    }
}

/// `part` of `whole`, millionths, at most 2^64; all of nothing.
fn ratio_ppm(part: u128, whole: u128) -> u64 {
    let ratio = (part * u128::from(PPM)).checked_div(whole);
    ratio.map_or(PPM, |ratio| u64::try_from(ratio).unwrap_or(u64::MAX))
}

/// Nearest rank: the smallest value that at least this share of the sorted values does not exceed.
fn rank(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

impl Outcome {
    /// The outcome in sentences.
    pub fn text(&self) -> String {
        let Self { parameters, total, fairness, load, states, wall, .. } = self;
        let seconds = |ms: Millis| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
        let percent = |ppm: u64| format!("{}.{:02} %", ppm / 10_000, ppm % 10_000 / 100);
        let index = |ppm: u64| format!("{}.{:04}", ppm / PPM, ppm % PPM / 100);
        let mut lines = vec![
            (
                "simulated",
                format!(
                    "{} VMs, {} h, {} for maximums of {}.{:03} times that, planner {}, seed {}",
                    parameters.vms,
                    parameters.hours,
                    Bytes(self.capacity_bytes),
                    parameters.overcommit_permille / 1000,
                    parameters.overcommit_permille % 1000,
                    parameters.planner,
                    parameters.seed
                ),
            ),
            (
                "working sets",
                format!("{} of it on average, {} at most", percent(load.mean_ppm), percent(load.most_ppm)),
            ),
            ("plans", format!("{} calm, {} short, {} emergency", states.calm, states.short, states.emergency)),
            ("over the limit", seconds(total.over_limit_ms)),
            ("outside limits", seconds(total.vms.outside_limits_ms)),
            (
                "floors",
                format!(
                    "{} of {} steps went below one; VMs spent {} below theirs",
                    total.vms.steps_below_floor,
                    total.vms.steps,
                    seconds(total.vms.below_floor_ms)
                ),
            ),
            (
                "fairness (Jain)",
                format!(
                    "{} over the whole time; at a tick {} on average, {} at p1, {} at least",
                    index(fairness.jain_ppm),
                    index(fairness.tick_mean_ppm),
                    index(fairness.tick_p1_ppm),
                    index(fairness.tick_least_ppm)
                ),
            ),
            ("worst VM", format!("had {} of what it used", percent(fairness.worst_vm_ppm))),
            ("stall", format!("{} of the time of all VMs", percent(self.stall_ppm))),
            ("bytes moved", format!("{} in {} steps", Bytes(total.vms.moved_bytes), total.vms.steps)),
            (
                "one plan",
                format!(
                    "{} µs (median), {} µs (p99), {} µs at most",
                    wall.tick_p50_us, wall.tick_p99_us, wall.tick_most_us
                ),
            ),
            ("took", seconds(wall.run_ms)),
        ];
        if let Some(Requests { asked, in_full, kept, broken }) = self.requests {
            let came = format!("{asked} times, {in_full} answered in full; word kept {kept} times, broken {broken}");
            lines.push(("guests asked", came));
        }
        let lines: Vec<String> = lines.iter().map(|(name, value)| format!("{name:<16} {value}\n")).collect();
        lines.concat()
    }
}
