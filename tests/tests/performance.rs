//! P = R / T of real guests: one command's, and a fleet's while it is optimized.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use vmtide_bridge::api::optimize::Wish;
use vmtide_bridge::performance::Resource;
use vmtide_lab::{Kernel, Lab, VmConfig, fleet::FleetConfig, vm::MIB, wait_for};

const SOON: Duration = Duration::from_secs(30);

/// Half of the memory for a command that reads more than that, again and again: R is a half, and it waits.
#[tokio::test]
async fn a_command_that_lacks_memory_is_measured_and_exits_as_it_would() -> Result<()> {
    let vm = Lab::ready()?.launch(VmConfig::new("m", Kernel::V6_12).memory_mib(512).disk_mib(512)).await?;
    let measure = |command: &str| format!("vmtide-agent measure --json -o /tmp/told -- {command}");
    let plain = vm.try_run(&measure("sh -c 'sleep 1; exit 7'")).await?;
    assert_eq!(plain.code, 7, "{}", plain.stderr);
    let told: Value = serde_json::from_str(&vm.read("/tmp/told", 0).await?)?;
    println!("with all: {told}");
    assert!(told["memory"]["r_ppm"].as_u64().context("no R")? > 990_000, "{told}");
    assert!(told["memory"]["p_ppm"].as_u64().context("no P")? > 900_000, "nothing waits: {told}");

    vm.set_allocation(256 * MIB).await?;
    wait_for("the balloon is tight", SOON, async || Ok(vm.allocation_bytes().await? <= 257 * MIB)).await?;
    // Beside a file alone kswapd may keep up, and then only the disk is waited for.
    let short = vm.try_run(&measure("vmtide-load --phases anon=110M+file=300M:10s --think-ms 0")).await?;
    assert_eq!(short.code, 0, "{}", short.stderr);
    let told: Value = serde_json::from_str(&vm.read("/tmp/told", 0).await?)?;
    println!("with half: {told}");
    let r = told["memory"]["r_ppm"].as_u64().context("no R")?;
    assert!((480_000..=520_000).contains(&r), "{told}");
    assert!(told["memory"]["stall_some_ms"].as_u64() > Some(0), "{told}");
    assert!(told["memory"]["p_ppm"].as_u64().context("no P")? <= r, "{told}");
    Ok(())
}

/// A paused fleet in which `a` lacks memory that `b` does not use: optimized, it gets it, and is paused again.
#[tokio::test]
async fn a_paused_fleet_is_optimized_for_a_while_and_is_paused_again() -> Result<()> {
    let vm = |name: &str| VmConfig::new(name, Kernel::V6_12).memory_mib(512).disk_mib(512);
    let mut fleet = Lab::ready()?.launch_fleet(FleetConfig::new(1024).with(vm("a")).with(vm("b"))).await?;
    for (name, mib) in [("a", 256), ("b", 512)] {
        fleet.vm(name)?.set_allocation(mib * MIB).await?;
        let vm = fleet.vm(name)?;
        wait_for("the balloon is there", SOON, async || Ok(vm.allocation_bytes().await? <= (mib + 1) * MIB)).await?;
    }
    fleet.start_bridge().await?;
    fleet.client().pause(None, true).await?;
    fleet.start_agents().await?;
    fleet.vm("a")?.start("load", "vmtide-load --phases file=300M:60s --think-ms 0").await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let client = fleet.client();
    let had = fleet.vm("a")?.allocation_bytes().await?;

    let wish = Wish { vms: vec!["a".into()], resources: Resource::ALL.to_vec(), duration_ms: 15_000, dry_run: false };
    let mut progress = client.optimize(&wish).await?;
    while progress.over.is_none() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        progress = client.optimizing(progress.id).await?;
    }
    let a = &progress.vms[0];
    println!("{}", serde_json::to_string(&progress)?);
    assert!(!a.changes.is_empty(), "{progress:?}");
    let now = fleet.vm("a")?.allocation_bytes().await?;
    assert!(now > had + 32 * MIB, "{} MiB, then {}\n{}", had / MIB, now / MIB, fleet.explain().await);
    let (before, after) = (a.before.each.memory, a.after.each.memory);
    let (before, after) = (before.context("no P before")?, after.context("no P after")?);
    assert!(after.r_ppm > before.r_ppm && after.p_ppm > before.p_ppm, "{progress:?}");
    assert!(client.status().await?.paused && client.vm("a").await?.paused, "as it was");
    Ok(())
}
