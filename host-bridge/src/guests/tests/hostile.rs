//! Guests that break the rules lose their own session and nothing else.

use super::*;
use crate::guests::connection::{LINE_BURST, LINE_TIMEOUT, PATIENCE_BURST, WRITE_TIMEOUT};
use crate::guests::event::End;
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

async fn end_of(bridge: &Bridge, vm: VmIndex) -> End {
    loop {
        match bridge.event().await {
            (from, GuestEvent::Disconnected { end, .. } | GuestEvent::Refused(end)) if from == vm => return end,
            _ => {}
        }
    }
}

/// `innocent` is VM 1's session: its reports arrive and it is told things. Returns what VM 0 brought meanwhile.
async fn serves(bridge: &Bridge, innocent: &mut Agent<DuplexStream>) -> Vec<GuestEvent> {
    innocent.send(&report("report", "9")).await;
    let mut others = Vec::new();
    loop {
        match bridge.event().await {
            (1, GuestEvent::Demand { .. }) => break,
            (vm, event) => {
                assert_eq!(vm, 0, "{event:?}");
                others.push(event);
            }
        }
    }
    let last = bridge.desk.lines(1).allocation.borrow().map_or(0, |a| a.allocation_bytes);
    bridge.desk.lines(1).allocation.send_replace(Some(allocation(last + 1)));
    assert_eq!(innocent.receive().await, Some(BridgeMessage::Allocation(allocation(last + 1))));
    others
}

