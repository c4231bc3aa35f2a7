//! `cargo lab scenario overhead`: how much a guest needs beyond its working set, with tuning and without.
//!
//! The balloon goes down until pages that are in use come back from swap: from there on the guest gets less done. Counted
//! and not timed, for what other programs of the machine take from two cores is more than what such a page costs.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::guest::{Mode, Swap, TunedGuest};
use crate::{
    Kernel, Lab,
    load::{Progress, TOUCHES},
    vm::{MIB, vmstat_value},
};

/// The working set: what the load touches, all the time.
const WORKING_SET_MIB: u64 = 400;
/// Where the search begins, and its step.
const MOST_MIB: u64 = WORKING_SET_MIB + 240;
const STEP_MIB: u64 = 8;
/// What a step is given to settle, and is measured for.
const SETTLE: Duration = Duration::from_secs(3);
const WINDOW: Duration = Duration::from_secs(6);
/// As much work as with plenty: fewer of the touched pages than this had to be read from swap.
const MISSED_PERMILLE: u64 = 10;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Overhead {
    /// What the guests booted.
    pub kernel: String,
    /// The accelerator that ran them.
    pub accelerator: &'static str,
    /// What the load touches.
    pub working_set_bytes: u64,
    /// What the guest needs beyond it for equal work, without tuning.
    pub off_bytes: u64,
    /// The same with tuning.
    pub on_bytes: u64,
}

/// Measures both, each in a fresh guest.
///
/// # Errors
/// When a VM, its workload or the agent does not come up.
pub async fn measure(lab: &Lab, kernel: Kernel) -> Result<Overhead> {
    let off_bytes = least(lab, kernel, Mode::Off).await?;
    let on_bytes = least(lab, kernel, Mode::Adaptive).await?;
    let working_set_bytes = WORKING_SET_MIB * MIB;
    Ok(Overhead {
        kernel: kernel.to_string(),
        accelerator: lab.accelerator(),
        working_set_bytes,
        off_bytes: off_bytes - working_set_bytes,
        on_bytes: on_bytes - working_set_bytes,
    })
}

/// The least allocation at which nothing in use is missing: the balloon goes down step by step.
async fn least(lab: &Lab, kernel: Kernel, mode: Mode) -> Result<u64> {
    let guest = TunedGuest::boot(lab, kernel, Swap::Disk).await?;
    guest.shrink_to(MOST_MIB).await?;
    guest.start_agent(mode).await?;
    let line = format!("vmtide-load --phases anon={WORKING_SET_MIB}M:3600s --think-ms 4 --fill-mib 128");
    guest.vm().start("load", &line).await?;
    tokio::time::sleep(5 * SETTLE).await;
    let mut enough_mib = MOST_MIB;
    while enough_mib > WORKING_SET_MIB {
        let mib = enough_mib - STEP_MIB;
        guest.shrink_to(mib).await?;
        tokio::time::sleep(SETTLE).await;
        let missed = missed_permille(&guest).await?;
        eprintln!("lab: {missed} of 1000 touched pages were swapped out at {mib} MiB with tuning {mode:?}");
        if missed >= MISSED_PERMILLE {
            break;
        }
        enough_mib = mib;
    }
    Ok(enough_mib * MIB)
}

/// Pages read from swap among those that were touched, over a window.
async fn missed_permille(guest: &TunedGuest) -> Result<u64> {
    let before = counts(guest).await?;
    tokio::time::sleep(WINDOW).await;
    let after = counts(guest).await?;
    let touched = (after.0 - before.0) * TOUCHES;
    Ok((after.1 - before.1) * 1000 / touched.max(1))
}

/// Operations done, and pages read from swap.
async fn counts(guest: &TunedGuest) -> Result<(u64, u64)> {
    let log = guest.vm().read("/tmp/load.log", 0).await?;
    let progress: Option<Progress> = log.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    let vmstat = guest.vm().read("/proc/vmstat", 0).await?;
    let swapped_in = vmstat_value(&vmstat, "pswpin").context("no pswpin in /proc/vmstat")?;
    Ok((progress.with_context(|| format!("no progress in {log:?}"))?.ops, swapped_in))
}
