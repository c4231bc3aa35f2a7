//! The packages of rpm on a guest whose systemd runs. It is Debian's, so what is Fedora's own policy is not seen here: presets,
//! SELinux, the database's triggers.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::{TIMEOUT, TRACES, machine::Machine};
use crate::vm::wait_for;

/// Installs agent and bridge, upgrades both and removes both. `--nodeps`: rpm's database knows of no shell here.
pub(super) async fn life(machine: &Machine, packages: &[PathBuf; 2], next: &[PathBuf; 2]) -> Result<()> {
    for (files, release) in [(packages, "1"), (next, "2")] {
        for (package, name) in files.iter().zip(["agent", "bridge"]) {
            machine.put(package, &format!("/root/{name}-{release}.rpm")).await?;
        }
    }
    let quiet = |what: &str, told: &str| {
        // systemctl tells of links that it makes, and Debian's rpm of alien.
        ensure!(!told.contains("warning:") && !told.contains("error:"), "{what}: {told}");
        Ok(())
    };
    quiet("install", &machine.run("rpm --install --nodeps /root/agent-1.rpm /root/bridge-1.rpm 2>&1").await?)?;
    let verified = machine.run("rpm --verify --nodeps vmtide-agent vmtide-bridge 2>&1").await?;
    ensure!(verified.is_empty(), "not what was packaged: {verified}");
    // A preset enables units or does not; then the device starts the agent. A bridge is started by whoever configured it.
    wait_for("the unit is active", TIMEOUT, async || {
        Ok(machine.ask("systemctl is-active vmtide-agent").await?.code == 0)
    })
    .await?;
    machine.connected().await?;
    machine.run("getent passwd vmtide && systemctl start vmtide-bridge").await?;
    wait_for("the bridge answers", TIMEOUT, async || Ok(machine.ask("vmtide status").await?.code == 0)).await?;

    machine.run("sed -i '1i# an operator was here' /etc/vmtide/agent.toml").await?;
    let pids = "systemctl show -P MainPID vmtide-agent vmtide-bridge";
    let before = machine.run(pids).await?;
    quiet("upgrade", &machine.run("rpm --upgrade --nodeps /root/agent-2.rpm /root/bridge-2.rpm 2>&1").await?)?;
    machine.run("grep -q 'an operator was here' /etc/vmtide/agent.toml").await?;
    machine.connected().await?;
    let after = machine.run(pids).await?;
    let restarted =
        before.lines().zip(after.lines()).filter(|(before, after)| before != after && *after != "0").count();
    ensure!(restarted == 2, "not restarted: {before:?}, then {after:?}");

    let told = machine.run("rpm --erase vmtide-agent vmtide-bridge 2>&1").await?;
    // It says that it keeps a configuration that was changed, as rpm does.
    let told: Vec<_> = told.lines().filter(|line| !line.contains("/etc/vmtide/agent.toml.rpmsave")).collect();
    quiet("erase", &told.join("\n"))?;
    machine.run("rm /etc/vmtide/agent.toml.rpmsave && rmdir /etc/vmtide").await?;
    // By the custom of such packages the user stays, and what is its own.
    machine.run("rm -r /var/lib/vmtide && userdel vmtide").await?;
    let left = machine.run(TRACES).await?;
    ensure!(left.is_empty(), "left behind:\n{left}");
    Ok(())
}
