//! What is done now about what each VM is entitled to, and what has to last first.

use super::shares::{Claim, entitled};
use super::weight::{Contender, Factor, contends, follow};
use super::{CPU, CpuHost, CpuPlan, CpuRule, CpuVerdict, CpuView, quota_millicpus};
use crate::plan::{Millis, Policy, Urgency};

/// What a number has to be beyond another, thousandths: nothing is done about less.
const DEAD_BAND_PERMILLE: u64 = 100;
/// How long the host has not been short before a VM is let go.
const CALM_MS: Millis = 10_000;

/// Plans, and remembers what lasts since when. The same sequence of views and times gives the same plans.
#[derive(Clone, Debug, Default)]
pub struct CpuPlanner {
    seats: Vec<Seat>,
    /// Since when everything fits.
    calm_since: Option<Millis>,
}

/// What is remembered of one VM.
#[derive(Clone, Debug, Default)]
struct Seat {
    above_since: Option<Millis>,
    below_since: Option<Millis>,
    unplugged_since: Option<Millis>,
    grown_ms: Option<Millis>,
    /// Whether what came online then had been taken shortly before: it is not taken again so soon.
    is_regretted: bool,
    lowered_ms: Option<Millis>,
    over_since: Option<Millis>,
    held_millicpus: Option<u64>,
    factor: Factor,
}

/// One VM in this plan.
struct Case<'a> {
    view: &'a CpuView,
    wanted: u64,
    entitled: u64,
    /// How many vCPUs that is worth.
    goal: u32,
}

impl Case<'_> {
    fn is_saturated(&self) -> bool {
        self.entitled < self.wanted
    }

    /// Gets clearly less than it is entitled to, and wants it.
    fn lacks(&self) -> bool {
        let band = self.entitled * DEAD_BAND_PERMILLE / 1000 + CPU / 10;
        self.view.demand.is_some() && self.view.used_millicpus.is_some_and(|used| used + band < self.entitled)
    }

    /// What it got beside others that want more, too, and wait.
    fn contender(&self) -> Option<Contender> {
        let (used, waited) = (self.view.used_millicpus?, self.view.waited_millicpus?);
        let is_one = self.is_saturated() && contends(self.entitled, waited);
        is_one.then_some(Contender { shares: self.view.limits.shares, entitled: self.entitled, used })
    }

    fn is_over(&self) -> bool {
        let band = self.entitled * DEAD_BAND_PERMILLE / 1000;
        self.is_saturated() && self.view.used_millicpus.is_some_and(|used| used > self.entitled + band)
    }
}

impl CpuPlanner {
    /// The plan for `vms`, all that there are and always in this order, on `host` at `now_ms`. Another number of them
    /// makes it forget.
    pub fn plan(&mut self, now_ms: Millis, host: CpuHost, vms: &[CpuView], policy: &Policy) -> CpuPlan {
        if self.seats.len() != vms.len() {
            self.seats = vec![Seat::default(); vms.len()];
        }
        let claims: Vec<Claim> = vms.iter().map(|view| claim(view, host, policy)).collect();
        let shares = entitled(&claims, host.capacity_millicpus());
        let fits = claims.iter().map(|claim| claim.want).sum::<u64>() <= host.capacity_millicpus();
        let is_contended = !fits || host.is_short;
        let is_calm = lasts(&mut self.calm_since, now_ms, !is_contended).is_some_and(|ms| ms >= CALM_MS);

        let cases: Vec<Case<'_>> = vms
            .iter()
            .zip(claims.iter().zip(shares))
            .map(|(view, (claim, entitled))| case(view, host, claim.want, entitled))
            .collect();
        for (case, seat) in cases.iter().zip(&mut self.seats) {
            if !is_contended || !case.is_saturated() {
                seat.factor = Factor::default();
            }
        }
        let contenders = cases.iter().zip(&mut self.seats);
        let contenders = contenders.filter_map(|(case, seat)| Some((&mut seat.factor, case.contender()?)));
        follow(&mut contenders.collect::<Vec<_>>());
        let lacking = cases.iter().filter(|case| case.lacks()).count();
        let mut verdicts = Vec::with_capacity(vms.len());
        for (case, seat) in cases.iter().zip(&mut self.seats) {
            let is_other_lacking = lacking > usize::from(case.lacks());
            seat.hold(now_ms, case, is_contended && is_other_lacking, is_calm, policy);
            verdicts.push(seat.verdict(now_ms, case, is_contended, policy));
        }
        CpuPlan { is_contended, verdicts }
    }
}

fn claim(view: &CpuView, host: CpuHost, policy: &Policy) -> Claim {
    let want = view.wanted_millicpus(host, policy);
    Claim { shares: view.limits.shares, least: view.limits.minimum_millicpus.min(want), want }
}

fn case(view: &CpuView, host: CpuHost, wanted: u64, entitled: u64) -> Case<'_> {
    let whole = |millicpus: u64| u32::try_from(millicpus.div_ceil(CPU)).unwrap_or(u32::MAX);
    // One more than it can run at once, so that weights decide and not the number of vCPUs.
    let goal = whole(wanted).min(whole(entitled).saturating_add(1));
    let most = whole(view.most_millicpus(host)).max(1);
    // Its minimum is there without waiting.
    let goal = goal.max(whole(view.limits.minimum_millicpus)).clamp(1, most);
    Case { view, wanted, entitled, goal }
}

