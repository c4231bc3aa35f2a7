//! Memory moves between real VMs, and what must never happen does not.

use std::time::Duration;

use anyhow::{Context, Result};
use vmtide_bridge::{
    api::types::{Change, Vm as BridgeVm, VmState},
    plan::{Demand, Rule},
};
use vmtide_lab::{
    Kernel, Lab, VmConfig,
    fleet::{Fleet, FleetConfig, Member, start_agent},
    load::Progress,
    vm::MIB,
    wait_for,
};

/// Generous: two cores that translate run all of it.
const SOON: Duration = Duration::from_secs(60);

/// Reports and their expiry come faster than by default, so that the tests are quick.
const QUICK: &str = "[intervals]\nbusy_ms = 500\nquiet_ms = 1000\n";

/// Two VMs of 768 MiB on a budget of 1024 MiB, 64 MiB of it reserve, with bridge and agents, shrunk to fit.
async fn two_on_1024_mib(a: Member, b: Member) -> Result<Fleet> {
    let config = FleetConfig::new(1024).with(a).with(b).bridge_also(QUICK);
    let mut fleet = Lab::ready()?.launch_fleet(config).await?;
    fleet.start_bridge().await?;
    fleet.start_agents().await?;
    fleet.wait_until_it_fits().await?;
    Ok(fleet)
}

fn vm(name: &str) -> VmConfig {
    VmConfig::new(name, Kernel::V6_12)
}

async fn has(fleet: &Fleet, name: &str) -> Result<u64> {
    fleet.vm(name)?.allocation_bytes().await
}

async fn has_at_least(fleet: &Fleet, name: &str, mib: u64) -> Result<()> {
    wait_for(&format!("{name} has {mib} MiB"), SOON, async || Ok(has(fleet, name).await? >= mib * MIB)).await
}

async fn has_at_most(fleet: &Fleet, name: &str, mib: u64) -> Result<()> {
    wait_for(&format!("{name} is down to {mib} MiB"), SOON, async || Ok(has(fleet, name).await? <= mib * MIB)).await
}

/// What the bridge believes of a VM.
async fn believed(fleet: &Fleet, name: &str) -> Result<BridgeVm> {
    Ok(fleet.client().vm(name).await?)
}

async fn work(fleet: &Fleet, name: &str, phases: &str) -> Result<u32> {
    fleet.vm(name)?.start("load", &format!("vmtide-load --phases {phases}")).await
}

async fn progress(fleet: &Fleet, name: &str) -> Result<Progress> {
    let log = fleet.vm(name)?.read("/tmp/load.log", 0).await?;
    serde_json::from_str(log.lines().last().context("no line yet")?).with_context(|| log.clone())
}

async fn flows_from_idle_to_busy_and_back(kernel: Kernel) -> Result<()> {
    let member = |name| VmConfig::new(name, kernel).into();
    let fleet = two_on_1024_mib(member("a"), member("b")).await?;
    let watch = fleet.watch();

    // There: a grows. Back: what a no longer needs is b's as soon as b asks for it.
    work(&fleet, "a", "anon=448M:18s,idle:300s").await?;
    has_at_least(&fleet, "a", 500).await?;
    wait_for("a is idle", SOON, async || Ok(progress(&fleet, "a").await?.phase.starts_with("idle"))).await?;
    // Faster than any donor gives, so that b has to wait, however early it asks.
    fleet.vm("b")?.start("load", "vmtide-load --phases anon=448M:300s --fill-mib 512").await?;
    has_at_least(&fleet, "b", 500).await?;
    let peak = watch.seen().max_bytes[0];
    has_at_most(&fleet, "a", peak / MIB - 300).await?;

    for vm in fleet.vms() {
        assert_eq!(vm.oom_kills().await?, 0, "{} killed tasks", vm.name());
    }
    let seen = watch.seen();
    assert_eq!(seen.violation, Duration::ZERO, "{seen:?}\n{}", fleet.explain().await);
    let reactions = fleet.client().status().await?.reaction_ms.count;
    assert!(reactions > 0, "no reaction was measured\n{}", fleet.explain().await);
    let rates = believed(&fleet, "a").await?.rates;
    let both = (rates.shrink_bytes_per_s, rates.grow_bytes_per_s);
    assert!(matches!(both, (Some(MIB..), Some(MIB..))), "it grew and gave: {rates:?}\n{}", fleet.explain().await);
    Ok(())
}

