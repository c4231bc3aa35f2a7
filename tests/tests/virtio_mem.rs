//! Memory is plugged into real guests and out of them, by the real bridge; what it cannot have, it does not promise.

use std::time::{Duration, Instant};

use anyhow::Result;
use vmtide_bridge::api::types::{Change, Vm as BridgeVm};
use vmtide_lab::{
    Kernel, Lab, Vm, VmConfig,
    fleet::{Fleet, FleetConfig},
    vm::MIB,
    wait_for,
};

const SOON: Duration = Duration::from_secs(60);
const QUICK: &str = "[intervals]\nbusy_ms = 500\nquiet_ms = 1000\n";
const BOOT_MIB: u64 = 512;

/// One VM of 512 MiB, as much again to plug in, on a budget with room for all of it; bridge and agent run.
async fn one(kernel: Kernel, prepare: &str) -> Result<Fleet> {
    let vm = VmConfig::new("a", kernel).memory_mib(BOOT_MIB).virtio_mem_mib(512).free_page_reporting();
    let mut fleet = Lab::ready()?.launch_fleet(FleetConfig::new(1280).with(vm).bridge_also(QUICK)).await?;
    if !prepare.is_empty() {
        fleet.vm("a")?.run(prepare).await?;
    }
    fleet.start_bridge().await?;
    fleet.start_agents().await?;
    Ok(fleet)
}

fn a(fleet: &Fleet) -> Result<&Vm> {
    fleet.vm("a")
}

async fn believed(fleet: &Fleet) -> Result<BridgeVm> {
    Ok(fleet.client().vm("a").await?)
}

/// Holds the VM to so much, as an operator does; the planner decides within.
async fn hold_to(fleet: &Fleet, mib: u64) -> Result<()> {
    let change = Change { minimum_bytes: Some(mib * MIB), maximum_bytes: Some(mib * MIB), ..Change::default() };
    fleet.client().set("a", change).await?;
    Ok(())
}

/// Until QEMU, read by the lab itself, says so.
async fn has(fleet: &Fleet, mib: u64) -> Result<()> {
    let what = format!("a has {mib} MiB");
    let had = wait_for(&what, SOON, async || Ok(a(fleet)?.allocation_bytes().await? == mib * MIB)).await;
    had.map_err(|error| error.context(fleet.bridge_log()))
}

async fn mem_total(vm: &Vm) -> Result<u64> {
    Ok(vm.run("grep MemTotal /proc/meminfo | tr -dc 0-9").await?.trim().parse::<u64>()? * 1024)
}

async fn goes_up_and_down(kernel: Kernel) -> Result<()> {
    let fleet = one(kernel, "").await?;
    let watch = fleet.watch();
    let online = "cat /sys/devices/system/memory/auto_online_blocks";
    let movable = wait_for("the agent has plugged memory made movable", SOON, async || {
        Ok(a(&fleet)?.run(online).await?.trim() == "online_movable")
    })
    .await;
    if let Err(error) = movable {
        return Err(error.context(a(&fleet)?.run("vmtide-agent tuning explain auto_online_blocks").await?));
    }

    let booted = mem_total(a(&fleet)?).await?;
    hold_to(&fleet, 900).await?;
    has(&fleet, 900).await?;
    assert_eq!(a(&fleet)?.plugged_bytes().await?, 388 * MIB, "{}", fleet.explain().await);
    let told = fleet.explain().await;
    assert!(told.contains("Virtio-mem") && told.contains("times as fast"), "{told}");
    let grown = mem_total(a(&fleet)?).await? - booted;
    assert_eq!(grown, 388 * MIB, "the guest can use all of it");
    let memory = believed(&fleet).await?.memory.unwrap_or_default();
    assert!(memory.free_page_reporting && memory.parts.plugged_bytes == 388 * MIB, "{memory:?}");

    hold_to(&fleet, 600).await?;
    has(&fleet, 600).await?;
    let plugged = a(&fleet)?.plugged_bytes().await?;
    assert!(plugged < 388 * MIB, "{} MiB are plugged in\n{}", plugged / MIB, fleet.explain().await);
    // Below boot memory there is but the balloon.
    hold_to(&fleet, 400).await?;
    has(&fleet, 400).await?;
    assert_eq!(a(&fleet)?.oom_kills().await?, 0);
    let seen = watch.seen();
    assert_eq!(seen.violation, Duration::ZERO, "{seen:?}\n{}", fleet.explain().await);
    assert!(seen.max_bytes[0] <= 900 * MIB, "never more than the largest target: {seen:?}");
    Ok(())
}

