//! A VM at the table: its view, its want, what it is entitled to, and what this plan makes of it so far.

use super::demand::Want;
use super::{
    Demand, Direction, HostState, IdleTax, Millis, Pace, Policy, Rule, Step, Urgency, Verdict, VmView, stability,
};

/// One VM that can be changed now.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    pub vm: &'a VmView,
    pub want: Want,
    pub entitled: u64,
    /// The target that this plan gives it; the present one until a rule moves it.
    pub to: u64,
    /// What the move is for and which rule made it.
    pub moved: Option<(Pace, Rule)>,
}

/// What every rule looks at besides the VM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment<'a> {
    pub now_ms: Millis,
    pub state: HostState,
    pub policy: &'a Policy,
}

impl Moment<'_> {
    pub fn is_emergency(&self) -> bool {
        self.state == HostState::Emergency
    }
}

impl<'a> Seat<'a> {
    pub fn new(vm: &'a VmView, want: Want, entitled: u64) -> Self {
        Self { vm, want, entitled, to: vm.target_bytes, moved: None }
    }

    /// Whether somebody waits for its growth.
    pub fn is_urgent(&self) -> bool {
        self.want.urgency >= Urgency::Pressed
    }

    /// The target that it may grow to.
    pub fn goal(&self) -> u64 {
        self.entitled.min(self.want.wanted)
    }

    /// What it counts for until the hypervisor confirmed less, with its present target.
    pub fn committed(&self) -> u64 {
        self.vm.committed_bytes()
    }

    /// The least growth that is worth a move.
    pub fn least_growth(&self, policy: &Policy) -> u64 {
        if self.is_urgent() { policy.urgent_step_bytes.max(1) } else { policy.dead_band(self.vm.allocation_bytes) }
    }

    /// What it lacks to its goal, 0 when that is not worth a move.
    pub fn missing(&self, policy: &Policy) -> u64 {
        let missing = self.goal().saturating_sub(self.to);
        let short_of_minimum = self.to < self.want.minimum;
        let worth_it = missing >= self.least_growth(policy) && (self.is_urgent() || self.to < self.want.enough);
        if short_of_minimum || worth_it { missing } else { 0 }
    }

    /// What it may grow by in this plan if the bytes are there.
    pub fn ask(&self, moment: &Moment<'_>) -> u64 {
        let calm_must_wait = moment.is_emergency() || self.growth_blocked_until(moment).is_some();
        if self.is_stalled(moment) || (!self.is_urgent() && calm_must_wait) { 0 } else { self.missing(moment.policy) }
    }

    /// Whether its balloon is stalled and it is to be given some back.
    pub fn is_stalled(&self, moment: &Moment<'_>) -> bool {
        !moment.is_emergency() && stability::is_stalled(self.vm, moment.policy)
    }

    /// Until when it is left alone after a stalled balloon; an emergency does not wait.
    pub fn resting_until(&self, moment: &Moment<'_>) -> Option<Millis> {
        if moment.is_emergency() { None } else { self.vm.history.resting_until(moment.now_ms, moment.policy) }
    }

    /// Until when it does not shrink at this pace; an emergency does not wait.
    pub fn shrink_blocked_until(&self, pace: Pace, moment: &Moment<'_>) -> Option<Millis> {
        if moment.is_emergency() {
            None
        } else {
            self.vm.history.shrink_blocked_until(moment.now_ms, pace, moment.policy)
        }
    }

    /// Until when it does not grow because it shrank; urgent growth does not wait.
    pub fn growth_blocked_until(&self, moment: &Moment<'_>) -> Option<Millis> {
        if self.is_urgent() { None } else { self.vm.history.growth_blocked_until(moment.now_ms, moment.policy) }
    }

    /// Sets a new target.
    pub fn move_to(&mut self, to: u64, pace: Pace, rule: Rule) {
        self.to = to;
        self.moved = Some((pace, rule));
    }

    /// What the plan says of it in the end, with others' bytes there in `expected_ms`.
    pub fn verdict(&self, moment: &Moment<'_>, expected_ms: Option<Millis>) -> Verdict {
        let from_bytes = self.vm.target_bytes;
        let (step, rule) = match self.moved {
            Some((pace, rule)) => (Some(Step { from_bytes, to_bytes: self.to, pace }), rule),
            None => (None, self.why_still(moment, expected_ms)),
        };
        let is_known = matches!(self.vm.demand, Demand::Fresh(_)) && self.vm.shown.idle.is_some();
        let tax = || IdleTax::new(self.want.active, self.vm.allocation_bytes, moment.policy.idle_tax_percent);
        let idle_tax = is_known.then(tax);
        Verdict { wanted_bytes: self.want.wanted, entitled_bytes: self.entitled, step, rule, idle_tax }
    }

    /// Why nothing happens to it.
    fn why_still(&self, moment: &Moment<'_>, expected_ms: Option<Millis>) -> Rule {
        let policy = moment.policy;
        let pull = self.pull(policy);
        let resting = self.resting_until(moment).filter(|_| pull == Some(Direction::Shrink));
        let blocked = match pull {
            Some(Direction::Grow) => self.growth_blocked_until(moment),
            Some(Direction::Shrink) => self.shrink_blocked_until(Pace::Calm, moment),
            None => None,
        };
        let short_bytes = self.want.wanted.saturating_sub(self.to);
        let is_short = short_bytes >= self.least_growth(policy) && self.entitled < self.want.wanted;
        match (resting, blocked, pull) {
            (Some(until_ms), _, _) => Rule::StalledRest { until_ms },
            (None, Some(until_ms), _) => Rule::DirectionBlocked { until_ms },
            (None, None, Some(Direction::Grow)) => Rule::AwaitBytes { short_bytes: self.missing(policy), expected_ms },
            _ if is_short => Rule::ShortByShares { short_bytes },
            _ => match self.vm.demand {
                Demand::Fresh(_) => Rule::Satisfied,
                Demand::Stale { .. } => Rule::Stale,
                Demand::Unknown { .. } => Rule::NotYet,
            },
        }
    }

    /// Which way it would move if nothing held it.
    fn pull(&self, policy: &Policy) -> Option<Direction> {
        let above = self.to.saturating_sub(self.entitled.max(self.want.calm_hold));
        if self.missing(policy) > 0 {
            Some(Direction::Grow)
        } else if above >= policy.dead_band(self.vm.allocation_bytes) {
            Some(Direction::Shrink)
        } else {
            None
        }
    }
}
