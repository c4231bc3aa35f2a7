//! `cargo lab scenario overhead`: how much a guest needs beyond its working set, with tuning and without.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::guest::{Mode, TunedGuest};
use crate::{Kernel, Lab, load::Progress, vm::MIB};

/// The working set: what the load touches, all the time.
const WORKING_SET_MIB: u64 = 400;
/// Where the search begins, and its step.
const MOST_MIB: u64 = WORKING_SET_MIB + 240;
const STEP_MIB: u64 = 8;
/// What a step is given to settle, and is measured for.
const SETTLE: Duration = Duration::from_secs(3);
const WINDOW: Duration = Duration::from_secs(6);
/// Less work than this share of the best is less work.
const EQUAL_PERCENT: u64 = 95;

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

/// The least allocation at which the load still gets as much done as with plenty: the balloon goes down step by step.
async fn least(lab: &Lab, kernel: Kernel, mode: Mode) -> Result<u64> {
    let guest = TunedGuest::boot(lab, kernel).await?;
    guest.shrink_to(MOST_MIB).await?;
    guest.start_agent(mode).await?;
    let line = format!("vmtide-load --phases anon={WORKING_SET_MIB}M:3600s --think-ms 1 --fill-mib 256");
    guest.vm().start("load", &line).await?;
    tokio::time::sleep(4 * SETTLE).await;
    let plenty = rate(&guest).await?;
    let mut enough_mib = MOST_MIB;
    while enough_mib > WORKING_SET_MIB {
        let mib = enough_mib - STEP_MIB;
        guest.shrink_to(mib).await?;
        tokio::time::sleep(SETTLE).await;
        let now = rate(&guest).await?;
        eprintln!("lab: {now} operations/s at {mib} MiB with tuning {mode:?}; {plenty} with plenty");
        if now * 100 < plenty * EQUAL_PERCENT {
            break;
        }
        enough_mib = mib;
    }
    Ok(enough_mib * MIB)
}

/// Operations a second, over a window.
async fn rate(guest: &TunedGuest) -> Result<u64> {
    let before = progress(guest).await?;
    tokio::time::sleep(WINDOW).await;
    let after = progress(guest).await?;
    Ok((after.ops - before.ops) * 1000 / (after.t_ms - before.t_ms).max(1))
}

async fn progress(guest: &TunedGuest) -> Result<Progress> {
    let log = guest.vm().read("/tmp/load.log", 0).await?;
    let whole = log.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    whole.with_context(|| format!("no progress in {log:?}"))
}
