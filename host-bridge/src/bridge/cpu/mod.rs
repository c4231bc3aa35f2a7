//! What the bridge knows of its VMs' CPU time, and does about it: readings in, effects out. No I/O.
//!
//! ```text
//! host's CPUs, use of each VM's process --+
//! vCPUs (hypervisor) ---------------------+--> plan each tick --> weight and quota of its group
//! demand, online (guest) -----------------+                       online vCPUs (the guest's agent)
//! what came of a request <----------------+---------------------- hotplug (hypervisor)
//! ```
//!
//! A lever that is not there is said once, and the others go on.

mod seat;
mod words;

pub(super) use seat::CpuSeat;

use super::effect::Effect;
use super::optimize::Moved;
use super::state::Bridge;
use super::vm::Hypervisor;
use crate::api::types;
use crate::guests::Reply;
use crate::performance::{PPM, Resource};
use crate::plan::Millis;
use crate::plan::cpu::{CPU, CpuDemand, CpuHost, CpuLimits, CpuPlanner, CpuVerdict, CpuView, Vcpus};
use crate::record::{Lever, LeverOutcome, rule_name};
use vmtide_protocol::bridge::SetOnlineCpus;

/// The request that a guest's agent has to know.
const SET_ONLINE: &str = "set_online_cpus";
/// How long a guest has for it: a CPU goes offline within milliseconds, unless the guest gets no CPU time itself.
const DEADLINE_MS: u64 = 3_000;
/// What a cgroup is given together.
const GROUP_LEVERS: [Lever; 2] = [Lever::CpuWeight, Lever::CpuQuota];
/// An answer that is later than this is none.
const LOST_MS: Millis = DEADLINE_MS + 2_000;

/// What a VM's process did on the host's CPUs lately, thousandths of a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuUse {
    /// It ran.
    pub used_millicpus: u64,
    /// How long it ran since it began, milliseconds.
    pub total_ms: u64,
    /// Its threads were ready to run and waited; `None` where the kernel does not tell.
    pub waited_millicpus: Option<u64>,
}

/// All VMs' CPU time.
#[derive(Debug)]
pub(super) struct CpuBoard {
    planner: CpuPlanner,
    host_cpus: u32,
    pub(super) is_contended: bool,
    pub(super) seats: Vec<CpuSeat>,
    last_id: u64,
}

impl CpuBoard {
    pub(super) fn new(vms: usize) -> Self {
        Self {
            planner: CpuPlanner::default(),
            host_cpus: 0,
            is_contended: false,
            seats: (0..vms).map(|_| CpuSeat::default()).collect(),
            // Requests for memory have the numbers below: a reply names nothing but its number.
            last_id: 1 << 32,
        }
    }

    pub(super) fn used_millicpus(&self, number: usize) -> Option<u64> {
        self.seats[number].used_millicpus
    }

    pub(super) fn total_ms(&self, number: usize) -> Option<u64> {
        self.seats[number].total_ms
    }
}

impl Bridge {
    /// Takes in how many CPUs the host has online and what each VM's process used of them lately, and plans.
    pub fn on_cpu(&mut self, host_cpus: u32, used: &[Option<CpuUse>]) {
        self.cpu.host_cpus = host_cpus;
        for (seat, used) in self.cpu.seats.iter_mut().zip(used) {
            seat.used_millicpus = used.map(|used| used.used_millicpus);
            seat.total_ms = used.map(|used| used.total_ms);
            seat.waited_millicpus = used.and_then(|used| used.waited_millicpus);
        }
        self.note_usage();
        self.plan_cpu();
    }

    /// Whether VMs want more CPU time than there is: only then it counts who waits.
    pub fn is_cpu_contended(&self) -> bool {
        self.cpu.is_contended
    }

    /// Takes in where a VM's group is, or why there is none to set.
    pub fn on_group(&mut self, number: usize, found: Result<String, String>) {
        let seat = &mut self.cpu.seats[number];
        // What another bridge or nobody set: all of it is set anew.
        seat.set = None;
        match found {
            Ok(path) => {
                seat.group = Some(path.clone());
                self.say(number, format!("CPU: its cgroup is {path}"));
            }
            Err(why) => {
                seat.group = None;
                self.say(number, format!("CPU: no weight and no quota: {why}"));
            }
        }
    }

