//! One task for each VM: keeps the connection, carries targets out, reads back, and says what it saw.
//!
//! Targets in (the latest wins), [`Sighting`]s out. The task alone waits for its hypervisor.

use super::plugging::{self, Plugging, Step};
use super::{Error, Machine, MachineState, Notice, Process};
use crate::plan::cpu::Vcpus;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// What a balloon moves at a time.
pub const PAGE_BYTES: u64 = 4096;
/// How often the allocation is read while it moves: QEMU itself reports a balloon at most once a second.
const MOVING_POLL: Duration = Duration::from_millis(25);
/// A move that is not done after this is read less often.
const MOVING_FAST_FOR: Duration = Duration::from_secs(3);
const MOVING_SLOW_POLL: Duration = Duration::from_millis(250);
/// A guest that never gets there is the planner's business (a stalled balloon), not a reason to poll.
const MOVING_FOR: Duration = Duration::from_secs(60);
/// How often the state is read while nothing moves.
const RESTING_POLL: Duration = Duration::from_secs(5);
/// Back-off between two attempts to connect.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// What a driver saw of its VM.
#[derive(Debug)]
pub enum Sighting {
    /// The connection is new: nothing that was asked for before is known to hold.
    Attached(MachineState),
    /// What the VM has now.
    State {
        /// As it was read, or reported.
        state: MachineState,
        /// The last target that the hypervisor accepted over this connection.
        accepted_bytes: Option<u64>,
    },
    /// The hypervisor refused a target.
    Refused {
        /// The target.
        target_bytes: u64,
        /// Its words.
        error: Error,
    },
    /// The connection's other end: who runs the VM. `None` where the kernel does not tell.
    Process(Option<Process>),
    /// Its vCPUs; `None` for a machine that has no hotplug.
    Vcpus(Option<Vcpus>),
    /// A vCPU was not plugged in or out.
    VcpusRefused(String),
    /// There is no VM: its memory is free.
    Absent(Error),
    /// The VM may be there, yet cannot be talked to: its memory counts.
    Unreachable(Error),
}

/// The bridge's end of a driver.
#[derive(Debug)]
pub struct Driver {
    target: watch::Sender<Option<u64>>,
    vcpus: watch::Sender<Option<u32>>,
}

impl Driver {
    /// Starts the driver of VM number `vm` at `address`; it ends when the [`Driver`] or the receiver is dropped.
    pub fn start<M: Machine>(vm: usize, address: M::Address, sightings: mpsc::Sender<(usize, Sighting)>) -> Self {
        let (target, wish) = watch::channel(None);
        let (vcpus, wanted_vcpus) = watch::channel(None);
        tokio::spawn(async move {
            let mut task = Task::<M> { vm, address, wish, wanted_vcpus, sightings };
            // Whoever held the other ends is gone, so nobody misses the reason.
            let _ = task.run().await;
        });
        Self { target, vcpus }
    }

    /// Asks for `target_bytes` as soon as the hypervisor can take it; replaces what was asked for before.
    pub fn set_target(&self, target_bytes: u64) {
        self.target.send_replace(Some(target_bytes));
    }

    /// Asks for one vCPU more or less, so that there are `vcpus`; what came of it is read back.
    pub fn set_vcpus(&self, vcpus: u32) {
        self.vcpus.send_replace(Some(vcpus));
    }
}

struct Task<M: Machine> {
    vm: usize,
    address: M::Address,
    wish: watch::Receiver<Option<u64>>,
    wanted_vcpus: watch::Receiver<Option<u32>>,
    sightings: mpsc::Sender<(usize, Sighting)>,
}

/// The bridge is gone.
struct Done;

