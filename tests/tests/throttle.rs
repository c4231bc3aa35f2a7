//! Disks of a real QEMU are held to a rate and given back; the lab looks through a connection of its own. And the cgroup lever, in
//! a guest that plays the host.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use vmtide_bridge::hypervisor::{Machine, qemu::Qemu};
use vmtide_bridge::plan::storage::Throttle;
use vmtide_lab::{Kernel, Lab, Vm, VmConfig, io::limits, vm::MIB};

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

#[tokio::test]
async fn a_vm_without_a_disk_has_nothing_to_hold() -> Result<()> {
    let vm = Lab::ready()?.launch(VmConfig::new("diskless", Kernel::V6_12).memory_mib(256)).await?;
    let mut qemu = Qemu::connect(&vm.bridge_qmp()).await?;
    assert_eq!(qemu.io().await?.disks, 0);
    for throttle in [THROTTLE, None] {
        let held = qemu.hold_io(throttle).await?;
        assert_eq!((held.disks, held.changed, held.left), (0, 0, vec![]));
    }
    Ok(())
}

const GROUP: &str = "/sys/fs/cgroup/vms/a";

#[tokio::test]
async fn the_cgroup_lever_slows_a_reader_to_its_rate_and_puts_back_what_was_there() -> Result<()> {
    let lab = Lab::ready()?;
    // Holes: the reader is not to come to the end of it.
    let vm = lab.launch(VmConfig::new("disks", Kernel::V6_12).memory_mib(384).disk_mib(64 * 1024)).await?;
    vm.put("/bin/vmtide-lever", &fs::read(lab.binary("vmtide-lever"))?).await?;
    vm.run(&format!("echo +io >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p {GROUP}")).await?;
    vm.run("echo +io >/sys/fs/cgroup/vms/cgroup.subtree_control").await?;
    let reader = vm.start("reader", "dd if=/dev/vda of=/dev/null bs=64k iflag=direct").await?;

    let lever = |arguments: &str| format!("vmtide-lever {reader} --disks {arguments}");
    let refused = vm.try_run(&lever("--rate 1048576")).await?;
    assert!(refused.stderr.contains("it is the root group"), "{}", refused.stderr);

    // An operator's limit, tighter in one of the four.
    let device = vm.run("cat /sys/block/vda/dev").await?.trim().to_owned();
    let before = format!("{device} rbps=max wbps=4096 riops=max wiops=max\n");
    vm.run(&format!("echo {reader} >{GROUP}/cgroup.procs; echo '{device} wbps=4096' >{GROUP}/io.max")).await?;
    let free = rate(&vm, &device).await?;

    vm.run(&lever("--rate 2097152 --shares 3000")).await?;
    let limits = vm.run(&format!("cat {GROUP}/io.max")).await?;
    assert_eq!(limits, format!("{device} rbps=2097152 wbps=4096 riops=512 wiops=512\n"));
    let weight = vm.run(&format!("head -n 1 {GROUP}/io.weight")).await?;
    assert_eq!(weight, "default 300\n");
    let held = rate(&vm, &device).await?;
    println!("read {} MiB/s free, {} KiB/s held to 2 MiB/s", free / MIB, held / 1024);
    assert!(free > 8 * MIB, "{free} bytes a second of a disk of holes");
    assert!((3 * MIB / 2..5 * MIB / 2).contains(&held), "{held} bytes a second, held to 2 MiB");

    // Each call is a process of its own, as if a bridge had been killed: the notes know what was there.
    vm.run(&lever("")).await?;
    assert_eq!(vm.run(&format!("cat {GROUP}/io.max")).await?, before);
    assert_eq!(vm.run(&format!("head -n 1 {GROUP}/io.weight")).await?, "default 100\n");
    assert_eq!(vm.run("ls /run/cgroup").await?, "");
    let again = rate(&vm, &device).await?;
    assert!(again > 2 * held, "{again} bytes a second after {held}");
    Ok(())
}

/// What the group reads of the device, bytes per second, over 5 s.
async fn rate(vm: &Vm, device: &str) -> Result<u64> {
    let read = async || {
        let stat = vm.run(&format!("cat {GROUP}/io.stat")).await?;
        let line = stat.lines().find_map(|line| line.strip_prefix(device)).with_context(|| stat.clone())?;
        let bytes = line.split(' ').find_map(|field| field.strip_prefix("rbytes=")).with_context(|| stat.clone())?;
        Ok::<u64, anyhow::Error>(bytes.parse()?)
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, began) = (read().await?, std::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let took_ms = u64::try_from(began.elapsed().as_millis())?;
    Ok((read().await? - before) * 1000 / took_ms)
}
