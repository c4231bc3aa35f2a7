//! One task for each VM: keeps the connection, carries targets out, reads back, and says what it saw.
//!
//! Targets and throttles in (the latest wins), [`Sighting`]s out. The task alone waits for its hypervisor.

use super::plugging::{self, Plugging, Step};
use super::{Error, Held, IoSeen, Machine, MachineState, Notice, Process};
use crate::plan::cpu::Vcpus;
use crate::plan::storage::Throttle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

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
/// How often disks are looked at that do much, and those that do little.
const IO_POLL: Duration = Duration::from_secs(1);
const IO_QUIET_POLL: Duration = Duration::from_secs(5);
/// More operations than this between two looks are much.
const IO_QUIET_OPS: u64 = 4;
/// How long a bridge that stops waits for a hypervisor to take a throttle away.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
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
    /// What its disks did so far.
    Io(IoSeen),
    /// A throttle was carried out.
    Throttled {
        /// The throttle.
        throttle: Option<Throttle>,
        /// What came of it.
        held: Held,
    },
    /// The hypervisor refused a throttle; nothing was changed.
    ThrottleRefused {
        /// The throttle.
        throttle: Option<Throttle>,
        /// Its words.
        error: Error,
    },
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
    throttle: watch::Sender<Option<Throttle>>,
    /// Whether disks may be held to a rate now.
    holds: watch::Receiver<bool>,
}

impl Driver {
    /// Starts the driver of VM number `vm` at `address`; it ends when the [`Driver`] or the receiver is dropped.
    pub fn start<M: Machine>(vm: usize, address: M::Address, sightings: mpsc::Sender<(usize, Sighting)>) -> Self {
        let (target, wish) = watch::channel(None);
        let (vcpus, wanted_vcpus) = watch::channel(None);
        let (throttle, io_wish) = watch::channel(None);
        let (holding, holds) = watch::channel(false);
        tokio::spawn(async move {
            let mut task = Task::<M> { vm, address, wish, wanted_vcpus, io_wish, holding, sightings };
            // Whoever held the other ends is gone, so nobody misses the reason.
            let _ = task.run().await;
        });
        Self { target, vcpus, throttle, holds }
    }

