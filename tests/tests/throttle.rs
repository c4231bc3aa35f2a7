//! Disks of a real QEMU are held to a rate and given back. The lab looks through a connection of its own.

use anyhow::Result;
use vmtide_bridge::hypervisor::{Machine, qemu::Qemu};
use vmtide_bridge::plan::storage::Throttle;
use vmtide_lab::{Kernel, Lab, VmConfig, io::limits};

const THROTTLE: Option<Throttle> = Some(Throttle { bytes_per_s: 1 << 20, ops_per_s: 64 });

fn names(limits: &[(String, u64)]) -> Vec<(&str, u64)> {
    let mut names: Vec<_> = limits.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_disk_is_held_and_an_operators_limit_comes_back_also_after_a_kill() -> Result<()> {
    let lab = Lab::ready()?;
    let config = VmConfig::new("held", Kernel::V6_12).memory_mib(256).disk_mib(64);
    let vm = lab.launch(config.disk_iops(200)).await?;
    assert_eq!(names(&limits(&vm).await?), [("iops", 200)]);

    let mut qemu = Qemu::connect(&vm.bridge_qmp()).await?;
    assert_eq!(qemu.hold_io(THROTTLE).await?.changed, 1);
    assert_eq!(names(&limits(&vm).await?), [("bps", 1 << 20), ("iops", 64)]);
    let read = "dd if=/dev/vda of=/dev/null bs=4k count=640 iflag=direct";
    let began = std::time::Instant::now();
    vm.run(read).await?;
    let took = began.elapsed();
    assert!(took.as_secs() >= 8, "640 reads at 64 a second took {took:?}");
    // Nobody takes leave: what the next bridge finds is all that it knows.
    drop(qemu);

    let mut qemu = Qemu::connect(&vm.bridge_qmp()).await?;
    assert_eq!(qemu.hold_io(None).await?.changed, 1);
    assert_eq!(names(&limits(&vm).await?), [("iops", 200)]);
    let began = std::time::Instant::now();
    vm.run(read).await?;
    println!("640 reads took {took:?} held and {:?} after", began.elapsed());
    assert!(began.elapsed() < took, "{:?} after, {took:?} held", began.elapsed());
    assert_eq!(qemu.hold_io(None).await?.changed, 0, "nothing is left to do");
    Ok(())
}
