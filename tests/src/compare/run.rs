//! One policy's run: real VMs, the bridge that plans by it, agents, loads.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;
use vmtide_bridge::{
    api::types,
    plan::{Demand, MemoryDemand, Planner, Rule, Urgency},
    record::sentence,
};

use super::{curve::Curve, report::Run, scenario::Scenario};
use crate::{
    Kernel, Lab, Vm, VmConfig,
    fleet::{Fleet, FleetConfig, Watch},
    load::Progress,
    wait_for,
};

/// Operations a second of each guest: with this, three guests leave two cores that translate room.
const RATE: u32 = 20_000;

/// How fast a load grows, MiB a second.
const FILL_MIB: u32 = 256;

/// What swap and file sets are on.
const DISK_IOPS: u32 = 2000;

/// What a peer knows of its guests is at most this old: Proxmox asks each 2 s, MoM each 5.
const STATISTICS: Duration = Duration::from_secs(2);

/// Setting up takes no longer, even with TCG.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a load that is late may take to end.
const LATE: Duration = Duration::from_secs(30);

const TICK: Duration = Duration::from_millis(250);

/// A run's course, for a person who wants to know why it came out as it did.
#[derive(Debug, Default, Serialize)]
pub struct Timeline {
    samples: Vec<Sample>,
    decisions: Vec<String>,
    #[serde(skip)]
    last_decision: u64,
    #[serde(skip)]
    started_unix_ms: u64,
}

