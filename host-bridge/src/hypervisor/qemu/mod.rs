//! QEMU through its monitor: balloon target, what the guest has, the balloon's statistics, vCPU hotplug; what its disks do
//! and may do.

mod blocks;
pub mod qmp;
mod statistics;
mod throttle;
mod vcpus;

use super::{Error, Held, IoSeen, Machine, MachineState, Notice, Process};
use crate::plan::cpu::Vcpus;
use crate::plan::storage::Throttle;
use qmp::Qmp;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

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
}

impl Machine for Qemu {
    type Address = PathBuf;

    async fn connect(path: &PathBuf) -> Result<Self, Error> {
        let mut qmp = Qmp::connect(path).await?;
        let process = qmp.peer_pid().and_then(Process::find);
        let balloon = find_balloon(&mut qmp).await?;
        if let Some(path) = &balloon {
            let interval = json!({ "path": path, "property": "guest-stats-polling-interval", "value": STATISTICS_INTERVAL.as_secs() });
            accept_refusal(qmp.execute("qom-set", interval).await)?;
        }
        Ok(Self { qmp, balloon, process, statistics: statistics::Reader::new(3 * STATISTICS_INTERVAL) })
    }

    async fn read(&mut self) -> Result<MachineState, Error> {
        let command = "query-memory-size-summary";
        let size = self.qmp.execute(command, json!({})).await?;
        let plugged = size.get("plugged-memory").and_then(Value::as_u64).unwrap_or(0);
        let base = size.get("base-memory").and_then(Value::as_u64);
        let base = base.ok_or_else(|| self.qmp.senseless(command, "no base-memory".to_owned()))?;
        let ram_bytes = base.saturating_add(plugged);

        let command = "query-status";
        let status = self.qmp.execute(command, json!({})).await?;
        let running = status.get("running").and_then(Value::as_bool);
        let running = running.ok_or_else(|| self.qmp.senseless(command, "no running".to_owned()))?;

        // Without a balloon, or with a guest that claims an absurd size for it, the VM counts with all it has.
        let (allocation_bytes, has_balloon) = match self.allocation_bytes().await {
            Ok(bytes) => (bytes.min(ram_bytes), true),
            Err(Error::Refused { .. }) => (ram_bytes, false),
            Err(error) => return Err(error),
        };

        let shown = match &self.balloon {
            None => None,
            Some(path) => {
                let property = json!({ "path": path, "property": "guest-stats" });
                let shown = accept_refusal(self.qmp.execute("qom-get", property).await)?;
                shown.and_then(|shown| self.statistics.read(&shown, allocation_bytes, Instant::now()))
            }
        };
        Ok(MachineState {
            ram_bytes,
            allocation_bytes,
            running,
            has_balloon,
            shown_use_bytes: shown.map(|shown| shown.use_bytes),
            shown_free_bytes: shown.and_then(|shown| shown.free_bytes),
            resident_bytes: self.process.and_then(Process::resident_bytes),
        })
    }

    async fn allocation_bytes(&mut self) -> Result<u64, Error> {
        // QEMU computes it from what the guest's driver wrote, so it may be below zero.
        let balloon = self.qmp.execute("query-balloon", json!({})).await?;
        Ok(balloon.get("actual").and_then(Value::as_u64).unwrap_or(u64::MAX))
    }

    async fn set_target(&mut self, target_bytes: u64) -> Result<(), Error> {
        self.qmp.execute("balloon", json!({ "value": target_bytes })).await.map(drop)
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
        Ok(match (event.name.as_str(), event.data.get("actual").and_then(Value::as_u64)) {
            ("BALLOON_CHANGE", Some(actual)) => Notice::Allocation(actual),
            _ => Notice::Changed,
        })
    }

    fn process(&self) -> Option<Process> {
        self.process
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
fn accept_refusal(answer: Result<Value, Error>) -> Result<Option<Value>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(Error::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
