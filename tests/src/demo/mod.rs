//! `cargo lab demo`: VMs that take turns in being busy, on a budget that cannot feed them all at once.
//!
//! In: how many VMs, how long, which kernel. Out: a live view while it runs, then a [`Report`] of what was measured.
//!
//! ```text
//! boot (each VM has its maximum) -> bridge and agents start -> the bridge makes the fleet fit the budget
//!   -> [counting begins] loads run in turns -> they end, memory ebbs -> report and verdict
//! ```

mod load_log;
mod report;
mod story;
mod view;

use std::time::{Duration, Instant};

use anyhow::Result;
use vmtide_bridge::{
    api::types::{Status, Vm as BridgeVm},
    plan::Demand,
    record::Decision,
};

use load_log::LoadLog;
pub use report::{ReactionReport, Report, Sample, VmReport, VmSample};
use view::View;

use crate::{
    Kernel, Lab, VmConfig,
    fleet::{Fleet, FleetConfig},
    vm::MIB,
};

/// What each VM boots with, and its maximum.
const VM_MIB: u64 = 768;

/// How often the view and the timeline take a sample.
const TICK: Duration = Duration::from_millis(500);

/// What the demo shows.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Number of VMs, 1 to 26.
    pub vms: u8,
    /// How long the loads run.
    pub seconds: u64,
    /// What the guests boot.
    pub kernel: Kernel,
}

/// One look at everything, as the view shows it.
#[derive(Debug)]
struct Look {
    status: Status,
    vms: Vec<BridgeVm>,
    decisions: Vec<Decision>,
    allocation_bytes: Vec<u64>,
}

/// Runs the demo.
///
/// # Errors
/// When the lab, a VM, the bridge or an agent does not come up, or the bridge stops answering.
pub async fn run(lab: &Lab, settings: Settings) -> Result<Report> {
    // One VM's worth of work plus what the others idle with: 1280 MiB for three.
    let mut config = FleetConfig::new(512 + 256 * u64::from(settings.vms));
    for letter in (b'a'..=b'z').take(settings.vms.into()) {
        let name = char::from(letter).to_string();
        config = config.with(VmConfig::new(name, settings.kernel).memory_mib(VM_MIB).disk_mib(512));
    }
    println!("booting {} VMs of {VM_MIB} MiB with kernel {} ({})", settings.vms, settings.kernel, lab.accelerator());
    let mut fleet = lab.launch_fleet(config).await?;
    println!("starting the bridge with a budget of {} MiB, and the agents", fleet.budget_bytes() / MIB);
    let watch = fleet.watch();
    fleet.start_bridge().await?;
    fleet.start_agents().await?;
    fleet.wait_until_it_fits().await?;

    let story = story::story(settings.vms, settings.seconds);
    for (vm, phases) in fleet.vms().iter().zip(&story) {
        vm.start("load", &format!("vmtide-load --phases {phases}")).await?;
    }
    let mut logs = vec![LoadLog::default(); fleet.vms().len()];
    let mut timeline = Vec::new();
    let mut view = View::new();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(settings.seconds) {
        let tick = Instant::now();
        for (vm, log) in fleet.vms().iter().zip(&mut logs) {
            log.follow(vm).await;
        }
        let look = look(&fleet, watch.seen().now_bytes).await?;
        timeline.push(look.sample(started.elapsed()));
        view.show(started.elapsed(), &look, &logs)?;
        tokio::time::sleep(TICK.saturating_sub(tick.elapsed())).await;
    }

    let seconds = started.elapsed().as_secs_f64();
    let mut vms = Vec::new();
    let seen = watch.seen();
    for (at, vm) in fleet.vms().iter().enumerate() {
        logs[at].follow(vm).await;
        vms.push(VmReport::new(vm, &seen, at, logs[at].last(), vm.oom_kills().await?));
    }
    let status = fleet.client().status().await?;
    Ok(Report {
        accelerator: lab.accelerator().to_owned(),
        kernel: settings.kernel.to_string(),
        budget_bytes: seen.budget_bytes,
        seconds,
        violation_seconds: seen.violation.as_secs_f64(),
        peak_committed_bytes: seen.peak_bytes,
        vms,
        reaction_ms: status.reaction_ms.into(),
        decisions: status.decisions,
        timeline,
    })
}

async fn look(fleet: &Fleet, allocation_bytes: Vec<u64>) -> Result<Look> {
    let client = fleet.client();
    Ok(Look {
        status: client.status().await?,
        vms: client.vms().await?,
        decisions: client.decisions(None, 3).await?,
        allocation_bytes,
    })
}

impl Look {
    fn sample(&self, at: Duration) -> Sample {
        let sample = |(vm, allocation_bytes): (&BridgeVm, &u64)| VmSample {
            allocation_bytes: *allocation_bytes,
            need_bytes: need_bytes(vm),
        };
        let vms = self.vms.iter().zip(&self.allocation_bytes).map(sample).collect();
        Sample { t_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX), vms }
    }
}

/// What the guest said it needs; none before its first report and after the last one expired.
fn need_bytes(vm: &BridgeVm) -> Option<u64> {
    match &vm.demand {
        Demand::Fresh(demand) => Some(demand.need_bytes),
        Demand::Stale { .. } | Demand::Unknown { .. } => None,
    }
}
