//! Samples of one run in, its R, T and P out. Pure.

use super::scope::Stalls;
use super::{Scope, exit_code};
use crate::sense::{CpuSample, Stall};
use serde::Serialize;
use std::fmt;
use std::process::ExitStatus;
use std::time::Duration;
use vmtide_protocol::stalls::cpu_stalled_us;

/// The whole, in the unit of parts here: millionths.
const PPM: u64 = 1_000_000;

/// One look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// Since the command was started.
    pub at_us: u64,
    pub present_bytes: u64,
    pub maximum_bytes: u64,
    pub cpu: Option<CpuSample>,
    pub stalls: Stalls,
}

/// The samples so far.
#[derive(Debug)]
pub(super) struct Tally {
    first: Sample,
    last: Sample,
    /// The allocation as a part of the maximum, summed over time, millionths by microseconds.
    held_ppm_us: u128,
}

/// What came of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// R: the allocation as a part of the maximum, averaged over the run, millionths.
    pub r_ppm: u64,
    /// T: how long it took, as a multiple of what it takes without waiting, thousandths; `None`: nothing got done.
    pub t_permille: Option<u64>,
    /// P = R / T, millionths.
    pub p_ppm: u64,
    /// The part of the time (of CPU: of the CPU time that was wanted) that was lost to waiting, millionths.
    pub stalled_ppm: u64,
    /// Time in which some task waited.
    pub stall_some_ms: u64,
    /// Time in which all tasks waited; always 0 for CPU.
    pub stall_full_ms: u64,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The command.
    pub command: Vec<String>,
    /// What a shell would exit with after it.
    pub exit_code: u8,
    /// How long it ran.
    pub wall_ms: u64,
    /// The CPU time that it took.
    pub cpu_ms: u64,
    /// R of all resources: the mean of those that are known, 0 to 1.
    pub r: Option<f64>,
    /// T of all resources: R / P.
    pub t: Option<f64>,
    /// P of all resources: the mean of those that are known, 0 to 1.
    pub p: Option<f64>,
    /// Memory; `None` where the kernel does not count its stalls.
    pub memory: Option<Part>,
    /// CPU; the like.
    pub cpu: Option<Part>,
    /// Block I/O; the like.
    pub io: Option<Part>,
    /// Whose stalls were counted: `the whole guest`, or a cgroup.
    pub stalls_of: String,
    /// What memory's R is a part of: `the operator's maximum`, or `all that the VM has with its balloon empty`.
    pub memory_part_of: &'static str,
}

impl Tally {
    pub(super) fn new(first: Sample) -> Self {
        Self { first, last: first, held_ppm_us: 0 }
    }

    pub(super) fn take(&mut self, now: Sample) {
        let part = u128::from(self.last.present_bytes) * u128::from(PPM) / u128::from(self.last.maximum_bytes.max(1));
        let us = now.at_us.saturating_sub(self.last.at_us);
        self.held_ppm_us += part.min(PPM.into()) * u128::from(us);
        self.last = Sample { at_us: self.last.at_us.max(now.at_us), ..now };
    }

    /// Takes in the stalls that the kernel had not counted yet when the command ended.
    pub(super) fn settle(&mut self, late: Sample) {
        self.last.stalls = late.stalls;
    }

    fn span_us(&self) -> u64 {
        self.last.at_us
    }

    fn part(&self, r_ppm: u64, stall: Stall, stalled_us: u64, wanted_us: u64) -> Part {
        let stalled = u128::from(stalled_us) * u128::from(PPM) / u128::from(wanted_us.max(1));
        let stalled_ppm = u64::try_from(stalled).unwrap_or(PPM).min(PPM);
        let e_ppm = PPM - stalled_ppm;
        let held_ms = |us: u64| us.min(self.span_us()) / 1000;
        Part {
            r_ppm,
            t_permille: (e_ppm > 0).then(|| PPM * 1000 / e_ppm),
            p_ppm: r_ppm * e_ppm / PPM,
            stalled_ppm,
            stall_some_ms: held_ms(stall.some_us),
            stall_full_ms: held_ms(stall.full_us),
        }
    }

    /// Of memory or I/O.
    fn waited(&self, r_ppm: u64, stall: Option<Stall>) -> Option<Part> {
        let stall = stall?;
        Some(self.part(r_ppm, stall, stall.full_us.min(self.span_us()), self.span_us()))
    }

    pub(super) fn measured(
        &self,
        command: &[String],
        status: ExitStatus,
        cpu: Duration,
        scope: &Scope,
        is_operators: bool,
    ) -> Measured {
        let (first, last) = (&self.first, &self.last);
        let memory_ppm = self.held_ppm_us.checked_div(self.span_us().into()).unwrap_or(0);
        let memory =
            self.waited(u64::try_from(memory_ppm).unwrap_or(PPM), since(last.stalls.memory, first.stalls.memory));
        // All CPUs that are online, and no limit to I/O: what else a host may take, a guest cannot see.
        let io = self.waited(PPM, since(last.stalls.io, first.stalls.io));
        let cpu_part = since(last.stalls.cpu, first.stalls.cpu).and_then(|stall| {
            let (before, after) = (first.cpu?, last.cpu?);
            let us = |after: u64, before: u64| after.saturating_sub(before).saturating_mul(1000);
            let (used_us, steal_us) = (us(after.used_ms, before.used_ms), us(after.steal_ms, before.steal_ms));
            let (stalled_us, wanted_us) = cpu_stalled_us(self.span_us(), stall.some_us, used_us, steal_us);
            Some(self.part(PPM, stall, stalled_us, wanted_us))
        });
        let known: Vec<Part> = [memory, cpu_part, io].into_iter().flatten().collect();
        let mean = |of: fn(&Part) -> u64| {
            let count = u64::try_from(known.len()).ok().filter(|count| *count > 0)?;
            Some(number(known.iter().map(of).sum::<u64>() / count))
        };
        let (r, p) = (mean(|part| part.r_ppm), mean(|part| part.p_ppm));
        Measured {
            command: command.to_vec(),
            exit_code: exit_code(status),
            wall_ms: self.span_us() / 1000,
            cpu_ms: u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX),
            r,
            t: r.zip(p).filter(|(_, p)| *p > 0.0).map(|(r, p)| r / p),
            p,
            memory,
            cpu: cpu_part,
            io,
            stalls_of: scope.cgroup.clone().map_or_else(|| "the whole guest".into(), |path| format!("cgroup {path}")),
            memory_part_of: if is_operators {
                "the operator's maximum"
            } else {
                "all that the VM has with its balloon empty"
            },
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "at most a million")]
fn number(ppm: u64) -> f64 {
    ppm as f64 / PPM as f64
}

