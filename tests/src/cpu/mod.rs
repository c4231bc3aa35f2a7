//! `cargo lab scenario cpu`: CPU time follows shares and need.
//!
//! In: two guests of one vCPU and places for three more, with shares 3000 and 1000, each in a cgroup of its own that the lab
//! made. Both want four CPUs; then the second wants nothing. Out: what work each did while both wanted all, what
//! the idle one gave back within five seconds, what was plugged in and out, and how long a guest takes to change a CPU.
//!
//! What is reported is seen by the lab itself: work as the guests count it, CPUs in the guests' `/sys`, vCPUs in QEMU.

mod group;
mod session;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;
use tokio::time::sleep;

pub use group::Groups;
pub use session::Session;

use crate::{
    Kernel, Lab, Vm, VmConfig,
    fleet::{Fleet, FleetConfig, Member},
    load::Progress,
    vm::wait_for,
};

const VCPUS: u32 = 4;
const SHARES: [u32; 2] = [3000, 1000];
/// Both guests have the vCPUs that they are given when nothing changed for so long.
const SETTLED: Duration = Duration::from_secs(20);
const SETTLE_TIMEOUT: Duration = Duration::from_secs(180);
const WINDOW: Duration = Duration::from_secs(40);
/// What is given back within this counts.
const RECLAIM: Duration = Duration::from_secs(5);
/// A vCPU that is not used is unplugged well within this.
const UNPLUG_TIMEOUT: Duration = Duration::from_secs(120);
/// CPU changes whose time is taken.
const CHANGES: u32 = 20;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What the guests booted.
    pub kernel: String,
    /// How QEMU ran them.
    pub accelerator: &'static str,
    /// Work of the first guest by that of the second while both wanted all they could get.
    pub work_ratio_contended: f64,
    /// Their shares, likewise.
    pub share_ratio: f64,
    /// Operations a second of each meanwhile.
    pub work_per_s: [f64; 2],
    /// CPUs online in each guest meanwhile.
    pub online_contended: [u32; 2],
    /// CPUs that the second guest gave back within five seconds of its load's end.
    pub idle_reclaimed_vcpus: u32,
    /// vCPUs in both VMs.
    pub hotplug: Hotplug,
    /// From a request to take one CPU offline, or back online, to the agent's reply, in an idle guest.
    pub online_offline_ms: Percentiles,
}

/// vCPUs that came and went.
#[derive(Debug, Serialize)]
pub struct Hotplug {
    /// Plugged in while both were busy.
    pub added: u32,
    /// Taken out of the idle one.
    pub removed: u32,
}

/// Of a number of measurements.
#[derive(Debug, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50: u64,
    /// Nineteen of twenty took no longer.
    pub p95: u64,
}

/// Measures it.
///
/// # Errors
/// When a VM, the bridge or an agent does not come up, or nothing happens that should.
pub async fn measure(lab: &Lab, kernel: Kernel) -> Result<Report> {
    let vm = |name| VmConfig::new(name, kernel).memory_mib(256).vcpu_slots(VCPUS);
    let member = |name, shares| Member::from(vm(name)).cpu_shares(shares);
    let online_offline_ms = changes(lab, vm("quiet")).await?;

    // Dropped after the VMs, or the groups would not be empty.
    let mut groups = Groups::new()?;
    let config = FleetConfig::new(1024).with(member("a", SHARES[0])).with(member("b", SHARES[1]));
    let mut fleet = lab.launch_fleet(config).await?;
    for vm in fleet.vms() {
        groups.place(vm.name(), vm.pid())?;
    }
    fleet.start_bridge().await?;
    fleet.start_agents().await?;
    let told = contend(&fleet, kernel, lab.accelerator(), online_offline_ms).await;
    told.with_context(|| format!("the bridge's log:\n{}", fleet.bridge_log()))
}

