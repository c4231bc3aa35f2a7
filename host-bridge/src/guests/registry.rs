//! What outlives a session: which one is the VM's own, the events that wait for the bridge, and the limits that a
//! reconnect must not reset.
//!
//! A session never waits for the bridge and the bridge never waits for a session. Each VM has its own short
//! queue: a newer demand replaces an older one, and the rest is bounded, so a guest can fill only what is its own.
//! The VMs are served in turn.

use super::VmIndex;
use super::event::{End, GuestEvent, Hello, Tally};
use super::limit::{Bucket, LogQuota};
use super::text::printable;
use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Events of one VM that may wait. The end of a session waits even beyond it: one for each session that was let in.
const QUEUE_LENGTH: usize = 32;
/// Connections of one VM: this many at once, then one a second.
const CONNECTION_BURST: u32 = 8;
const CONNECTION_INTERVAL: Duration = Duration::from_secs(1);
/// Log lines about one VM at once; then one a minute.
const LOG_BURST: u32 = 16;
/// Names that nobody here knows, remembered for each VM so that each is logged once.
const UNKNOWN_NAMES: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    waiting: Notify,
}

#[derive(Debug, Default)]
struct State {
    vms: Vec<Vm>,
    /// VMs with events, each once, in the order of service.
    ready: VecDeque<VmIndex>,
    /// Refused connections that no event tells of.
    untold: u64,
}

#[derive(Debug)]
struct Vm {
    /// The number of the newest session, watched by all of the VM's sessions.
    session: watch::Sender<u64>,
    /// Whether the newest session goes on.
    connected: bool,
    queue: VecDeque<GuestEvent>,
    connections: Bucket,
    log: LogQuota,
    unknown: HashSet<String>,
}

/// A session's claim to be its VM's own.
#[derive(Debug)]
pub(super) struct Claim {
    vm: VmIndex,
    session: u64,
    newest: watch::Receiver<u64>,
}

impl Claim {
    /// Waits until a newer session takes over.
    pub(super) async fn lost(&mut self) {
        let session = self.session;
        // An error means that the registry is gone: nothing is left to belong to.
        let _gone = self.newest.wait_for(|newest| *newest != session).await;
    }
}

impl Registry {
    /// Takes in another VM.
    pub(super) fn add(&self, now: Instant) {
        self.lock().vms.push(Vm {
            session: watch::Sender::new(0),
            connected: false,
            queue: VecDeque::new(),
            connections: Bucket::new(CONNECTION_BURST, CONNECTION_INTERVAL, now),
            log: LogQuota::new(LOG_BURST, now),
            unknown: HashSet::new(),
        });
    }

    /// Whether the VM may open another connection now.
    pub(super) fn may_connect(&self, vm: VmIndex, now: Instant) -> bool {
        self.lock().vms[vm].connections.take(now)
    }

    /// Whether to write a log line about the VM, and then how many were suppressed before it.
    pub(super) fn may_log(&self, vm: VmIndex, now: Instant) -> Option<u64> {
        self.lock().vms[vm].log.take(now)
    }

    /// Those of `names` that were not seen from the VM before, printable.
    pub(super) fn first_seen(&self, vm: VmIndex, names: &[String]) -> Vec<String> {
        let known = &mut self.lock().vms[vm].unknown;
        let mut first_seen = Vec::new();
        for name in names.iter().take(UNKNOWN_NAMES) {
            let name = printable(name);
            if known.len() < UNKNOWN_NAMES && known.insert(name.clone()) {
                first_seen.push(name);
            }
        }
        first_seen
    }

    /// Makes a new session the VM's own; an older one loses its claim.
    ///
    /// # Errors
    /// [`End::Busy`] while the bridge is far behind with this VM.
    pub(super) fn claim(&self, vm: VmIndex, hello: Hello) -> Result<Claim, End> {
        let mut state = self.lock();
        let entry = &mut state.vms[vm];
        if entry.queue.len() >= QUEUE_LENGTH {
            return Err(End::Busy);
        }
        let session = *entry.session.borrow() + 1;
        entry.session.send_replace(session);
        let newest = entry.session.subscribe();
        if std::mem::replace(&mut entry.connected, true) {
            state.push(vm, GuestEvent::Disconnected { end: End::Replaced, tally: Tally::default() });
        }
        state.push(vm, GuestEvent::Connected(hello));
        drop(state);
        self.waiting.notify_one();
        Ok(Claim { vm, session, newest })
    }

    /// Hands the bridge what a session brought, unless that session is not the VM's own any more. `false` when
    /// there was no room for it.
    pub(super) fn put(&self, claim: &Claim, event: GuestEvent) -> bool {
        let mut state = self.lock();
        let vm = &mut state.vms[claim.vm];
        if *vm.session.borrow() != claim.session {
            return true;
        }
        match &event {
            GuestEvent::Disconnected { .. } => vm.connected = false,
            GuestEvent::Demand { .. } => {}
            _ if vm.queue.len() >= QUEUE_LENGTH => return false,
            _ => {}
        }
        state.push(claim.vm, event);
        drop(state);
        self.waiting.notify_one();
        true
    }

    /// Tells the bridge of a connection that did not become a session; where there is no room it is counted.
    pub(super) fn refused(&self, vm: VmIndex, end: End) {
        let mut state = self.lock();
        if state.vms[vm].queue.len() < QUEUE_LENGTH {
            state.push(vm, GuestEvent::Refused(end));
            drop(state);
            self.waiting.notify_one();
        } else {
            state.untold += 1;
        }
    }

    /// Counts a connection that is no event: a stranger's, or one of many.
    pub(super) fn count_refused(&self) {
        self.lock().untold += 1;
    }

    /// How many refused connections no event told of since the last call.
    pub(super) fn take_refused(&self) -> u64 {
        std::mem::take(&mut self.lock().untold)
    }

    /// Waits for the next event. One caller at a time; nothing is lost when the wait is abandoned.
    pub(super) async fn next(&self) -> (VmIndex, GuestEvent) {
        loop {
            if let Some(event) = self.lock().pop() {
                return event;
            }
            self.waiting.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and half a queue is better than none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, vm: VmIndex, mut event: GuestEvent) {
        let queue = &mut self.vms[vm].queue;
        if queue.is_empty() {
            self.ready.push_back(vm);
        }
        // A demand of an earlier session stays before the `Connected` that ends its meaning.
        let last = queue.iter().rposition(|e| matches!(e, GuestEvent::Demand { .. } | GuestEvent::Connected(_)));
        if let GuestEvent::Demand { urgent, tally, .. } = &mut event
            && let Some(at) = last
            && let Some(GuestEvent::Demand { urgent: was_urgent, tally: earlier, .. }) = queue.get(at)
        {
            *urgent |= was_urgent;
            *tally = earlier.plus(tally);
            queue.remove(at);
        }
        queue.push_back(event);
    }

    fn pop(&mut self) -> Option<(VmIndex, GuestEvent)> {
        let vm = self.ready.pop_front()?;
        let queue = &mut self.vms[vm].queue;
        let event = queue.pop_front()?;
        if !queue.is_empty() {
            self.ready.push_back(vm);
        }
        Some((vm, event))
    }
}
