//! The books of a host: what was moved, who fell short, what was broken.
//!
//! What a tick shows counts until the next one. For a VM with a fresh report, over the time between two ticks:
//!
//! ```text
//! stall = time × (need − allocation) / need        while the allocation is less than the need, else 0
//! ```
//!
//! So a VM with half of what it needs is counted as standing still half of the time. It is a measure to compare plans
//! by, not a forecast: what a missing page costs depends on what the guest does with it.

use super::balloon::sent;
use crate::plan::{Demand, Direction, HostView, Millis, Plan, Reach, Step, Verdict, VmView};
use serde::Serialize;

/// A longer time between two ticks is no time in which the bridge planned: it is counted as a gap and nothing else.
pub const GAP_MS: Millis = 10_000;

/// The time that a ledger covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Time {
    /// Plans.
    pub ticks: u64,
    /// Time that counts, milliseconds.
    pub ms: Millis,
    /// Times without plans that are longer than [`GAP_MS`].
    pub gaps: u64,
    /// All of them together, milliseconds.
    pub gap_ms: Millis,
    /// How often the planner's clock went back; no time passed then.
    pub clock_back: u64,
}

/// The figures of one VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VmFigures {
    /// How often its target was moved.
    pub steps: u64,
    /// By how much its allocation moved, up and down.
    pub moved_bytes: u64,
    /// Predicted stall, microseconds; the formula is this module's.
    pub stall_us: u64,
    /// Shrinks to less than the floor of its fresh report.
    pub steps_below_floor: u64,
    /// How long both allocation and target were under the floor of its fresh report, milliseconds.
    pub below_floor_ms: Millis,
    /// How long its target was outside its limits although it could be changed, milliseconds.
    pub outside_limits_ms: Millis,
}

/// The figures of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// The sum over the VMs.
    #[serde(flatten)]
    pub vms: VmFigures,
    /// How long more was committed than there is, milliseconds.
    pub over_limit_ms: Millis,
}

/// What a VM was left with by the last tick.
#[derive(Clone, Copy, Debug)]
struct Row {
    number: usize,
    allocation_bytes: u64,
    committed_bytes: u64,
    need_bytes: u64,
    is_below_floor: bool,
    is_outside_limits: bool,
}

/// Keeps the books of one run.
#[derive(Debug, Default)]
pub struct Ledger {
    time: Time,
    over_limit_ms: Millis,
    vms: Vec<VmFigures>,
    last: Option<Millis>,
    rows: Vec<Row>,
    is_over_limit: bool,
}

impl Ledger {
    /// Takes in a tick: who was there (`numbers`, rising), how (`views`, before the plan), and the plan.
    pub fn tick(&mut self, now_ms: Millis, host: &HostView, numbers: &[usize], views: &[VmView], plan: &Plan) {
        let elapsed_ms = self.elapsed_ms(now_ms);
        self.close(elapsed_ms);
        self.count_moves(numbers, views);
        self.rows.clear();
        let mut committed: u64 = 0;
        for ((number, view), verdict) in numbers.iter().zip(views).zip(&plan.verdicts) {
            if self.vms.len() <= *number {
                self.vms.resize(number + 1, VmFigures::default());
            }
            let row = row(*number, view, verdict, &mut self.vms[*number]);
            committed = committed.saturating_add(row.committed_bytes);
            self.rows.push(row);
        }
        self.is_over_limit = committed > host.limit_bytes();
        self.last = Some(now_ms);
        self.time.ticks += 1;
    }

    /// The time that counts between the last tick and this one.
    fn elapsed_ms(&mut self, now_ms: Millis) -> Millis {
        let Some(last_ms) = self.last else { return 0 };
        let Some(elapsed_ms) = now_ms.checked_sub(last_ms) else {
            self.time.clock_back += 1;
            return 0;
        };
        if elapsed_ms > GAP_MS {
            self.time.gaps += 1;
            self.time.gap_ms += elapsed_ms;
            return 0;
        }
        self.time.ms += elapsed_ms;
        elapsed_ms
    }