    /// Takes in that a VM's group took what it was given.
    pub fn on_group_set(&mut self, number: usize) {
        for lever in GROUP_LEVERS {
            self.lever_done(number, lever);
        }
    }

    /// Takes in that a VM's group did not take a value.
    pub fn on_group_refused(&mut self, number: usize, why: &str) {
        for lever in GROUP_LEVERS {
            self.lever_refused(number, lever, why);
        }
        self.say(number, format!("CPU: {why}"));
    }

    /// Takes in that a request could not be sent.
    pub fn on_request_unsent(&mut self, number: usize) {
        self.cpu.seats[number].asked = None;
        self.settle_lever(number, Lever::CpusOnline, LeverOutcome::Lost);
    }

    pub(super) fn on_vcpus(&mut self, number: usize, vcpus: Option<Vcpus>) {
        let seat = &mut self.cpu.seats[number];
        let before = std::mem::replace(&mut seat.vcpus, vcpus);
        seat.is_plugging = false;
        if let (Some(before), Some(now)) = (before, vcpus)
            && before.plugged != now.plugged
        {
            if self.vms[number].levers.open(Lever::Vcpus).is_some_and(|open| open.to == u64::from(now.plugged)) {
                self.lever_done(number, Lever::Vcpus);
            }
            self.note(number, format!("CPU: it has {} vCPUs, before {}", now.plugged, before.plugged));
        }
    }

    pub(super) fn on_vcpus_refused(&mut self, number: usize, why: &str) {
        self.cpu.seats[number].refuses_plugging(self.now.ms);
        self.lever_refused(number, Lever::Vcpus, why);
        self.say(number, format!("CPU: {why}"));
    }

    /// A session began: maybe of another boot, and whatever was asked of the one before has no answer.
    pub(super) fn on_cpu_session(&mut self, number: usize) {
        let seat = &mut self.cpu.seats[number];
        (seat.online, seat.asked) = (None, None);
        self.settle_lever(number, Lever::CpusOnline, LeverOutcome::Lost);
    }

    pub(super) fn on_online_report(&mut self, number: usize, online_cpus: u64) {
        self.cpu.seats[number].online = u32::try_from(online_cpus).ok().filter(|online| *online > 0);
    }

    /// Whether the reply was to one of our requests.
    pub(super) fn on_online_reply(&mut self, number: usize, reply: &Reply) -> bool {
        let Some(told) = self.cpu.seats[number].answers(self.now.ms, reply) else { return false };
        match told {
            Ok(message) => {
                self.lever_done(number, Lever::CpusOnline);
                self.note(number, message);
            }
            Err(message) => {
                self.lever_refused(number, Lever::CpusOnline, &message);
                self.say(number, message);
            }
        }
        true
    }

    /// Takes in another VM.
    pub(super) fn add_cpu(&mut self) {
        self.cpu.seats.push(CpuSeat::default());
    }

    /// The VM is gone.
    pub(super) fn forget_cpu(&mut self, number: usize) {
        self.cpu.seats[number] = CpuSeat::default();
        for lever in [Lever::CpuWeight, Lever::CpuQuota, Lever::CpusOnline, Lever::Vcpus] {
            self.settle_lever(number, lever, LeverOutcome::Lost);
        }
    }

