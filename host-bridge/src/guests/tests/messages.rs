//! What goes through a session, both ways.

use super::*;
use crate::guests::check::Clamps;
use crate::guests::event::{End, Tally};
use vmtide_protocol::agent::{EventKind, ReplyStatus};
use vmtide_protocol::bridge::{Host, YieldMemory};

fn demand(event: GuestEvent) -> (u64, bool, Tally) {
    let GuestEvent::Demand { demand, urgent, tally } = event else { panic!("{event:?}") };
    (demand.memory.unwrap().demand.need_bytes, urgent, tally)
}

#[tokio::test(start_paused = true)]
async fn reports_urgent_messages_replies_and_events_reach_the_bridge_in_order() {
    let bridge = Bridge::new();
    let mut agent = bridge.connected(0).await;
    agent.send(&report("report", "5")).await;
    assert_eq!(demand(bridge.event().await.1), (5, false, Tally { reports: 1, ..Tally::default() }));
    agent.send(&report("urgent", "6")).await;
    assert_eq!(demand(bridge.event().await.1), (6, true, Tally { urgents: 1, ..Tally::default() }));
    agent.send(r#"{"kind":"reply","id":4,"status":"partial","amount":-1,"detail":"a\nb"}"#).await;
    let (_, GuestEvent::Reply(reply)) = bridge.event().await else { panic!("no reply") };
    assert_eq!((reply.id, reply.status, reply.amount), (4, ReplyStatus::Partial, 0));
    assert_eq!(reply.detail.as_deref(), Some("a\\u{a}b"));
    agent.send(r#"{"kind":"event","event":"oom_kill","message":"stress"}"#).await;
    let happened = GuestEvent::Happened { event: EventKind::OomKill, message: "stress".into() };
    assert_eq!(bridge.event().await, (0, happened));
    drop(agent);
    let clamps = Clamps { count: 1, last_field: Some("amount".into()) };
    let disconnected = GuestEvent::Disconnected { end: End::Closed, tally: Tally { clamps, ..Tally::default() } };
    assert_eq!(bridge.event().await, (0, disconnected));
}

#[tokio::test(start_paused = true)]
async fn impossible_numbers_are_clamped_counted_and_not_fatal() {
    let bridge = Bridge::new();
    let mut agent = bridge.connected(0).await;
    for (sent, seen) in [("18446744073709551615", MAXIMUM), ("-1", 0)] {
        agent.send(&report("report", sent)).await;
        let (need, _, tally) = demand(bridge.event().await.1);
        assert_eq!((need, tally.clamps), (seen, Clamps { count: 1, last_field: Some("need_bytes".into()) }));
    }
    let lowered = Allocation { maximum_bytes: 100, ..allocation(100) };
    bridge.desk.lines(0).allocation.send_replace(Some(lowered));
    assert_eq!(agent.receive().await, Some(BridgeMessage::Allocation(lowered)));
    agent.send(&report("report", "101")).await;
    assert_eq!(demand(bridge.event().await.1).0, 100, "the maximum that holds now");
}

#[tokio::test(start_paused = true)]
async fn while_the_bridge_is_busy_the_newest_demand_of_each_vm_waits() {
    let bridge = Bridge::new();
    let (mut loud, mut calm) = (bridge.connected(0).await, bridge.connected(1).await);
    for need in 1..=200 {
        loud.send(&report(if need == 50 { "urgent" } else { "report" }, &need.to_string())).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    calm.send(&report("report", "3")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let expected = Tally { reports: 199, urgents: 1, ..Tally::default() };
    assert_eq!(demand(bridge.event().await.1), (200, true, expected), "newest, still urgent, all counted");
    assert_eq!(demand(bridge.event().await.1).0, 3);
    assert!(bridge.no_event().await);
}

#[tokio::test(start_paused = true)]
async fn vms_are_served_in_turn_however_much_one_has_to_say() {
    let bridge = Bridge::new();
    let (mut loud, mut calm) = (bridge.connected(0).await, bridge.connected(1).await);
    for _ in 0..10 {
        loud.send(r#"{"kind":"event","event":"oom_kill","message":"again"}"#).await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    calm.send(&report("report", "3")).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(matches!(bridge.event().await, (0, GuestEvent::Happened { .. })));
    assert!(matches!(bridge.event().await, (1, GuestEvent::Demand { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_demand_stays_on_its_side_of_a_reconnect_while_the_bridge_is_busy() {
    let bridge = Bridge::new();
    for need in ["5", "6"] {
        let mut agent = bridge.dial(0);
        agent.greet().await;
        agent.send(&report("report", need)).await;
        drop(agent);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for need in [5, 6] {
        assert!(matches!(bridge.event().await.1, GuestEvent::Connected(_)));
        assert_eq!(demand(bridge.event().await.1).0, need);
        assert!(matches!(bridge.event().await.1, GuestEvent::Disconnected { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn the_guest_is_told_the_newest_allocation_the_host_and_requests() {
    let bridge = Bridge::new();
    let mut agent = bridge.connected(0).await;
    for mib in [100, 200, 300] {
        bridge.desk.lines(0).allocation.send_replace(Some(allocation(mib * MIB)));
    }
    assert_eq!(agent.receive().await, Some(BridgeMessage::Allocation(allocation(300 * MIB))));
    let host = Host { memory_short: true, ..Host::default() };
    bridge.desk.host.send_replace(host);
    assert_eq!(agent.receive().await, Some(BridgeMessage::Host(host)));
    let request = BridgeMessage::YieldMemory(YieldMemory { id: 1, bytes: MIB, deadline_ms: 1000 });
    bridge.desk.lines(0).requests.send(request.clone()).unwrap();
    assert_eq!(agent.receive().await, Some(request));

    let mut later = bridge.dial(1);
    later.greet().await;
    assert_eq!(later.receive().await, Some(BridgeMessage::Host(host)), "a new session is told as well");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_knows_is_skipped_and_noted_once_even_after_a_reconnect() {
    let bridge = Bridge::new();
    let mut agent = bridge.connected(0).await;
    agent.send(r#"{"kind":"horoscope","sign":"leo"}"#).await;
    agent.send(&report("report", "1").replace("\"sequence\"", "\"mood\u{202e}\":1,\"sequence\"")).await;
    assert_eq!(demand(bridge.event().await.1).0, 1);
    let again = ["kind \"horoscope\"", "mood\u{202e}", "new\u{202e}"].map(str::to_owned);
    assert_eq!(bridge.desk.registry.first_seen(0, &again), ["new\\u{202e}"], "the session had the others logged");

    let mut agent = bridge.dial(0);
    agent.greet().await;
    agent.send(HELLO).await;
    assert_eq!(agent.rejected().await, Some(RejectReason::Malformed), "a second hello is known and not allowed");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_invents_names_fills_neither_memory_nor_log() {
    let bridge = Bridge::new();
    let names: Vec<String> = (0..10_000).map(|n| format!("field{n}")).collect();
    let logged: usize = names.chunks(10).map(|names| bridge.desk.registry.first_seen(0, names).len()).sum();
    assert_eq!(logged, 16);
    assert_eq!(bridge.desk.registry.first_seen(1, &names[..1]), ["field0"]);
}
