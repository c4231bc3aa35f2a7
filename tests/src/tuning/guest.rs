//! A guest to be tuned: short of memory, with a swap, a slow disk and an agent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Kernel, Lab, Vm, VmConfig,
    vm::{MIB, ZRAM_MODULES},
    wait_for,
};

const BOOTED_MIB: u64 = 768;
/// What the balloon leaves of it.
const LEFT_MIB: u64 = 384;
/// As many operations a second as a small volume of a cloud has.
pub(super) const DISK_IOPS: u32 = 2_000;
const SOON: Duration = Duration::from_secs(60);

/// A running guest.
#[derive(Debug)]
pub struct TunedGuest {
    vm: Vm,
}

/// Where a guest swaps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// Compressed memory.
    Zram,
    /// Its slow disk.
    Disk,
}

/// What the agent may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It senses only.
    Off,
    /// It tunes.
    Adaptive,
}

/// How many knobs do what, as `vmtide-agent tuning list --json` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knobs {
    /// In the catalogue.
    pub catalogued: usize,
    /// With a file in this guest and a condition that holds.
    pub applicable: usize,
    /// That hold vmtide's value.
    pub applied: usize,
    /// Whose last trial was reverted.
    pub reverted: usize,
    /// That somebody else has set or taken.
    pub foreign: usize,
}

impl TunedGuest {
    /// Boots it and takes away half of its memory.
    pub(super) async fn boot(lab: &Lab, kernel: Kernel, swap: Swap) -> Result<Self> {
        let config = VmConfig::new("tuned", kernel).memory_mib(BOOTED_MIB).disk_mib(768).disk_iops(DISK_IOPS);
        let guest = Self { vm: lab.launch(config).await? };
        match swap {
            Swap::Zram => guest.add_zram().await?,
            Swap::Disk => guest.vm.run("mkswap /dev/vda && swapon /dev/vda").await.map(drop)?,
        }
        guest.shrink_to(LEFT_MIB).await?;
        Ok(guest)
    }

    pub(super) fn vm(&self) -> &Vm {
        &self.vm
    }

    async fn add_zram(&self) -> Result<()> {
        self.vm.load(&ZRAM_MODULES).await?;
        let swap = format!("echo {LEFT_MIB}M >/sys/block/zram0/disksize && mkswap /dev/zram0 && swapon /dev/zram0");
        self.vm.run(&swap).await.map(drop)
    }

    pub(super) async fn shrink_to(&self, mib: u64) -> Result<()> {
        self.vm.set_allocation(mib * MIB).await?;
        let what = format!("the balloon leaves {mib} MiB");
        wait_for(&what, SOON, async || Ok(self.vm.allocation_bytes().await? <= mib * MIB)).await
    }

    /// Starts the agent and waits until it has looked at the knobs; returns its pid.
    pub(super) async fn start_agent(&self, mode: Mode) -> Result<u32> {
        let mode_name = if mode == Mode::Off { "off" } else { "adaptive" };
        self.vm.run(&format!("printf '[tuning]\\nmode = \"{mode_name}\"\\n' >/tmp/tuning.toml")).await?;
        let pid = self.vm.start("agent", "vmtide-agent run --config /tmp/tuning.toml").await?;
        wait_for("the agent answers", SOON, async || {
            Ok(self.vm.try_run("vmtide-agent status --config /tmp/tuning.toml").await?.code == 0)
        })
        .await?;
        if mode == Mode::Adaptive {
            wait_for("knobs are set", SOON, async || Ok(self.knobs().await?.applied > 0)).await?;
        }
        Ok(pid)
    }

    /// As the agent says.
    pub(super) async fn knobs(&self) -> Result<Knobs> {
        let text = self.vm.run("vmtide-agent tuning list --json --config /tmp/tuning.toml").await?;
        let list: Value = serde_json::from_str(&text)?;
        serde_json::from_value(list["tally"].clone()).with_context(|| format!("no tally in {text}"))
    }

    /// Ends the agent as a service manager does.
    pub(super) async fn stop(&self, agent: u32) -> Result<()> {
        self.vm.run(&format!("kill {agent}")).await?;
        self.is_gone(agent).await
    }

    /// Ends the agent as the kernel does, and puts back what it left, as the unit's ExecStopPost does.
    pub(super) async fn kill_and_revert(&self, agent: u32) -> Result<()> {
        self.vm.kill(agent).await?;
        self.is_gone(agent).await?;
        let output = self.vm.try_run("vmtide-agent revert --all --config /tmp/tuning.toml").await?;
        ensure!(output.code == 0, "revert failed: {}{}", output.stdout, output.stderr);
        Ok(())
    }

    async fn is_gone(&self, agent: u32) -> Result<()> {
        let zombie_or_gone = format!("! grep -q '^State:.[^Z]' /proc/{agent}/status");
        wait_for("the agent has ended", SOON, async || Ok(self.vm.try_run(&zombie_or_gone).await?.code == 0)).await
    }
}
