//! The loop: views -> plan -> act -> confirm.
//!
//! ```text
//!  drivers --sightings--> +--------------+ --targets--> drivers
//!  guests  --demand-----> |    Bridge    | --allocation-> guests
//!  host    --readings---> |  (no I/O)    |
//!  api     --calls------> +--------------+ --answers--> api
//! ```
//!
//! [`run`] is the shell: it waits for whichever input comes first, stamps it with the time, hands it to
//! [`Bridge`] and carries out the effects. It plans each second, and sooner (yet never more often than each 20 ms) when a
//! guest is in need or bytes were freed.
//!
//! On SIGHUP the configuration is read again and taken in, or refused as a whole.
//!
//! When it stops, by intent or not, balloons stay where they are and agents go on: nobody is worse off than
//! with the last plan. The next bridge reads everything back. vCPUs that were taken offline come back with the session's
//! end; cgroups get back what they had, after a crash from the next bridge. Disks are let go; those of a bridge that was killed,
//! by the next one.

mod control;
mod cpu;
mod doubt;
mod effect;
mod groups;
mod hearing;
mod hints;
mod levers;
mod optimize;
mod performance;
mod pools;
mod reaction;
mod reload;
mod shell;
mod state;
mod storage;
#[cfg(test)]
mod tests;
mod trim;
mod usage;
mod vm;
mod yielding;

pub use effect::Effect;
pub use reload::Changes;
pub use state::{Bridge, Now};

use crate::api::server::{self, Server};
use crate::cgroup::{self, Controller};
use crate::config::Config;
use crate::guests::{Guests, ListenError};
use crate::host::{Host, HostError};
use crate::hypervisor::driver::{self, Driver};
use groups::Groups;
use pools::Pools;
use shell::{Shell, start_recorder};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

/// How often a plan is made while nothing happens.
const TICK: Duration = Duration::from_secs(1);
/// Inputs that wait for the loop; senders wait when it is full.
const WAITING_INPUTS: usize = 256;

/// Why the bridge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host cannot be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The control socket cannot be served.
    #[error(transparent)]
    Control(#[from] server::Error),
    /// Guests cannot reach the bridge.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Signals cannot be received.
    #[error("signals cannot be received")]
    Signal(#[from] std::io::Error),
    /// The thread that records cannot be started.
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Runs the bridge of `host` until SIGTERM or SIGINT. SIGHUP: `path` is read again.
///
/// # Errors
/// [`Error`] when it cannot start; nothing has been asked of any VM then.
pub async fn run(config: Config, path: PathBuf, mut host: Host) -> Result<(), Error> {
    let clock = Clock { started: Instant::now() };
    // First of all: without it the signal ends the process.
    let mut hangup = signal(SignalKind::hangup())?;
    let reading = host.read(clock.now().ms)?;
    let mut bridge = Bridge::new(&config, host.view(&reading));
    let recorder = start_recorder(&config, &bridge, clock.now())?;
    if recorder.is_some() {
        bridge.keep_records();
    }

    let server = Server::bind(config.control_socket.clone()).await?;
    let (guests, mut from_guests) = Guests::listen(&config.vms, config.intervals).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let (calls, mut from_api) = mpsc::channel(WAITING_INPUTS);
    let serving = tokio::spawn(server.serve(calls));
    let (sightings, mut from_drivers) = mpsc::channel(WAITING_INPUTS);
    let folder = config.control_socket.parent().unwrap_or(Path::new("/"));
    let groups = Groups::new(Path::new("/"), folder);
    let mut shell =
        Shell { path, config, host, guests, groups, pools: Pools::default(), drivers: Vec::new(), sightings, recorder };
    for vm in shell.config.vms.clone() {
        shell.drive(&vm);
    }
    tracing::info!(vms = shell.drivers.len(), control = %shell.config.control_socket.display(), "vmtide-bridge runs");

    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_plan = tokio::time::Instant::now();
    let mut is_read = true;
    loop {
        let replan = bridge.replan_after();
        tokio::select! {
            Some((vm, sighting)) = from_drivers.recv() => {
                shell.on_sighting(vm, &sighting);
                bridge.at(clock.now()).on_sighting(vm, sighting);
            }
            (vm, event) = from_guests.next() => bridge.at(clock.now()).on_guest(vm, &event),
            Some(call) = from_api.recv() => call(bridge.at(clock.now())),
            () = sleep_until(last_plan + replan.unwrap_or_default()), if replan.is_some() => {
                bridge.at(clock.now()).plan();
                last_plan = tokio::time::Instant::now();
            }
            _ = tick.tick() => {
                let now = clock.now();
                bridge.refused += shell.guests.take_refused();
                match shell.host.read(now.ms) {
                    Ok(reading) => {
                        bridge.at(now).on_host(shell.host.view(&reading), &reading.load());
                        is_read = true;
                    }
                    Err(error) => {
                        if std::mem::take(&mut is_read) {
                            // As an error and not as text: the log shows its sources.
                            let error: &dyn std::error::Error = &error;
                            tracing::error!(error, "the host cannot be read; the last reading stands");
                        }
                    }
                }
                bridge.at(now).plan();
                for (vm, controller, found) in shell.groups.find(now.ms) {
                    match controller {
                        Controller::Cpu => bridge.on_group(vm, found),
                        Controller::Io => bridge.on_io_group(vm, found),
                    }
                }
                for (vm, count) in shell.groups.count_io(|vm| bridge.is_io_of_group(vm)) {
                    bridge.on_group_io(vm, count);
                }
                bridge.on_cpu(cgroup::host_cpus(Path::new("/")).unwrap_or(0), &shell.groups.used(now.ms, bridge.is_cpu_contended()));
                if let Some((looked_ms, images)) = shell.pools.tend(now.ms, || bridge.images()) {
                    bridge.on_images(looked_ms, &images);
                }
                last_plan = tokio::time::Instant::now();
            }
            _ = hangup.recv() => {
                let now = clock.now();
                shell.reload(bridge.at(now), now).await;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        shell.carry_out(&mut bridge);
    }
    tracing::info!("stopping; balloons stay where they are, cgroups get back what they had");
    shell.groups.restore();
    serving.abort();
    // Awaited so that its socket is unlinked before the process ends.
    let _ = serving.await;
    shell.guests.stop().await;
    let mut drivers: Vec<Driver> = shell.drivers.into_iter().flatten().collect();
    driver::release(&mut drivers).await;
    if let Some(recorder) = shell.recorder {
        recorder.stop();
    }
    Ok(())
}

struct Clock {
    started: Instant,
}

impl Clock {
    fn now(&self) -> Now {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { ms: millis(self.started.elapsed()), unix_ms: millis(since_1970) }
    }
}
