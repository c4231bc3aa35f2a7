//! Whether the host's CPUs and disks keep up: how long its tasks wait in, two hints out that do not flap.
//!
//! ```text
//!             the average is at or over the upper line for 3 s
//!          +-----------------------------------------------------+
//!          |                                                     v
//!       enough                                                 short
//!          ^                                                     |
//!          +-----------------------------------------------------+
//!             the average is under the lower line for 10 s
//! ```
//!
//! The average weighs what is [`AVERAGE_MS`] old by less than half. So a hint that came stays for 10 s at least, one that
//! went comes again after 3 s at the soonest, and what swings between the lines changes nothing.
//!
//! **CPU.** The kernel's share is one of *used* CPU time: that in which, on the same CPU, another task could have run too
//! (`kernel/sched/psi.c`, `tSOME`). It is never 0 where many vCPUs run, so the lines are about how much. On a host of
//! 2 CPUs, 8 tasks of short bursts waited 24 % of the time while 69 % of CPU time was used, 2 busy loops 1 %, 3 of them
//! 50 %, 4 of them 99 %. From 40 % on, two of five microseconds that a guest polls for are another's.
//!
//! Tasks that `cpu.max` holds back count as waiting, however idle the host is
//! (<https://github.com/kubernetes/enhancements/issues/5062>), and so do those that are bound to a busy CPU. Hence waiting
//! counts while the CPUs are used by 70 % at least, the same line at which `OpenShift`'s descheduler begins to believe it.
//! Steal is time in which the whole host waits; it counts at any use.
//!
//! **I/O.** `full` is time in which nothing ran *because* of I/O; `some` says little more than that somebody reads. A
//! single task that waits for each of its reads on an otherwise idle host looks like a shortage in both.

use super::{Millis, Policy};
use serde::{Deserialize, Serialize};

/// How far back the average looks.
const AVERAGE_MS: u64 = 5_000;
/// How long the average has to be at or over the upper line before a hint comes.
const COMES_AFTER_MS: Millis = 3_000;
/// How long it has to be under the lower line before the hint goes: what a guest set for it is worth a while.
const GOES_AFTER_MS: Millis = 10_000;
/// Waiting for a CPU counts from this use of all CPUs on, thousandths.
const BUSY_PERMILLE: u32 = 700;

/// How the host's CPUs and disks keep up: shares of the time since the last reading, thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLoad {
    /// In which some task waited for a CPU (PSI).
    pub cpu_stall_some_permille: u32,
    /// Of all CPUs' time, what a hypervisor below the host gave to others.
    pub cpu_steal_permille: u32,
    /// Of all CPUs' time, what was not idle.
    pub cpu_used_permille: u32,
    /// In which all tasks waited for I/O (PSI).
    pub io_stall_full_permille: u32,
}

impl HostLoad {
    /// The share of time that counts as lost for want of CPU, thousandths.
    fn cpu_permille(&self) -> u32 {
        let waited = if self.cpu_used_permille >= BUSY_PERMILLE { self.cpu_stall_some_permille } else { 0 };
        waited.saturating_add(self.cpu_steal_permille).min(1000)
    }
}

/// What the host is short of, besides memory.
#[derive(Clone, Debug, Default)]
pub struct Shortage {
    read_ms: Option<Millis>,
    cpu: Hint,
    io: Hint,
}

impl Shortage {
    /// Takes in what was read at `now_ms`.
    pub fn update(&mut self, now_ms: Millis, load: &HostLoad, policy: &Policy) {
        // The first reading has nothing to be the share of.
        let window_ms = self.read_ms.map_or(0, |read_ms| now_ms.saturating_sub(read_ms));
        self.read_ms = Some(now_ms);
        let Policy { cpu_short_permille, cpu_clear_permille, io_short_permille, io_clear_permille, .. } = *policy;
        self.cpu.update(now_ms, window_ms, load.cpu_permille(), cpu_short_permille, cpu_clear_permille);
        self.io.update(now_ms, window_ms, load.io_stall_full_permille, io_short_permille, io_clear_permille);
    }

