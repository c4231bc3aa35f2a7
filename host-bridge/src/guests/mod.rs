//! The guests: from the bytes of peers that nobody trusts to a stream of checked events, and back to the guests
//! what the bridge has to say.
//!
//! ```text
//!  AF_VSOCK, one listener ----+                         +-- registry --> Events::next --> bridge --> views
//!  unix socket, one a VM -----+--> connection, session -+
//!  (transport: which VM is it)     (session)            +<-- allocation, host, requests <-- bridge
//! ```
//!
//! Who may do what:
//! - the transport tells which VM a connection is; an address without a VM is refused, and so is one that dials
//!   too often. A hybrid socket has mode 0660: the VMM's user has to be in the bridge's group. One that cannot be
//!   made, or whose folder is made anew, is that VM's problem alone: it is tried again until it is there;
//! - a session holds at most one line's bound, one message and 16 requests; a VM at most 32 events and one demand;
//! - no session waits for the bridge, and the bridge waits for none.

mod check;
mod connection;
mod desk;
mod event;
mod limit;
mod registry;
mod session;
mod text;
mod transport;
mod views;

#[cfg(test)]
mod tests;

pub use check::{
    Clamps, Cpu, CpuSignals, Demand, Io, IoSignals, Memory, MemorySignals, Reply, WorkingSet, demand as check_demand,
};
pub use event::{End, GuestEvent, Hello, Tally};
pub use transport::ListenError;
pub(crate) use transport::hybrid_path;
pub use views::{GuestSummary, Views};

use crate::config::{Address, VmConfig};
use crate::socket::{self, Claim};
use connection::Connection;
use desk::Desk;
use limit::{Bucket, LogQuota};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use transport::{Cids, Hybrid, Peer, Transport, Vsock};
use vmtide_protocol::bridge::{Allocation, BridgeMessage, Host, Intervals};

/// A VM's place in the configuration.
pub type VmIndex = usize;

/// How long the guests have to take the last word when the bridge stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the sockets of VMs that were removed may take to go: the loop waits for them.
const REMOVE_TIMEOUT: Duration = Duration::from_millis(200);
/// Owner and group: the VMM's user connects.
const HYBRID_MODE: u32 = 0o660;
/// How often a hybrid socket is tried again that cannot be made, and one that was made is looked for.
const HYBRID_INTERVAL: Duration = Duration::from_secs(3);
/// How long a listener rests after an error, such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(200);
/// Strangers that are told so: this many at once, then one a second; the rest is hung up on.
const STRANGER_BURST: u32 = 8;
const STRANGER_INTERVAL: Duration = Duration::from_secs(1);
/// Strangers whose log lines are counted one by one.
const STRANGERS: usize = 256;

/// The way to the guests. No call waits for one. Dropped, it stops listening.
#[derive(Debug)]
pub struct Guests {
    desk: Arc<Desk>,
    cids: Arc<Cids>,
    /// Whether AF_VSOCK is listened to.
    is_vsock_bound: bool,
    stopping: watch::Sender<bool>,
}

/// The stream of events from the guests.
#[derive(Debug)]
pub struct Events {
    desk: Arc<Desk>,
}

impl Events {
    /// Waits for the next event; may be abandoned without losing one. VMs are served in turn.
    pub async fn next(&mut self) -> (VmIndex, GuestEvent) {
        self.desk.registry.next().await
    }
}

impl Guests {
    /// Listens to `vms` on every address that they have. A hybrid socket that cannot be made is logged and tried
    /// again for as long as the bridge runs.
    ///
    /// # Errors
    /// [`ListenError`] when VMs have a cid and AF_VSOCK cannot be used.
    pub async fn listen(vms: &[VmConfig], intervals: Intervals) -> Result<(Self, Events), ListenError> {
        let desk = Arc::new(Desk::new(intervals));
        let (cids, stopping) = (Arc::new(Cids::default()), watch::Sender::new(false));
        let mut guests = Self { desk: desk.clone(), cids, is_vsock_bound: false, stopping };
        guests.reach(vms)?;
        for vm in vms {
            guests.add(vm).await;
        }
        Ok((guests, Events { desk }))
    }