    /// Counts what the last tick showed for `ms`.
    fn close(&mut self, ms: Millis) {
        self.over_limit_ms += if self.is_over_limit { ms } else { 0 };
        for row in &self.rows {
            let figures = &mut self.vms[row.number];
            let missing = row.need_bytes.saturating_sub(row.allocation_bytes);
            if missing > 0 {
                let stall_us = u128::from(ms) * 1000 * u128::from(missing) / u128::from(row.need_bytes);
                // At most the time itself.
                figures.stall_us += u64::try_from(stall_us).unwrap_or(u64::MAX);
            }
            figures.below_floor_ms += if row.is_below_floor { ms } else { 0 };
            figures.outside_limits_ms += if row.is_outside_limits { ms } else { 0 };
        }
    }

    fn count_moves(&mut self, numbers: &[usize], views: &[VmView]) {
        let mut before = self.rows.iter().peekable();
        for (number, view) in numbers.iter().zip(views) {
            while before.next_if(|row| row.number < *number).is_some() {}
            if let Some(row) = before.next_if(|row| row.number == *number) {
                self.vms[*number].moved_bytes += row.allocation_bytes.abs_diff(view.allocation_bytes);
            }
        }
    }

    /// The time so far.
    pub fn time(&self) -> Time {
        self.time
    }

    /// The figures of the VM with this number.
    pub fn vm(&self, number: usize) -> VmFigures {
        self.vms.get(number).copied().unwrap_or_default()
    }

    /// The figures of all.
    pub fn total(&self) -> Figures {
        let vms = self.vms.iter().fold(VmFigures::default(), |sum, vm| sum.plus(vm));
        Figures { vms, over_limit_ms: self.over_limit_ms }
    }
}

/// What `verdict` leaves the VM with; its steps are counted.
fn row(number: usize, view: &VmView, verdict: &Verdict, figures: &mut VmFigures) -> Row {
    let step = sent(verdict);
    let target_bytes = step.map_or(view.target_bytes, |step| step.to_bytes);
    let (need_bytes, floor_bytes) = match view.demand {
        Demand::Fresh(demand) => (demand.need_bytes, demand.floor_bytes),
        Demand::Stale { .. } | Demand::Unknown { .. } => (0, 0),
    };
    if let Some(step) = step {
        figures.steps += 1;
        figures.steps_below_floor += u64::from(goes_below(&step, floor_bytes));
    }
    let (minimum, maximum) = (view.limits.minimum_bytes.min(view.limits.maximum_bytes), view.limits.maximum_bytes);
    Row {
        number,
        allocation_bytes: view.allocation_bytes,
        committed_bytes: view.allocation_bytes.max(target_bytes),
        need_bytes,
        is_below_floor: view.allocation_bytes.max(target_bytes) < floor_bytes,
        is_outside_limits: view.reach == Reach::Ready && !(minimum..=maximum).contains(&target_bytes),
    }
}

fn goes_below(step: &Step, floor_bytes: u64) -> bool {
    step.direction() == Direction::Shrink && step.to_bytes < floor_bytes
}

impl VmFigures {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            steps: self.steps + other.steps,
            moved_bytes: self.moved_bytes + other.moved_bytes,
            stall_us: self.stall_us + other.stall_us,
            steps_below_floor: self.steps_below_floor + other.steps_below_floor,
            below_floor_ms: self.below_floor_ms + other.below_floor_ms,
            outside_limits_ms: self.outside_limits_ms + other.outside_limits_ms,
        }
    }
}

impl Figures {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self { vms: self.vms.plus(&other.vms), over_limit_ms: self.over_limit_ms + other.over_limit_ms }
    }
}

