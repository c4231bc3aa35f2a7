//! Groups that the cgroup lever makes for VMs that share one: on real kernels, in a guest that plays the host.

use std::fs;

use anyhow::Result;
use vmtide_lab::{Kernel, Lab, Vm, VmConfig};

const SLEEP: &str = "sleep 600";

async fn host(name: &str, kernel: Kernel) -> Result<Vm> {
    let lab = Lab::ready()?;
    let vm = lab.launch(VmConfig::new(name, kernel).memory_mib(256)).await?;
    vm.put("/bin/vmtide-lever", &fs::read(lab.binary("vmtide-lever"))?).await?;
    Ok(vm)
}

#[tokio::test]
async fn v2_gives_vms_of_a_delegated_group_groups_of_their_own_and_puts_all_back() -> Result<()> {
    let vm = host("delegated", Kernel::V6_12).await?;
    let group = "/sys/fs/cgroup/vms.service";
    vm.run(&format!("mkdir {group}; echo +cpu >/sys/fs/cgroup/cgroup.subtree_control")).await?;
    let [a, b, other] = [vm.start("a", SLEEP).await?, vm.start("b", SLEEP).await?, vm.start("other", SLEEP).await?];
    for pid in [a, b, other] {
        vm.run(&format!("echo {pid} >{group}/cgroup.procs")).await?;
    }
    let vms = format!("--vms {a},{b}");
    let untouched = async || -> Result<()> {
        assert_eq!(
            vm.run(&format!("ls -d {group}/*/ 2>/dev/null; cat {group}/cgroup.subtree_control")).await?.trim(),
            ""
        );
        assert_eq!(vm.run("ls /run/cgroup 2>/dev/null; true").await?, "");
        Ok(())
    };
    let refused = async |why: &str| -> Result<()> {
        let refused = vm.try_run(&format!("vmtide-lever {a} --shares 3000 {vms}")).await?;
        assert!(refused.code == 1 && refused.stderr.contains(why), "{}", refused.stderr);
        untouched().await
    };
    refused("foreign cgroup without delegation: process").await?;
    vm.run(&format!("vmtide-lever --delegate {group}")).await?;
    refused(&format!("delegated cgroup, but process {other} is in it and no VM of this bridge")).await?;

    vm.run(&format!("echo {other} >/sys/fs/cgroup/cgroup.procs")).await?;
    // Each call is a process of its own, as if a bridge had been killed after it.
    vm.run(&format!("vmtide-lever {a} --shares 3000 {vms} && vmtide-lever {b} --shares 500 --quota 1500 {vms}"))
        .await?;
    let held = vm.run(&format!("cat {group}/vmtide-vm-{a}/cpu.weight {group}/vmtide-vm-{b}/cpu.weight")).await?;
    assert_eq!(held, "300\n50\n");
    assert_eq!(vm.run(&format!("cat {group}/vmtide-vm-{b}/cpu.max")).await?, "150000 100000\n");

    // The first one let go stays where it is, by the kernel's rule, as nobody's; with the last one both go back.
    vm.run(&format!("vmtide-lever {a} {vms}")).await?;
    assert_eq!(vm.run(&format!("cat {group}/vmtide-vm-{a}/cpu.weight")).await?, "100\n");
    vm.run(&format!("vmtide-lever {b} {vms}")).await?;
    assert_eq!(vm.run(&format!("sort -n {group}/cgroup.procs")).await?, format!("{a}\n{b}\n"));
    untouched().await?;

    // Killed between, and the VMs end: whoever comes next takes the groups away.
    vm.run(&format!("vmtide-lever {a} --shares 3000 {vms}")).await?;
    vm.kill(a).await?;
    vm.kill(b).await?;
    vm.try_run(&format!("sleep 1; vmtide-lever {other}")).await?;
    untouched().await
}

#[tokio::test]
async fn v1_gives_a_vm_a_group_beside_others_and_takes_it_away_again() -> Result<()> {
    let vm = host("v1", Kernel::V6_1).await?;
    vm.run("mkdir -p /mnt/cpu && mount -t cgroup -o cpu none /mnt/cpu && mkdir /mnt/cpu/vms").await?;
    let [a, other] = [vm.start("a", SLEEP).await?, vm.start("other", SLEEP).await?];
    for pid in [a, other] {
        vm.run(&format!("echo {pid} >/mnt/cpu/vms/cgroup.procs")).await?;
    }
    let own = format!("/mnt/cpu/vms/vmtide-vm-{a}");
    vm.run(&format!("vmtide-lever {a} --shares 3000 --quota 500")).await?;
    assert_eq!(
        vm.run(&format!("cat {own}/cpu.shares {own}/cpu.cfs_quota_us {own}/cgroup.procs")).await?,
        format!("3072\n50000\n{a}\n")
    );
    assert_eq!(vm.run("cat /mnt/cpu/vms/cgroup.procs").await?, format!("{other}\n"), "nobody else is moved");

    vm.run(&format!("vmtide-lever {a}")).await?;
    assert_eq!(vm.run("sort -n /mnt/cpu/vms/cgroup.procs").await?, format!("{a}\n{other}\n"));
    assert_eq!(vm.run("ls -d /mnt/cpu/vms/*/ /run/cgroup/* 2>/dev/null; true").await?, "");
    Ok(())
}