    /// Listens to AF_VSOCK, if one of `vms` has a cid and nobody listens yet.
    ///
    /// # Errors
    /// [`ListenError`] when AF_VSOCK cannot be used.
    pub fn reach(&mut self, vms: &[VmConfig]) -> Result<(), ListenError> {
        let is_needed = vms.iter().any(|vm| matches!(vm.address, Address::Cid(_)));
        if is_needed && !self.is_vsock_bound {
            let vsock = Vsock::bind(self.cids.clone())?;
            tokio::spawn(accept(self.desk.clone(), self.stopping.subscribe(), vsock));
            self.is_vsock_bound = true;
        }
        Ok(())
    }

    /// Takes in another VM, whose number is the count of those before it, and listens to it.
    pub async fn add(&self, vm: &VmConfig) {
        let number = self.desk.add(vm);
        match &vm.address {
            Address::Cid(cid) => self.cids.insert(*cid, number),
            Address::Hybrid(path) => {
                let path = hybrid_path(path);
                let first = socket::listen(&path, HYBRID_MODE).await;
                tokio::spawn(listen_hybrid(self.desk.clone(), self.stopping.subscribe(), number, path, first));
            }
        }
    }

    /// Listens to these VMs no longer: their sessions end with `unknown_vm`, their sockets are removed.
    pub async fn remove(&self, vms: &[VmIndex]) {
        let gone: Vec<_> = vms.iter().map(|vm| self.desk.lines(*vm)).collect();
        for (vm, lines) in vms.iter().zip(&gone) {
            self.cids.remove(*vm);
            lines.removed.send_replace(true);
        }
        // A socket that is there still is another VM's next: it would be tried again later.
        let released = async {
            for lines in &gone {
                lines.removed.closed().await;
            }
        };
        if timeout(REMOVE_TIMEOUT, released).await.is_err() {
            tracing::debug!("some guests did not take the last word in time");
        }
    }

    /// Tells a VM's agent what the VM has, now and at the beginning of each session. Only the newest counts.
    pub fn set_allocation(&self, vm: VmIndex, allocation: Allocation) {
        self.desk.lines(vm).allocation.send_if_modified(|last| last.replace(allocation) != Some(allocation));
    }

    /// Forgets what a VM has, because it is gone: the next guest at its address is told when it is known.
    pub fn forget_allocation(&self, vm: VmIndex) {
        self.desk.lines(vm).allocation.send_replace(None);
    }

    /// Tells every agent what the host is short of, now and at the beginning of each session.
    pub fn set_host(&self, host: Host) {
        self.desk.host.send_if_modified(|last| std::mem::replace(last, host) != host);
    }

    /// Sends a request to a VM's agent; `false` when none is connected. A guest that does not read loses the
    /// oldest of more than 16.
    pub fn request(&self, vm: VmIndex, request: BridgeMessage) -> bool {
        self.desk.lines(vm).requests.send(request).is_ok()
    }

    /// How many connections were refused since the last call without an event that tells of them: those of
    /// strangers, and of VMs that dial too often.
    pub fn take_refused(&self) -> u64 {
        self.desk.registry.take_refused()
    }

    /// Ends every session with `stopping`, removes the sockets and returns when that is done.
    pub async fn stop(self) {
        self.stopping.send_replace(true);
        if timeout(STOP_TIMEOUT, self.stopping.closed()).await.is_err() {
            tracing::debug!("some guests did not take the last word in time");
        }
    }
}