#[tokio::test]
async fn the_bridge_moves_a_guest_by_virtio_mem_up_and_down_on_6_12() -> Result<()> {
    goes_up_and_down(Kernel::V6_12).await
}

#[tokio::test]
async fn the_bridge_moves_a_guest_by_virtio_mem_up_and_down_on_6_1() -> Result<()> {
    goes_up_and_down(Kernel::V6_1).await
}

/// Kernel memory in the plugged blocks stays where it is: the balloon takes what virtio-mem cannot.
#[tokio::test]
async fn memory_that_cannot_be_unplugged_is_ballooned() -> Result<()> {
    // Plugged in as the kernel's own, before an agent could say otherwise, and filled with what the kernel cannot move.
    let fleet = one(Kernel::V6_12, "echo online_kernel >/sys/devices/system/memory/auto_online_blocks").await?;
    let watch = fleet.watch();
    hold_to(&fleet, 1024).await?;
    has(&fleet, 1024).await?;
    let files = "mkdir /tmp/many; i=0; while [ $i -lt 60 ]; do mkdir /tmp/many/$i; \
                 (cd /tmp/many/$i; seq 1 1500 | xargs touch); i=$((i+1)); done";
    a(&fleet)?.run(files).await?;

    hold_to(&fleet, 512).await?;
    has(&fleet, 512).await?;
    let left = a(&fleet)?.plugged_bytes().await?;
    println!("{} of 512 MiB stayed plugged in", left / MIB);
    assert!(left > 0, "nothing held it: this proves nothing");
    // Or it would shrink further when the kernel lets go.
    wait_for("what stays is in the balloon, and no more is asked of virtio-mem", SOON, async || {
        let parts = believed(&fleet).await?.memory.unwrap_or_default().parts;
        Ok((parts.plugged_bytes, parts.balloon_bytes, parts.requested_bytes) == (left, Some(left), left))
    })
    .await?;
    assert_eq!(a(&fleet)?.oom_kills().await?, 0);
    assert_eq!(watch.seen().violation, Duration::ZERO, "{}", fleet.explain().await);
    Ok(())
}

#[tokio::test]
async fn a_guest_without_the_driver_is_found_out_and_the_balloon_goes_on() -> Result<()> {
    let fleet = one(Kernel::V6_12, "rmmod virtio_mem").await?;
    let watch = fleet.watch();
    hold_to(&fleet, 300).await?;
    has(&fleet, 300).await?;
    let asked = Instant::now();
    hold_to(&fleet, 512).await?;
    has(&fleet, 512).await?;
    println!("512 MiB after {:?}", asked.elapsed());
    hold_to(&fleet, 1024).await?;
    wait_for("the bridge says that nobody answers", SOON, async || {
        let events = fleet.client().events(0).await?;
        Ok(events.iter().any(|event| event.message.contains("nobody in its guest answers virtio-mem")))
    })
    .await?;
    wait_for("nothing is promised that cannot be had", SOON, async || {
        let status = fleet.client().status().await?;
        Ok(status.committed_bytes == 512 * MIB && believed(&fleet).await?.maximum_bytes == 512 * MIB)
    })
    .await?;
    hold_to(&fleet, 256).await?;
    has(&fleet, 256).await?;
    let events = fleet.client().events(0).await?;
    assert_eq!(events.iter().filter(|event| event.message.contains("nobody in its guest")).count(), 1, "said once");
    assert_eq!(watch.seen().violation, Duration::ZERO, "{}", fleet.explain().await);
    Ok(())
}