    /// CPU time.
    pub fn cpu(&self) -> &Hint {
        &self.cpu
    }

    /// Block I/O.
    pub fn io(&self) -> &Hint {
        &self.io
    }
}

/// Whether there is too little of one thing.
#[derive(Clone, Debug, Default)]
pub struct Hint {
    /// Of the shares, millionths.
    average: u32,
    is_short: bool,
    /// Since when the average is beyond the line that would change that.
    beyond_since: Option<Millis>,
}

impl Hint {
    /// Whether there is.
    pub fn is_short(&self) -> bool {
        self.is_short
    }

    /// The average share of time lost for it, thousandths.
    pub fn average_permille(&self) -> u32 {
        self.average / 1000
    }

    fn update(&mut self, now_ms: Millis, window_ms: u64, permille: u32, short_permille: u32, clear_permille: u32) {
        let (average, share) = (i128::from(self.average), i128::from(permille.min(1000)) * 1000);
        let (window, span) = (i128::from(window_ms), i128::from(window_ms) + i128::from(AVERAGE_MS));
        // Between two numbers of 32 bits.
        self.average = u32::try_from(average + (share - average) * window / span).unwrap_or(self.average);

        let (is_beyond, needed_ms) = if self.is_short {
            // With the lines the wrong way round the hint would come and go for ever.
            (self.average < clear_permille.min(short_permille) * 1000, GOES_AFTER_MS)
        } else {
            (self.average >= short_permille * 1000, COMES_AFTER_MS)
        };
        if !is_beyond {
            self.beyond_since = None;
        } else if now_ms.saturating_sub(*self.beyond_since.get_or_insert(now_ms)) >= needed_ms {
            self.is_short = !self.is_short;
            self.beyond_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waiting(permille: u32) -> HostLoad {
        HostLoad { cpu_stall_some_permille: permille, cpu_used_permille: 1000, ..HostLoad::default() }
    }

    /// When the hint for CPU changed, with a reading each second from second 0 on.
    fn changes(loads: impl IntoIterator<Item = HostLoad>) -> Vec<(u64, bool)> {
        let mut shortage = Shortage::default();
        let mut changes = Vec::new();
        for (second, load) in loads.into_iter().enumerate() {
            let before = shortage.cpu().is_short();
            let second = second as u64;
            shortage.update(second * 1000, &load, &Policy::default());
            if shortage.cpu().is_short() != before {
                changes.push((second, !before));
            }
        }
        changes
    }

    fn seconds(load: HostLoad, count: usize) -> impl Iterator<Item = HostLoad> {
        std::iter::repeat_n(load, count)
    }

    #[test]
    fn a_stall_that_lasts_is_said_within_seconds_and_taken_back_after_it_is_over() {
        let [enough, short] = [0, 990].map(waiting);
        let said = changes(seconds(enough, 10).chain(seconds(short, 30)).chain(seconds(enough, 40)));
        assert_eq!(said, [(15, true), (57, false)], "6 s after its first second, 18 s after its last");
    }

    #[test]
    fn what_is_short_of_the_line_brief_or_between_the_lines_changes_nothing() {
        let busy = |permille, count| seconds(waiting(permille), count);
        assert_eq!(changes(busy(390, 600)), [], "close to the line for ten minutes");
        assert_eq!(changes((0..60).flat_map(|_| busy(1000, 2).chain(busy(0, 18)))), [], "2 s of 20");
        let said = changes(busy(1000, 30).chain(busy(260, 600)));
        assert_eq!(said.len(), 1, "it came, and has not gone: {said:?}");
        assert!(changes(busy(410, 600)).len() == 1, "over the line it comes, if slowly");
    }

    #[test]
    fn waiting_on_idle_cpus_is_somebodys_own_limit_and_steal_is_not() {
        let held_back = HostLoad { cpu_used_permille: 690, ..waiting(1000) };
        assert_eq!(changes(seconds(held_back, 600)), []);
        let stolen = HostLoad { cpu_steal_permille: 600, cpu_used_permille: 650, ..HostLoad::default() };
        assert_eq!(changes(seconds(stolen, 600)).len(), 1);
        let both = HostLoad { cpu_steal_permille: 250, ..waiting(250) };
        assert_eq!(changes(seconds(both, 600)).len(), 1, "what waits for what was stolen adds up");
    }

    #[test]
    fn disks_count_apart_and_one_long_window_counts_as_long_as_it_was() {
        let mut shortage = Shortage::default();
        let stalls = HostLoad { io_stall_full_permille: 900, ..HostLoad::default() };
        for now_ms in [0, 60_000, 63_000] {
            assert!(!shortage.io().is_short(), "at {now_ms} ms");
            shortage.update(now_ms, &stalls, &Policy::default());
        }
        assert!(shortage.io().is_short() && !shortage.cpu().is_short());
        assert!(shortage.io().average_permille() > 850);
    }

    fn readings() -> impl Strategy<Value = Vec<(u64, HostLoad)>> {
        let share = || prop_oneof![Just(0_u32), Just(1000), 0..=1000_u32];
        let load = (share(), share(), share()).prop_map(|(cpu_stall_some_permille, cpu_steal_permille, io)| HostLoad {
            cpu_stall_some_permille,
            cpu_steal_permille,
            cpu_used_permille: 1000,
            io_stall_full_permille: io,
        });
        proptest::collection::vec((prop_oneof![Just(1000_u64), 0..20_000_u64], load), 1..300)
    }

    proptest! {
        #[test]
        fn no_hint_flaps_whatever_the_host_does_and_the_policy_says(readings in readings(), lines: [u16; 4]) {
            let [cpu_short_permille, cpu_clear_permille, io_short_permille, io_clear_permille] =
                lines.map(|line| u32::from(line) % 1001);
            let policy =
                Policy { cpu_short_permille, cpu_clear_permille, io_short_permille, io_clear_permille, ..Policy::default() };
            let mut shortage = Shortage::default();
            let (mut now_ms, mut changed_ms) = (0, [None; 2]);
            for (pause_ms, load) in readings {
                now_ms += pause_ms;
                let before = [shortage.cpu().is_short(), shortage.io().is_short()];
                shortage.update(now_ms, &load, &policy);
                let after = [shortage.cpu().is_short(), shortage.io().is_short()];
                for hint in 0..2 {
                    if before[hint] != after[hint] {
                        let stayed_ms = changed_ms[hint].replace(now_ms).map_or(u64::MAX, |at_ms: u64| now_ms - at_ms);
                        let least_ms = if before[hint] { GOES_AFTER_MS } else { COMES_AFTER_MS };
                        prop_assert!(stayed_ms >= least_ms, "{stayed_ms} ms after the change before");
                    }
                }
            }
        }

        #[test]
        fn a_constant_load_settles_whatever_was_before(readings in readings(), load in readings(), lines: [u16; 2]) {
            let [cpu_short_permille, cpu_clear_permille] = lines.map(|line| u32::from(line) % 1001);
            let policy = Policy { cpu_short_permille, cpu_clear_permille, ..Policy::default() };
            let mut shortage = Shortage::default();
            let mut now_ms = 0;
            for (pause_ms, load) in &readings {
                now_ms += pause_ms;
                shortage.update(now_ms, load, &policy);
            }
            let constant = load[0].1;
            let mut changes = 0;
            for second in 0..600 {
                let before = shortage.cpu().is_short();
                shortage.update(now_ms + second * 1000, &constant, &policy);
                changes += usize::from(before != shortage.cpu().is_short());
            }
            prop_assert!(changes <= 2, "{changes} changes");
            let permille = constant.cpu_permille();
            prop_assert!(shortage.cpu().average_permille().abs_diff(permille) <= 1);
            if permille > cpu_short_permille {
                prop_assert!(shortage.cpu().is_short());
            }
            if permille < cpu_clear_permille.min(cpu_short_permille).saturating_sub(1) {
                prop_assert!(!shortage.cpu().is_short());
            }
        }
    }
}