fn since(last: Option<Stall>, first: Option<Stall>) -> Option<Stall> {
    let (last, first) = (last?, first?);
    let more = |last: u64, first: u64| last.saturating_sub(first);
    Some(Stall { some_us: more(last.some_us, first.some_us), full_us: more(last.full_us, first.full_us) })
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| format!("{}.{:03} s", ms / 1000, ms % 1000);
        let value = |number: Option<f64>| number.map_or("-".into(), |number| format!("{number:.3}"));
        writeln!(f, "exit {}  wall {}  CPU {}", self.exit_code, seconds(self.wall_ms), seconds(self.cpu_ms))?;
        writeln!(f, "{:<8} {:>7} {:>7} {:>7}  WAITED (some, all)", "", "R", "T", "P")?;
        for (name, part) in [("memory", self.memory), ("cpu", self.cpu), ("io", self.io)] {
            let Some(part) = part else {
                writeln!(f, "{name:<8} not known: this kernel does not count how long tasks wait")?;
                continue;
            };
            let t = part.t_permille.map(|t| number(t * 1000));
            let [r, t, p] = [Some(number(part.r_ppm)), t, Some(number(part.p_ppm))].map(value);
            let (some, full) = (seconds(part.stall_some_ms), seconds(part.stall_full_ms));
            writeln!(f, "{name:<8} {r:>7} {t:>7} {p:>7}  {some}, {full}")?;
        }
        writeln!(f, "{:<8} {:>7} {:>7} {:>7}", "overall", value(self.r), value(self.t), value(self.p))?;
        writeln!(f, "stalls of {}; memory as a part of {}", self.stalls_of, self.memory_part_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::guest;
    use std::os::unix::process::ExitStatusExt;

    const SECOND: u64 = 1_000_000;

    /// At so many seconds, with so much of 1000 bytes, having waited so long for memory in all.
    fn sample(at_s: u64, present_bytes: u64, waited_s: u64) -> Sample {
        let waited = Stall { some_us: waited_s * SECOND, full_us: waited_s * SECOND };
        let stalls = Stalls { memory: Some(waited), cpu: Some(Stall::default()), io: None };
        let cpu = Some(CpuSample { used_ms: at_s * 1000, ..CpuSample::default() });
        Sample { at_us: at_s * SECOND, present_bytes, maximum_bytes: 1000, cpu, stalls }
    }

    fn measured(tally: &Tally, status: i32) -> Measured {
        let scope = Scope::of_this_process(guest().path()).unwrap();
        tally.measured(&["c".into()], ExitStatus::from_raw(status), Duration::ZERO, &scope, true)
    }

    #[test]
    fn the_allocation_is_integrated_and_waiting_stretches() {
        let mut tally = Tally::new(sample(0, 1000, 7));
        for now in [sample(1, 500, 7), sample(10, 500, 9)] {
            tally.take(now);
        }
        let seen = measured(&tally, 0);
        let memory = seen.memory.unwrap();
        assert_eq!((memory.r_ppm, memory.t_permille, memory.p_ppm), (550_000, Some(1_250), 440_000));
        assert_eq!((seen.cpu.unwrap().p_ppm, seen.io), (PPM, None));
        assert_eq!((seen.wall_ms, seen.r, seen.p), (10_000, Some(0.775), Some(0.72)));
    }

    #[test]
    fn what_the_kernel_counts_late_counts_and_no_run_waits_longer_than_it_lasts() {
        let mut tally = Tally::new(sample(0, 1000, 0));
        tally.take(sample(1, 1000, 0));
        tally.settle(sample(3, 1000, 2));
        let memory = measured(&tally, 0).memory.unwrap();
        assert_eq!((memory.p_ppm, memory.t_permille, memory.stall_full_ms), (0, None, 1_000));
    }

    #[test]
    fn a_run_without_time_and_a_guest_without_counts_are_no_numbers() {
        let none = Sample { maximum_bytes: 0, ..Sample::default() };
        let mut tally = Tally::new(none);
        tally.take(none);
        let seen = measured(&tally, 0);
        assert_eq!((seen.r, seen.t, seen.p, seen.memory), (None, None, None, None));
        assert!(seen.to_string().contains("memory   not known"), "{seen}");
    }

    #[test]
    fn the_exit_code_is_the_shell_s() {
        let tally = Tally::new(sample(0, 1000, 0));
        assert_eq!(measured(&tally, 7 << 8).exit_code, 7);
        assert_eq!(measured(&tally, 15).exit_code, 128 + 15, "ended by SIGTERM");
    }
}
