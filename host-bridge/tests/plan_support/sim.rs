//! A host that carries plans out: balloons take time, confirmations come once a tick, time is a number.

use super::sum;
use vmtide_bridge::plan::{
    Demand, Direction, HostState, HostView, MIB, MemoryDemand, Millis, Plan, Policy, Reach, VmView, active_bytes,
    memory,
};

/// A VM as it is, beside what the bridge knows of it.
pub struct Guest {
    pub view: VmView,
    /// What the guest really needs.
    pub need_bytes: u64,
    /// What its balloon takes in a second.
    pub inflate_bytes_per_s: u64,
}

/// A running host.
pub struct Sim {
    pub host: HostView,
    pub guests: Vec<Guest>,
    pub policy: Policy,
    pub now_ms: Millis,
    /// The direction of each VM's last move, and how often each turned since the last `forget_moves`.
    last: Vec<Option<Direction>>,
    pub turns: Vec<u32>,
    pub steps: usize,
}

/// One tick.
pub const TICK_MS: Millis = 1000;

impl Sim {
    pub fn new(host: HostView, guests: Vec<Guest>) -> Self {
        let count = guests.len();
        let policy = Policy::default();
        Self { host, guests, policy, now_ms: 600_000, last: vec![None; count], turns: vec![0; count], steps: 0 }
    }

    /// A tick: guests report, the plan is made and its steps sent, the balloons move, the hypervisor confirms.
    /// `noise_permille` gives each VM's need of this tick, thousandths of what it needs.
    pub fn tick(&mut self, mut noise_permille: impl FnMut(usize) -> u64) -> Plan {
        self.now_ms += TICK_MS;
        for (index, guest) in self.guests.iter_mut().enumerate() {
            if let Demand::Fresh(demand) = guest.view.demand {
                let need_bytes = (guest.need_bytes / 1000).saturating_mul(noise_permille(index));
                let floor_bytes = demand.floor_bytes.min(need_bytes);
                let demand = MemoryDemand { need_bytes, floor_bytes, ..demand };
                guest.view.demand = Demand::Fresh(demand);
                let active_bytes = active_bytes(&demand, guest.view.shown.idle.as_ref());
                let history = guest.view.history.after_demand(self.now_ms, need_bytes);
                guest.view.history = history.after_activity(self.now_ms, active_bytes);
            }
        }
        let views: Vec<VmView> = self.guests.iter().map(|guest| guest.view.clone()).collect();
        let plan = memory::plan(self.now_ms, &self.host, &views, &self.policy);
        self.send(&plan);
        self.run_balloons();
        plan
    }

    fn send(&mut self, plan: &Plan) {
        for (index, verdict) in plan.verdicts.iter().enumerate() {
            let Some(step) = verdict.step else { continue };
            let view = &mut self.guests[index].view;
            assert_eq!(step.from_bytes, view.target_bytes);
            view.target_bytes = step.to_bytes;
            view.history = view.history.after_step(self.now_ms, &step);
            self.steps += 1;
            if self.last[index].is_some_and(|last| last != step.direction()) {
                self.turns[index] += 1;
            }
            self.last[index] = Some(step.direction());
        }
    }

    /// Deflation is at once: the worst case for the limit. Inflation takes its time.
    fn run_balloons(&mut self) {
        for guest in self.guests.iter_mut().filter(|guest| guest.view.reach != Reach::Unreachable) {
            let view = &mut guest.view;
            let taken = guest.inflate_bytes_per_s * TICK_MS / 1000;
            view.allocation_bytes = view.target_bytes.max(view.allocation_bytes.saturating_sub(taken));
            view.history = view.history.after_observation(self.now_ms, view.allocation_bytes, view.target_bytes);
        }
    }

    /// Ticks with steady needs.
    pub fn run(&mut self, seconds: u64) -> Option<Plan> {
        (0..seconds).map(|_| self.tick(|_| 1000)).last()
    }

    pub fn committed(&self) -> u128 {
        sum(self.guests.iter().map(|guest| guest.view.committed_bytes()))
    }

    pub fn limit(&self) -> u128 {
        u128::from(self.host.limit_bytes())
    }

    pub fn allocation_mib(&self, index: usize) -> u64 {
        self.guests[index].view.allocation_bytes / MIB
    }

    /// From here on moves are counted anew.
    pub fn forget_moves(&mut self) {
        self.turns.fill(0);
        self.last.fill(None);
        self.steps = 0;
    }
}

/// A guest whose balloon moves at half a GiB a second.
pub fn guest(view: VmView) -> Guest {
    let need_bytes = match view.demand {
        Demand::Fresh(demand) => demand.need_bytes,
        Demand::Stale { .. } | Demand::Unknown { .. } => 0,
    };
    Guest { view, need_bytes, inflate_bytes_per_s: 512 * MIB }
}

/// Whether a plan says that all is well or short, not an emergency.
pub fn is_in_order(plan: &Plan) -> bool {
    plan.state != HostState::Emergency
}
