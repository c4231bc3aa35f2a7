//! One session, from the first byte to the last.
//!
//! ```text
//!                 hello              claim, welcome
//!   accepted ---------------> greeted ------------> connected ----------------------------------> closed
//!      |                         |                    |  ^  report, urgent, reply, event: out to    the guest
//!      |                         |                    |  |  the bridge, held to what can be         hung up
//!      |                         |                    +--+  allocation, host, request: to the guest
//!      |                         |                    |
//!      | no hello in 5 s,        | no common          | malformed, oversized, slow, silent, a flood,
//!      | or another kind         | version, or the    | replaced by a newer session, stopping: reject;
//!      | first                   | bridge is busy     | broken, or it does not read: no word
//!      v                         v                    v
//!    refused                  refused              disconnected
//! ```
//!
//! Every way out ends this session with a reason and nothing else: the guest's demand holds until it expires, and
//! no other guest notices.

use super::VmIndex;
use super::check;
use super::connection::Connection;
use super::desk::{Desk, Lines};
use super::event::{End, GuestEvent, Hello, Tally};
use super::limit::Bucket;
use super::registry::Claim;
use super::text::{printable, printable_message};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout};
use vmtide_protocol::agent::{self, AgentMessage};
use vmtide_protocol::bridge::{Allocation, BridgeMessage, Host, Welcome};
use vmtide_protocol::{Decoded, EXPIRY_INTERVALS, SUPPORTED, URGENT_INTERVAL_MS};

/// The hello has to come within this time.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Urgent messages at once: an honest agent's, when the transport delivers a second's worth together.
const URGENT_BURST: u32 = 4;
/// What a guest may be late beyond the expiry of its demand.
const SILENCE_SLACK: Duration = Duration::from_secs(5);
/// Names of capabilities that are kept.
const CAPABILITIES: usize = 32;

/// Serves one connection of a VM until it ends. `stopping` turns true when the bridge stops.
pub(super) async fn serve<S>(desk: Arc<Desk>, vm: VmIndex, stream: S, mut stopping: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let silence = Duration::from_millis(EXPIRY_INTERVALS * desk.intervals.quiet_ms) + SILENCE_SLACK;
    let mut connection = Connection::new(stream, silence);
    let greeted = tokio::select! {
        greeted = greet(&mut connection) => greeted,
        () = stopped(&mut stopping) => Err(End::Stopping),
    };
    let end = match greeted.and_then(|hello| Session::begin(&desk, vm, hello)) {
        Ok(mut session) => {
            let end = session.run(&mut connection, &mut stopping).await;
            session.finish(&mut connection, end)
        }
        Err(end) => {
            desk.log(vm, format_args!("connection refused: {end}"));
            desk.registry.refused(vm, end.clone());
            end
        }
    };
    connection.close(&end).await;
}

/// Resolves when the bridge stops, or the VM is removed, also by going away.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _gone = stopping.wait_for(|stopping| *stopping).await;
}

async fn greet<S>(connection: &mut Connection<S>) -> Result<Hello, End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let first = timeout(HELLO_TIMEOUT, connection.receive()).await.map_err(|_| End::NoHello(HELLO_TIMEOUT))??;
    let Some(AgentMessage::Hello(hello)) = first.message else { return Err(End::NoHello(HELLO_TIMEOUT)) };
    let agent::Hello { protocol, agent, kernel, boot_id, capabilities } = hello;
    Ok(Hello {
        protocol: SUPPORTED.newest_common(protocol).ok_or(End::Version(protocol))?,
        agent: printable(&agent),
        kernel: printable(&kernel),
        boot_id: printable(&boot_id),
        capabilities: capabilities.iter().take(CAPABILITIES).map(|name| printable(name)).collect(),
    })
}

/// A connection that was let in.
struct Session<'a> {
    desk: &'a Desk,
    lines: Arc<Lines>,
    vm: VmIndex,
    protocol: u32,
    claim: Claim,
    allocation: watch::Receiver<Option<Allocation>>,
    host: watch::Receiver<Host>,
    requests: broadcast::Receiver<BridgeMessage>,
    removed: watch::Receiver<bool>,
    urgents: Bucket,
    /// What came in since the bridge was told last.
    tally: Tally,
}

impl<'a> Session<'a> {
    fn begin(desk: &'a Desk, vm: VmIndex, hello: Hello) -> Result<Self, End> {
        let lines = desk.lines(vm);
        let protocol = hello.protocol;
        let who = format!("agent {} connected, kernel {}", hello.agent, hello.kernel);
        // Subscribed before the bridge hears of the session, so that no request of its gets lost.
        let (allocation, host, requests) =
            (lines.allocation.subscribe(), desk.host.subscribe(), lines.requests.subscribe());
        let urgents = Bucket::new(URGENT_BURST, Duration::from_millis(URGENT_INTERVAL_MS), Instant::now());
        let claim = desk.registry.claim(vm, hello)?;
        desk.log(vm, format_args!("{who}"));
        let removed = lines.removed.subscribe();
        let tally = Tally::default();
        Ok(Self { desk, lines, vm, protocol, claim, allocation, host, requests, removed, urgents, tally })
    }

