//! Several VMs on one budget, with the real bridge on the host and the real agent in each guest.
//!
//! In: a [`FleetConfig`]. Out: a [`Fleet`] whose parts can be started, killed and asked one by one, and a [`Watch`]
//! that samples what the VMs really have from QEMU, whatever the bridge says.

mod config;
mod watch;

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use tokio::task::spawn_blocking;
use vmtide_bridge::{api::client::Client, record::sentence};
use vmtide_protocol::doctor::Report;

pub use config::{FleetConfig, Member, RESERVE_BYTES};
pub use watch::{Seen, Watch};

use crate::{
    Lab, Vm,
    vm::{Scratch, Tied, wait_for},
};

/// An agent's first report and the bridge's first look at QEMU come well within this, even with TCG.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// VMs that share a budget; dropping it ends all of them and the bridge.
#[derive(Debug)]
pub struct Fleet {
    config: FleetConfig,
    bridge_binary: PathBuf,
    bridge: Option<Tied>,
    vms: Vec<Vm>,
    dir: Scratch,
}

impl Lab {
    /// Boots the VMs of a fleet; neither bridge nor agents run yet.
    ///
    /// # Errors
    /// When a VM does not come up.
    pub async fn launch_fleet(&self, config: FleetConfig) -> Result<Fleet> {
        let dir = Scratch::new()?;
        let mut vms = Vec::new();
        for member in &config.members {
            vms.push(self.launch(member.vm.clone()).await?);
        }
        let fleet = Fleet { config, bridge_binary: self.binary("vmtide-bridge"), bridge: None, vms, dir };
        fs::write(fleet.path("bridge.toml"), fleet.config.bridge_toml(&fleet.path("control.sock"), &fleet.vms))?;
        Ok(fleet)
    }
}

impl Fleet {
    /// A VM by its name.
    ///
    /// # Errors
    /// When the fleet has none of that name.
    pub fn vm(&self, name: &str) -> Result<&Vm> {
        self.vms.iter().find(|vm| vm.name() == name).with_context(|| format!("no VM {name}"))
    }

    /// A VM by its name, to be powered off.
    ///
    /// # Errors
    /// When the fleet has none of that name.
    pub fn vm_mut(&mut self, name: &str) -> Result<&mut Vm> {
        self.vms.iter_mut().find(|vm| vm.name() == name).with_context(|| format!("no VM {name}"))
    }

    /// All VMs, in the order they were configured.
    pub fn vms(&self) -> &[Vm] {
        &self.vms
    }

    /// What the VMs may have together, in bytes: the bridge's capacity, reserve included.
    pub fn budget_bytes(&self) -> u64 {
        self.config.budget_bytes
    }

    /// Starts the bridge and waits until it answers.
    ///
    /// # Errors
    /// When it does not; carries its log.
    pub async fn start_bridge(&mut self) -> Result<()> {
        let mut command = Tied::command(&self.bridge_binary);
        command.arg("run").arg("--config").arg(self.path("bridge.toml"));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("bridge.log"))?;
        command.stderr(log);
        self.bridge = Some(Tied::spawn("vmtide-bridge", &mut command)?);
        let client = self.client();
        wait_for("the bridge answers", SETTLE_TIMEOUT, async || Ok(client.status().await.is_ok()))
            .await
            .with_context(|| format!("the bridge's log:\n{}", self.bridge_log()))
    }

    /// What `vmtide doctor` says of this host and the bridge: whether it exits with 0, and its report.
    ///
    /// # Errors
    /// When it cannot be run, or prints no report.
    pub async fn doctor(&self) -> Result<(bool, Report)> {
        let mut command = Command::new(self.bridge_binary.with_file_name("vmtide"));
        command.args(["doctor", "--json", "--config"]).arg(self.path("bridge.toml"));
        // The guests' connections are served meanwhile.
        let output = spawn_blocking(move || command.output()).await?.context("vmtide doctor")?;
        Ok((output.status.success(), serde_json::from_slice(&output.stdout).context("no report")?))
    }

    /// Kills the bridge by SIGKILL.
    pub fn kill_bridge(&mut self) {
        self.bridge = None;
    }

    /// What the bridge wrote to its log.
    pub fn bridge_log(&self) -> String {
        fs::read_to_string(self.path("bridge.log")).unwrap_or_default()
    }

    /// A client of the bridge's control socket.
    pub fn client(&self) -> Client {
        Client::new(self.path("control.sock"))
    }

    /// Starts the agent in each guest and waits until the bridge knows them all.
    ///
    /// # Errors
    /// When one does not report.
    pub async fn start_agents(&self) -> Result<()> {
        for vm in &self.vms {
            start_agent(vm, &self.config.agent_toml).await?;
        }
        let client = self.client();
        let all = self.vms.len();
        wait_for("all agents have a session", SETTLE_TIMEOUT, async || Ok(client.status().await?.agents == all))
            .await
            .with_context(|| format!("the bridge's log:\n{}", self.bridge_log()))
    }

    /// Waits until what the VMs have together fits the budget beside its reserve: they boot with all their memory.
    ///
    /// # Errors
    /// When the bridge has not made them fit in time.
    pub async fn wait_until_it_fits(&self) -> Result<()> {
        wait_for("the VMs fit the budget", SETTLE_TIMEOUT, async || {
            let mut sum = 0;
            for vm in &self.vms {
                sum += vm.allocation_bytes().await?;
            }
            Ok(sum + RESERVE_BYTES <= self.budget_bytes())
        })
        .await
        .with_context(|| format!("the bridge's log:\n{}", self.bridge_log()))
    }

    /// The bridge's last decisions in sentences, for the message of an assertion.
    pub async fn explain(&self) -> String {
        let decisions = self.client().decisions(None, 30).await.unwrap_or_default();
        let told = decisions.iter().map(|decision| {
            format!("{} s, {}: {}", decision.at_unix_ms / 1000 % 1000, decision.vm, sentence(decision))
        });
        told.collect::<Vec<_>>().join("\n")
    }

    /// Begins to sample all VMs from QEMU.
    pub fn watch(&self) -> Watch {
        Watch::start(self.vms.iter().map(Vm::qmp).collect(), self.budget_bytes())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }
}

/// Starts the agent in a guest, with more text in its configuration; returns its pid there.
///
/// # Errors
/// When the guest does not answer.
pub async fn start_agent(vm: &Vm, more_toml: &str) -> Result<u32> {
    let toml = format!("bridge = \"vsock://2:7670\"\n{more_toml}");
    vm.put("/tmp/agent.toml", toml.as_bytes()).await?;
    vm.start("agent", "vmtide-agent run --config /tmp/agent.toml").await
}