    fn plan_cpu(&mut self) {
        if self.is_all_paused() || self.cpu.host_cpus == 0 {
            return;
        }
        let now_ms = self.now.ms;
        for number in 0..self.vms.len() {
            if self.cpu.seats[number].gives_up(now_ms, LOST_MS) {
                self.lever_refused(number, Lever::CpusOnline, "its guest did not answer");
                self.say(number, "CPU: its guest did not answer a request for other CPUs".to_owned());
            }
        }
        let views = self.cpu_views(|number| self.is_paused_of(number, Resource::Cpu));
        let plan = self.cpu.planner.plan(now_ms, self.cpu_host(), &views, &self.policy);
        self.cpu.is_contended = plan.is_contended;
        for (number, verdict) in plan.verdicts.into_iter().enumerate() {
            let is_attached = matches!(self.vms[number].hypervisor, Hypervisor::Attached(_));
            let is_paused = self.is_paused_of(number, Resource::Cpu);
            let seat = &mut self.cpu.seats[number];
            seat.verdict = is_attached.then_some(verdict);
            if !is_attached || is_paused {
                continue;
            }
            for moved in moves(seat, &views[number], &verdict) {
                self.decide(number, &moved);
            }
            let seat = &mut self.cpu.seats[number];
            let wanted = (verdict.weight_shares, verdict.quota_millicpus);
            if seat.group.is_some() && seat.set != Some(wanted) {
                let before = seat.set.replace(wanted);
                self.effects.push(Effect::SetCpuTime { vm: number, shares: wanted.0, quota_millicpus: wanted.1 });
                let shares = views[number].limits.shares;
                // A correction goes on in small steps: its begin and its end are news.
                let is_news =
                    |before: (u32, Option<u64>)| before.1 != wanted.1 || (before.0 == shares) != (wanted.0 == shares);
                if before.is_none_or(is_news) {
                    self.note(number, words::cpu_time(wanted, shares, before));
                }
            }
            if let Some(cpus) = verdict.online {
                self.cpu.last_id += 1;
                let request = SetOnlineCpus { id: self.cpu.last_id, cpus, deadline_ms: DEADLINE_MS };
                let seat = &mut self.cpu.seats[number];
                let why = words::why(&verdict, seat.online, &views[number]);
                seat.asks(now_ms, request, why);
                self.effects.push(Effect::SetOnlineCpus { vm: number, request });
            }
            if let Some(vcpus) = verdict.plugged {
                self.cpu.seats[number].is_plugging = true;
                self.effects.push(Effect::SetVcpus { vm: number, vcpus });
                let why = words::why(&verdict, self.cpu.seats[number].online, &views[number]);
                self.note(number, format!("CPU: asked for {vcpus} vCPUs: {why}"));
            }
        }
    }

    fn cpu_limits(&self, number: usize) -> CpuLimits {
        let config = self.vms[number].config.cpu;
        CpuLimits {
            shares: config.shares.unwrap_or(self.vms[number].config.limits.shares),
            minimum_millicpus: config.minimum_millicpus,
            maximum_millicpus: config.maximum_millicpus,
        }
    }

    fn cpu_host(&self) -> CpuHost {
        CpuHost { cpus: self.cpu.host_cpus, is_short: self.shortage.cpu().is_short() }
    }

    fn cpu_views(&self, is_paused: impl Fn(usize) -> bool) -> Vec<CpuView> {
        let view = |number: usize| {
            let view = self.cpu_view(number);
            CpuView { is_ready: view.is_ready && !is_paused(number), ..view }
        };
        (0..self.vms.len()).map(view).collect()
    }

    /// What would be asked now if just these VMs were paused.
    pub(super) fn would_move_cpu(&self, is_paused: impl Fn(usize) -> bool) -> Vec<(usize, Moved)> {
        if self.cpu.host_cpus == 0 {
            return Vec::new();
        }
        let views = self.cpu_views(&is_paused);
        let plan = self.cpu.planner.clone().plan(self.now.ms, self.cpu_host(), &views, &self.policy);
        let moves = |(number, verdict): (usize, &CpuVerdict)| {
            let is_open = matches!(self.vms[number].hypervisor, Hypervisor::Attached(_)) && !is_paused(number);
            let moves = moves(&self.cpu.seats[number], &views[number], verdict);
            moves.into_iter().filter(move |_| is_open).map(move |moved| (number, moved))
        };
        plan.verdicts.iter().enumerate().flat_map(moves).collect()
    }

    /// Whether there is anything to move its CPU time with.
    pub(super) fn has_cpu_lever(&self, number: usize) -> bool {
        let seat = &self.cpu.seats[number];
        seat.group.is_some() || seat.vcpus.is_some() || self.guests.can(number, SET_ONLINE)
    }

