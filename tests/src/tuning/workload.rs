//! What a tuned guest does, and how much of it it gets done.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{Vm, load::Progress, wait_for};

/// What a guest works on.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// For people.
    pub name: &'static str,
    /// As `vmtide-load` takes it, without a duration.
    pub phase: &'static str,
    /// Until it is steady: memory is filled, and what the agent tries out has been tried.
    pub warm: Duration,
    /// What is measured.
    pub window: Duration,
}

/// Memory-tight: 200 MiB that nobody touches, 120 MiB and 140 MiB of files that are always in use, and not enough for all.
pub const SWAPPING: Workload = Workload {
    name: "swapping",
    phase: "anon=320M/120M+file=140M",
    warm: Duration::from_secs(45),
    window: Duration::from_secs(45),
};

/// Write-heavy: random pages of 256 MiB are written and flushed, beside 120 MiB of memory and 60 MiB of files in use.
pub const WRITING: Workload = Workload {
    name: "writing",
    phase: "anon=120M+file=60M+write=256M",
    warm: Duration::from_secs(45),
    window: Duration::from_secs(45),
};

/// What a guest got done in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Length of the window.
    pub window_ms: u64,
    /// Operations done.
    pub ops: u64,
    /// Time in which some task waited for memory.
    pub memory_stall_ms: u64,
    /// File pages that came back soon after their eviction.
    pub refaults: u64,
    /// Tasks killed for lack of memory.
    pub oom_kills: u64,
}

impl Workload {
    /// Runs it in the guest from beginning to end.
    ///
    /// # Errors
    /// When the guest does not answer, or the load ends with an error.
    pub async fn run(&self, vm: &Vm) -> Result<Work> {
        let seconds = (self.warm + self.window).as_secs();
        let line = format!("vmtide-load --phases {}:{seconds}s --think-ms 0 --fill-mib 32", self.phase);
        vm.start("load", &line).await?;
        let timeout = 2 * (self.warm + self.window) + Duration::from_secs(60);
        let mut log = String::new();
        wait_for(&format!("the {} load has ended", self.name), timeout, async || {
            log = vm.read("/tmp/load.log", 0).await?;
            let last = log.lines().last().and_then(|line| serde_json::from_str::<Progress>(line).ok());
            Ok(last.is_some_and(|progress| progress.done))
        })
        .await
        .with_context(|| format!("its log: {log}"))?;
        work_after(self.warm, &log).with_context(|| format!("too few lines: {log}"))
    }
}

/// What was done from `warm` on.
fn work_after(warm: Duration, log: &str) -> Option<Work> {
    let lines: Vec<Progress> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let first = lines.iter().find(|line| u128::from(line.t_ms) >= warm.as_millis())?;
    let last = lines.last()?;
    Some(Work {
        window_ms: last.t_ms - first.t_ms,
        ops: last.ops - first.ops,
        memory_stall_ms: (last.stall_us - first.stall_us) / 1000,
        refaults: last.refaults - first.refaults,
        oom_kills: last.oom_kills - first.oom_kills,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_after_the_warm_up_counts() {
        let line = |t_ms, ops, stall_us, done| {
            let progress = Progress { t_ms, ops, stall_us, done, ..Progress::default() };
            serde_json::to_string(&progress).unwrap() + "\n"
        };
        let log = line(0, 0, 0, false)
            + &line(2_000, 50, 9_000, false)
            + &line(3_000, 60, 10_000, false)
            + &line(5_000, 90, 40_000, true);
        let work = work_after(Duration::from_secs(3), &log).unwrap();
        assert_eq!((work.window_ms, work.ops, work.memory_stall_ms), (2_000, 30, 30));
        assert!(work_after(Duration::from_secs(9), &log).is_none());
    }
}
