//! What the agent says of the working set, held against a workload whose working set is known.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use vmtide_lab::{Kernel, Lab, Vm, VmConfig, load::Progress, vm::MIB, wait_for};

const SOON: Duration = Duration::from_secs(60);
/// The agent's figure may be off by this share.
const OFF_PERCENT: u64 = 15;
const ALL: u64 = 300 * MIB;
const HOT: u64 = 100 * MIB;

/// 300 MiB were filled, 100 of them are worked on: a minute later the agent has to know.
async fn is_known(lab: &Lab, source: &str, kernel: Kernel, within: Duration) -> Result<()> {
    let vm = lab.launch(VmConfig::new(source, kernel)).await?;
    // 6.1 has the generations built, and off until somebody switches them on.
    vm.run("echo y >/sys/kernel/mm/lru_gen/enabled").await?;
    let base = meminfo(&vm, "AnonPages").await?;
    vm.start("load", "vmtide-load --phases anon=300M/100M:600s --fill-mib 300").await?;
    wait_for("the load is filled", SOON, async || Ok(last(&vm).await.is_ok_and(|now| now.anon_bytes == ALL))).await?;
    start_agent(&vm, source).await?;

    let mut sample = Value::Null;
    wait_for(&format!("a sample of {source}"), within, async || {
        let Ok(status) = status(&vm).await else { return Ok(false) };
        sample = status["demand"]["memory"]["known"]["signals"]["working_set"].clone();
        Ok(sample["source"] == source)
    })
    .await
    .with_context(|| format!("the last one: {sample}"))?;
    println!("{source} on {kernel}: {sample}");

    // All of it is used all the time.
    let known = HOT + base;
    let log = vm.run("cat /tmp/agent.log").await?;
    for within in ["used_10_s_bytes", "used_60_s_bytes"] {
        let told = number(&sample[within])?;
        assert!(
            known.abs_diff(told) <= known * OFF_PERCENT / 100,
            "{source} on {kernel}: {} MiB are used, told in {within} were {}\n{sample}\n{log}",
            known / MIB,
            told / MIB
        );
    }
    let total = number(&sample["total_bytes"])?;
    assert!((ALL..ALL + 64 * MIB).contains(&total), "{source} on {kernel}: {} MiB in all", total / MIB);
    Ok(())
}

#[tokio::test]
async fn the_lru_s_generations_tell_a_known_working_set_within_15_percent() -> Result<()> {
    let lab = &Lab::ready()?;
    let told = |kernel| is_known(lab, "mglru", kernel, 2 * SOON);
    tokio::try_join!(told(Kernel::V6_12), told(Kernel::V6_1))?;
    Ok(())
}

#[tokio::test]
async fn damon_tells_a_known_working_set_within_15_percent() -> Result<()> {
    let lab = Lab::ready()?;
    is_known(lab, "damon", Kernel::V6_12, 2 * SOON).await
}

#[tokio::test]
async fn a_monitor_of_damon_ends_with_the_agent_however_it_ends() -> Result<()> {
    let vm = Lab::ready()?.launch(VmConfig::new("damon", Kernel::V6_12).memory_mib(256)).await?;
    let monitors = async || -> Result<String> { vm.run("cat /sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds").await };
    let runs = async || Ok(monitors().await? == "1\n");
    vm.run("echo n >/sys/kernel/mm/lru_gen/enabled").await?;
    let killed = start_agent(&vm, "auto").await?;
    wait_for("a monitor", SOON, runs).await?;
    vm.kill(killed).await?;
    assert_eq!(monitors().await?, "1\n", "nobody could end it");

    start_agent(&vm, "auto").await?;
    wait_for("the next agent has its own monitor", SOON, async || {
        Ok(runs().await? && vm.run("cat /tmp/agent.log").await?.contains("source=Damon"))
    })
    .await?;
    vm.run("kill $(pidof vmtide-agent)").await?;
    wait_for("no monitor", SOON, async || Ok(monitors().await? == "0\n")).await?;

    // Somebody else's is left alone.
    vm.run("echo 1 >/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds").await?;
    start_agent(&vm, "auto").await?;
    wait_for("counters", SOON, async || {
        let status = status(&vm).await.unwrap_or_default();
        Ok(status["demand"]["memory"]["known"]["signals"]["working_set"]["source"] == "counters")
    })
    .await?;
    assert_eq!(monitors().await?, "1\n");
    Ok(())
}

/// Starts an agent that tunes nothing: which LRU the guest has is the test's to say.
async fn start_agent(vm: &Vm, source: &str) -> Result<u32> {
    let config = format!("[tuning]\nmode = \"observe\"\n\n[working_set]\nsource = \"{source}\"\n");
    vm.put("/tmp/agent.toml", config.as_bytes()).await?;
    vm.start("agent", "vmtide-agent run --config /tmp/agent.toml").await
}

async fn status(vm: &Vm) -> Result<Value> {
    Ok(serde_json::from_str(&vm.run("vmtide-agent status --json").await?)?)
}

async fn last(vm: &Vm) -> Result<Progress> {
    let log = vm.read("/tmp/load.log", 0).await?;
    let line = log.lines().last().context("the load said nothing yet")?;
    Ok(serde_json::from_str(line)?)
}

async fn meminfo(vm: &Vm, key: &str) -> Result<u64> {
    let text = vm.read("/proc/meminfo", 0).await?;
    let kib = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    Ok(kib.with_context(|| format!("no {key} in {text}"))?.parse::<u64>()? * 1024)
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("{value} is no number"))
}