    /// The part of its CPUs that a VM may use, millionths: those online, or its quota where that is less. All of it where
    /// nobody knows.
    pub(super) fn cpu_part_ppm(&self, number: usize) -> u64 {
        let (seat, limits) = (&self.cpu.seats[number], self.cpu_limits(number));
        let (Some(online), Some(vcpus)) = (seat.online, seat.vcpus) else { return PPM };
        let quota = seat.set.and_then(|(_, quota)| quota).filter(|_| seat.group.is_some()).unwrap_or(u64::MAX);
        let most = u64::from(vcpus.possible).saturating_mul(CPU).min(limits.maximum_millicpus.unwrap_or(u64::MAX));
        let may = u64::from(online).saturating_mul(CPU).min(quota).min(most);
        may.saturating_mul(PPM).checked_div(most).unwrap_or(PPM)
    }

    fn cpu_view(&self, number: usize) -> CpuView {
        let (vm, seat) = (&self.vms[number], &self.cpu.seats[number]);
        let is_there = matches!(&vm.hypervisor, Hypervisor::Attached(state) if state.running);
        let demand = self.guests.cpu(number, self.now.ms).filter(|_| is_there);
        let demand = demand.map(|cpu| CpuDemand { need_millicpus: cpu.need_millicpus, urgency: cpu.urgency });
        let (least_online, most_online) = seat.bounds(self.now.ms);
        CpuView {
            limits: self.cpu_limits(number),
            demand,
            // Without a VM nothing is wanted.
            used_millicpus: if is_there { seat.used_millicpus } else { Some(0) },
            waited_millicpus: seat.waited_millicpus.filter(|_| is_there),
            online: seat.online.filter(|_| self.guests.can(number, SET_ONLINE)),
            vcpus: seat.vcpus_at(self.now.ms),
            is_ready: is_there && seat.asked.is_none() && !seat.is_plugging,
            least_online,
            most_online,
        }
    }

    /// What an operator sees of it.
    pub(super) fn describe_cpu(&self, number: usize) -> types::Cpu {
        let (seat, limits) = (&self.cpu.seats[number], self.cpu_limits(number));
        let view = self.cpu_view(number);
        types::Cpu {
            shares: limits.shares,
            minimum_millicpus: limits.minimum_millicpus,
            maximum_millicpus: limits.maximum_millicpus,
            need_millicpus: view.demand.map(|demand| demand.need_millicpus),
            used_millicpus: seat.used_millicpus,
            online: seat.online,
            vcpus: seat.vcpus,
            group: seat.group.clone(),
            verdict: seat.verdict,
            standing: words::standing(&view, seat.verdict.as_ref(), self.cpu.is_contended),
        }
    }

    /// An event and a line in the log, unless it was said about this VM before.
    pub(super) fn say(&mut self, number: usize, message: String) {
        if self.cpu.seats[number].says(&message) {
            self.note(number, message);
        }
    }
}

/// What this verdict asks for that was not asked before.
fn moves(seat: &CpuSeat, view: &CpuView, verdict: &CpuVerdict) -> Vec<Moved> {
    let change = |lever, from, to, reason| Moved { lever, from, to, rule: rule_name(&verdict.rule), reason };
    let mut asked = Vec::new();
    let wanted = (verdict.weight_shares, verdict.quota_millicpus);
    let before = seat.set.unwrap_or((view.limits.shares, None));
    if seat.group.is_some() {
        let reason = || words::cpu_time(wanted, view.limits.shares, Some(before));
        if wanted.0 != before.0 {
            asked.push(change(Lever::CpuWeight, u64::from(before.0), u64::from(wanted.0), reason()));
        }
        if wanted.1 != before.1 {
            asked.push(change(Lever::CpuQuota, before.1.unwrap_or(0), wanted.1.unwrap_or(0), reason()));
        }
    }
    let why = || format!("CPU: {}", words::why(verdict, seat.online, view));
    if let Some(online) = verdict.online {
        asked.push(change(Lever::CpusOnline, u64::from(seat.online.unwrap_or(0)), u64::from(online), why()));
    }
    if let Some(vcpus) = verdict.plugged {
        let plugged = seat.vcpus.map_or(0, |vcpus| vcpus.plugged);
        asked.push(change(Lever::Vcpus, u64::from(plugged), u64::from(vcpus), why()));
    }
    asked
}
