//! How a fleet is configured, and the bridge's configuration that follows from it.

use std::{fmt::Write as _, path::Path};

use crate::{Vm, VmConfig, vm::MIB};

/// The part of the budget that is never given out: what a guest takes back by itself before it would kill
/// (deflate-on-oom) comes from here.
pub const RESERVE_BYTES: u64 = 64 * MIB;

/// VMs and what they share.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    pub(super) budget_bytes: u64,
    pub(super) members: Vec<Member>,
    more_toml: String,
    pub(super) agent_toml: String,
}

/// One VM and what the operator grants it.
#[derive(Debug, Clone)]
pub struct Member {
    pub(super) vm: VmConfig,
    minimum_bytes: u64,
    shares: u32,
    cpu_shares: Option<u32>,
}

impl FleetConfig {
    /// An empty fleet whose VMs may have this much together: the bridge's capacity, [`RESERVE_BYTES`] of it reserve.
    pub fn new(budget_mib: u64) -> Self {
        Self {
            budget_bytes: budget_mib * MIB,
            members: Vec::new(),
            more_toml: String::new(),
            agent_toml: String::new(),
        }
    }

    /// Adds a VM.
    #[must_use]
    pub fn with(mut self, member: impl Into<Member>) -> Self {
        self.members.push(member.into());
        self
    }

    /// Adds text to the bridge's configuration.
    #[must_use]
    pub fn bridge_also(mut self, toml: &str) -> Self {
        self.more_toml.push_str(toml);
        self
    }

    /// Adds text to the agents' configuration.
    #[must_use]
    pub fn agents_also(mut self, toml: &str) -> Self {
        self.agent_toml.push_str(toml);
        self
    }

    pub(super) fn bridge_toml(&self, control: &Path, vms: &[Vm]) -> String {
        let capacity = self.budget_bytes / MIB;
        let reserve = RESERVE_BYTES / MIB;
        let mut toml = format!(
            "[host]\ncapacity = \"{capacity}MiB\"\nreserve = \"{reserve}MiB\"\n[control]\nsocket = \"{}\"\n\
             [record]\ndirectory = \"{}\"\n{}\n",
            control.display(),
            control.with_file_name("record").display(),
            self.more_toml
        );
        for (member, vm) in self.members.iter().zip(vms) {
            // Writing to a String does not fail.
            let _ = write!(
                toml,
                "[[vm]]\nname = \"{}\"\nminimum = \"{}MiB\"\nmaximum = \"{}MiB\"\nshares = {}\nqmp = \"{}\"\n\
                 vsock = \"{}\"\n",
                vm.name(),
                member.minimum_bytes / MIB,
                vm.most_bytes() / MIB,
                member.shares,
                vm.bridge_qmp().display(),
                vm.vsock().display(),
            );
            if let Some(shares) = member.cpu_shares {
                let _ = writeln!(toml, "cpu.shares = {shares}");
            }
        }
        toml
    }
}

impl Member {
    /// Sets its shares.
    #[must_use]
    pub fn shares(mut self, shares: u32) -> Self {
        self.shares = shares;
        self
    }

    /// Sets its shares of CPU time.
    #[must_use]
    pub fn cpu_shares(mut self, shares: u32) -> Self {
        self.cpu_shares = Some(shares);
        self
    }

    /// Sets its minimum.
    #[must_use]
    pub fn minimum_mib(mut self, mib: u64) -> Self {
        self.minimum_bytes = mib * MIB;
        self
    }
}

impl From<VmConfig> for Member {
    /// A member with a minimum of 128 MiB and the default shares.
    fn from(vm: VmConfig) -> Self {
        Self { vm, minimum_bytes: 128 * MIB, shares: 1000, cpu_shares: None }
    }
}