impl Seat {
    /// Whether it is held by a quota.
    fn hold(&mut self, now_ms: Millis, case: &Case<'_>, others_lack: bool, is_calm: bool, policy: &Policy) {
        if is_calm {
            self.held_millicpus = None;
        }
        let over = lasts(&mut self.over_since, now_ms, others_lack && case.is_over());
        let is_new = self.held_millicpus.is_none() && over.is_some_and(|ms| ms >= policy.cpu_hold_after_ms);
        let has_moved =
            self.held_millicpus.is_some_and(|held| held.abs_diff(case.entitled) > held * DEAD_BAND_PERMILLE / 1000);
        if is_new || has_moved {
            self.held_millicpus = Some(case.entitled);
        }
    }

    fn verdict(&mut self, now_ms: Millis, case: &Case<'_>, is_contended: bool, policy: &Policy) -> CpuVerdict {
        let limits = &case.view.limits;
        let limit = match (limits.maximum_millicpus, self.held_millicpus) {
            (Some(maximum), Some(held)) => Some(maximum.min(held)),
            (maximum, held) => maximum.or(held),
        };
        let (online, plugged, rule) = self.vcpus(now_ms, case, is_contended, policy);
        let short_millicpus = case.wanted - case.entitled;
        let rule = match rule {
            Some(rule) => rule,
            None if self.held_millicpus.is_some() => CpuRule::Held,
            None if case.view.demand.is_none() => CpuRule::NotYet,
            None if short_millicpus > 0 => CpuRule::ShortByShares { short_millicpus },
            None => CpuRule::Satisfied,
        };
        CpuVerdict {
            wanted_millicpus: case.wanted,
            entitled_millicpus: case.entitled,
            weight_shares: self.factor.weight(limits.shares),
            quota_millicpus: limit.map(|limit| quota_millicpus(limit, policy)),
            online,
            plugged,
            rule,
        }
    }

    /// Which of its vCPUs change, and why or why not.
    fn vcpus(
        &mut self,
        now_ms: Millis,
        case: &Case<'_>,
        is_contended: bool,
        policy: &Policy,
    ) -> (Option<u32>, Option<u32>, Option<CpuRule>) {
        let view = case.view;
        let (Some(demand), Some(online)) = (view.demand, view.online) else {
            (self.above_since, self.below_since, self.unplugged_since) = (None, None, None);
            return (None, None, None);
        };
        let plugged = view.vcpus.map_or(online, |vcpus| vcpus.plugged.max(online));
        // A little above the boundary is not below it.
        let spare = u64::from(online.saturating_sub(1)) * (CPU - DEAD_BAND_PERMILLE);
        let goal = case.goal.max(view.least_online);
        let is_below = goal < online && (case.is_saturated() || case.wanted <= spare);
        let above = lasts(&mut self.above_since, now_ms, case.goal > online && view.most_online > online);
        let below = lasts(&mut self.below_since, now_ms, is_contended && is_below);
        let unused = lasts(&mut self.unplugged_since, now_ms, case.goal.max(online) < plugged);
        if !view.is_ready {
            return (None, None, Some(CpuRule::NotNow));
        }
        if let Some(lasted) = below {
            let (needed, rule) = if case.is_saturated() {
                (policy.cpu_trim_after_ms, CpuRule::Trim)
            } else {
                (policy.cpu_give_after_ms, CpuRule::GiveBack)
            };
            if lasted < needed {
                return (None, None, None);
            }
            let block_ms = if self.is_regretted { policy.calm_block_ms } else { 0 }.max(policy.cpu_block_ms);
            if let Some(until_ms) = blocked(self.grown_ms, now_ms, block_ms) {
                return (None, None, Some(CpuRule::DirectionBlocked { until_ms }));
            }
            self.lowered_ms = Some(now_ms);
            return (Some(goal), None, Some(rule));
        }
        if let Some(lasted) = above {
            let is_pressed = demand.urgency >= Urgency::Pressed;
            let block = blocked(self.lowered_ms, now_ms, policy.cpu_block_ms).filter(|_| !is_pressed);
            if let Some(until_ms) = block {
                return (None, None, Some(CpuRule::DirectionBlocked { until_ms }));
            }
            if online < plugged && lasted >= policy.cpu_grow_after_ms {
                self.grown_ms = Some(now_ms);
                self.is_regretted = blocked(self.lowered_ms, now_ms, policy.calm_block_ms).is_some();
                return (Some(case.goal.min(plugged).min(view.most_online)), None, Some(CpuRule::Grow));
            }
            let may_plug = view.vcpus.is_some_and(|vcpus| plugged < vcpus.possible && !vcpus.is_removing);
            if online == plugged && may_plug && lasted >= policy.cpu_plug_after_ms {
                self.grown_ms = Some(now_ms);
                return (None, Some(plugged + 1), Some(CpuRule::Plug));
            }
            return (None, None, None);
        }
        let may_unplug = view.vcpus.is_some_and(|vcpus| vcpus.removable > 0 && !vcpus.is_removing);
        let since_grown = blocked(self.grown_ms, now_ms, policy.cpu_unplug_after_ms);
        if may_unplug && since_grown.is_none() && unused.is_some_and(|lasted| lasted >= policy.cpu_unplug_after_ms) {
            self.lowered_ms = Some(now_ms);
            return (None, Some(plugged - 1), Some(CpuRule::Unplug));
        }
        (None, None, None)
    }
}

/// How long something has been so, if it is.
fn lasts(since: &mut Option<Millis>, now_ms: Millis, holds: bool) -> Option<Millis> {
    *since = holds.then(|| since.unwrap_or(now_ms));
    since.map(|since| now_ms.saturating_sub(since))
}

fn blocked(moved_ms: Option<Millis>, now_ms: Millis, block_ms: Millis) -> Option<Millis> {
    moved_ms.map(|moved_ms| moved_ms.saturating_add(block_ms)).filter(|&until_ms| now_ms < until_ms)
}
