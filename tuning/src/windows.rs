//! What the machine did in windows of a few seconds, each under the same settings. Pure.
//!
//! In: [`Reading`]s. Out: for each signal its last windows, and over how many of them neither the memory moved nor the workload
//! shifted: only such windows can be compared.

use crate::catalogue::Signal;
use crate::trial::{LEAST_WINDOWS, least_that_matters, median};
use std::collections::VecDeque;

/// A shorter window counts too little.
const LEAST_MS: u64 = 2_000;
/// Older windows are another workload's.
const MOST_WINDOWS: usize = 12;
/// Memory moves when the machine has more or less by this share.
const MEMORY_SHARE: u64 = 32;
/// The workload shifts when anonymous memory differs by this share of what there is.
const ANON_SHARE: u64 = 8;
/// Or when CPU time differs by half, and by more than this.
const CPU_MILLICPUS: u64 = 250;

/// What the kernel counted until a moment; what it does not count is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// When CPUs and disks were read: a reading in which they are the same as in the one before ends no window.
    pub read_ms: u64,
    /// What the machine has now, without what a balloon holds.
    pub memory_bytes: u64,
    /// Anonymous memory in use.
    pub anon_bytes: u64,
    /// Evicted pages that were read again, since boot.
    pub refault_bytes: u64,
    /// Read from swap, since boot.
    pub swap_in_bytes: u64,
    /// Time in which some task waited for memory (PSI), since boot.
    pub memory_stall_us: Option<u64>,
    /// The same for a CPU.
    pub cpu_stall_us: Option<u64>,
    /// The same for block I/O.
    pub io_stall_us: Option<u64>,
    /// CPUs online.
    pub online_cpus: u64,
    /// CPU time used, of all CPUs.
    pub cpu_used_ms: u64,
    /// CPU time that a hypervisor gave to others.
    pub steal_ms: u64,
    /// Requests that disks finished.
    pub disk_ops: u64,
    /// How long they took together.
    pub disk_wait_ms: u64,
}

/// What one window held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    memory_bytes: u64,
    anon_bytes: u64,
    cpu_millicpus: u64,
    memory_stall: Option<u64>,
    cpu_stall: Option<u64>,
    io_stall: Option<u64>,
    refaults: u64,
    swap_in: u64,
    steal: u64,
    io_latency: Option<u64>,
}

/// The last windows.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    /// Where the next one begins.
    edge: Option<(u64, Reading)>,
    past: VecDeque<Window>,
    /// How many there ever were.
    seen: u64,
}

impl Windows {
    /// Ends a window, if the last end is long enough ago.
    pub fn add(&mut self, at_ms: u64, reading: &Reading) {
        let Some((began_ms, before)) = &self.edge else {
            self.edge = Some((at_ms, *reading));
            return;
        };
        let elapsed_ms = at_ms.saturating_sub(*began_ms);
        if before.read_ms == reading.read_ms || elapsed_ms < LEAST_MS {
            return;
        }
        self.past.push_front(window(before, reading, elapsed_ms));
        self.past.truncate(MOST_WINDOWS);
        self.seen += 1;
        self.edge = Some((at_ms, *reading));
    }

    /// Begins anew: a setting was changed.
    pub fn clear(&mut self) {
        self.edge = None;
        self.past.clear();
    }

    /// The last window, and how many there ever were.
    pub fn newest(&self) -> Option<(Window, u64)> {
        self.past.front().map(|window| (*window, self.seen))
    }

    /// How many of the last windows are alike.
    pub fn steady(&self) -> usize {
        let Some(newest) = self.past.front() else { return 0 };
        self.past.iter().take_while(|window| window.is_like(newest)).count()
    }

    /// The last [`LEAST_WINDOWS`] values of `signal`; `None` when there are fewer, or the machine does not say.
    pub fn values(&self, signal: Signal) -> Option<Vec<u64>> {
        let values: Option<Vec<_>> = self.past.iter().take(LEAST_WINDOWS).map(|window| window.of(signal)).collect();
        values.filter(|values| values.len() == LEAST_WINDOWS)
    }

    /// Whether any signal shows something in the last window: cheap to ask, for mostly none does.
    pub fn is_loud(&self) -> bool {
        let signals = [
            Signal::MemoryStall,
            Signal::CpuStall,
            Signal::IoStall,
            Signal::Refaults,
            Signal::SwapIn,
            Signal::Steal,
            Signal::IoLatency,
        ];
        let of_last = |signal| self.past.front().and_then(|window| window.of(signal));
        signals.into_iter().any(|signal| of_last(signal).is_some_and(|value| value >= least_that_matters(signal)))
    }

    /// Whether `signal` shows nothing that a knob could better, as far as is known.
    pub fn is_quiet(&self, signal: Signal) -> bool {
        let values: Vec<_> = self.past.iter().take(LEAST_WINDOWS).filter_map(|window| window.of(signal)).collect();
        median(&values) < least_that_matters(signal)
    }
}

