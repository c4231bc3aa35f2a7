//! CPU levers on real guests: CPUs that go offline and come back, vCPUs that are plugged in and out, and the cgroup lever
//! in a guest that plays the host.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use vmtide_bridge::hypervisor::Machine;
use vmtide_bridge::hypervisor::qemu::Qemu;
use vmtide_lab::cpu::{Session, online, plugged};
use vmtide_lab::{Kernel, Lab, VmConfig, load::Progress, wait_for};
use vmtide_protocol::agent::ReplyStatus;
use vmtide_protocol::bridge::Intervals;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn cpus_go_offline_but_for_those_that_are_needed_and_come_back_whatever_ends_the_agent() -> Result<()> {
    let vm = Lab::ready()?.launch(VmConfig::new("online", Kernel::V6_12).memory_mib(256).vcpus(4)).await?;
    let mut session = Session::with(&vm).await?;
    assert!(session.capabilities.iter().any(|name| name == "set_online_cpus"), "{:?}", session.capabilities);
    let (reply, took) = session.set_online(2).await?;
    println!("two CPUs offline after {took:?}");
    assert_eq!((reply.status, reply.amount, online(&vm).await?), (ReplyStatus::Done, 2.into(), 2));

    // Only CPU 1 will do for this one.
    let pinned = vm.start("pinned", "taskset 2 sleep 600").await?;
    let (reply, _) = session.set_online(1).await?;
    assert_eq!((reply.status, online(&vm).await?), (ReplyStatus::Refused, 2));
    let detail = reply.detail.unwrap_or_default();
    assert!(detail.contains("(sleep) needs CPU 1"), "{detail}");
    vm.kill(pinned).await?;
    let (reply, _) = session.set_online(1).await?;
    assert_eq!((reply.status, online(&vm).await?), (ReplyStatus::Done, 1));

    // Killed, its note tells `revert` what to bring back; stopped, it does so itself.
    vm.kill(session.agent).await?;
    assert_eq!(online(&vm).await?, 1);
    vm.run("vmtide-agent revert --all --config /tmp/agent.toml").await?;
    assert_eq!(online(&vm).await?, 4);
    Ok(())
}