/// Keeps a VM's hybrid socket open until the bridge stops or the VM is removed, whatever becomes of its folder. `stopping` is an argument,
/// so it goes after the socket: [`Guests::stop`] sees it go when nothing is left behind.
async fn listen_hybrid(
    desk: Arc<Desk>,
    mut stopping: watch::Receiver<bool>,
    vm: VmIndex,
    path: PathBuf,
    mut bound: Result<(UnixListener, Claim), socket::Error>,
) {
    let lines = desk.lines(vm);
    let (name, mut removed) = (&lines.name, lines.removed.subscribe());
    let mut said = None;
    loop {
        match bound {
            Ok((listener, claim)) => {
                if said.take().is_some() {
                    tracing::info!(vm = name, path = %path.display(), "listens to its agent again");
                }
                tokio::select! {
                    () = accept(desk.clone(), stopping.clone(), Hybrid { listener, vm }) => return,
                    () = lost(&claim) => {}
                    () = session::stopped(&mut removed) => return,
                }
                tracing::warn!(vm = name, path = %path.display(), "its socket is gone; it is made again");
            }
            Err(error) => {
                let why = error.to_string();
                if said.as_ref() != Some(&why) {
                    tracing::warn!(
                        vm = name, path = %path.display(), error = why,
                        "cannot listen to its agent; the folder must exist and the path be free. Tried again"
                    );
                    said = Some(why);
                }
                tokio::select! {
                    () = sleep(HYBRID_INTERVAL) => {}
                    () = session::stopped(&mut stopping) => return,
                    () = session::stopped(&mut removed) => return,
                }
            }
        }
        bound = socket::listen(&path, HYBRID_MODE).await;
    }
}

/// Resolves when the path leads to our socket no more.
async fn lost(claim: &Claim) {
    while claim.holds() {
        sleep(HYBRID_INTERVAL).await;
    }
}

/// Accepts until the bridge stops.
async fn accept<T: Transport>(desk: Arc<Desk>, mut stopping: watch::Receiver<bool>, mut transport: T) {
    let mut strangers = Strangers::new(Instant::now());
    let mut errors = LogQuota::new(1, Instant::now());
    loop {
        let accepted = tokio::select! {
            accepted = transport.accept() => accepted,
            () = session::stopped(&mut stopping) => return,
        };
        let now = Instant::now();
        match accepted {
            Ok((stream, Peer::Vm(vm))) if desk.registry.may_connect(vm, now) => {
                tokio::spawn(session::serve(desk.clone(), vm, stream, stopping.clone()));
            }
            Ok((_, Peer::Vm(vm))) => {
                desk.registry.count_refused();
                desk.log(vm, format_args!("connects too often; connection closed"));
            }
            Ok((stream, Peer::Stranger(cid))) => {
                desk.registry.count_refused();
                strangers.refuse(stream, cid, now);
            }
            Err(error) => {
                report(&error, &mut errors, now);
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

fn report(error: &io::Error, errors: &mut LogQuota, now: Instant) {
    if let Some(suppressed) = errors.take(now) {
        tracing::warn!(%error, suppressed, "a guest's connection could not be accepted");
    }
}

/// Peers at addresses that no VM has.
struct Strangers {
    answers: Bucket,
    logs: HashMap<u32, LogQuota>,
}

impl Strangers {
    fn new(now: Instant) -> Self {
        Self { answers: Bucket::new(STRANGER_BURST, STRANGER_INTERVAL, now), logs: HashMap::new() }
    }

    /// Says so in the log, once a minute for each, and to the peer, where that costs little.
    fn refuse<S>(&mut self, stream: S, cid: u32, now: Instant)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if self.logs.len() >= STRANGERS {
            self.logs.clear();
        }
        if let Some(suppressed) = self.logs.entry(cid).or_insert_with(|| LogQuota::new(1, now)).take(now) {
            tracing::warn!(cid, suppressed, "no VM of the configuration has this cid; connection refused");
        }
        if self.answers.take(now) {
            tokio::spawn(async move { Connection::new(stream, Duration::ZERO).close(&End::UnknownVm).await });
        }
    }
}
