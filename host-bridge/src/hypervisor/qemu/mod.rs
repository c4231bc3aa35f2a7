//! QEMU through its monitor: balloon and virtio-mem, what the guest has, the balloon's statistics, vCPU hotplug; what its disks do
//! and may do.
//!
//! QEMU's balloon knows boot memory and DIMMs only: what virtio-mem has plugged in comes on top of `query-balloon`, and is
//! no part of the `balloon` command's value.

mod blocks;
pub mod qmp;
mod statistics;
mod throttle;
mod vcpus;
mod virtio_mem;

use super::actuators::Actuators;
use super::{Error, Held, IoSeen, Machine, MachineState, Makeup, Notice, Process};
use crate::plan::Millis;
use crate::plan::actuator::{Goal, Parts};
use crate::plan::cpu::Vcpus;
use crate::plan::storage::Throttle;
use qmp::Qmp;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use virtio_mem::Plugged;

/// How often QEMU asks the guest's balloon driver for statistics. Slow: they serve VMs without an agent only.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(10);

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qemu {
    qmp: Qmp,
    /// QOM path of the balloon device, where it could be found: without it there are no statistics.
    balloon: Option<String>,
    process: Option<Process>,
    statistics: statistics::Reader,
    connected: Instant,
    actuators: Actuators,
    /// As they were read last.
    plugged: Plugged,
    parts: Parts,
    is_running: bool,
    free_page_reporting: bool,
}

impl Machine for Qemu {
    type Address = PathBuf;

    async fn connect(path: &PathBuf) -> Result<Self, Error> {
        let mut qmp = Qmp::connect(path).await?;
        let process = qmp.peer_pid().and_then(Process::find);
        let balloon = find_balloon(&mut qmp).await?;
        let mut free_page_reporting = false;
        if let Some(path) = &balloon {
            let property = json!({ "path": path, "property": "free-page-reporting" });
            let reports = accept_refusal(qmp.execute("qom-get", property).await)?;
            free_page_reporting = reports.and_then(|reports| reports.as_bool()).unwrap_or(false);
            let interval = json!({ "path": path, "property": "guest-stats-polling-interval", "value": STATISTICS_INTERVAL.as_secs() });
            accept_refusal(qmp.execute("qom-set", interval).await)?;
        }
        Ok(Self {
            qmp,
            balloon,
            process,
            statistics: statistics::Reader::new(3 * STATISTICS_INTERVAL),
            connected: Instant::now(),
            actuators: Actuators::default(),
            plugged: Plugged::default(),
            parts: Parts::default(),
            is_running: false,
            free_page_reporting,
        })
    }

    async fn read(&mut self) -> Result<MachineState, Error> {
        let command = "query-status";
        let status = self.qmp.execute(command, json!({})).await?;
        let running = status.get("running").and_then(Value::as_bool);
        self.is_running = running.ok_or_else(|| self.qmp.senseless(command, "no running".to_owned()))?;

        let allocation_bytes = self.look_at_all().await?;
        let memory = self.memory();

        let shown = match &self.balloon {
            None => None,
            Some(path) => {
                let property = json!({ "path": path, "property": "guest-stats" });
                let shown = accept_refusal(self.qmp.execute("qom-get", property).await)?;
                shown.and_then(|shown| self.statistics.read(&shown, allocation_bytes, Instant::now()))
            }
        };
        Ok(MachineState {
            ram_bytes: memory.parts.most_bytes(),
            allocation_bytes,
            running: self.is_running,
            has_balloon: memory.parts.balloon_bytes.is_some(),
            shown_use_bytes: shown.map(|shown| shown.use_bytes),
            shown_free_bytes: shown.and_then(|shown| shown.free_bytes),
            resident_bytes: self.process.and_then(Process::resident_bytes),
            memory,
        })
    }

    async fn allocation_bytes(&mut self) -> Result<u64, Error> {
        if !self.plugged.devices.is_empty() {
            self.plugged = Plugged::read(&mut self.qmp).await?;
        }
        self.look().await
    }

    fn memory(&self) -> Makeup {
        Makeup {
            parts: self.actuators.usable(self.now_ms(), &self.parts),
            split: self.actuators.split(),
            is_plug_dead: self.actuators.is_dead(),
            free_page_reporting: self.free_page_reporting,
        }
    }

    async fn set_target(&mut self, target_bytes: u64) -> Result<(), Error> {
        self.look_at_all().await?;
        let orders = self.actuators.aim(self.now_ms(), &self.parts, target_bytes);
        self.carry_out(orders).await
    }

    async fn vcpus(&mut self) -> Result<Option<Vcpus>, Error> {
        vcpus::read(&mut self.qmp).await
    }

