//! The link against a bridge that behaves, misbehaves, comes and goes. Time is tokio's, paused.

use super::*;
use crate::fake_bridge::{FakeBridge, allocation, welcome};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;
use vmtide_protocol::agent::Report;
use vmtide_protocol::bridge::{Reject, RejectReason, SetOnlineCpus, TrimStorage};
use vmtide_protocol::demand::{Answer, Demand};
use vmtide_protocol::{BridgeMessage, MAX_LINE_BYTES, SUPPORTED};

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A link that runs, and its ends.
struct Running {
    outbox: mpsc::Sender<AgentMessage>,
    news: mpsc::Receiver<News>,
    status: watch::Receiver<LinkStatus>,
    task: JoinHandle<()>,
}

fn run(address: Address) -> Running {
    let hello = Hello {
        protocol: SUPPORTED,
        agent: "0".into(),
        kernel: "6.12".into(),
        boot_id: "b".into(),
        capabilities: vec!["memory".into()],
    };
    let (to_agent, news) = mpsc::channel(8);
    let (outbox, from_agent) = mpsc::channel(4);
    let (link, status) = Link::new(address, hello, Backoff::new(SHORTEST, LONGEST).unwrap(), to_agent);
    Running { outbox, news, status, task: tokio::spawn(link.run(from_agent)) }
}

fn report() -> AgentMessage {
    let demand = Demand { memory: Answer::NotYet, cpu: Answer::NotYet, io: Answer::NotYet, stalls: None };
    AgentMessage::Report(Report { sequence: 0, demand })
}

#[tokio::test(start_paused = true)]
async fn says_hello_then_carries_messages_both_ways() {
    let bridge = FakeBridge::listen();
    let mut link = run(bridge.address());
    let mut guest = bridge.welcome().await;
    assert!(matches!(link.news.recv().await, Some(News::Welcome(welcome)) if welcome.vm == "a"));
    assert_eq!(link.status.borrow().state, LinkState::Connected);

    for sequence in 1..=3 {
        link.outbox.send(report()).await.unwrap();
        assert!(matches!(guest.hears().await, AgentMessage::Report(report) if report.sequence == sequence));
    }
    guest.says(&BridgeMessage::Allocation(allocation(512))).await;
    assert_eq!(link.news.recv().await, Some(News::Allocation(allocation(512))));
}

#[tokio::test(start_paused = true)]
async fn requests_reach_the_loop() {
    let bridge = FakeBridge::listen();
    let mut link = run(bridge.address());
    let mut guest = bridge.welcome().await;
    link.news.recv().await.unwrap();
    let request = SetOnlineCpus { id: 8, cpus: 1, deadline_ms: 1 };
    guest.says(&BridgeMessage::SetOnlineCpus(request)).await;
    assert_eq!(link.news.recv().await, Some(News::SetOnlineCpus(request)));
    let request = TrimStorage { id: 7, deadline_ms: 1 };
    guest.says(&BridgeMessage::TrimStorage(request)).await;
    assert_eq!(link.news.recv().await, Some(News::TrimStorage(request)));
}

#[tokio::test(start_paused = true)]
async fn what_it_does_not_know_is_skipped() {
    let bridge = FakeBridge::listen();
    let mut link = run(bridge.address());
    let mut guest = bridge.accept().await;
    guest.hears().await;
    guest.says_bytes(b"{\"kind\":\"weather\",\"wind\":3}\n").await;
    guest.says(&welcome()).await;
    link.news.recv().await.unwrap();
    guest
        .says_bytes(b"{\"kind\":\"host\",\"cpu_short\":true,\"memory_short\":false,\"io_short\":false,\"x\":1}\n")
        .await;
    guest.says(&BridgeMessage::Allocation(allocation(1))).await;
    assert!(matches!(link.news.recv().await, Some(News::Host(host)) if host.cpu_short && !host.io_short));
    assert_eq!(link.news.recv().await, Some(News::Allocation(allocation(1))));
}

