//! CPU: time from `/proc/stat`, stalls from `/proc/pressure/cpu`.

use super::pressure::{PressureReader, Stall};
use super::{SenseError, source::Source};
use procfs::{CpuTime, FromBufReadSI, KernelStats, current_system_info, ticks_per_second};
use serde::Serialize;
use std::path::Path;

/// The guest's CPUs at one moment. Counters count since boot, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuSample {
    /// Virtual CPUs online.
    pub online_cpus: u64,
    /// Counter: time used, interrupts included.
    pub used_ms: u64,
    /// Counter: time in which a virtual CPU wanted to run and the host ran something else.
    pub steal_ms: u64,
    /// Runnable tasks, the one that reads among them.
    pub running_tasks: u64,
    /// How much longer the busiest virtual CPU was used than the idlest since the sample before; 0 without one, and
    /// when CPUs came or went meanwhile.
    pub gap_ms: u64,
    /// Waiting for a CPU; `None` without PSI.
    pub stall: Option<Stall>,
}

/// Takes [`CpuSample`]s.
#[derive(Debug)]
pub struct CpuReader {
    stat: Source,
    pressure: PressureReader,
    /// What each CPU was used at the last sample, milliseconds.
    last_ms: Vec<u64>,
}

impl CpuReader {
    /// Opens the files below `root`.
    ///
    /// # Errors
    /// [`SenseError`] when `/proc/stat` cannot be opened.
    pub fn open(root: &Path) -> Result<Self, SenseError> {
        Ok(Self {
            stat: Source::open_one_record(root, "proc/stat")?,
            pressure: PressureReader::open(root, "cpu")?,
            last_ms: Vec::new(),
        })
    }

    /// The guest's CPUs now.
    ///
    /// # Errors
    /// [`SenseError`] with the file.
    pub fn sample(&mut self) -> Result<CpuSample, SenseError> {
        let stall = self.pressure.sample()?;
        let text = self.stat.read()?;
        let stats = KernelStats::from_buf_read(text.as_str().as_bytes(), current_system_info())
            .map_err(|source| text.refused(source))?;
        let each_ms: Vec<u64> = stats.cpu_time.iter().map(used_ms).collect();
        let gap_ms = gap_ms(&self.last_ms, &each_ms);
        self.last_ms = each_ms;
        Ok(CpuSample {
            online_cpus: stats.cpu_time.len() as u64,
            used_ms: used_ms(&stats.total),
            steal_ms: ms(stats.total.steal.unwrap_or(0)),
            running_tasks: stats.procs_running.unwrap_or(0).into(),
            gap_ms,
            stall,
        })
    }
}

fn used_ms(cpu: &CpuTime) -> u64 {
    // `user` and `nice` hold `guest` and `guest_nice` already.
    let used = [cpu.user, cpu.nice, cpu.system, cpu.irq.unwrap_or(0), cpu.softirq.unwrap_or(0)];
    ms(used.into_iter().fold(0_u64, u64::saturating_add))
}

fn ms(ticks: u64) -> u64 {
    ticks.saturating_mul(1000) / ticks_per_second()
}

fn gap_ms(before: &[u64], now: &[u64]) -> u64 {
    if before.len() != now.len() {
        return 0;
    }
    let rises = || before.iter().zip(now).map(|(before, now)| now.saturating_sub(*before));
    rises().max().unwrap_or(0) - rises().min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{guest, write};

    #[test]
    fn sums_use_and_steal() {
        let dir = guest();
        let sample = CpuReader::open(dir.path()).unwrap().sample().unwrap();
        let tick_ms = 1000 / ticks_per_second();
        assert_eq!(sample.online_cpus, 2);
        assert_eq!(sample.used_ms, (1000 + 100 + 500 + 10 + 40) * tick_ms);
        assert_eq!(sample.steal_ms, 250 * tick_ms);
        assert_eq!(sample.running_tasks, 3);
        assert_eq!(sample.stall.unwrap().some_us, 681_245);
    }

    #[test]
    fn one_busy_cpu_of_two_is_a_gap() {
        for (before, now, gap) in [
            (&[][..], &[500, 100][..], 0),
            (&[500, 100], &[900, 150], 350),
            (&[500, 100], &[900, 150, 7], 0),
            (&[500, 100], &[400, 90], 0),
        ] {
            assert_eq!(gap_ms(before, now), gap, "{before:?} {now:?}");
        }
    }

    #[test]
    fn odd_content_is_an_error_with_the_file() {
        let huge = u64::MAX;
        for (text, fine) in [
            ("", false),
            ("cpu 1 2 3\n", false),
            ("cpu a b c d\nctxt 1\nbtime 1\nprocesses 1\n", false),
            ("cpu 99999999999999999999 2 3 4\nctxt 1\nbtime 1\nprocesses 1\n", false),
            (&format!("cpu  {huge} {huge} 3 4\nctxt 1\nbtime 1\nprocesses 1\n"), true),
        ] {
            let dir = guest();
            write(dir.path(), "proc/stat", text);
            let sample = CpuReader::open(dir.path()).unwrap().sample();
            assert_eq!(sample.is_ok(), fine, "{text:?}: {sample:?}");
            if let Err(error) = sample {
                assert!(error.to_string().ends_with("proc/stat"), "{error}");
            }
        }
    }
}
