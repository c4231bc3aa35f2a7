//! Who gets in.

use super::*;
use crate::guests::event::{End, Tally};
use crate::guests::session::HELLO_TIMEOUT;
use crate::guests::transport::{Peer, Transport};
use crate::guests::{Bucket, Strangers, accept};
use tokio::time::Instant;
use vmtide_protocol::VersionRange;

#[tokio::test(start_paused = true)]
async fn a_hello_is_welcomed_with_what_the_vm_has() {
    let bridge = Bridge::new();
    bridge.desk.lines(1).allocation.send_replace(Some(allocation(512 * MIB)));
    let mut agent = bridge.dial(1);
    agent.send(&HELLO.replace("6.12", "6.12\\u001b[31m")).await;
    let Some(BridgeMessage::Welcome(welcome)) = agent.receive().await else { panic!("no welcome") };
    assert_eq!((welcome.protocol, welcome.vm.as_str()), (1, "b"));
    assert_eq!((welcome.intervals, welcome.allocation), (Intervals::default(), Some(allocation(512 * MIB))));
    let (vm, GuestEvent::Connected(hello)) = bridge.event().await else { panic!("no session") };
    assert_eq!((vm, hello.boot_id.as_str(), hello.kernel.as_str()), (1, "b1", "6.12\\u{1b}[31m"));
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_another_version_is_told_so() {
    let bridge = Bridge::new();
    let mut agent = bridge.dial(0);
    agent.send(&HELLO.replace(r#""min":1,"max":1"#, r#""min":7,"max":9"#)).await;
    assert_eq!(agent.rejected().await, Some(RejectReason::Version));
    let end = End::Version(VersionRange { min: 7, max: 9 });
    assert_eq!(end.to_string(), "the agent speaks protocol 7 to 9, this bridge 1 to 1");
    assert_eq!(bridge.event().await, (0, GuestEvent::Refused(end)));
}

#[tokio::test(start_paused = true)]
async fn the_hello_comes_first_and_in_time() {
    let bridge = Bridge::new();
    let began = Instant::now();
    assert_eq!(bridge.dial(0).rejected().await, Some(RejectReason::NoHello));
    assert_eq!(began.elapsed(), HELLO_TIMEOUT);

    let mut agent = bridge.dial(0);
    agent.send(&report("report", "1")).await;
    assert_eq!(agent.rejected().await, Some(RejectReason::NoHello));

    let mut agent = bridge.dial(0);
    agent.send("{\"kind\":").await;
    assert_eq!(agent.rejected().await, Some(RejectReason::Malformed));
}

#[tokio::test(start_paused = true)]
async fn a_newer_session_replaces_the_older() {
    let bridge = Bridge::new();
    let mut older = bridge.connected(0).await;
    let mut newer = bridge.dial(0);
    newer.greet().await;
    assert_eq!(older.rejected().await, Some(RejectReason::Replaced));
    let replaced = GuestEvent::Disconnected { end: End::Replaced, tally: Tally::default() };
    assert_eq!(bridge.event().await, (0, replaced));
    assert!(matches!(bridge.event().await, (0, GuestEvent::Connected(_))));
    newer.send(&report("report", "7")).await;
    assert!(matches!(bridge.event().await, (0, GuestEvent::Demand { .. })));
    assert!(bridge.no_event().await, "the end of the older session is told once");
}

#[tokio::test(start_paused = true)]
async fn sessions_wait_until_the_bridge_has_caught_up() {
    let bridge = Bridge::new();
    let refused = loop {
        let mut agent = bridge.dial(0);
        agent.send(HELLO).await;
        if let Some(BridgeMessage::Reject(reject)) = agent.receive().await {
            break reject;
        }
    };
    assert_eq!(refused.message, End::Busy.to_string());
    while !bridge.no_event().await {}
    bridge.connected(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_dials_too_often_is_held_off_and_others_are_not() {
    let bridge = Bridge::new();
    let now = Instant::now();
    let let_in = (0..1000).filter(|_| bridge.desk.registry.may_connect(0, now)).count();
    assert_eq!(let_in, 8);
    assert!(bridge.desk.registry.may_connect(1, now));
    assert!(bridge.desk.registry.may_connect(0, now + Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_is_told_so_while_that_is_cheap() {
    let now = Instant::now();
    let mut strangers = Strangers::new(now);
    strangers.answers = Bucket::new(1, Duration::from_secs(1), now);
    let (ours, theirs) = duplex(1024);
    strangers.refuse(theirs, 99, now);
    assert_eq!(Agent::new(ours).rejected().await, Some(RejectReason::UnknownVm));
    let (ours, theirs) = duplex(1024);
    strangers.refuse(theirs, 99, now);
    assert_eq!(Agent::new(ours).rejected().await, None);
    for cid in 0..100_000 {
        strangers.refuse(duplex(1).0, cid, now);
    }
    assert!(strangers.logs.len() <= crate::guests::STRANGERS);
}

/// A transport that brings a stranger, and then nobody.
struct Knock(Option<DuplexStream>);

impl Transport for Knock {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> std::io::Result<(DuplexStream, Peer)> {
        match self.0.take() {
            Some(stream) => Ok((stream, Peer::Stranger(99))),
            None => std::future::pending().await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn strangers_and_what_nobody_heard_of_are_counted() {
    let bridge = Bridge::new();
    let (ours, theirs) = duplex(1024);
    tokio::spawn(accept(bridge.desk.clone(), bridge.stopping.subscribe(), Knock(Some(theirs))));
    Agent::new(ours).rejected().await;
    assert_eq!(bridge.desk.registry.take_refused(), 1);
    for _ in 0..40 {
        bridge.desk.registry.refused(0, End::Closed);
    }
    assert_eq!(bridge.desk.registry.take_refused(), 40 - 32, "the rest are events");
}
