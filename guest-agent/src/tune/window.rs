//! What the guest did in windows of a few seconds, each under the same settings. Pure.
//!
//! In: samples. Out: for each signal its last windows, and over how many of them neither the memory moved nor the workload
//! shifted: only such windows can be compared.

use super::catalogue::Signal;
use super::trial::{LEAST_WINDOWS, least_that_matters, median};
use crate::observer::Samples;
use crate::sense::{CpuSample, MemorySample, Stall, StorageSample};
use std::collections::VecDeque;

/// A shorter window counts too little.
const LEAST_MS: u64 = 2_000;
/// Older windows are another workload's.
const MOST_WINDOWS: usize = 12;
/// Memory moves when the guest has more or less by this share.
const MEMORY_SHARE: u64 = 32;
/// The workload shifts when anonymous memory differs by this share of what the guest has.
const ANON_SHARE: u64 = 8;
/// Or when CPU time differs by half, and by more than this.
const CPU_MILLICPUS: u64 = 250;

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
    edge: Option<Edge>,
    past: VecDeque<Window>,
    /// How many there ever were.
    seen: u64,
}

/// All samples of one moment.
#[derive(Clone, Copy, Debug)]
struct Edge {
    at_ms: u64,
    rest_at_ms: u64,
    memory: MemorySample,
    cpu: CpuSample,
    storage: StorageSample,
}

impl Windows {
    /// Ends a window, if all samples are of this moment and the last end is long enough ago.
    pub fn add(&mut self, at_ms: u64, samples: &Samples) {
        let (Some(memory), Some(cpu), Some(rest_at_ms)) = (samples.memory, samples.cpu, samples.rest_at_ms) else {
            return;
        };
        let edge = Edge { at_ms, rest_at_ms, memory, cpu, storage: samples.storage.unwrap_or_default() };
        let Some(before) = &self.edge else {
            self.edge = Some(edge);
            return;
        };
        let elapsed_ms = at_ms.saturating_sub(before.at_ms);
        if before.rest_at_ms == rest_at_ms || elapsed_ms < LEAST_MS {
            return;
        }
        self.past.push_front(window(before, &edge, elapsed_ms));
        self.past.truncate(MOST_WINDOWS);
        self.seen += 1;
        self.edge = Some(edge);
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

    /// The last [`LEAST_WINDOWS`] values of `signal`; `None` when there are fewer, or the guest does not say.
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
    /// Whether the guest has as much memory and as much to do.
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

fn window(before: &Edge, now: &Edge, elapsed_ms: u64) -> Window {
    let per_second = |before: u64, now: u64| now.saturating_sub(before).saturating_mul(1_000) / elapsed_ms;
    let kib_per_second = |before: u64, now: u64| per_second(before, now) / 1_024;
    let share =
        |before: Option<Stall>, now: Option<Stall>| Some(per_second(before?.some_us, now?.some_us).min(1_000_000));
    let (was, is) = (&before.memory, &now.memory);
    let refaults = |memory: &MemorySample| memory.refault_anon_bytes.saturating_add(memory.refault_file_bytes);
    let steal_us = now.cpu.steal_ms.saturating_sub(before.cpu.steal_ms).saturating_mul(1_000);
    let ops = now.storage.ops.saturating_sub(before.storage.ops);
    let waited_us = now.storage.request_ms.saturating_sub(before.storage.request_ms).saturating_mul(1_000);
    Window {
        memory_bytes: is.total_bytes.saturating_sub(is.balloon_bytes),
        anon_bytes: is.anon_bytes,
        cpu_millicpus: per_second(before.cpu.used_ms, now.cpu.used_ms),
        memory_stall: share(was.stall, is.stall),
        cpu_stall: share(before.cpu.stall, now.cpu.stall),
        io_stall: share(before.storage.stall, now.storage.stall),
        refaults: kib_per_second(refaults(was), refaults(is)),
        swap_in: kib_per_second(was.swap_in_bytes, is.swap_in_bytes),
        steal: steal_us.saturating_mul(1_000) / elapsed_ms / now.cpu.online_cpus.max(1),
        io_latency: waited_us.checked_div(ops),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Samples of a guest that stalls `stall_permille` of the time, at a second of its life.
    pub(crate) fn samples(second: u64, stall_us: u64, balloon_bytes: u64) -> Samples {
        let stall = Some(Stall { some_us: stall_us, full_us: 0 });
        let memory = MemorySample { total_bytes: 1 << 30, balloon_bytes, stall, ..MemorySample::default() };
        let cpu = CpuSample { online_cpus: 2, used_ms: second * 300, steal_ms: second * 20, ..CpuSample::default() };
        let storage = StorageSample { ops: second * 10, request_ms: second * 50, ..StorageSample::default() };
        Samples { memory: Some(memory), cpu: Some(cpu), storage: Some(storage), rest_at_ms: Some(second) }
    }

    #[test]
    fn windows_are_two_seconds_of_samples_of_one_moment() {
        let mut windows = Windows::default();
        for second in 0..=6 {
            windows.add(second * 1_000, &samples(second, second * 100_000, 0));
        }
        windows.add(9_000, &samples(6, 900_000, 0));
        let (newest, seen) = windows.newest().unwrap();
        assert_eq!(seen, 3, "the last has samples of another moment");
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
            let balloon = if second < 8 { 0 } else { 256 << 20 };
            windows.add(second * 1_000, &samples(second, 0, balloon));
        }
        assert_eq!(windows.steady(), 5);
        assert!(windows.values(Signal::MemoryStall).is_some());
        let mut busy = samples(18, 0, 256 << 20);
        busy.cpu = Some(CpuSample { online_cpus: 2, used_ms: 16 * 300 + 4_000, ..CpuSample::default() });
        windows.add(18_000, &busy);
        assert_eq!(windows.steady(), 1);
    }

    #[test]
    fn what_no_guest_counts_breaks_nothing() {
        let mut windows = Windows::default();
        let mut absurd = samples(0, u64::MAX, u64::MAX);
        absurd.cpu = Some(CpuSample { used_ms: u64::MAX, steal_ms: u64::MAX, ..CpuSample::default() });
        windows.add(0, &samples(1, 0, 0));
        windows.add(5_000, &absurd);
        windows.add(10_000, &samples(3, 0, 0));
        assert_eq!(windows.newest().unwrap().1, 2);
    }
}