impl Window {
    /// Whether the machine has as much memory and as much to do.
    pub fn is_like(&self, other: &Self) -> bool {
        let memory = self.memory_bytes.max(other.memory_bytes);
        let cpu = self.cpu_millicpus.max(other.cpu_millicpus);
        self.memory_bytes.abs_diff(other.memory_bytes) <= memory / MEMORY_SHARE
            && self.anon_bytes.abs_diff(other.anon_bytes) <= memory / ANON_SHARE
            && self.cpu_millicpus.abs_diff(other.cpu_millicpus) <= (cpu / 2).max(CPU_MILLICPUS)
    }

    fn of(&self, signal: Signal) -> Option<u64> {
        match signal {
            Signal::MemoryStall => self.memory_stall,
            Signal::CpuStall => self.cpu_stall,
            Signal::IoStall => self.io_stall,
            Signal::Refaults => Some(self.refaults),
            Signal::SwapIn => Some(self.swap_in),
            Signal::Steal => Some(self.steal),
            Signal::IoLatency => self.io_latency,
        }
    }
}

fn window(before: &Reading, now: &Reading, elapsed_ms: u64) -> Window {
    let per_second = |before: u64, now: u64| now.saturating_sub(before).saturating_mul(1_000) / elapsed_ms;
    let kib_per_second = |before: u64, now: u64| per_second(before, now) / 1_024;
    let share = |before: Option<u64>, now: Option<u64>| Some(per_second(before?, now?).min(1_000_000));
    let steal_us = now.steal_ms.saturating_sub(before.steal_ms).saturating_mul(1_000);
    let waited_us = now.disk_wait_ms.saturating_sub(before.disk_wait_ms).saturating_mul(1_000);
    Window {
        memory_bytes: now.memory_bytes,
        anon_bytes: now.anon_bytes,
        cpu_millicpus: per_second(before.cpu_used_ms, now.cpu_used_ms),
        memory_stall: share(before.memory_stall_us, now.memory_stall_us),
        cpu_stall: share(before.cpu_stall_us, now.cpu_stall_us),
        io_stall: share(before.io_stall_us, now.io_stall_us),
        refaults: kib_per_second(before.refault_bytes, now.refault_bytes),
        swap_in: kib_per_second(before.swap_in_bytes, now.swap_in_bytes),
        steal: steal_us.saturating_mul(1_000) / elapsed_ms / now.online_cpus.max(1),
        io_latency: waited_us.checked_div(now.disk_ops.saturating_sub(before.disk_ops)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A machine of 1 GiB at a second of its life, whose tasks waited so long for memory.
    pub(crate) fn reading(second: u64, stall_us: u64, balloon_bytes: u64) -> Reading {
        Reading {
            read_ms: second,
            memory_bytes: (1024 * MIB).saturating_sub(balloon_bytes),
            memory_stall_us: Some(stall_us),
            online_cpus: 2,
            cpu_used_ms: second * 300,
            steal_ms: second * 20,
            disk_ops: second * 10,
            disk_wait_ms: second * 50,
            ..Reading::default()
        }
    }

    #[test]
    fn windows_are_two_seconds_between_readings_of_all() {
        let mut windows = Windows::default();
        for second in 0..=6 {
            windows.add(second * 1_000, &reading(second, second * 100_000, 0));
        }
        windows.add(9_000, &reading(6, 900_000, 0));
        let (newest, seen) = windows.newest().unwrap();
        assert_eq!(seen, 3, "the last has CPUs and disks of another moment");
        assert_eq!((newest.memory_stall, newest.cpu_stall, newest.io_latency), (Some(100_000), None, Some(5_000)));
        assert_eq!((newest.cpu_millicpus, newest.steal), (300, 10_000));
        assert!(!windows.is_quiet(Signal::MemoryStall) && windows.is_quiet(Signal::Refaults) && windows.is_loud());
        windows.clear();
        assert!(windows.is_quiet(Signal::MemoryStall) && windows.newest().is_none());
    }

    #[test]
    fn moving_memory_and_a_shift_of_work_end_what_is_steady() {
        let mut windows = Windows::default();
        for second in (0..=16).step_by(2) {
            let balloon = if second < 8 { 0 } else { 256 * MIB };
            windows.add(second * 1_000, &reading(second, 0, balloon));
        }
        assert_eq!(windows.steady(), 5);
        assert!(windows.values(Signal::MemoryStall).is_some());
        let mut busy = reading(18, 0, 256 * MIB);
        busy.cpu_used_ms = 16 * 300 + 4_000;
        windows.add(18_000, &busy);
        assert_eq!(windows.steady(), 1);
    }

    #[test]
    fn what_no_machine_counts_breaks_nothing() {
        let mut windows = Windows::default();
        let mut absurd = reading(0, u64::MAX, u64::MAX);
        (absurd.cpu_used_ms, absurd.steal_ms) = (u64::MAX, u64::MAX);
        windows.add(0, &reading(1, 0, 0));
        windows.add(5_000, &absurd);
        windows.add(10_000, &reading(3, 0, 0));
        assert_eq!(windows.newest().unwrap().1, 2);
    }
}