/// It looks at its CPUs each ten minutes, so nothing else than the kernel's word makes it look at them in time.
#[tokio::test]
async fn a_quiet_guest_asks_at_once_when_it_begins_to_wait_for_a_cpu() -> Result<()> {
    for kernel in [Kernel::V6_1, Kernel::V6_12] {
        let vm = Lab::ready()?.launch(VmConfig::new("wakes", kernel).memory_mib(256)).await?;
        let intervals = Intervals { busy_ms: 1_000, quiet_ms: 600_000 };
        let mut session = Session::reporting_each(&vm, intervals).await?;
        let silence = Duration::from_secs(6);
        wait_for("the agent is quiet", 2 * SOON, async || Ok(session.report(silence).await?.is_none())).await?;

        // An ordinary burst: two tasks on one CPU for a fifth of a second.
        vm.run("vmtide-load --phases cpu=2:200ms").await?;
        let woken = session.report(silence).await?;
        assert!(woken.is_none(), "a burst is no need: {woken:?}");

        let load = vm.start("load", "vmtide-load --phases cpu=3:600s").await?;
        let began = Instant::now();
        let report = session.report(SOON).await?.context("nothing wakes the agent")?;
        let took = began.elapsed();
        let cpu = report.demand.cpu.known().context("the need for CPU time is known")?;
        let (need_millicpus, _) = cpu.need_millicpus.within(u64::MAX);
        println!("{kernel}: told after {took:?} that {need_millicpus} millicpus are needed");
        assert!(need_millicpus > 1_500, "{cpu:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
        vm.kill(load).await?;
        wait_for("the agent is quiet again", 2 * SOON, async || Ok(session.report(silence).await?.is_none())).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_vcpu_is_plugged_in_used_and_taken_out_again() -> Result<()> {
    let vm = Lab::ready()?.launch(VmConfig::new("plug", Kernel::V6_1).memory_mib(256).vcpu_slots(4)).await?;
    let mut session = Session::with(&vm).await?;
    let mut qemu = Qemu::connect(&vm.bridge_qmp()).await?;
    let before = qemu.vcpus().await?.context("q35 has hotplug")?;
    assert_eq!((before.plugged, before.possible, before.removable), (1, 4, 0));
    assert!(qemu.unplug_vcpu().await.is_err_and(|error| error.to_string().contains("by vmtide")));

    qemu.plug_vcpu().await?;
    assert_eq!(qemu.vcpus().await?.map(|vcpus| (vcpus.plugged, vcpus.removable)), Some((2, 1)));
    wait_for("the agent brings the new CPU online", SOON, async || {
        Ok(session.set_online(2).await?.0.status == ReplyStatus::Done)
    })
    .await?;
    assert_eq!(online(&vm).await?, 2);

    assert_eq!(session.set_online(1).await?.0.status, ReplyStatus::Done);
    qemu.unplug_vcpu().await?;
    wait_for("the guest lets go of it", SOON, async || Ok(plugged(&vm).await? == 1)).await?;
    Ok(())
}

#[tokio::test]
async fn the_cgroup_lever_shares_a_hosts_cpu_time_and_puts_back_what_was_there() -> Result<()> {
    let lab = Lab::ready()?;
    let vm = lab.launch(VmConfig::new("host", Kernel::V6_12).memory_mib(384)).await?;
    vm.put("/bin/vmtide-lever", &fs::read(lab.binary("vmtide-lever"))?).await?;
    vm.run("echo +cpu >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p /sys/fs/cgroup/vms/a /sys/fs/cgroup/vms/b")
        .await?;
    vm.run("echo +cpu >/sys/fs/cgroup/vms/cgroup.subtree_control").await?;

    // Not in a group of its own: nothing is touched.
    let a = vm.start("a", "vmtide-load --phases cpu=2:600s --report-ms 200").await?;
    let b = vm.start("b", "vmtide-load --phases cpu=2:600s --report-ms 200").await?;
    let refused = vm.try_run(&format!("vmtide-lever {a} --shares 3000")).await?;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("foreign cgroup without delegation: it is the root group"), "{}", refused.stderr);

    vm.run(&format!("echo {a} >/sys/fs/cgroup/vms/a/cgroup.procs; echo {b} >/sys/fs/cgroup/vms/b/cgroup.procs"))
        .await?;
    vm.run(&format!("vmtide-lever {a} --shares 3000 && vmtide-lever {b} --shares 1000")).await?;
    let held = vm.run("cat /sys/fs/cgroup/vms/?/cpu.weight").await?;
    assert_eq!(held, "300\n100\n");
    let before = [work(&vm, "a").await?, work(&vm, "b").await?];
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = [work(&vm, "a").await?, work(&vm, "b").await?];
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let [done_a, done_b] = [0, 1].map(|at| (after[at] - before[at]) as f64);
    println!("work by weights of 3 to 1: {:.2}", done_a / done_b);
    assert!((2.4..3.6).contains(&(done_a / done_b)), "{done_a} and {done_b}");

    // A quota holds whatever the weight says.
    vm.run(&format!("vmtide-lever {a} --shares 3000 --quota 250")).await?;
    assert_eq!(vm.run("cat /sys/fs/cgroup/vms/a/cpu.max").await?.trim(), "25000 100000");
    let before = [work(&vm, "a").await?, work(&vm, "b").await?];
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = [work(&vm, "a").await?, work(&vm, "b").await?];
    assert!(after[0] - before[0] < after[1] - before[1], "a quarter of a CPU: {before:?} {after:?}");

    // Each call was a process of its own, as if a bridge had been killed: the notes know the originals.
    vm.run(&format!("vmtide-lever {a}; vmtide-lever {b}")).await?;
    assert_eq!(vm.run("cat /sys/fs/cgroup/vms/a/cpu.weight /sys/fs/cgroup/vms/a/cpu.max").await?, "100\nmax 100000\n");
    assert_eq!(vm.run("ls /run/cgroup").await?, "");
    Ok(())
}

async fn work(vm: &vmtide_lab::Vm, load: &str) -> Result<u64> {
    let log = vm.read(&format!("/tmp/{load}.log"), 0).await?;
    let last = log.lines().rev().find_map(|line| serde_json::from_str::<Progress>(line).ok());
    Ok(last.with_context(|| format!("no progress in {log:?}"))?.ops)
}