#[tokio::test(start_paused = true)]
async fn each_offence_ends_the_session_with_its_reason() {
    for (line, reason) in [
        ("\n".to_owned(), RejectReason::Malformed),
        ("\u{0}\n".to_owned(), RejectReason::Malformed),
        ("{\"kind\":7}\n".to_owned(), RejectReason::Malformed),
        ("{\"kind\":\"report\",\"sequence\":1}\n".to_owned(), RejectReason::Malformed),
        (report("report", "\"much\"") + "\n", RejectReason::Malformed),
        ("[".repeat(60_000) + "\n", RejectReason::Malformed),
        (format!("{{\"kind\":\"report\",\"x\":{}\n", "[".repeat(60_000)), RejectReason::Malformed),
        ("x".repeat(64 * 1024), RejectReason::Oversized),
        ("{\"kind\":\"report\"".to_owned(), RejectReason::Slow),
        (String::new(), RejectReason::Slow),
    ] {
        let bridge = Bridge::new();
        let mut agent = bridge.connected(0).await;
        sleep(Duration::from_secs(1)).await;
        let mut innocent = bridge.connected(1).await;
        agent.send_bytes(line.as_bytes()).await;
        assert_eq!(agent.rejected().await, Some(reason), "{line:.60}");
        let end = end_of(&bridge, 0).await;
        assert_eq!(end.reject_reason(), Some(reason));
        serves(&bridge, &mut innocent).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_without_end_is_cut_off_at_the_bound() {
    let bridge = Bridge::new();
    let mut agent = bridge.connected(0).await;
    let mut taken = 0;
    while agent.stream.write_all(&[b'x'; 4096]).await.is_ok() {
        taken += 4096;
    }
    assert!(taken <= 64 * 1024 + 64 * 1024 + 4096, "bound, pipe and one chunk, not {taken}");
    assert!(matches!(end_of(&bridge, 0).await, End::Oversized(_)));
}

#[tokio::test(start_paused = true)]
async fn a_line_that_trickles_in_is_slow_however_often_a_byte_comes() {
    let bridge = Bridge::new();
    let mut agent = bridge.connected(0).await;
    let began = Instant::now();
    while agent.stream.write_all(b"x").await.is_ok() {
        sleep(Duration::from_millis(500)).await;
    }
    assert!(began.elapsed() <= LINE_TIMEOUT + Duration::from_secs(1));
    assert_eq!(end_of(&bridge, 0).await, End::SlowLine(LINE_TIMEOUT));
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_thinned_and_a_flood_ends_the_session() {
    let bridge = Bridge::new();
    let mut agent = bridge.connected(0).await;
    // The hello took one of the lines.
    for _ in 0..LINE_BURST - 1 + 100 {
        agent.send(&report("report", "1")).await;
    }
    sleep(Duration::from_secs(1)).await;
    agent.send(&report("report", "2")).await;
    sleep(Duration::from_millis(1)).await;
    let (_, GuestEvent::Demand { tally, .. }) = bridge.event().await else { panic!("no demand") };
    assert_eq!((tally.reports, tally.dropped_lines), (u64::from(LINE_BURST), 100));

    for _ in 0..LINE_BURST + PATIENCE_BURST {
        agent.send(&report("report", "1")).await;
    }
    assert_eq!(agent.rejected().await, Some(RejectReason::TooMany));
    assert_eq!(end_of(&bridge, 0).await, End::TooMany);
}

#[tokio::test(start_paused = true)]
async fn urgent_messages_beyond_four_a_second_are_dropped_and_counted() {
    let bridge = Bridge::new();
    let mut agent = bridge.connected(0).await;
    for _ in 0..10 {
        agent.send(&report("urgent", "1")).await;
    }
    agent.send(&report("report", "1")).await;
    sleep(Duration::from_millis(1)).await;
    let (_, GuestEvent::Demand { tally, urgent, .. }) = bridge.event().await else { panic!("no demand") };
    assert_eq!((tally.urgents, tally.dropped_urgents, tally.reports, urgent), (4, 6, 1, true));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_reads_is_hung_up_on_and_nobody_waits_for_it() {
    let bridge = Bridge::new();
    let mut innocent = bridge.connected(1).await;
    let mut agent = bridge.dial_with_buffer(0, 256);
    agent.greet().await;
    let began = Instant::now();
    let mut events = Vec::new();
    while !events.iter().any(|event| matches!(event, GuestEvent::Disconnected { end: End::NotReading(_), .. })) {
        let waited = began.elapsed();
        assert!(waited < WRITE_TIMEOUT + Duration::from_secs(2), "{events:?}");
        bridge.desk.lines(0).allocation.send_replace(Some(allocation(u64::try_from(waited.as_nanos()).unwrap())));
        events.extend(serves(&bridge, &mut innocent).await);
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn replies_and_events_that_nobody_takes_are_bounded() {
    let bridge = Bridge::new();
    let mut agent = bridge.connected(0).await;
    for id in 0..100 {
        agent.send(&format!(r#"{{"kind":"reply","id":{id},"status":"done","amount":1}}"#)).await;
        sleep(Duration::from_millis(100)).await;
    }
    drop(agent);
    sleep(Duration::from_millis(1)).await;
    for id in 0..32 {
        assert!(matches!(bridge.event().await, (0, GuestEvent::Reply(reply)) if reply.id == id));
    }
    let (_, GuestEvent::Disconnected { tally, .. }) = bridge.event().await else { panic!("no end") };
    assert_eq!(tally.dropped_events, 68);
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    let near_miss = (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| {
        let mut line = report("report", "1").into_bytes();
        let at = at.index(line.len());
        line[at] = byte;
        line
    });
    prop_oneof![bytes, near_miss, Just(report("urgent", "-3").into_bytes()), Just(HELLO.into())]
}

proptest! {
    #[test]
    fn garbage_ends_at_most_its_own_session(
        greets: bool,
        lines in prop::collection::vec((line(), any::<bool>()), 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let bridge = Bridge::new();
            let mut innocent = bridge.connected(1).await;
            let mut agent = bridge.dial(0);
            if greets {
                agent.greet().await;
            }
            for (line, ended) in lines {
                agent.send_bytes(&line).await;
                if ended {
                    agent.send_bytes(b"\n").await;
                }
            }
            serves(&bridge, &mut innocent).await;
            drop(agent);
            serves(&bridge, &mut innocent).await;
        });
    }
}