impl<M: Machine> Task<M> {
    async fn run(&mut self) -> Result<(), Done> {
        let mut retry = FIRST_RETRY;
        // A monitor's socket may go before the memory does.
        let mut process: Option<Process> = None;
        loop {
            let error = match M::connect(&self.address).await {
                Ok(mut machine) => {
                    process = machine.process();
                    let since = Instant::now();
                    let error = self.attend(&mut machine).await?;
                    if since.elapsed() > LAST_RETRY {
                        retry = FIRST_RETRY;
                    }
                    error
                }
                Err(error) => error,
            };
            let gone = match (&error, process) {
                (_, Some(process)) => !process.is_alive(),
                (Error::Absent { .. }, None) => true,
                (_, None) => false,
            };
            // Whoever listens there next is another process.
            process = process.filter(|_| !gone);
            let sighting = if gone { Sighting::Absent(error) } else { Sighting::Unreachable(error) };
            self.say(sighting).await?;
            tokio::select! {
                () = sleep(retry) => {}
                () = self.sightings.closed() => return Err(Done),
            }
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// Serves one connection until it fails; returns why.
    async fn attend(&mut self, machine: &mut M) -> Result<Error, Done> {
        // A target from before this connection was meant for a state that may be gone.
        self.wish.borrow_and_update();
        self.wanted_vcpus.borrow_and_update();
        let mut state = match machine.read().await {
            Ok(state) => state,
            Err(error) => return Ok(error),
        };
        self.say(Sighting::Process(machine.process())).await?;
        self.say(Sighting::Attached(state)).await?;
        let mut plugging = Plugging::default();
        if let Err(error) = self.see_vcpus(machine, &mut plugging).await? {
            return Ok(error);
        }
        let mut pursuit: Option<Pursuit> = None;
        let mut accepted_bytes = None;
        loop {
            let resting = if plugging.is_removing() { plugging::POLL } else { RESTING_POLL };
            let next_read = Instant::now() + pursuit.as_ref().map_or(resting, Pursuit::interval);
            let read = tokio::select! {
                changed = self.wish.changed() => {
                    changed.map_err(|_| Done)?;
                    let Some(target_bytes) = *self.wish.borrow_and_update() else { continue };
                    pursuit = Some(Pursuit { target_bytes, since: Instant::now() });
                    match machine.set_target(target_bytes).await {
                        Ok(()) => {
                            accepted_bytes = Some(target_bytes);
                            machine.allocation_bytes().await.map(Seen::Allocation)
                        }
                        Err(error @ Error::Refused { .. }) => {
                            pursuit = None;
                            self.say(Sighting::Refused { target_bytes, error }).await?;
                            continue;
                        }
                        Err(error) => Err(error),
                    }
                }
                changed = self.wanted_vcpus.changed() => {
                    changed.map_err(|_| Done)?;
                    let wanted = *self.wanted_vcpus.borrow_and_update();
                    match self.change_vcpus(machine, &mut plugging, wanted).await? {
                        Ok(()) => continue,
                        Err(error) => Err(error),
                    }
                }
                notice = machine.notice() => match notice {
                    Ok(Notice::Allocation(bytes)) => Ok(Seen::Allocation(bytes)),
                    Ok(Notice::Changed) => machine.read().await.map(Seen::State),
                    Err(error) => Err(error),
                },
                () = sleep_until(next_read) => match pursuit {
                    Some(_) => machine.allocation_bytes().await.map(Seen::Allocation),
                    None => machine.read().await.map(Seen::State),
                },
            };
            match read {
                Ok(Seen::Allocation(bytes)) => state.allocation_bytes = bytes.min(state.ram_bytes),
                Ok(Seen::State(new)) => {
                    state = new;
                    if let Err(error) = self.see_vcpus(machine, &mut plugging).await? {
                        return Ok(error);
                    }
                }
                Err(error) => return Ok(error),
            }
            if pursuit.as_ref().is_some_and(|pursuit| pursuit.is_over(state.allocation_bytes)) {
                pursuit = None;
            }
            self.say(Sighting::State { state, accepted_bytes }).await?;
        }
    }

    /// Asks for one vCPU more or less, and reads back.
    async fn change_vcpus(
        &self,
        machine: &mut M,
        plugging: &mut Plugging,
        wanted: Option<u32>,
    ) -> Result<Result<(), Error>, Done> {
        let asked = match wanted.and_then(|wanted| plugging.step(wanted)) {
            None => return Ok(Ok(())),
            Some(Step::Plug) => machine.plug_vcpu().await,
            Some(Step::Unplug) => {
                let asked = machine.unplug_vcpu().await;
                if asked.is_ok() {
                    plugging.removes(std::time::Instant::now());
                }
                asked
            }
        };
        match asked {
            Ok(()) => {}
            Err(error @ Error::Refused { .. }) => self.say(Sighting::VcpusRefused(error.to_string())).await?,
            Err(error) => return Ok(Err(error)),
        }
        self.see_vcpus(machine, plugging).await
    }

    /// Reads the vCPUs and tells what is there.
    async fn see_vcpus(&self, machine: &mut M, plugging: &mut Plugging) -> Result<Result<(), Error>, Done> {
        let vcpus = match machine.vcpus().await {
            Ok(vcpus) => vcpus,
            Err(error) => return Ok(Err(error)),
        };
        let (vcpus, given_up) = plugging.sees(vcpus, std::time::Instant::now());
        if given_up {
            let message = "its guest does not let go of a vCPU that it was asked for".to_owned();
            self.say(Sighting::VcpusRefused(message)).await?;
        }
        self.say(Sighting::Vcpus(vcpus)).await.map(Ok)
    }

    async fn say(&self, sighting: Sighting) -> Result<(), Done> {
        self.sightings.send((self.vm, sighting)).await.map_err(|_| Done)
    }
}

enum Seen {
    Allocation(u64),
    State(MachineState),
}

/// A target that was asked for and is not reached yet.
struct Pursuit {
    target_bytes: u64,
    since: Instant,
}

impl Pursuit {
    /// Reached (a balloon moves whole pages), or given up on.
    fn is_over(&self, allocation_bytes: u64) -> bool {
        allocation_bytes.abs_diff(self.target_bytes) < PAGE_BYTES || self.since.elapsed() > MOVING_FOR
    }

    fn interval(&self) -> Duration {
        if self.since.elapsed() < MOVING_FAST_FOR { MOVING_POLL } else { MOVING_SLOW_POLL }
    }
}
