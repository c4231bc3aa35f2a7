//! Blocks that a guest deleted come back to the host's file system: asked by the bridge when room is low, and by hand.

use std::{os::unix::fs::MetadataExt, time::Duration};

use anyhow::{Context, Result};
use vmtide_bridge::api::trims::{Trim, TrimState};
use vmtide_lab::{Kernel, Lab, Vm, VmConfig, fleet::FleetConfig, vm::MIB, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// A file system on the disk.
const MOUNT: &str = "mkdir -p /mnt && mke2fs /dev/vda >/dev/null && mount -t ext4 /dev/vda /mnt";
const EXT4: [&str; 5] = ["crc32c_generic", "crc16", "mbcache", "jbd2", "ext4"];

/// Takes 96 MiB of the disk, and gives them up again where only the guest's file system knows.
const DELETED: &str = "dd if=/dev/urandom of=/mnt/gone bs=1M count=96 2>/dev/null && sync && rm /mnt/gone && sync";
const DELETED_BYTES: u64 = 96 * MIB;

/// Every pool is low, and a second is long.
const LOW: &str = "[policy]\ntrim_low_permille = 1000\ntrim_clear_permille = 1000\ntrim_quiet_ms = 1000\n";

/// What the image takes of the host.
fn taken_bytes(vm: &Vm) -> Result<u64> {
    Ok(vm.vsock().with_file_name("disk.raw").metadata()?.blocks() * 512)
}

fn gave(trim: &Trim, before_bytes: u64, vm: &Vm) -> Result<()> {
    let after_bytes = taken_bytes(vm)?;
    println!("{} MiB taken before, {} MiB after: {trim:?}", before_bytes / MIB, after_bytes / MIB);
    assert!(before_bytes >= DELETED_BYTES, "{before_bytes} taken");
    assert_eq!(trim.state, TrimState::Done, "{trim:?}");
    assert!(trim.given_bytes >= DELETED_BYTES, "{trim:?}");
    assert!(trim.detail.as_ref().is_some_and(|detail| detail.contains("/mnt")), "{trim:?}");
    assert!(after_bytes < before_bytes - DELETED_BYTES * 9 / 10, "{after_bytes} of {before_bytes} are still taken");
    assert!(trim.pool_bytes.is_some(), "{trim:?}");
    Ok(())
}

#[tokio::test]
async fn a_guest_gives_back_what_it_deleted_when_room_is_low_and_when_an_operator_asks() -> Result<()> {
    let config = VmConfig::new("full", Kernel::V6_12).memory_mib(384).disk_mib(256);
    let config = FleetConfig::new(640).with(config).bridge_also(LOW);
    let mut fleet = Lab::ready()?.launch_fleet(config).await?;
    let vm = fleet.vm("full")?;
    vm.load(&EXT4).await?;
    vm.run(MOUNT).await?;
    vm.run(DELETED).await?;
    let before_bytes = taken_bytes(vm)?;

    fleet.start_bridge().await?;
    fleet.start_agents().await?;
    let (vm, client) = (fleet.vm("full")?, fleet.client());
    let over = async || client.vm("full").await.map(|vm| vm.trim.filter(|trim| trim.is_over));
    wait_for("the bridge asked, and looked", 3 * SOON, async || Ok(over().await?.is_some())).await?;
    let trim = over().await?.context("it was over")?;
    gave(&trim, before_bytes, vm)?;
    assert!(!trim.by_hand);
    let pools = client.status().await?.pools;
    assert!(pools.len() == 1 && pools[0].is_low && pools[0].vms == ["full"], "{pools:?}");

    // The bridge does not ask again for hours; an operator may.
    vm.run(DELETED).await?;
    let before_bytes = taken_bytes(vm)?;
    let asked = client.trim("full").await?;
    assert!(asked.by_hand && asked.state == TrimState::Asked, "{asked:?}");
    let again = client.trim("full").await.map(|_| ()).unwrap_err().to_string();
    assert!(again.contains("one VM at a time"), "{again}");
    let done = async || over().await.map(|trim| trim.filter(|trim| trim.id == asked.id));
    wait_for("it is done", 3 * SOON, async || Ok(done().await?.is_some())).await?;
    gave(&done().await?.context("it was over")?, before_bytes, vm)?;
    let events = client.events_about("full", 64).await?;
    for words in [
        "as its pool is low and it is quiet",
        "by an operator",
        "its guest says it gave",
        "room than before it was asked",
    ] {
        assert!(events.iter().any(|event| event.message.contains(words)), "no {words} in {events:?}");
    }
    Ok(())
}