/// All guests at one moment.
#[derive(Debug, Serialize)]
struct Sample {
    t_ms: u64,
    allocation_bytes: Vec<u64>,
    need_bytes: Vec<Option<u64>>,
    /// What the planner said of each last: which rule holds it where it is.
    verdicts: Vec<Option<Said>>,
    ops: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Said {
    urgency: Option<Urgency>,
    wanted_bytes: u64,
    entitled_bytes: u64,
    target_bytes: u64,
    rule: Rule,
}

/// Runs `scenario` with `planner`, or with all the memory that the guests have.
pub(super) async fn run(
    lab: &Lab,
    kernel: Kernel,
    scenario: &Scenario,
    planner: Option<Planner>,
    with_timeline: bool,
) -> Result<(Run, Timeline)> {
    let (fleet, watch) = set_up(lab, kernel, scenario, planner).await?;
    let mut load_starts = Vec::new();
    for (at, (vm, guest)) in fleet.vms().iter().zip(&scenario.guests).enumerate() {
        let line = format!(
            "vmtide-load --phases {} --rate {RATE} --fill-mib {FILL_MIB} --report-ms {} --seed {}",
            guest.phases(),
            TICK.as_millis(),
            at + 1
        );
        vm.start("load", &line).await?;
        load_starts.push(Instant::now());
    }
    let (before, started, cpu_before) = (watch.seen(), Instant::now(), cpu_time(&fleet)?);
    let mut timeline =
        Timeline { started_unix_ms: millis(SystemTime::now().duration_since(UNIX_EPOCH)?), ..Timeline::default() };
    while started.elapsed() < scenario.duration() {
        let tick = Instant::now();
        if with_timeline {
            timeline.look(&fleet, &watch, started, planner.is_some()).await;
        }
        tokio::time::sleep(TICK.saturating_sub(tick.elapsed())).await;
    }
    let (seen, seconds) = (watch.seen(), started.elapsed().as_secs_f64());
    let cpus = (cpu_time(&fleet)?.saturating_sub(cpu_before)).as_secs_f64() / seconds;

    let mut run = Run {
        curves: Vec::new(),
        stall_ms: 0,
        oom_kills: 0,
        violation_seconds: planner.map_or(0.0, |_| seen.violation.as_secs_f64()),
        bytes_moved: seen.moved_bytes - before.moved_bytes,
        cpus,
    };
    for vm in fleet.vms() {
        let (log, last) = ended(vm).await?;
        run.curves.push(Curve::read(&log));
        run.stall_ms += last.stall_us / 1000;
        run.oom_kills += last.oom_kills;
    }
    let ahead_ms = load_starts.iter().map(|at| millis(started.duration_since(*at)));
    timeline.add_work(&run.curves, &ahead_ms.collect::<Vec<_>>());
    Ok((run, timeline))
}

/// Boots the guests with swap; without a planner they keep all their memory, with one they share the budget evenly and
/// the bridge and the agents run.
async fn set_up(lab: &Lab, kernel: Kernel, scenario: &Scenario, planner: Option<Planner>) -> Result<(Fleet, Watch)> {
    let mut config = FleetConfig::new(scenario.budget_mib);
    if let Some(planner) = planner {
        config = config.bridge_also(&format!("[policy]\nplanner = \"{planner}\"\n"));
        if planner != Planner::Vmtide {
            // Its peers do not tune guests; to them the agent is a messenger.
            config = config.agents_also("[tuning]\nmode = \"off\"\n");
        }
    }
    for guest in &scenario.guests {
        let vm = VmConfig::new(guest.name, kernel).memory_mib(scenario.guest_mib);
        config = config.with(vm.disk_mib(512).swap_mib(1024).disk_iops(DISK_IOPS));
    }
    let mut fleet = lab.launch_fleet(config).await?;
    for (vm, guest) in fleet.vms().iter().zip(&scenario.guests) {
        vm.run("mkswap /dev/vdb && swapon /dev/vdb").await?;
        if planner.is_some() {
            let bytes = scenario.split_bytes();
            vm.set_allocation(bytes).await?;
            let shrunk = async || Ok(vm.allocation_bytes().await? == bytes);
            wait_for("a guest has its part", SETTLE_TIMEOUT, shrunk).await?;
        }
        if guest.file_mib > 0 {
            // A device's pages stay in the cache for as long as somebody has it open.
            vm.start("holder", "sleep 100000 </dev/vda").await?;
            vm.run(&format!("dd if=/dev/vda of=/dev/null bs=1M count={}", guest.file_mib)).await?;
        }
    }
    let watch = fleet.watch();
    if planner.is_some() {
        fleet.start_bridge().await?;
        fleet.start_agents().await?;
        for vm in fleet.vms() {
            vm.poll_statistics(STATISTICS).await?;
        }
    }
    Ok((fleet, watch))
}

fn cpu_time(fleet: &Fleet) -> Result<Duration> {
    fleet.vms().iter().map(Vm::cpu_time).sum()
}

/// A load's log and last line, once it has ended; as far as it came when it was killed.
async fn ended(vm: &Vm) -> Result<(String, Progress)> {
    let deadline = Instant::now() + LATE;
    loop {
        let log = vm.read("/tmp/load.log", 0).await?;
        let last = log.lines().rev().find_map(|line| serde_json::from_str::<Progress>(line).ok());
        let last = last.with_context(|| format!("the load of {} says nothing:\n{log}", vm.name()))?;
        if last.done || Instant::now() > deadline {
            // Its own count ends when it is the one that is killed.
            let oom_kills = vm.oom_kills().await?;
            return Ok((log, Progress { oom_kills, ..last }));
        }
        tokio::time::sleep(TICK).await;
    }
}

impl Timeline {
    async fn look(&mut self, fleet: &Fleet, watch: &Watch, started: Instant, has_bridge: bool) {
        let t_ms = millis(started.elapsed());
        let (mut need_bytes, mut verdicts) = (Vec::new(), Vec::new());
        if has_bridge {
            // A bridge that does not answer once leaves a gap.
            let client = fleet.client();
            for vm in client.vms().await.unwrap_or_default() {
                need_bytes.push(memory(&vm.demand).map(|demand| demand.need_bytes));
                verdicts.push(said(&vm));
            }
            for decision in client.decisions(None, 20).await.unwrap_or_default() {
                if decision.id > self.last_decision {
                    self.last_decision = decision.id;
                    let at_ms = decision.at_unix_ms.saturating_sub(self.started_unix_ms);
                    self.decisions.push(format!("{at_ms} ms, {}: {}", decision.vm, sentence(&decision)));
                }
            }
        }
        let allocation_bytes = watch.seen().now_bytes;
        self.samples.push(Sample { t_ms, allocation_bytes, need_bytes, verdicts, ops: Vec::new() });
    }

    /// Each load counts time from its own start, this much before the timeline's.
    fn add_work(&mut self, curves: &[Curve], ahead_ms: &[u64]) {
        for sample in &mut self.samples {
            let ops = |(curve, ahead_ms): (&Curve, &u64)| curve.ops_at(sample.t_ms + ahead_ms);
            sample.ops = curves.iter().zip(ahead_ms).map(ops).collect();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn memory(demand: &Demand) -> Option<&MemoryDemand> {
    match demand {
        Demand::Fresh(demand) => Some(demand),
        Demand::Stale { .. } | Demand::Unknown { .. } => None,
    }
}

fn said(vm: &types::Vm) -> Option<Said> {
    let verdict = vm.verdict?;
    Some(Said {
        urgency: memory(&vm.demand).map(|demand| demand.urgency),
        wanted_bytes: verdict.wanted_bytes,
        entitled_bytes: verdict.entitled_bytes,
        target_bytes: vm.target_bytes,
        rule: verdict.rule,
    })
}
