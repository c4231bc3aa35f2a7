//! What all sessions share: the VMs, what they are told, and the registry.

use super::VmIndex;
use super::registry::Registry;
use crate::config::VmConfig;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use vmtide_protocol::bridge::{Allocation, BridgeMessage, Host, Intervals};

/// Requests that may wait for a guest that does not read.
const REQUESTS: usize = 16;

#[derive(Debug)]
pub(super) struct Desk {
    vms: RwLock<Vec<Arc<Lines>>>,
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
    /// Turns true when the VM is no longer in the configuration.
    pub(super) removed: watch::Sender<bool>,
}

impl Desk {
    /// A desk without VMs.
    pub(super) fn new(intervals: Intervals) -> Self {
        Self {
            vms: RwLock::default(),
            intervals,
            host: watch::Sender::new(Host::default()),
            registry: Registry::default(),
        }
    }

    /// Takes in a VM; its number is the count of those before it.
    pub(super) fn add(&self, vm: &VmConfig) -> VmIndex {
        self.registry.add(Instant::now());
        let lines = Arc::new(Lines {
            name: vm.name.clone(),
            maximum_bytes: vm.limits.maximum_bytes,
            allocation: watch::Sender::new(None),
            requests: broadcast::Sender::new(REQUESTS),
            removed: watch::Sender::new(false),
        });
        // Nothing panics while it holds the lock.
        let mut vms = self.vms.write().unwrap_or_else(PoisonError::into_inner);
        vms.push(lines);
        vms.len() - 1
    }

    /// The lines to a VM.
    pub(super) fn lines(&self, vm: VmIndex) -> Arc<Lines> {
        self.vms.read().unwrap_or_else(PoisonError::into_inner)[vm].clone()
    }

    /// Writes a line about a VM, unless that VM has had its share of the log.
    pub(super) fn log(&self, vm: VmIndex, message: fmt::Arguments<'_>) {
        if let Some(suppressed) = self.registry.may_log(vm, Instant::now()) {
            tracing::info!(vm = self.lines(vm).name, suppressed, "{message}");
        }
    }
}
