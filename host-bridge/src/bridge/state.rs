//! What the bridge knows and decides, without I/O: sightings, guests' words and time in, effects out.

use super::cpu::CpuBoard;
use super::doubt::Doubt;
use super::effect::Effect;
use super::levers::Levers;
use super::optimize::Lease;
use super::reaction::{Reactions, Waiting};
use super::storage::Storage;
use super::trim::Trimming;
use super::usage::Usage;
use super::vm::{Hypervisor, Vm, moved};
use crate::api::types::Reload;
use crate::config::{Bytes, Config};
use crate::guests::Views;
use crate::hypervisor::driver::Sighting;
use crate::hypervisor::{Error, MachineState};
use crate::plan::asking::Asking;
use crate::plan::{
    Demand, History, HostState, HostView, MIB, Millis, Pace, Planning, Policy, Shortage, Standing, Step, Verdict,
    VmView,
};
use crate::record::{Asked, Decision, Ended, Events, Health, Outcome, Record, Tick};
use std::collections::HashMap;
use std::time::Duration;
use vmtide_protocol::bridge::Host;

/// How soon after the last plan a guest in need is planned for.
pub(super) const URGENT: Duration = Duration::from_millis(20);
/// How soon freed bytes are given on: late enough that a balloon on its way out does not make a plan of each sighting.
const FREED: Duration = Duration::from_millis(100);

/// The time of an input: monotonic for the plan, since 1970 for people.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Milliseconds since the bridge started.
    pub ms: Millis,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// The bridge's whole state.
#[derive(Debug)]
pub struct Bridge {
    pub(super) now: Now,
    pub(super) host: HostView,
    pub(super) planning: Planning,
    pub(super) policy: Policy,
    pub(super) paused: bool,
    pub(super) vms: Vec<Vm>,
    pub(super) guests: Views,
    pub(super) numbers: HashMap<String, usize>,
    pub(super) events: Events,
    pub(super) decisions: u64,
    pub(super) levers: Levers,
    /// Requests to guests so far: the last one's id.
    pub(super) requests: u64,
    pub(super) reactions: Reactions,
    pub(super) standing: Standing,
    pub(super) spike_pool_bytes: u64,
    pub(super) refused: u64,
    pub(super) shortage: Shortage,
    pub(super) storage: Storage,
    pub(super) trimming: Trimming,
    pub(super) usage: Usage,
    /// What the guests know of it.
    pub(super) told: Host,
    pub(super) cpu: CpuBoard,
    /// What came of reading the configuration again; `None` while nobody asked for that.
    pub(super) reload: Option<Reload>,
    /// How the recording goes; `None` when there is none.
    pub(super) recording: Option<Health>,
    pub(super) effects: Vec<Effect>,
    pub(super) lease: Option<Lease>,
    pub(super) leases: u64,
    replan: Option<Duration>,
    /// What is to be recorded; `None` when nothing is.
    records: Option<Vec<Record>>,
}

impl Bridge {
    /// A bridge that knows its VMs by name only.
    pub fn new(config: &Config, host: HostView) -> Self {
        Self {
            now: Now::default(),
            host,
            planning: config.planner.start(),
            policy: config.policy.clone(),
            paused: false,
            numbers: config.vms.iter().enumerate().map(|(number, vm)| (vm.name.clone(), number)).collect(),
            vms: config.vms.iter().cloned().map(Vm::new).collect(),
            guests: Views::new(config.vms.len(), config.intervals),
            events: Events::default(),
            decisions: 0,
            levers: Levers::default(),
            requests: 0,
            reactions: Reactions::default(),
            standing: Standing::default(),
            spike_pool_bytes: 0,
            refused: 0,
            shortage: Shortage::default(),
            storage: Storage::new(config.vms.len()),
            trimming: Trimming::default(),
            usage: Usage::default(),
            told: Host::default(),
            cpu: CpuBoard::new(config.vms.len()),
            reload: None,
            recording: None,
            effects: Vec::new(),
            lease: None,
            leases: 0,
            replan: None,
            records: None,
        }
    }

    /// Whether there is somebody to take records.
    pub(super) fn is_recorded(&self) -> bool {
        self.records.is_some()
    }

