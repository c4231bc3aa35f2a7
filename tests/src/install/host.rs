//! The bridge's package on a host: the guest with the agent, with a QEMU of its own that never runs an instruction.
//!
//! As docs/install.md has it: install, `vmtide init`, restart, look. QEMU and its sockets are root's and nobody else's, so the
//! bridge, which is not root, has to get by with the one capability that it has.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::{TIMEOUT, TRACES, machine::Machine};
use crate::{Lab, vm::wait_for};

const VSOCK_DEVICE: &str = "systemd-run --quiet --unit=web-vsock --property=UMask=0077 --working-directory=/run/web \
    /root/vhost-device-vsock --guest-cid 4 --socket /run/web/vhost.sock --uds-path /run/web/vsock";
const QEMU: &str = "systemd-run --quiet --unit=web-qemu --property=UMask=0077 --working-directory=/run/web \
    qemu-system-x86_64 -S -name guest=web-1 -nodefaults -no-user-config -display none -machine q35,memory-backend=ram -m 128M \
    -object memory-backend-memfd,id=ram,size=128M,share=on -device virtio-balloon-pci,deflate-on-oom=on \
    -chardev socket,id=vsock,path=/run/web/vhost.sock -device vhost-user-vsock-pci,chardev=vsock \
    -qmp unix:/run/web/web-1.qmp,server=on,wait=off";

/// Installs the bridge, has it find and steer the VM, upgrades and purges it; the agent beside it stays as it was.
pub(super) async fn bridge(machine: &Machine, lab: &Lab, [deb, next]: &[PathBuf; 2]) -> Result<()> {
    machine.put(&lab.vsock_device, "/root/vhost-device-vsock").await?;
    machine.put(deb, "/root/bridge.deb").await?;
    machine.put(next, "/root/next-bridge.deb").await?;
    let before = machine.run(TRACES).await?;
    machine.run("dpkg --install /root/bridge.deb </dev/null").await?;
    rights(machine).await?;
    let status = machine.run("vmtide status").await?;
    ensure!(status.contains("0 configured"), "without a VM: {status}");

    machine.run("mkdir -m 0700 /run/web").await?;
    machine.run(VSOCK_DEVICE).await?;
    wait_for(
        "the VM's vsock device",
        TIMEOUT,
        async || Ok(machine.ask("test -S /run/web/vhost.sock").await?.code == 0),
    )
    .await?;
    machine.run(QEMU).await?;
    wait_for("the VM's monitor", TIMEOUT, async || Ok(machine.ask("test -S /run/web/web-1.qmp").await?.code == 0))
        .await?;
    let told = machine.run("vmtide init --force --output /etc/vmtide/bridge.toml").await?;
    ensure!(told.contains("1 VMs of QEMU"), "init: {told}");
    let checked = machine.run("vmtide-bridge config check").await?;
    ensure!(checked.contains("valid, 1 VMs"), "init wrote what is not valid: {checked}");
    machine.run("systemctl restart vmtide-bridge").await?;
    // What the VM has is read from QEMU.
    let known = "vmtide list --json | grep -q '\"allocation_bytes\":134217728'";
    wait_for("the bridge knows the VM", TIMEOUT, async || Ok(machine.ask(known).await?.code == 0)).await?;
    rights(machine).await?;
    machine.run("test -S /run/web/vsock_7670").await?;
    machine.run("journalctl --quiet --no-pager -u vmtide-bridge VMTIDE_VM=web-1 | grep -q web-1").await?;
    // Its guest does not run, so there is no agent; that is what it has to say.
    let doctor = machine.ask("vmtide doctor").await?;
    ensure!(doctor.stdout.contains("web-1: "), "{}", doctor.stdout);

    let pid = "systemctl show -P MainPID vmtide-bridge";
    let earlier = machine.run(pid).await?;
    machine.run("dpkg --install /root/next-bridge.deb </dev/null").await?;
    ensure!(machine.run("dpkg-query -W -f '${Version}' vmtide-bridge").await?.ends_with("-2"), "not upgraded");
    // By the configuration that `init` wrote, and from QEMU's own word.
    wait_for("the later bridge knows the VM", TIMEOUT, async || Ok(machine.ask(known).await?.code == 0)).await?;
    ensure!(machine.run(pid).await? != earlier, "the old bridge still runs");
    rights(machine).await?;

    let agent = machine.run("systemctl show -P MainPID vmtide-agent").await?;
    machine.run("dpkg --purge vmtide-bridge").await?;
    let left = machine.run("ls /run/web").await?;
    machine.run("systemctl stop web-qemu web-vsock; rm -rf /run/web /root/vhost-device-vsock").await?;
    ensure!(!left.contains("vsock_7670"), "left behind in the VM's folder: {left}");
    let after = machine.run(TRACES).await?;
    ensure!(before == after, "the bridge left something behind; before:\n{before}\nafter:\n{after}");
    ensure!(machine.run("systemctl show -P MainPID vmtide-agent").await? == agent, "the agent was restarted");
    machine.connected().await
}

/// The unit runs as its own user with one capability, `CAP_DAC_OVERRIDE`.
async fn rights(machine: &Machine) -> Result<()> {
    // An active unit may still be systemd's own process, which is about to give its rights away.
    let answers = "systemctl is-active vmtide-bridge && vmtide status";
    wait_for("the bridge answers", TIMEOUT, async || Ok(machine.ask(answers).await?.code == 0)).await?;
    let pid = machine.run("systemctl show -P MainPID vmtide-bridge").await?;
    let seen = machine
        .run(&format!("stat -c %U /proc/{pid}; grep -E '^(CapEff|CapPrm|CapBnd|NoNewPrivs|Seccomp):' /proc/{pid}/status | tr -d '\\n\\t'"))
        .await?;
    let expected = "vmtide\nCapPrm:0000000000000002CapEff:0000000000000002CapBnd:0000000000000002NoNewPrivs:1Seccomp:2";
    ensure!(seen == expected, "{seen:?} is not {expected:?}");
    Ok(())
}