#[tokio::test]
async fn memory_flows_from_an_idle_guest_to_a_busy_one_and_back_on_6_12() -> Result<()> {
    flows_from_idle_to_busy_and_back(Kernel::V6_12).await
}

#[tokio::test]
async fn memory_flows_from_an_idle_guest_to_a_busy_one_and_back_on_6_1() -> Result<()> {
    flows_from_idle_to_busy_and_back(Kernel::V6_1).await
}

#[tokio::test]
async fn a_bridge_killed_in_the_middle_of_a_move_reads_the_state_back() -> Result<()> {
    let mut fleet = two_on_1024_mib(vm("a").into(), vm("b").into()).await?;
    let watch = fleet.watch();

    let Demand::Fresh(demand) = believed(&fleet, "b").await?.demand else { panic!("b does not report") };
    let idle = demand.need_bytes;
    work(&fleet, "a", "anon=400M:60s").await?;
    has_at_least(&fleet, "a", 500).await?;
    fleet.kill_bridge();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = [has(&fleet, "a").await?, has(&fleet, "b").await?];
    fleet.start_bridge().await?;
    wait_for("the new bridge knows what a has", SOON, async || {
        Ok(believed(&fleet, "a").await?.state == VmState::Running)
    })
    .await?;

    // Nobody jumps: a, which is busy, loses nothing, and b gives nothing that it lives on and gets nothing.
    for _ in 0..20 {
        let now = [has(&fleet, "a").await?, has(&fleet, "b").await?];
        let said = format!("[a, b] went from {before:?} to {now:?} bytes");
        let stays = now[0] + 32 * MIB >= before[0] && now[1] <= before[1] + 32 * MIB && now[1] >= idle;
        assert!(stays, "{said}, and b needs {idle}\n{}", fleet.explain().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    has_at_least(&fleet, "a", 440).await?;
    assert_eq!(fleet.vm("a")?.oom_kills().await?, 0);
    assert_eq!(watch.seen().violation, Duration::ZERO, "{}", fleet.explain().await);
    Ok(())
}

#[tokio::test]
async fn a_guest_whose_agent_died_keeps_its_last_floor() -> Result<()> {
    let config = FleetConfig::new(1024).with(vm("a")).with(vm("b")).bridge_also(QUICK);
    let mut fleet = Lab::ready()?.launch_fleet(config).await?;
    fleet.start_bridge().await?;
    let agent = start_agent(fleet.vm("a")?, "").await?;
    start_agent(fleet.vm("b")?, "").await?;
    fleet.wait_until_it_fits().await?;

    // Within its own share, which is what a floor is worth when others are short.
    work(&fleet, "a", "anon=200M:300s").await?;
    wait_for("a works on 200 MiB", SOON, async || {
        Ok(progress(&fleet, "a").await.is_ok_and(|now| now.anon_bytes == 200 * MIB))
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    fleet.vm("a")?.kill(agent).await?;
    wait_for("a is stale", SOON, async || Ok(matches!(believed(&fleet, "a").await?.demand, Demand::Stale { .. })))
        .await?;

    let had = has(&fleet, "a").await?;
    // Another guest wants everything, and still a keeps what it lives on.
    work(&fleet, "b", "anon=400M:300s").await?;
    has_at_least(&fleet, "b", 400).await?;
    for _ in 0..20 {
        let Demand::Stale { floor_bytes, .. } = believed(&fleet, "a").await?.demand else { break };
        assert!(floor_bytes >= 200 * MIB, "the floor is {} MiB", floor_bytes / MIB);
        let has = has(&fleet, "a").await?;
        let figures = format!("{} of {} MiB, floor {} MiB", has / MIB, had / MIB, floor_bytes / MIB);
        assert!(has >= floor_bytes.min(had), "{figures}\n{}", fleet.explain().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(fleet.vm("a")?.oom_kills().await?, 0);

    start_agent(fleet.vm("a")?, "").await?;
    wait_for("a reports again", SOON, async || Ok(matches!(believed(&fleet, "a").await?.demand, Demand::Fresh(_))))
        .await
}

#[tokio::test]
async fn the_memory_of_a_guest_that_is_powered_off_returns_to_the_pool() -> Result<()> {
    let mut fleet = two_on_1024_mib(vm("a").into(), vm("b").into()).await?;
    let client = fleet.client();
    let before = client.status().await?;
    let had = has(&fleet, "a").await?;

    fleet.vm_mut("a")?.power_off().await?;
    wait_for("a is off", SOON, async || Ok(believed(&fleet, "a").await?.state == VmState::Off)).await?;
    let after = client.status().await?;
    assert!(after.free_bytes + 32 * MIB >= before.free_bytes + had, "{before:?} {after:?}");

    work(&fleet, "b", "anon=500M:300s").await?;
    has_at_least(&fleet, "b", 520).await?;
    assert_eq!(fleet.vm("b")?.oom_kills().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_hypervisor_that_hangs_does_not_delay_the_others() -> Result<()> {
    let fleet = two_on_1024_mib(vm("a").into(), vm("b").into()).await?;
    let watch = fleet.watch();
    // Leaves room, so that b is to grow without waiting for a.
    let change = Change { maximum_bytes: Some(300 * MIB), ..Change::default() };
    fleet.client().set("a", change).await?;
    has_at_most(&fleet, "a", 300).await?;
    let had = has(&fleet, "a").await?;

    fleet.vm("a")?.freeze()?;
    work(&fleet, "b", "anon=400M:300s").await?;
    has_at_least(&fleet, "b", 560).await?;
    wait_for("a is unreachable", SOON, async || Ok(believed(&fleet, "a").await?.state == VmState::Unreachable)).await?;
    assert!(believed(&fleet, "a").await?.allocation_bytes >= had, "what a has counts on");

    fleet.vm("a")?.thaw()?;
    wait_for("a is back", SOON, async || Ok(believed(&fleet, "a").await?.state == VmState::Running)).await?;
    assert_eq!(fleet.vm("b")?.oom_kills().await?, 0);
    assert_eq!(watch.seen().violation, Duration::ZERO, "{}", fleet.explain().await);
    Ok(())
}

#[tokio::test]
async fn two_guests_that_both_want_everything_share_by_shares() -> Result<()> {
    let member = |name| Member::from(vm(name).disk_mib(1024));
    let fleet = two_on_1024_mib(member("a").shares(3000), member("b").shares(1000)).await?;
    let watch = fleet.watch();

    // File pages, which a guest without memory for them reads again: nobody must die of being short.
    for name in ["a", "b"] {
        work(&fleet, name, "anon=64M+file=900M:600s --think-ms 0").await?;
    }
    wait_for("b is short by its shares and a has half as much again", 3 * SOON, async || {
        let short = believed(&fleet, "b")
            .await?
            .verdict
            .is_some_and(|verdict| matches!(verdict.rule, Rule::ShortByShares { .. }));
        Ok(short && has(&fleet, "a").await? >= has(&fleet, "b").await? * 3 / 2)
    })
    .await?;
    for vm in fleet.vms() {
        assert_eq!(vm.oom_kills().await?, 0, "{} killed tasks", vm.name());
    }
    assert_eq!(watch.seen().violation, Duration::ZERO, "{}", fleet.explain().await);
    Ok(())
}
