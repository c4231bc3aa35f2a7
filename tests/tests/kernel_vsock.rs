//! The bridge's other transport: a kernel vsock listener that knows its guests by their CID.
//!
//! A host cannot be had inside a test, but the kernel's loopback transport can: bridge and agent run in one guest.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use vmtide_lab::{Kernel, Lab, VmConfig, wait_for};

const BRIDGE: &str = "\
[host]
capacity = \"256MiB\"
reserve = \"64MiB\"
[control]
socket = \"/run/control.sock\"
[[vm]]
name = \"self\"
minimum = \"64MiB\"
maximum = \"256MiB\"
qmp = \"/run/no.qmp\"
cid = 1
";

#[tokio::test]
async fn an_agent_reaches_a_bridge_that_listens_on_kernel_vsock() -> Result<()> {
    let lab = Lab::ready()?;
    let vm = lab.launch(VmConfig::new("loopback", Kernel::V6_12).memory_mib(512)).await?;
    for program in ["vmtide-bridge", "vmtide"] {
        vm.put(&format!("/bin/{program}"), &fs::read(lab.binary(program))?).await?;
    }
    vm.run("insmod /lib/more/vsock_loopback.ko").await?;
    vm.put("/tmp/bridge.toml", BRIDGE.as_bytes()).await?;
    vm.put("/tmp/agent.toml", b"bridge = \"vsock://1:7670\"\n").await?;
    vm.start("bridge", "vmtide-bridge run --config /tmp/bridge.toml").await?;
    vm.start("agent", "vmtide-agent run --config /tmp/agent.toml").await?;

    let session = wait_for("the agent has a session", Duration::from_secs(30), async || {
        let status = vm.try_run("vmtide --socket /run/control.sock status --json").await?;
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap_or_default();
        Ok(status["agents"] == 1)
    });
    let logs = async || vm.run("cat /tmp/bridge.log /tmp/agent.log").await.unwrap_or_default();
    if let Err(error) = session.await {
        return Err(error).context(logs().await);
    }
    Ok(())
}
