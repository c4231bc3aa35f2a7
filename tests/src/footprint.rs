//! `cargo lab scenario footprint`: what a quiet agent costs its guest.
//!
//! In: a guest in which nothing happens, its agent connected to a real bridge. Out: the agent's resident set, and
//! the CPU time and wakeups it took over a minute, as the guest's own kernel counts them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    Kernel, Lab, Vm, VmConfig,
    fleet::{FleetConfig, start_agent},
};

/// The agent has found its pace by then, and the bridge has taken what an idle guest can spare, which it does after a minute.
const SETTLE: Duration = Duration::from_secs(90);

const WINDOW: Duration = Duration::from_secs(60);

/// What was measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Footprint {
    /// Resident set at the end (VmRSS).
    pub rss_bytes: u64,
    /// CPU time in user and kernel mode, all threads.
    pub cpu_seconds: f64,
    /// Length of the window.
    pub wall_seconds: f64,
    /// Voluntary context switches: how often it went to sleep again.
    pub wakeups: u64,
}

/// Measures the agent of this workspace.
///
/// # Errors
/// When the VM, the bridge or the agent does not come up.
pub async fn measure(lab: &Lab, kernel: Kernel) -> Result<Footprint> {
    let config = FleetConfig::new(1024).with(VmConfig::new("quiet", kernel).memory_mib(512));
    let mut fleet = lab.launch_fleet(config).await?;
    fleet.start_bridge().await?;
    let vm = fleet.vm("quiet")?;
    let pid = start_agent(vm, "").await?;
    tokio::time::sleep(SETTLE).await;
    let before = Counters::read(vm, pid).await?;
    let started = Instant::now();
    tokio::time::sleep(WINDOW).await;
    let after = Counters::read(vm, pid).await?;
    Ok(Footprint {
        rss_bytes: after.rss_bytes,
        cpu_seconds: Duration::from_nanos(after.cpu_ns - before.cpu_ns).as_secs_f64(),
        wall_seconds: started.elapsed().as_secs_f64(),
        wakeups: after.switches - before.switches,
    })
}

struct Counters {
    rss_bytes: u64,
    cpu_ns: u64,
    switches: u64,
}

impl Counters {
    /// `schedstat` counts the same time as `utime` and `stime`, in nanoseconds instead of hundredths of a second.
    async fn read(vm: &Vm, pid: u32) -> Result<Self> {
        let text = vm
            .run(&format!("cat /proc/{pid}/status; cat /proc/{pid}/task/*/status /proc/{pid}/task/*/schedstat"))
            .await?;
        Self::parse(&text).with_context(|| format!("unexpected figures of process {pid}:\n{text}"))
    }

    fn parse(text: &str) -> Option<Self> {
        let values = |name: &'static str| text.lines().filter_map(move |line| line.strip_prefix(name));
        let rss_kib: u64 = values("VmRSS:").next()?.trim().strip_suffix(" kB")?.parse().ok()?;
        // The process' own status comes first and counts its main thread, which is among the tasks again.
        let switches = values("voluntary_ctxt_switches:").skip(1).map(|value| value.trim().parse::<u64>());
        let cpu_ns = text.lines().filter(|line| line.split(' ').count() == 3 && !line.contains(':'));
        Some(Self {
            rss_bytes: rss_kib * 1024,
            cpu_ns: cpu_ns.map(|line| line.split(' ').next()?.parse::<u64>().ok()).sum::<Option<u64>>()?,
            switches: switches.sum::<Result<u64, _>>().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_are_summed_and_the_main_one_counts_once() {
        let status = |switches| {
            format!(
                "Name:\tvmtide-agent\nVmRSS:\t    4096 kB\nvoluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t9\n"
            )
        };
        let text = format!("{}{}{}1000 20 3\n500 1 1\n", status(10), status(10), status(7));
        let counters = Counters::parse(&text).unwrap();
        assert_eq!((counters.rss_bytes, counters.cpu_ns, counters.switches), (4096 * 1024, 1500, 17));
    }
}
