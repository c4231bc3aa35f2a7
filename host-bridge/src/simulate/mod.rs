//! A host of made-up guests, for what two cores cannot boot.
//!
//! ```text
//!  Workload --> working set --> Agent --> protocol Demand --> check_demand --> Views --> plan::Demand
//!                    ^            as a real one's, from here on                                |
//!                    |                                                                         v
//!  Reuse <-- allocation <-- Speeds <-- send <-- Plan <------------------------------------ planner
//!    `--> stall
//! ```
//!
//! Demand takes the way of real reports: protocol types, the same checks, the same expiry. Time is a number, the seed
//! decides everything: the same [`Parameters`] give the same [`Outcome`], but for [`Outcome::wall`].
//!
//! What it leaves out: `deflate-on-oom`, guests that come, go or reboot, hypervisors that refuse, lost reports.

mod agent;
mod desk;
mod fairness;
mod guest;
mod outcome;
mod random;
mod reuse;
mod workload;

pub use desk::Requests;
pub use outcome::{Fairness, Load, Outcome, States, Wall};

use crate::guests::{GuestEvent, Tally, Views, check_demand};
use crate::hypervisor::driver::PAGE_BYTES;
use crate::model::{Ledger, Speeds, send};
use crate::plan::{HostView, Millis, Plan, Planner, Planning, Policy, VmView, active_bytes};
use crate::record::{Header, StoreError, Tick, Writer};
use desk::{Desk, Scene};
use guest::{Guest, Laws};
use outcome::Measures;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use vmtide_protocol::bridge::Intervals;

const HOUR_MS: Millis = 3_600_000;
/// What a recorded simulation may take.
const RECORD_BYTES: u64 = 1 << 30;

/// What is simulated.
#[derive(Clone, Debug, Serialize)]
pub struct Parameters {
    /// How many VMs.
    pub vms: usize,
    /// For how long.
    pub hours: u64,
    /// The sum of the maximums over what there is, thousandths.
    pub overcommit_permille: u64,
    /// The time between two plans, milliseconds.
    pub step_ms: Millis,
    /// Decides what guests do.
    pub seed: u64,
    /// Who plans.
    pub planner: Planner,
    /// The planner's numbers.
    pub policy: Policy,
    /// Whether guests are asked before a calm shrink, as the bridge does; else what the planner wants is taken at once.
    pub asks: bool,
}

/// Simulates; with `record`, also writes a recording into that folder.
///
/// # Errors
/// [`StoreError`] when the recording cannot be written.
pub fn simulate(parameters: &Parameters, record: Option<&Path>) -> Result<Outcome, StoreError> {
    let started = Instant::now();
    let mut host = Host::new(parameters);
    let mut writer = record.map(|folder| Writer::open(folder, RECORD_BYTES, host.header(parameters))).transpose()?;
    let end_ms = parameters.hours * HOUR_MS;
    let mut now_ms = 0;
    while now_ms < end_ms {
        host.hear(now_ms);
        let plan = host.plan(now_ms);
        if let Some(writer) = &mut writer {
            writer.tick(host.tick(now_ms, plan.clone()))?;
        }
        host.carry_out(now_ms, &plan);
        now_ms += parameters.step_ms;
    }
    let requests = host.desk.as_ref().map(|desk| desk.total(now_ms));
    Ok(host.measures.outcome(parameters, requests, &host.view, &host.guests, &host.ledger, started.elapsed()))
}

/// The host.
struct Host {
    view: HostView,
    step_ms: Millis,
    planner: Planning,
    policy: Policy,
    speeds: Speeds,
    laws: Laws,
    guests: Vec<Guest>,
    reports: Views,
    numbers: Vec<usize>,
    views: Vec<VmView>,
    ledger: Ledger,
    measures: Measures,
    desk: Option<Desk>,
}