    /// Carries messages both ways until there is a reason to end.
    async fn run<S>(&mut self, connection: &mut Connection<S>, stopping: &mut watch::Receiver<bool>) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if let Err(end) = self.welcome(connection).await {
            return end;
        }
        loop {
            let outbound = tokio::select! {
                biased;
                () = stopped(stopping) => return End::Stopping,
                () = self.claim.lost() => return End::Replaced,
                () = stopped(&mut self.removed) => return End::UnknownVm,
                Ok(()) = self.allocation.changed() => self.allocation.borrow_and_update().map(BridgeMessage::Allocation),
                Ok(()) = self.host.changed() => Some(BridgeMessage::Host(*self.host.borrow_and_update())),
                request = self.requests.recv() => match request {
                    Ok(request) => Some(request),
                    // What a guest missed because it did not read runs into its deadline.
                    Err(broadcast::error::RecvError::Lagged(_)) => None,
                    Err(broadcast::error::RecvError::Closed) => return End::Stopping,
                },
                inbound = connection.receive() => {
                    match inbound.and_then(|decoded| self.take_in(connection, decoded)) {
                        Ok(()) => None,
                        Err(end) => return end,
                    }
                }
            };
            if let Some(message) = outbound
                && let Err(end) = connection.send(&message).await
            {
                return end;
            }
        }
    }

    async fn welcome<S>(&mut self, connection: &mut Connection<S>) -> Result<(), End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let welcome = Welcome {
            protocol: self.protocol,
            vm: self.lines.name.clone(),
            intervals: self.desk.intervals,
            allocation: *self.allocation.borrow_and_update(),
        };
        if *self.host.borrow() != Host::default() {
            self.host.mark_changed();
        }
        connection.send(&BridgeMessage::Welcome(welcome)).await
    }

    fn take_in<S>(&mut self, connection: &mut Connection<S>, decoded: Decoded<AgentMessage>) -> Result<(), End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.tally.dropped_lines += connection.take_dropped_lines();
        if !decoded.unknown.is_empty() {
            let unknown = self.desk.registry.first_seen(self.vm, &decoded.unknown);
            if !unknown.is_empty() {
                self.desk.log(self.vm, format_args!("the agent sends what this bridge does not know: {unknown:?}"));
            }
        }
        match decoded.message {
            Some(AgentMessage::Report(report)) => {
                self.tally.reports += 1;
                self.take_demand(&report, false);
            }
            Some(AgentMessage::Urgent(report)) => {
                if self.urgents.take(Instant::now()) {
                    self.tally.urgents += 1;
                    self.take_demand(&report, true);
                } else {
                    self.tally.dropped_urgents += 1;
                }
            }
            Some(AgentMessage::Reply(reply)) => {
                let (reply, clamps) = check::reply(&reply);
                self.tally.clamps = self.tally.clamps.plus(&clamps);
                self.hand_over(GuestEvent::Reply(reply));
            }
            Some(AgentMessage::Event(event)) => {
                let message = printable_message(&event.message);
                self.hand_over(GuestEvent::Happened { event: event.event, message });
            }
            Some(AgentMessage::Hello(_)) => return Err(End::Malformed("a second hello".to_owned())),
            None => {}
        }
        Ok(())
    }

    fn take_demand(&mut self, report: &agent::Report, urgent: bool) {
        let maximum_bytes = self.allocation.borrow().map_or(self.lines.maximum_bytes, |a| a.maximum_bytes);
        let (demand, clamps) = check::demand(&report.demand, maximum_bytes);
        self.tally.clamps = self.tally.clamps.plus(&clamps);
        let tally = std::mem::take(&mut self.tally);
        self.hand_over(GuestEvent::Demand { demand: Box::new(demand), urgent, tally });
    }

    fn hand_over(&mut self, event: GuestEvent) {
        if !self.desk.registry.put(&self.claim, event) {
            self.tally.dropped_events += 1;
        }
    }

    fn finish<S>(mut self, connection: &mut Connection<S>, end: End) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.desk.log(self.vm, format_args!("session ended: {end}"));
        self.tally.dropped_lines += connection.take_dropped_lines();
        self.desk.registry.put(&self.claim, GuestEvent::Disconnected { end: end.clone(), tally: self.tally });
        end
    }
}