    /// From here on plans and outcomes are kept until [`Bridge::take_records`].
    pub fn keep_records(&mut self) {
        self.records.get_or_insert_default();
    }

    /// What is to be recorded, in this order.
    pub fn take_records(&mut self) -> Vec<Record> {
        self.records.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes in how the recording goes; that it begins or ends to fail is an event.
    pub fn on_recording(&mut self, health: Health) {
        let was_failing = self.recording.as_ref().is_some_and(|before| before.failure.is_some());
        let message = match &health.failure {
            Some(failure) if !was_failing => Some(format!("the history is not recorded: {}", failure.error)),
            None if was_failing => Some("the history is recorded again".to_owned()),
            _ => None,
        };
        if let Some(message) = message {
            self.events.push(self.now.unix_ms, None, message);
        }
        self.recording = Some(health);
    }

    /// Sets the time for all that follows.
    pub fn at(&mut self, now: Now) -> &mut Self {
        self.now = now;
        self
    }

    /// How long after the last plan the next one should come, if that is before the tick.
    pub fn replan_after(&self) -> Option<Duration> {
        self.replan
    }

    /// A plan should come `after` the last one, or sooner if something else asks for that.
    pub(super) fn want_plan(&mut self, after: Duration) {
        self.replan = Some(self.replan.map_or(after, |earlier| earlier.min(after)));
    }

    /// What the shell is to do, in this order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Takes in what a driver saw.
    pub fn on_sighting(&mut self, number: usize, sighting: Sighting) {
        // Underway while the VM was removed.
        if self.vms[number].removed {
            return;
        }
        match sighting {
            Sighting::Attached(state) => self.on_attached(number, state),
            Sighting::State { state, accepted_bytes } => self.on_state(number, state, accepted_bytes),
            Sighting::Refused { target_bytes, error } => self.on_refused(number, target_bytes, &error),
            // The shell's business: the process is needed for I/O only.
            Sighting::Process(_) => {}
            Sighting::Vcpus(vcpus) => self.on_vcpus(number, vcpus),
            Sighting::VcpusRefused(why) => self.on_vcpus_refused(number, &why),
            Sighting::Io(seen) => self.on_io(number, seen),
            Sighting::Throttled { throttle, held } => self.on_throttled(number, throttle, held),
            Sighting::ThrottleRefused { error, .. } => self.on_throttle_refused(number, &error),
            Sighting::Absent(error) => self.on_absent(number, &error),
            Sighting::Unreachable(error) => self.on_unreachable(number, &error),
        }
        self.meter(number);
    }

    fn on_attached(&mut self, number: usize, state: MachineState) {
        let vm = &mut self.vms[number];
        // What was done to a VM that only did not answer for a while still holds; a new one has no past.
        if !matches!(vm.hypervisor, Hypervisor::Unreachable { .. }) {
            vm.history = History::default();
            vm.asking = Asking::default();
            vm.doubt = Doubt::default();
        }
        vm.hypervisor = Hypervisor::Attached(state);
        self.hold(number);
        self.note(number, format!("its hypervisor answers: it has {}", Bytes(state.allocation_bytes)));
        self.want_plan(URGENT);
    }

    /// Makes what is known of a VM true: its target is what it has.
    ///
    /// Somebody before us may have asked for something that is still under way, and what is not known cannot be
    /// counted. While planning is paused, nothing is asked.
    pub(super) fn hold(&mut self, number: usize) {
        let is_paused = self.is_paused(number);
        let vm = &mut self.vms[number];
        let bytes = vm.allocation_bytes();
        let is_fixed = matches!(vm.hypervisor, Hypervisor::Attached(state) if !state.is_movable());
        let is_asked = !is_paused && !is_fixed;
        (vm.target_bytes, vm.accepted_bytes) = (bytes, bytes);
        vm.asking.on_moved(self.now.ms, false);
        (vm.held_ms, vm.moving_since) = (self.now.ms, is_asked.then_some(self.now.ms));
        if is_asked {
            self.effects.push(Effect::SetTarget { vm: number, bytes });
        }
        self.tell(number);
    }

    fn on_state(&mut self, number: usize, state: MachineState, accepted_bytes: Option<u64>) {
        let now = self.now;
        let vm = &mut self.vms[number];
        let Hypervisor::Attached(before) = vm.hypervisor else { return };
        vm.hypervisor = Hypervisor::Attached(state);
        vm.accepted_bytes = accepted_bytes.unwrap_or(vm.accepted_bytes);
        if let Some(ms) = vm.waiting.on_allocation(now.ms, state.allocation_bytes) {
            self.reactions.push(ms);
        }
        if let Some(split) = state.memory.split {
            vm.decisions.reached_by(&split);
        }
        let target_bytes = vm.target_bytes;
        let grain_bytes = vm.grain_bytes();
        let mut is_settled = false;
        let mut message = None;
        match vm.moving_since {
            Some(since) if state.allocation_bytes.abs_diff(target_bytes) < grain_bytes => {
                is_settled = true;
                vm.moving_since = None;
                vm.asking.on_reached();
                self.settle(number, Outcome::Confirmed { after_ms: now.ms.saturating_sub(since) });
                self.tell(number);
            }
            // Moved by nobody here: by the guest when it ran out, by its reboot, or by another hand.
            None if state.allocation_bytes > before.allocation_bytes.max(target_bytes) => {
                let more = Bytes(state.allocation_bytes - target_bytes);
                // One that goes on from look to look is one.
                vm.counts.balloon_rescues += u64::from(before.allocation_bytes <= target_bytes);
                message = Some(format!("its balloon gave {more} back without being asked"));
                self.tell(number);
            }
            None if state.allocation_bytes + MIB < target_bytes.min(before.allocation_bytes) => {
                let has = Bytes(state.allocation_bytes);
                message = Some(format!("its balloon was inflated by somebody else: it has {has}"));
                self.hold(number);
            }
            Some(_) | None => {}
        }
        let vm = &mut self.vms[number];
        vm.history = vm.history.after_observation(now.ms, state.allocation_bytes, vm.target_bytes);
        self.compare(number, &state);
        if is_settled || state.allocation_bytes < before.allocation_bytes {
            self.want_plan(FREED);
        }
        if let Some(message) = message {
            self.remember(number, message);
        }
        if state.memory.is_plug_dead && !before.memory.is_plug_dead {
            let plugged = Bytes(state.memory.parts.plugged_bytes);
            self.note(
                number,
                format!(
                    "nobody in its guest answers virtio-mem, which stands at {plugged}: the balloon moves its memory"
                ),
            );
        }
        if before.running != state.running {
            self.remember(number, format!("its guest {}", if state.running { "runs again" } else { "was stopped" }));
        }
    }

    fn on_refused(&mut self, number: usize, target_bytes: u64, error: &Error) {
        let vm = &mut self.vms[number];
        // A late answer says nothing about a newer target.
        if vm.target_bytes == target_bytes {
            vm.target_bytes = vm.accepted_bytes;
            vm.moving_since = None;
            self.settle(number, Outcome::Refused { message: error.to_string() });
            self.note(number, format!("its hypervisor refused: {error}"));
        }
    }

    fn on_absent(&mut self, number: usize, error: &Error) {
        let detail = error.to_string();
        let before =
            !matches!(self.vms[number].hypervisor, Hypervisor::Starting | Hypervisor::Absent { before: false, .. });
        let gone = matches!(self.vms[number].hypervisor, Hypervisor::Attached(_) | Hypervisor::Unreachable { .. });
        let freed = Bytes(self.vms[number].committed_bytes());
        if matches!(self.vms[number].hypervisor, Hypervisor::Starting) {
            self.note(number, format!("unreachable: {detail}"));
        }
        self.lose(number, Hypervisor::Absent { before, detail });
        if gone {
            self.guests.forget(number);
            self.forget_cpu(number);
            self.on_disks_gone(number);
            self.trimming.forget(number);
            self.effects.push(Effect::ForgetAllocation { vm: number });
            self.note(number, format!("it is gone: {freed} return to the pool"));
        }
    }

    fn on_unreachable(&mut self, number: usize, error: &Error) {
        let vm = &self.vms[number];
        let (committed_bytes, ram_bytes) = match &vm.hypervisor {
            Hypervisor::Attached(state) => (vm.committed_bytes(), state.ram_bytes),
            Hypervisor::Unreachable { committed_bytes, ram_bytes, .. } => (*committed_bytes, *ram_bytes),
            // It is there and was never read: it may have its maximum.
            Hypervisor::Starting | Hypervisor::Absent { .. } => {
                (vm.config.limits.maximum_bytes, vm.config.limits.maximum_bytes)
            }
        };
        let news = !matches!(vm.hypervisor, Hypervisor::Unreachable { .. });
        let detail = error.to_string();
        if news {
            self.note(number, format!("unreachable, {} count for it: {detail}", Bytes(committed_bytes)));
        }
        self.lose(number, Hypervisor::Unreachable { committed_bytes, ram_bytes, detail });
    }

    fn lose(&mut self, number: usize, hypervisor: Hypervisor) {
        self.settle(number, Outcome::Lost { reached_bytes: self.vms[number].allocation_bytes() });
        let vm = &mut self.vms[number];
        vm.hypervisor = hypervisor;
        vm.target_bytes = vm.allocation_bytes();
        vm.accepted_bytes = vm.target_bytes;
        vm.moving_since = None;
        vm.waiting = Waiting::default();
        vm.asking.on_moved(self.now.ms, false);
        vm.verdict = None;
        self.want_plan(URGENT);
    }

    /// What the planner goes by for a VM.
    pub(super) fn demand(&self, number: usize) -> Demand {
        let vm = &self.vms[number];
        let maximum_bytes = vm.limits().maximum_bytes;
        match self.guests.demand(number, self.now.ms, maximum_bytes, vm.shown_use_bytes()) {
            Demand::Fresh(demand) => Demand::Fresh(vm.doubt.believed(demand, maximum_bytes)),
            old => old,
        }
    }

    /// Holds what its guest says is in use against what the statistics show.
    fn compare(&mut self, number: usize, state: &MachineState) {
        let now_ms = self.now.ms;
        let Some(shown_bytes) = state.shown_use_bytes else { return };
        let Some(said_bytes) = self.guests.used_bytes(number, now_ms) else { return };
        if self.vms[number].doubt.compare(now_ms, said_bytes, shown_bytes, state.allocation_bytes) {
            let (said, shown) = (Bytes(said_bytes), Bytes(shown_bytes));
            let message = format!(
                "its agent says that {said} are in use, which contradicts the {shown} of the balloon's statistics: those hold"
            );
            self.remember(number, message);
        }
    }

    /// What the planner sees of the VMs that are there, and their numbers.
    pub(super) fn views(&self, is_paused: impl Fn(usize) -> bool) -> (Vec<usize>, Vec<VmView>) {
        let view = |(number, vm): (usize, &Vm)| {
            Some((number, vm.view(self.demand(number), self.guests.shown(number), is_paused(number))?))
        };
        self.vms.iter().enumerate().filter_map(view).unzip()
    }

    /// Plans, and turns the plan into effects.
    pub fn plan(&mut self) {
        self.replan = None;
        for number in 0..self.vms.len() {
            self.meter(number);
        }
        self.expire_lease();
        // Memory that is not known of cannot be planned around.
        if self.is_all_paused() || self.vms.iter().any(|vm| matches!(vm.hypervisor, Hypervisor::Starting)) {
            return;
        }
        self.judge_words();
        let now_ms = self.now.ms;
        let (numbers, views) = self.views(|number| self.is_paused(number));
        let plan = self.planning.plan(now_ms, &self.host, &views, &self.policy);
        if let Some(records) = &mut self.records {
            let (numbers, views, plan) = (numbers.clone(), views.clone(), plan.clone());
            let (used, levers) = (self.usage.take(now_ms), self.levers.take());
            let unix_ms = self.now.unix_ms;
            let tick = Tick { ms: now_ms, unix_ms, host: self.host, numbers, views, plan, used, levers };
            records.push(Record::Tick(Box::new(tick)));
        }
        let before = self.standing.state();
        self.standing.update(now_ms, &self.host, &plan, &self.policy);
        if let Some(state) = self.standing.state().filter(|state| Some(*state) != before) {
            let committed = Bytes(plan.committed_bytes);
            tracing::info!(?state, %committed, limit = %Bytes(plan.limit_bytes), "the host's memory");
            self.events.push(self.now.unix_ms, None, state_message(state, committed, Bytes(plan.limit_bytes)));
        }
        self.spike_pool_bytes = plan.spike_pool_bytes;
        for ((number, view), verdict) in numbers.into_iter().zip(views).zip(plan.verdicts) {
            self.vms[number].verdict = Some(verdict);
            if let Some(step) = verdict.step {
                // What moves it knows pages or blocks. Rounded down, for what it rounds up would add up beyond the limit.
                let step = Step { to_bytes: step.to_bytes - step.to_bytes % self.vms[number].grain_bytes(), ..step };
                if step.to_bytes != step.from_bytes
                    && let Some((step, asked)) = self.agree(number, &verdict, step)
                {
                    self.take_step(number, &view.demand, &verdict, step, asked);
                }
            }
        }
        self.tell_host();
    }

    fn take_step(&mut self, number: usize, demand: &Demand, verdict: &Verdict, step: Step, asked: Option<Asked>) {
        self.decisions += 1;
        let allocation_bytes = self.vms[number].allocation_bytes();
        self.settle(number, Outcome::Superseded { reached_bytes: allocation_bytes });
        let vm = &mut self.vms[number];
        vm.target_bytes = step.to_bytes;
        vm.counts.balloon_stalls += u64::from(step.pace == Pace::GiveBack);
        vm.history = vm.history.after_step(self.now.ms, &step);
        vm.moving_since = Some(self.now.ms);
        if step.to_bytes > allocation_bytes {
            vm.waiting.on_growth(allocation_bytes, step.to_bytes);
        }
        let decision = Decision {
            id: self.decisions,
            at_unix_ms: self.now.unix_ms,
            vm: vm.config.name.clone(),
            allocation_bytes,
            demand: *demand,
            wanted_bytes: verdict.wanted_bytes,
            entitled_bytes: verdict.entitled_bytes,
            rule: verdict.rule,
            idle_tax: verdict.idle_tax,
            step,
            asked,
            split: None,
            outcome: Outcome::Moving,
        };
        tracing::debug!(vm = %decision.vm, from = %Bytes(step.from_bytes), to = %Bytes(step.to_bytes), rule = ?decision.rule, "step");
        vm.decisions.push(decision);
        self.effects.push(Effect::SetTarget { vm: number, bytes: step.to_bytes });
        self.tell(number);
    }

    /// Says what came of the newest decision about a VM, if it is still under way.
    pub(super) fn settle(&mut self, number: usize, outcome: Outcome) {
        let vm = &mut self.vms[number];
        let lasted_ms = vm.moving_since.map(|since| self.now.ms.saturating_sub(since));
        let Some(decision) = vm.decisions.settle(outcome) else { return };
        vm.counts.ended(&decision.outcome);
        if decision.step.to_bytes == vm.target_bytes
            && let Some((direction, bytes, ms)) = moved(decision, lasted_ms)
        {
            vm.history = vm.history.after_move(direction, bytes, ms, &self.policy);
        }
        if let Some(records) = &mut self.records {
            records.push(Record::Ended(Ended {
                ms: self.now.ms,
                vm: decision.vm.clone(),
                from_bytes: decision.allocation_bytes,
                to_bytes: decision.step.to_bytes,
                outcome: decision.outcome.clone(),
            }));
        }
    }

    pub(super) fn tell(&mut self, number: usize) {
        let allocation = self.vms[number].allocation();
        self.effects.push(Effect::TellAllocation { vm: number, allocation });
    }

    /// An event, and a line in the log.
    pub(super) fn note(&mut self, number: usize, message: String) {
        tracing::info!(vm = %self.vms[number].config.name, "{message}");
        self.remember(number, message);
    }

    /// An event only: what a guest can cause as often as it likes is not for the log. Its sessions log for
    /// themselves, each guest within its quota.
    pub(super) fn remember(&mut self, number: usize, message: String) {
        self.events.push(self.now.unix_ms, Some(&self.vms[number].config.name), message);
    }
}

fn state_message(state: HostState, committed: Bytes, limit: Bytes) -> String {
    let words = match state {
        HostState::Calm => "every need fits",
        HostState::Tight => "every need fits, and little is left for bursts",
        HostState::Short => "needs do not fit: shares decide",
        HostState::Emergency => "in trouble: all shrink to what fits",
    };
    format!("memory: {words} ({committed} of {limit} committed)")
}
