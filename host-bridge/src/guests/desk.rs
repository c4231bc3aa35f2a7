//! What all sessions share: the VMs, what they are told, and the registry.

use super::VmIndex;
use super::registry::Registry;
use crate::config::VmConfig;
use std::fmt;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use vmtide_protocol::bridge::{Allocation, BridgeMessage, Host, Intervals};

/// Requests that may wait for a guest that does not read.
const REQUESTS: usize = 16;

#[derive(Debug)]
pub(super) struct Desk {
    pub(super) vms: Vec<Lines>,
    pub(super) intervals: Intervals,
    pub(super) host: watch::Sender<Host>,
    pub(super) registry: Registry,
}

/// The lines to one VM. They outlive its sessions, so a new one begins with what is true now.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) name: String,
    /// The configuration's; an allocation brings the one that holds now.
    pub(super) maximum_bytes: u64,
    pub(super) allocation: watch::Sender<Option<Allocation>>,
    pub(super) requests: broadcast::Sender<BridgeMessage>,
}

impl Desk {
    pub(super) fn new(vms: &[VmConfig], intervals: Intervals) -> Self {
        let lines = |vm: &VmConfig| Lines {
            name: vm.name.clone(),
            maximum_bytes: vm.limits.maximum_bytes,
            allocation: watch::Sender::new(None),
            requests: broadcast::Sender::new(REQUESTS),
        };
        Self {
            vms: vms.iter().map(lines).collect(),
            intervals,
            host: watch::Sender::new(Host::default()),
            registry: Registry::new(vms.len(), Instant::now()),
        }
    }

    /// Writes a line about a VM, unless that VM has had its share of the log.
    pub(super) fn log(&self, vm: VmIndex, message: fmt::Arguments<'_>) {
        if let Some(suppressed) = self.registry.may_log(vm, Instant::now()) {
            tracing::info!(vm = self.vms[vm].name, suppressed, "{message}");
        }
    }
}
