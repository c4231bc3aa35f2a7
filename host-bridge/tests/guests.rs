//! What a guest says, and what `vmtide` shows of it.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

mod host;

use host::{Host, text};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

#[test]
fn a_guest_is_heard_through_its_own_socket_and_shown() {
    let host = Host::new("");
    let _bridge = host.start();
    let mut guest = UnixStream::connect(host.path("a.vsock_7670")).unwrap();
    let hello = json!({ "kind": "hello", "protocol": { "min": 1, "max": 1 }, "agent": "t", "kernel": "6.12",
        "boot_id": "b", "capabilities": [] });
    let report = json!({ "kind": "report", "sequence": 1, "demand": { "cpu": "not_yet", "io": "not_yet", "memory": {
        "known": { "need_bytes": u64::MAX, "floor_bytes": -1, "urgency": "critical", "reason": "stalled",
        "waiting_ms": 3, "signals": {} } } } });
    writeln!(guest, "{hello}\n{report}").unwrap();
    let mut welcome = String::new();
    BufReader::new(guest.try_clone().unwrap()).read_line(&mut welcome).unwrap();
    assert!(welcome.contains("\"kind\":\"welcome\"") && welcome.contains("\"vm\":\"a\""), "{welcome}");
    let patience = Instant::now() + Duration::from_secs(10);
    let agent = loop {
        let agent = host.json(&["list"])[0]["agent"].clone();
        if agent["tally"]["reports"] == 1 {
            break agent;
        }
        assert!(Instant::now() < patience, "{agent}");
    };
    assert_eq!(agent["demand"]["memory"]["need_bytes"], 512 << 20, "held to the maximum");
    assert_eq!(agent["tally"]["clamps"], json!({ "count": 2, "last_field": "floor_bytes" }));
}

#[test]
fn what_was_tuned_in_a_guest_is_explained_in_the_order_of_time() {
    let host = Host::new("");
    let _bridge = host.start();
    let mut guest = UnixStream::connect(host.path("a.vsock_7670")).unwrap();
    let hello = json!({ "kind": "hello", "protocol": { "min": 1, "max": 1 }, "agent": "t", "kernel": "6.12",
        "boot_id": "b", "capabilities": [] });
    let tuned = |message: &str| json!({ "kind": "event", "event": "tuning", "message": message });
    let long = "set a=1, ".repeat(100);
    writeln!(guest, "{hello}\n{}\n{}", tuned("set ksm=0"), tuned(&long)).unwrap();
    let patience = Instant::now() + Duration::from_secs(10);
    while host.json(&["explain", "a"])["events"]
        .as_array()
        .unwrap()
        .iter()
        .all(|event| !event["message"].as_str().unwrap().contains("set a=1"))
    {
        assert!(Instant::now() < patience, "{}", host.json(&["explain", "a"]));
    }
    assert!(host.vmtide(&["pause"]).status.success());

    let explained = text(&host.vmtide(&["explain", "a"]).stdout);
    let places = [
        "Z  a  its agent t reports, on Linux 6.12\n",
        "Z  a  tuning in its guest: set ksm=0\n",
        "Z  a  tuning in its guest: set a=1, set a=1",
        "Z  host  an operator paused all planning\n",
    ]
    .map(|part| explained.find(part).unwrap_or_else(|| panic!("{part:?} is not in {explained}")));
    assert!(places.is_sorted(), "{explained}");
    assert!(explained.contains('…') && !explained.contains(&long), "cut");
    let last = host.json(&["explain", "a", "--last", "1"]);
    let messages: Vec<&str> =
        last["events"].as_array().unwrap().iter().map(|event| event["message"].as_str().unwrap()).collect();
    assert!(messages.len() == 2 && messages[0].starts_with("tuning"), "one of the VM, one of the host: {messages:?}");
    assert_eq!(last["decisions"], json!([]));
}

#[test]
fn what_the_host_is_short_of_is_in_the_status() {
    let host = Host::new("");
    let _bridge = host.start();
    let status = host.json(&["status"]);
    assert!(status["short_of"]["cpu_short"].is_boolean() && status["short_of"]["io_short"].is_boolean(), "{status}");
    assert!(status["cpu_stall_permille"].as_u64().unwrap() <= 1000, "{status}");
    assert!(text(&host.vmtide(&["status"]).stdout).contains("\nshort of   "));
}

#[test]
fn nothing_that_a_guest_wrote_steers_the_terminal() {
    const EVIL: &str = "\u{1b}[2J\u{9b}2J\r\n\u{202e}evil";
    let host = Host::new("");
    let _bridge = host.start();
    let hello = json!({ "kind": "hello", "protocol": { "min": 1, "max": 1 }, "agent": EVIL, "kernel": EVIL,
        "boot_id": EVIL, "capabilities": [EVIL], EVIL: 1 });
    let event = json!({ "kind": "event", "event": EVIL, "message": EVIL });
    let reply = json!({ "kind": "reply", "id": 1, "status": "refused", "amount": 0, "detail": EVIL });
    let report = json!({ "kind": "report", "sequence": 1, "demand": { "cpu": "not_yet", "io": "not_yet", "memory": {
        "known": { "need_bytes": -1, "floor_bytes": 0, "urgency": "idle", "reason": EVIL,
        "waiting_ms": 3, "signals": {} } } } });
    let malformed = json!({ "kind": "report", "sequence": EVIL });
    let mut guest = UnixStream::connect(host.path("a.vsock_7670")).unwrap();
    writeln!(guest, "{hello}\n{event}\n{reply}\n{report}\n{malformed}").unwrap();
    let patience = Instant::now() + Duration::from_secs(10);
    while host.json(&["list"])[0]["agent"]["violations"] != 1 {
        assert!(Instant::now() < patience);
    }
    let explained = text(&host.vmtide(&["explain", "a"]).stdout);
    let agent = explained.lines().nth(2).unwrap();
    assert!(agent.starts_with("Agent \\u{1b}[2J\\u{9b}2J\\u{d}\\u{a}\\u{202e}evil on Linux "), "{agent}");
    assert!(
        agent.contains("not connected; last report 0 s ago; 1 of its numbers could not be, need_bytes the last"),
        "{agent}"
    );
    assert!(agent.contains("; broke the protocol 1 times, its last connection ended: malformed report"), "{agent}");
    for arguments in [&["list"][..], &["explain", "a"], &["events"], &["list", "--json"], &["events", "--json"]] {
        let output = text(&host.vmtide(arguments).stdout);
        assert!(output.contains("evil") || arguments == ["list"], "{output}");
        let steers = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!output.contains(steers), "{arguments:?}: {output:?}");
    }
}