#[tokio::test(start_paused = true)]
async fn a_bridge_that_misbehaves_loses_the_session_and_is_dialled_again() {
    let oversized = vec![b'x'; MAX_LINE_BYTES + 1];
    for (bytes, expected) in [
        (&b"garbage\n"[..], "no message"),
        (b"{\"kind\":\"allocation\"}\n", "malformed allocation"),
        (b"\xff\xfe\n", "no message"),
        (&oversized, "longer than 65536 bytes"),
    ] {
        let bridge = FakeBridge::listen();
        let mut link = run(bridge.address());
        let mut guest = bridge.welcome().await;
        link.news.recv().await.unwrap();
        guest.says_bytes(bytes).await;
        assert_eq!(link.news.recv().await, Some(News::Lost));
        bridge.welcome().await;
        let error = link.status.borrow().last_error.clone().unwrap();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bridge_that_begins_wrongly_is_left() {
    let other = BridgeMessage::Allocation(allocation(1));
    for (answer, expected) in [(Some(other), "other than a welcome"), (None, "did not answer within 10s")] {
        let bridge = FakeBridge::listen();
        let link = run(bridge.address());
        let mut guest = bridge.accept().await;
        guest.hears().await;
        if let Some(answer) = answer {
            guest.says(&answer).await;
        }
        assert!(guest.hears_or_end().await.is_none());
        let error = link.status.borrow().last_error.clone().unwrap();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_lasts_is_waited_out() {
    let bridge = FakeBridge::listen();
    let link = run(bridge.address());
    let mut guest = bridge.accept().await;
    guest.hears().await;
    let message = "no VM has cid 7".to_owned();
    guest.says(&BridgeMessage::Reject(Reject { reason: RejectReason::UnknownVm, message })).await;
    let rejected = Instant::now();
    bridge.accept().await;
    assert!(rejected.elapsed() >= REJECTED / 2, "{:?}", rejected.elapsed());
    assert!(link.status.borrow().last_reject.as_ref().unwrap().contains("no VM has cid 7"));
}

#[tokio::test(start_paused = true)]
async fn a_bridge_that_comes_back_is_found_soon_and_what_was_said_meanwhile_is_not_kept() {
    let bridge = FakeBridge::listen();
    let mut link = run(bridge.address());
    let guest = bridge.welcome().await;
    link.news.recv().await.unwrap();
    drop(guest);
    assert_eq!(link.news.recv().await, Some(News::Lost));
    link.outbox.send(report()).await.unwrap();
    let lost = Instant::now();
    let mut guest = bridge.welcome().await;
    assert!(lost.elapsed() <= SHORTEST + Duration::from_millis(10), "{:?}", lost.elapsed());
    assert!(guest.hears_nothing_for(Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn without_a_bridge_it_neither_spins_nor_gives_up() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::default();
    let lines = tracing_subscriber::fmt().with_writer(log.clone()).with_max_level(tracing::Level::INFO).finish();
    let _logged = tracing::subscriber::set_default(lines);
    let link = run(Address::Unix(dir.path().join("nobody")));
    sleep(Duration::from_secs(3600)).await;
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.lines().count() == 1 && log.contains("no session"), "{log}");
    let attempts = link.status.borrow().attempts;
    // At most one in 5 s, at least one in 10 s, but for the first few.
    assert!((360..=730).contains(&attempts), "{attempts} attempts in an hour");
    assert!(!link.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_bridge_that_drops_every_session_at_once_does_not_make_it_spin() {
    let bridge = FakeBridge::listen();
    let mut link = run(bridge.address());
    let dropping = tokio::spawn(async move {
        loop {
            drop(bridge.welcome().await);
        }
    });
    let heard = tokio::spawn(async move { while link.news.recv().await.is_some() {} });
    sleep(Duration::from_secs(600)).await;
    let attempts = link.status.borrow().attempts;
    assert!((60..=130).contains(&attempts), "{attempts} attempts in ten minutes");
    dropping.abort();
    heard.abort();
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_agent_does_wherever_it_stands() {
    let bridge = FakeBridge::listen();
    let mut connected = run(bridge.address());
    let mut guest = bridge.welcome().await;
    connected.news.recv().await.unwrap();
    connected.outbox.send(report()).await.unwrap();
    drop(connected.outbox);
    assert!(matches!(guest.hears().await, AgentMessage::Report(_)), "what was said before is sent");
    connected.task.await.unwrap();
    assert!(guest.hears_or_end().await.is_none());

    let greeting = run(bridge.address());
    let _guest = bridge.accept().await;
    drop(greeting.outbox);
    greeting.task.await.unwrap();

    let waiting = run(Address::Unix("/no/such/bridge".into()));
    sleep(Duration::from_secs(1)).await;
    drop(waiting.outbox);
    waiting.task.await.unwrap();
}
