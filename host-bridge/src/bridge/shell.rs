//! What carries out the bridge's effects: drivers, guests and the recorder, and the configuration that they run by.

use super::Error;
use super::effect::Effect;
use super::groups::Groups;
use super::pools::Pools;
use super::state::{Bridge, Now};
use crate::config::{Config, RecordConfig, VmConfig};
use crate::guests::Guests;
use crate::host::Host;
use crate::hypervisor::driver::{self, Driver, Sighting};
use crate::hypervisor::qemu::Qemu;
use crate::record::{Header, Recorder};
use std::path::PathBuf;
use tokio::sync::mpsc;
use vmtide_protocol::BridgeMessage;

pub(super) struct Shell {
    /// Where the configuration is read again.
    pub path: PathBuf,
    pub config: Config,
    pub host: Host,
    pub guests: Guests,
    pub groups: Groups,
    pub pools: Pools,
    /// By the VMs' numbers; `None` for those that are gone.
    pub drivers: Vec<Option<Driver>>,
    pub sightings: mpsc::Sender<(usize, Sighting)>,
    pub recorder: Option<Recorder>,
}

impl Shell {
    /// Starts the driver of the next VM.
    pub(super) fn drive(&mut self, vm: &VmConfig) {
        let number = self.drivers.len();
        self.groups.add();
        self.drivers.push(Some(Driver::start::<Qemu>(number, vm.qmp.clone(), self.sightings.clone())));
    }

    /// Takes in who runs a VM. What was underway while it was removed is nobody's any more.
    pub(super) fn on_sighting(&mut self, vm: usize, sighting: &Sighting) {
        if self.drivers[vm].is_some() {
            self.groups.on_sighting(vm, sighting);
        }
    }

    /// Does what the bridge wants done, and records what it saw.
    pub(super) fn carry_out(&mut self, bridge: &mut Bridge) {
        for effect in bridge.take_effects() {
            match effect {
                Effect::SetTarget { vm, bytes } => {
                    if let Some(driver) = &self.drivers[vm] {
                        driver.set_target(bytes);
                    }
                }
                Effect::SetThrottle { vm, throttle } => {
                    if let Some(driver) = &self.drivers[vm] {
                        driver.set_throttle(throttle);
                    }
                }
                Effect::SetGroupIo { vm, throttle, shares } => match self.groups.set_io(vm, throttle, shares) {
                    Ok(()) => bridge.on_io_group_set(vm),
                    Err(error) => bridge.on_io_group_refused(vm, &error),
                },
                Effect::TellAllocation { vm, allocation } => self.guests.set_allocation(vm, allocation),
                Effect::ForgetAllocation { vm } => self.guests.forget_allocation(vm),
                Effect::TellHost(host) => self.guests.set_host(host),
                // One whose session has just ended does not answer, which is looked after.
                Effect::Yield { vm, request } => _ = self.guests.request(vm, BridgeMessage::YieldMemory(request)),
                Effect::SetCpuTime { vm, shares, quota_millicpus } => {
                    match self.groups.set(vm, shares, quota_millicpus) {
                        Ok(()) => bridge.on_group_set(vm),
                        Err(error) => bridge.on_group_refused(vm, &error.to_string()),
                    }
                }
                Effect::SetOnlineCpus { vm, request } => {
                    if !self.guests.request(vm, BridgeMessage::SetOnlineCpus(request)) {
                        bridge.on_request_unsent(vm);
                    }
                }
                Effect::Trim { vm, request } => {
                    if !self.guests.request(vm, BridgeMessage::TrimStorage(request)) {
                        bridge.on_trim_lost(vm);
                    }
                }
                Effect::SetVcpus { vm, vcpus } => {
                    if let Some(driver) = &self.drivers[vm] {
                        driver.set_vcpus(vcpus);
                    }
                }
            }
        }
        let records = bridge.take_records();
        if let Some(recorder) = &mut self.recorder {
            for record in records {
                recorder.record(record);
            }
            bridge.on_recording(recorder.health());
        }
    }

    /// Reads the configuration again and takes it in; one that cannot be used changes nothing.
    pub(super) async fn reload(&mut self, bridge: &mut Bridge, now: Now) {
        let config = match self.read() {
            Ok(config) => config,
            Err(error) => return bridge.refuse_reload(error),
        };
        bridge.host.capacity_bytes = self.host.capacity_bytes();
        bridge.host.reserve_bytes = self.host.reserve_bytes();
        let changes = bridge.reload(&self.config, &config);
        let mut gone = Vec::new();
        for vm in &changes.removed {
            gone.extend(self.drivers[*vm].take());
            self.groups.remove(*vm);
        }
        // Their disks are let go before the drivers end; the loop does not wait for that.
        tokio::spawn(async move { driver::release(&mut gone).await });
        self.guests.remove(&changes.removed).await;
        for vm in &changes.added {
            self.guests.add(vm).await;
            self.drive(vm);
        }
        self.carry_out(bridge);
        self.config = config;
        if let Some(recorder) = self.recorder.as_mut().filter(|_| changes.is_another_run) {
            recorder.begin(header(&self.config, bridge, now));
        }
    }

    /// Everything that can fail, before anything is changed.
    fn read(&mut self) -> Result<Config, String> {
        let config = Config::load(&self.path).map_err(|error| crate::full_text(&error))?;
        self.guests.reach(&config.vms).map_err(|error| crate::full_text(&error))?;
        let wrong = |error: &dyn std::error::Error| crate::full_text(error);
        let (capacity_bytes, reserve_bytes) = (config.capacity_bytes, config.reserve_bytes);
        let limit_bytes = self.host.limit_with(capacity_bytes, reserve_bytes).map_err(|error| wrong(&error))?;
        config.check_reservations(limit_bytes).map_err(|error| wrong(&error))?;
        self.host.resize(capacity_bytes, reserve_bytes).map_err(|error| wrong(&error))?;
        if let Some(warning) = config.warning(self.host.limit_bytes()) {
            tracing::warn!("{warning}");
        }
        Ok(config)
    }
}

/// The recorder of a run that begins `now`; `None` when the configuration wants none.
pub(super) fn start_recorder(config: &Config, bridge: &Bridge, now: Now) -> Result<Option<Recorder>, Error> {
    let RecordConfig { directory, size_bytes } = config.record.clone();
    if size_bytes == 0 {
        return Ok(None);
    }
    Recorder::start(directory, size_bytes, header(config, bridge, now)).map(Some).map_err(Error::Thread)
}

fn header(config: &Config, bridge: &Bridge, now: Now) -> Header {
    Header::new(now.unix_ms, config.planner, config.policy.clone(), bridge.names())
}