impl Time {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            ticks: self.ticks + other.ticks,
            ms: self.ms + other.ms,
            gaps: self.gaps + other.gaps,
            gap_ms: self.gap_ms + other.gap_ms,
            clock_back: self.clock_back + other.clock_back,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{History, Limits, MemoryDemand, Pace, Rule, Shown, Urgency, memory};
    use crate::plan::{MIB, Policy};

    const HOST: HostView =
        HostView { capacity_bytes: 1024 * MIB, reserve_bytes: 0, available_bytes: None, stall_full_permille: 0 };

    fn view(has: u64, need: u64, floor: u64) -> VmView {
        VmView {
            limits: Limits { minimum_bytes: 64 * MIB, reservation_bytes: 0, maximum_bytes: 1024 * MIB, shares: 1000 },
            allocation_bytes: has * MIB,
            target_bytes: has * MIB,
            reach: Reach::Ready,
            demand: Demand::Fresh(MemoryDemand {
                need_bytes: need * MIB,
                floor_bytes: floor * MIB,
                urgency: Urgency::Normal,
            }),
            history: History::default(),
            shown: Shown::default(),
        }
    }

    fn still(views: &[VmView]) -> Plan {
        let mut plan = memory::plan(0, &HOST, views, &Policy::default());
        plan.verdicts.iter_mut().for_each(|verdict| verdict.step = None);
        plan
    }

    /// A ledger of one VM that is seen like this at these times.
    fn ledger(ticks: &[(Millis, VmView)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (ms, view) in ticks {
            let views = std::slice::from_ref(view);
            ledger.tick(*ms, &HOST, &[0], views, &still(views));
        }
        ledger
    }

    #[test]
    fn a_quarter_of_the_need_missing_is_a_quarter_of_the_time() {
        let (short, has_it) = (view(300, 400, 100), view(400, 400, 100));
        let books = ledger(&[(0, short.clone()), (1_000, short), (3_000, has_it.clone()), (9_000, has_it)]);
        assert_eq!(books.vm(0).stall_us, 250_000 + 500_000);
        assert_eq!((books.vm(0).moved_bytes, books.time().ms), (100 * MIB, 9_000));
    }

    #[test]
    fn a_clock_that_jumps_makes_no_time() {
        let short = view(300, 400, 350);
        let books =
            ledger(&[(50_000, short.clone()), (20_000, short.clone()), (20_500, short.clone()), (99_000, short)]);
        let expected = Time { ticks: 4, ms: 500, gaps: 1, gap_ms: 78_500, clock_back: 1 };
        assert_eq!((books.time(), books.vm(0).below_floor_ms), (expected, 500));
    }

    #[test]
    fn what_is_broken_counts_as_long_as_it_lasts() {
        let mut books = Ledger::default();
        let views = [view(900, 500, 400), view(300, 200, 100)];
        let mut plan = still(&views);
        books.tick(0, &HOST, &[0, 3], &views, &plan);
        let step = Step { from_bytes: 900 * MIB, to_bytes: 399 * MIB, pace: Pace::Calm };
        plan.verdicts[0] = Verdict { step: Some(step), rule: Rule::Revoke, ..plan.verdicts[0] };
        books.tick(1_000, &HOST, &[0, 3], &views, &plan);
        let views = [VmView { allocation_bytes: 399 * MIB, target_bytes: 32 * MIB, ..view(0, 500, 400) }];
        books.tick(1_500, &HOST, &[0], &views, &still(&views));
        books.tick(2_000, &HOST, &[0], &views, &still(&views));
        assert_eq!(books.total().over_limit_ms, 1_500, "until the shrink is confirmed");
        let expected = VmFigures {
            steps: 1,
            moved_bytes: 501 * MIB,
            stall_us: 500_000 * 101 / 500,
            steps_below_floor: 1,
            below_floor_ms: 500,
            outside_limits_ms: 500,
        };
        assert_eq!((books.vm(0), books.vm(3)), (expected, VmFigures::default()));
    }
}