    /// Holds its disks to a rate as soon as the hypervisor can take it, or lets them go; also those of a connection that
    /// comes later.
    pub fn set_throttle(&self, throttle: Option<Throttle>) {
        self.throttle.send_replace(throttle);
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

/// Lets the disks of all VMs go, and returns when the hypervisors have done so or do not answer.
pub async fn release(drivers: &mut [Driver]) {
    for driver in &*drivers {
        driver.set_throttle(None);
    }
    let all = async {
        for driver in drivers {
            // A driver that has ended holds nothing.
            let _ = driver.holds.wait_for(|holds| !holds).await;
        }
    };
    if timeout(RELEASE_TIMEOUT, all).await.is_err() {
        tracing::warn!("some VMs' disks could not be let go in time; the next bridge lets them go");
    }
}

struct Task<M: Machine> {
    vm: usize,
    address: M::Address,
    wish: watch::Receiver<Option<u64>>,
    wanted_vcpus: watch::Receiver<Option<u32>>,
    io_wish: watch::Receiver<Option<Throttle>>,
    holding: watch::Sender<bool>,
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
            if gone {
                self.holding.send_replace(false);
            }
            let sighting = if gone { Sighting::Absent(error) } else { Sighting::Unreachable(error) };
            self.say(sighting).await?;
            tokio::select! {
                () = sleep(retry) => {}
                () = self.sightings.closed() => return Err(Done),
            }
            // Nobody steers it any more: the VM is no longer in the configuration.
            if self.wish.has_changed().is_err() {
                return Err(Done);
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
        // What an earlier bridge held is let go here.
        if let Some(error) = self.hold_io(machine).await? {
            return Ok(error);
        }
        let mut plugging = Plugging::default();
        if let Err(error) = self.see_vcpus(machine, &mut plugging).await? {
            return Ok(error);
        }
        let mut pursuit: Option<Pursuit> = None;
        let mut accepted_bytes = None;
        let mut read_at = Instant::now();
        let (mut io_at, mut ops) = (read_at + IO_POLL, 0);
        loop {
            let resting = if plugging.is_removing() { plugging::POLL } else { RESTING_POLL };
            let next_read = read_at + pursuit.as_ref().map_or(resting, Pursuit::interval);
            let read = tokio::select! {
                changed = self.io_wish.changed() => {
                    changed.map_err(|_| Done)?;
                    match self.hold_io(machine).await? {
                        None => continue,
                        Some(error) => Err(error),
                    }
                }
                () = sleep_until(io_at) => match machine.io().await {
                    Ok(seen) => {
                        let done = seen.ops.saturating_sub(std::mem::replace(&mut ops, seen.ops));
                        io_at = Instant::now() + if done > IO_QUIET_OPS { IO_POLL } else { IO_QUIET_POLL };
                        self.say(Sighting::Io(seen)).await?;
                        continue;
                    }
                    Err(error) => Err(error),
                },
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
                    Ok(Notice::Changed) => machine.read().await.map(Box::new).map(Seen::State),
                    Err(error) => Err(error),
                },
                () = sleep_until(next_read) => match pursuit {
                    Some(_) => machine.allocation_bytes().await.map(Seen::Allocation),
                    None => machine.read().await.map(Box::new).map(Seen::State),
                },
            };
            read_at = Instant::now();
            match read {
                Ok(Seen::Allocation(bytes)) => {
                    state.memory = machine.memory();
                    state.ram_bytes = state.memory.parts.most_bytes();
                    state.allocation_bytes = bytes.min(state.ram_bytes);
                }
                Ok(Seen::State(new)) => {
                    state = *new;
                    if let Err(error) = self.see_vcpus(machine, &mut plugging).await? {
                        return Ok(error);
                    }
                }
                Err(error) => return Ok(error),
            }
            if pursuit.as_ref().is_some_and(|pursuit| pursuit.is_over(&state)) {
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

    /// Carries out the newest throttle; the error is one that ends the connection.
    async fn hold_io(&mut self, machine: &mut M) -> Result<Option<Error>, Done> {
        let throttle = *self.io_wish.borrow_and_update();
        if throttle.is_some() {
            self.holding.send_replace(true);
        }
        let sighting = match machine.hold_io(throttle).await {
            Ok(held) => {
                self.holding.send_replace(throttle.is_some());
                if throttle.is_none() && held.changed == 0 {
                    return Ok(None);
                }
                Sighting::Throttled { throttle, held }
            }
            Err(error @ Error::Refused { .. }) => Sighting::ThrottleRefused { throttle, error },
            Err(error) => return Ok(Some(error)),
        };
        self.say(sighting).await.map(|()| None)
    }

    async fn say(&self, sighting: Sighting) -> Result<(), Done> {
        self.sightings.send((self.vm, sighting)).await.map_err(|_| Done)
    }
}

enum Seen {
    Allocation(u64),
    State(Box<MachineState>),
}

/// A target that was asked for and is not reached yet.
struct Pursuit {
    target_bytes: u64,
    since: Instant,
}

impl Pursuit {
    /// Reached (what moves it knows pages or blocks), or given up on.
    fn is_over(&self, state: &MachineState) -> bool {
        let grain_bytes = state.memory.parts.grain_bytes();
        state.allocation_bytes.abs_diff(self.target_bytes) < grain_bytes || self.since.elapsed() > MOVING_FOR
    }

    fn interval(&self) -> Duration {
        if self.since.elapsed() < MOVING_FAST_FOR { MOVING_POLL } else { MOVING_SLOW_POLL }
    }
}