    async fn plug_vcpu(&mut self) -> Result<(), Error> {
        vcpus::plug(&mut self.qmp).await
    }

    async fn unplug_vcpu(&mut self) -> Result<(), Error> {
        vcpus::unplug(&mut self.qmp).await
    }

    async fn io(&mut self) -> Result<IoSeen, Error> {
        blocks::read(&mut self.qmp).await
    }

    async fn hold_io(&mut self, throttle: Option<Throttle>) -> Result<Held, Error> {
        throttle::hold(&mut self.qmp, throttle).await
    }

    async fn notice(&mut self) -> Result<Notice, Error> {
        let event = self.qmp.event().await?;
        if event.name == "RESET" {
            self.actuators.reset();
        }
        Ok(match (event.name.as_str(), event.data.get("actual").and_then(Value::as_u64)) {
            ("BALLOON_CHANGE", Some(actual)) => {
                self.parts.balloon_bytes = Some(self.parts.boot_bytes.saturating_sub(actual));
                Notice::Allocation(self.parts.allocation_bytes())
            }
            // MEMORY_DEVICE_SIZE_CHANGE among them: all that it says is read again.
            _ => Notice::Changed,
        })
    }

    fn process(&self) -> Option<Process> {
        self.process
    }
}

impl Qemu {
    fn now_ms(&self) -> Millis {
        u64::try_from(self.connected.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Reads what the VM is made of, as [`Qemu::look`].
    async fn look_at_all(&mut self) -> Result<u64, Error> {
        let command = "query-memory-size-summary";
        let size = self.qmp.execute(command, json!({})).await?;
        let base = size.get("base-memory").and_then(Value::as_u64);
        let base = base.ok_or_else(|| self.qmp.senseless(command, "no base-memory".to_owned()))?;
        self.plugged = Plugged::read(&mut self.qmp).await?;
        self.parts.boot_bytes = base.saturating_add(self.plugged.dimm_bytes);
        self.look().await
    }

    /// Reads the balloon beside what is plugged in, asks for what comes next on the way to the target; what the VM has.
    async fn look(&mut self) -> Result<u64, Error> {
        let boot_bytes = self.parts.boot_bytes;
        let balloon_bytes = match self.qmp.execute("query-balloon", json!({})).await {
            // QEMU computes it from what the guest's driver wrote, so it may be below zero: then the VM counts in full.
            Ok(balloon) => {
                let actual = balloon.get("actual").and_then(Value::as_u64).unwrap_or(u64::MAX);
                Some(boot_bytes.saturating_sub(actual))
            }
            Err(Error::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        self.parts = Parts {
            boot_bytes,
            balloon_bytes,
            plugged_bytes: self.plugged.size_bytes(),
            requested_bytes: self.plugged.promised_bytes(),
            pluggable_bytes: Parts::movable_limit(boot_bytes, self.plugged.most_bytes()),
            block_bytes: self.plugged.block_bytes(),
        };
        if let Some(orders) = self.actuators.tend(self.now_ms(), &self.parts, self.is_running)
            && accept_refusal(self.carry_out(orders).await)?.is_none()
        {
            self.actuators.bury(self.now_ms(), &self.parts);
        }
        Ok(self.parts.allocation_bytes())
    }

    async fn carry_out(&mut self, orders: Goal) -> Result<(), Error> {
        self.plugged.request(&mut self.qmp, orders.plugged_bytes).await?;
        self.parts.requested_bytes = self.plugged.promised_bytes();
        if self.parts.balloon_bytes.is_some() || self.plugged.devices.is_empty() {
            let value = self.parts.boot_bytes.saturating_sub(orders.balloon_bytes);
            self.qmp.execute("balloon", json!({ "value": value })).await?;
        }
        Ok(())
    }
}

/// The QOM path of the balloon: with an id below `peripheral`, without one below `peripheral-anon`.
async fn find_balloon(qmp: &mut Qmp) -> Result<Option<String>, Error> {
    for folder in ["/machine/peripheral", "/machine/peripheral-anon"] {
        let list = accept_refusal(qmp.execute("qom-list", json!({ "path": folder })).await)?;
        for child in list.as_ref().and_then(Value::as_array).into_iter().flatten() {
            let field = |name| child.get(name).and_then(Value::as_str).unwrap_or_default();
            if field("type").starts_with("child<virtio-balloon") {
                return Ok(Some(format!("{folder}/{}", field("name"))));
            }
        }
    }
    Ok(None)
}

/// Statistics are a help, not a condition: a refusal means that there are none.
fn accept_refusal<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(Error::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
