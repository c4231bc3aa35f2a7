//! The ground the other tests stand on: guests boot, obey, and their balloons move.

use std::time::Duration;

use anyhow::{Context, Result};
use vmtide_lab::{Kernel, Lab, VmConfig, load::Progress, vm::MIB, wait_for};

const SOON: Duration = Duration::from_secs(30);

async fn boots_obeys_and_gives_memory(kernel: Kernel) -> Result<()> {
    let vm = Lab::ready()?.launch(VmConfig::new("smoke", kernel).memory_mib(512)).await?;

    let release = vm.run("uname -r").await?;
    assert!(release.starts_with(&format!("{kernel}.")), "{release}");
    assert_eq!(vm.try_run("echo out; echo err >&2; exit 7").await?.code, 7);
    assert!(vm.read("/proc/pressure/memory", 0).await?.contains("some"));
    assert_eq!(vm.run("ls /sys/fs/cgroup/memory.reclaim").await?.trim(), "/sys/fs/cgroup/memory.reclaim");

    assert_eq!(vm.allocation_bytes().await?, 512 * MIB);
    vm.set_allocation(200 * MIB).await?;
    wait_for("the balloon has taken 312 MiB", SOON, async || Ok(vm.allocation_bytes().await? == 200 * MIB)).await?;
    vm.set_allocation(512 * MIB).await?;
    wait_for("the balloon has given them back", SOON, async || Ok(vm.allocation_bytes().await? == 512 * MIB)).await?;
    assert_eq!(vm.oom_kills().await?, 0);
    Ok(())
}

#[tokio::test]
async fn kernel_6_1_boots_obeys_and_gives_memory() -> Result<()> {
    boots_obeys_and_gives_memory(Kernel::V6_1).await
}

#[tokio::test]
async fn kernel_6_12_boots_obeys_and_gives_memory() -> Result<()> {
    boots_obeys_and_gives_memory(Kernel::V6_12).await
}

#[tokio::test]
async fn a_guest_reaches_the_host_over_vsock_and_files_cross_it_whole() -> Result<()> {
    let vm = Lab::ready()?.launch(VmConfig::new("vsock", Kernel::V6_12).memory_mib(256)).await?;
    vm.put("/tmp/hello", b"#!/bin/sh\necho hello from $1\n").await?;
    assert_eq!(vm.run("/tmp/hello put").await?, "hello from put\n");

    let big: Vec<u8> = (0..4 * MIB).map(|at| b'a' + (at / 4099 % 26) as u8).collect();
    vm.put("/tmp/big", &big).await?;
    assert_eq!(vm.read("/tmp/big", 1000).await?.as_bytes(), &big[1000..]);
    Ok(())
}

#[tokio::test]
async fn file_working_set_under_a_tight_balloon_stalls_and_refaults() -> Result<()> {
    let vm = Lab::ready()?.launch(VmConfig::new("load", Kernel::V6_12).memory_mib(512).disk_mib(512)).await?;
    vm.set_allocation(160 * MIB).await?;
    wait_for("the balloon is tight", SOON, async || Ok(vm.allocation_bytes().await? <= 161 * MIB)).await?;
    vm.start("load", "vmtide-load --phases anon=40M:1s,file=200M:8s --think-ms 0").await?;

    let mut last = Progress::default();
    wait_for("the load has ended", 2 * SOON, async || {
        let log = vm.read("/tmp/load.log", 0).await?;
        if let Some(line) = log.lines().last() {
            last = serde_json::from_str(line).with_context(|| log.clone())?;
        }
        Ok(last.done)
    })
    .await?;
    assert!(last.ops > 100, "{last:?}");
    assert!(last.refaults > 0 && last.stall_us > 0, "{last:?}");
    assert_eq!(last.oom_kills, 0);
    Ok(())
}

#[tokio::test]
async fn a_guest_that_is_powered_off_ends_its_vm() -> Result<()> {
    let mut vm = Lab::ready()?.launch(VmConfig::new("off", Kernel::V6_1).memory_mib(256)).await?;
    vm.power_off().await?;
    assert!(vm.allocation_bytes().await.is_err());
    Ok(())
}