async fn contend(
    fleet: &Fleet,
    kernel: Kernel,
    accelerator: &'static str,
    online_offline_ms: Percentiles,
) -> Result<Report> {
    let (a, b) = (fleet.vm("a")?, fleet.vm("b")?);
    let load = format!("vmtide-load --phases cpu={VCPUS}:3600s");
    a.start("load", &load).await?;
    let load_of_b = b.start("load", &load).await?;
    settle([a, b]).await?;
    let online_contended = [online(a).await?, online(b).await?];
    let before = [progress(a).await?, progress(b).await?];
    sleep(WINDOW).await;
    let after = [progress(a).await?, progress(b).await?];
    let [work_a, work_b] = [0, 1].map(|at| rate(&before[at], &after[at]));
    let (has_a, has_b) = (plugged(a).await?, plugged(b).await?);

    let ran_on = online(b).await?;
    b.kill(load_of_b).await?;
    let ended = Instant::now();
    sleep(RECLAIM.saturating_sub(ended.elapsed())).await;
    let idle_reclaimed_vcpus = ran_on.saturating_sub(online(b).await?);
    wait_for("an idle vCPU is unplugged", UNPLUG_TIMEOUT, async || Ok(plugged(b).await? == 1)).await?;
    Ok(Report {
        kernel: kernel.to_string(),
        accelerator,
        work_ratio_contended: work_a / work_b,
        share_ratio: f64::from(SHARES[0]) / f64::from(SHARES[1]),
        work_per_s: [work_a, work_b],
        online_contended,
        idle_reclaimed_vcpus,
        hotplug: Hotplug { added: has_a + has_b - 2, removed: has_b - 1 },
        online_offline_ms,
    })
}

/// How long a guest of four CPUs takes to lose one and to get it back.
async fn changes(lab: &Lab, config: VmConfig) -> Result<Percentiles> {
    let vm = lab.launch(config.vcpus(VCPUS)).await?;
    let mut session = Session::with(&vm).await?;
    let mut took_ms = Vec::new();
    for change in 0..CHANGES {
        let wanted = VCPUS - (change + 1) % 2;
        let (reply, took) = session.set_online(wanted).await?;
        ensure!(reply.amount == u64::from(wanted).into(), "{reply:?}");
        ensure!(online(&vm).await? == wanted, "the guest runs on other CPUs than its agent says");
        took_ms.push(u64::try_from(took.as_millis())?);
    }
    took_ms.sort_unstable();
    let at = |percent: usize| took_ms[(took_ms.len() * percent).div_ceil(100) - 1];
    Ok(Percentiles { p50: at(50), p95: at(95) })
}

/// Waits until the vCPUs have come that come, and all that are there have stayed as they are for a while.
async fn settle(vms: [&Vm; 2]) -> Result<()> {
    let mut last = Vec::new();
    let mut since = Instant::now();
    wait_for("the vCPUs stay as they are", SETTLE_TIMEOUT, async || {
        let mut now = Vec::new();
        for vm in vms {
            now.push((plugged(vm).await?, online(vm).await?));
        }
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok(last.iter().all(|(plugged, online)| *plugged > 1 && online == plugged) && since.elapsed() >= SETTLED)
    })
    .await
    .with_context(|| format!("vCPUs there and online: {last:?}"))
}

/// CPUs online, as the guest's kernel says.
///
/// # Errors
/// When the guest does not answer.
pub async fn online(vm: &Vm) -> Result<u32> {
    let text = vm.read("/sys/devices/system/cpu/online", 0).await?;
    let count = text.trim().split(',').try_fold(0, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(sum + last.parse::<u32>().ok()? - first.parse::<u32>().ok()? + 1)
    });
    count.with_context(|| format!("no list of CPUs: {text}"))
}

/// vCPUs that are there, as QEMU says.
///
/// # Errors
/// When QEMU does not answer.
pub async fn plugged(vm: &Vm) -> Result<u32> {
    let slots = vm.qmp().execute("query-hotpluggable-cpus", json!({})).await?;
    let slots = slots.as_array().context("no list of slots")?;
    Ok(u32::try_from(slots.iter().filter(|slot| slot.get("qom-path").is_some()).count())?)
}

async fn progress(vm: &Vm) -> Result<Progress> {
    let log = vm.read("/tmp/load.log", 0).await?;
    let last = log.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    last.with_context(|| format!("no progress in {log:?}"))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn rate(before: &Progress, after: &Progress) -> f64 {
    (after.ops - before.ops) as f64 * 1000.0 / (after.t_ms - before.t_ms).max(1) as f64
}