impl Host {
    fn new(parameters: &Parameters) -> Self {
        let intervals = Intervals::default();
        let (guests, mut views): (Vec<Guest>, Vec<VmView>) =
            (0..parameters.vms).map(|number| Guest::new(parameters.seed, number as u64, intervals)).unzip();
        let maximum_bytes: u64 = views.iter().map(|view| view.limits.maximum_bytes).fold(0, u64::saturating_add);
        let capacity_bytes = part(maximum_bytes, 1000, parameters.overcommit_permille);
        for view in &mut views {
            // All alike, and none of the spike pool: where an operator without vmtide could leave them.
            let has = part(view.limits.maximum_bytes, 950, parameters.overcommit_permille);
            let has = has.clamp(view.limits.minimum_bytes, view.limits.maximum_bytes);
            (view.allocation_bytes, view.target_bytes) = (has - has % PAGE_BYTES, has - has % PAGE_BYTES);
        }
        Self {
            view: HostView { capacity_bytes, reserve_bytes: 0, available_bytes: None, stall_full_permille: 0 },
            step_ms: parameters.step_ms,
            planner: parameters.planner.start(),
            policy: parameters.policy.clone(),
            speeds: Speeds::default(),
            laws: Laws::default(),
            reports: Views::new(parameters.vms, intervals),
            numbers: (0..parameters.vms).collect(),
            guests,
            views,
            ledger: Ledger::default(),
            measures: Measures::default(),
            desk: parameters.asks.then(|| Desk::new(parameters.vms)),
        }
    }

    /// Time passes in the guests, and some report.
    fn hear(&mut self, now_ms: Millis) {
        for (number, (guest, view)) in self.guests.iter_mut().zip(&mut self.views).enumerate() {
            let report = guest.tick(now_ms, self.step_ms, view, &self.laws);
            if let Some(report) = report {
                let (demand, clamps) = check_demand(&report, view.limits.maximum_bytes);
                if let Some(memory) = &demand.memory {
                    let active_bytes = active_bytes(&memory.demand, memory.idle().as_ref());
                    view.history = view.history.after_demand(now_ms, memory.demand.need_bytes);
                    view.history = view.history.after_activity(now_ms, active_bytes);
                }
                let tally = Tally { reports: 1, clamps, ..Tally::default() };
                let event = GuestEvent::Demand { demand: Box::new(demand), urgent: false, tally };
                self.reports.apply(number, now_ms, &event);
                self.measures.reports += 1;
            }
            view.shown = guest.shown(view.allocation_bytes);
            view.demand = self.reports.demand(number, now_ms, view.limits.maximum_bytes, None);
        }
    }

    fn plan(&mut self, now_ms: Millis) -> Plan {
        let started = Instant::now();
        let plan = self.planner.plan(now_ms, &self.view, &self.views, &self.policy);
        self.measures.planned(started.elapsed(), plan.state);
        plan
    }

    /// Steps are sent, and balloons move until the next tick.
    fn carry_out(&mut self, now_ms: Millis, plan: &Plan) {
        let (reports, guests, laws, policy) = (&self.reports, &self.guests, &self.laws, &self.policy);
        let scene = Scene { now_ms, reports, guests, laws, policy };
        let agreed = self.desk.as_mut().map(|desk| desk.agree(plan, &self.views, &scene));
        let plan = agreed.as_ref().unwrap_or(plan);
        self.ledger.tick(now_ms, &self.view, &self.numbers, &self.views, plan);
        self.measures.served(&self.guests, &self.views, &self.view);
        send(now_ms, &mut self.views, plan);
        let then_ms = now_ms + self.step_ms;
        for view in self.views.iter_mut().filter(|view| view.allocation_bytes != view.target_bytes) {
            view.allocation_bytes = self.speeds.moved(view.allocation_bytes, view.target_bytes, self.step_ms);
            view.history = view.history.after_observation(then_ms, view.allocation_bytes, view.target_bytes);
        }
        if let Some(desk) = &mut self.desk {
            desk.moved(&self.views);
        }
    }

    fn header(&self, parameters: &Parameters) -> Header {
        Header::new(
            0,
            parameters.planner,
            parameters.policy.clone(),
            self.numbers.iter().map(|number| format!("vm-{number:05}")).collect(),
        )
    }

    fn tick(&self, now_ms: Millis, plan: Plan) -> Tick {
        let (host, numbers, views) = (self.view, self.numbers.clone(), self.views.clone());
        Tick { ms: now_ms, unix_ms: now_ms, host, numbers, views, plan, used: BTreeMap::new(), levers: Vec::new() }
    }
}

/// `bytes · times / of`, rounded down.
fn part(bytes: u64, times: u64, of: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(times) / u128::from(of.max(1))).unwrap_or(u64::MAX)
}
