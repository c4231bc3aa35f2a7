//! What an operator is told of the recording of a bridge that runs.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

mod host;

use host::{Host, text};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

/// Nothing here ran before that: the middle of 2025.
const RUNS_AFTER_MS: u64 = 1_750_000_000_000;

#[test]
fn a_bridge_without_a_recording_says_that_it_is_off() {
    let host = Host::new("");
    let config = std::fs::read_to_string(host.path("bridge.toml")).unwrap();
    let config = config.replace("[record]\n", "[record]\nsize = '0'\n");
    std::fs::write(host.path("bridge.toml"), config).unwrap();
    let _bridge = host.start();
    assert_eq!(host.json(&["status"])["recording"], Value::Null);
    assert!(text(&host.vmtide(&["status"]).stdout).contains("recording  off\n"));
}

/// A file system of 64 KiB that somebody else has filled, in a mount namespace of the bridge's own.
#[test]
fn a_full_file_system_is_said_in_the_status_and_its_end_is_too() {
    let host = Host::new("");
    let may = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).output().unwrap();
    assert!(may.status.success(), "this test needs a mount namespace of its own: {}", text(&may.stderr));
    let mut shell = Command::new("unshare");
    let script = "mkdir -p \"$2\" && mount -t tmpfs -o size=64k none \"$2\" && \
                  { dd if=/dev/zero of=\"$2/filler\" bs=4k status=none 2>/dev/null; exec \"$0\" run --config \"$1\"; }";
    shell.args(["--map-root-user", "--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_vmtide-bridge")]);
    shell.arg(host.path("bridge.toml")).arg(host.path("record"));
    let began = Instant::now();
    let bridge = host.answering(shell);
    let recording = |is_as_meant: fn(&Value) -> bool| loop {
        let recording = host.json(&["status"])["recording"].clone();
        if is_as_meant(&recording) {
            return recording;
        }
        assert!(began.elapsed() < Duration::from_secs(100), "{recording}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let failing = recording(|recording| recording["failure"].is_object());
    let error = failing["failure"]["error"].as_str().unwrap();
    assert!(error.contains("No space left on device") && error.contains("/record"), "{error}");
    assert!(failing["failure"]["since_unix_ms"].as_u64() > Some(RUNS_AFTER_MS), "{failing}");
    assert_eq!((&failing["written_unix_ms"], &failing["bytes"]), (&Value::Null, &json!(0)));
    let told = text(&host.vmtide(&["status"]).stdout);
    assert!(told.contains("recording  FAILS since 20") && told.contains(error), "{told}");
    assert_eq!(host.json(&["status"])["state"], "calm", "it plans all the same");

    // It is told how much is missing; and what the disk takes again is told, too.
    let lost = failing["lost_records"].as_u64();
    recording(|recording| recording["lost_records"].as_u64() >= Some(3));
    assert!(lost > Some(0));
    let filler = format!("/proc/{}/root{}", bridge.0.id(), host.path("record/filler").display());
    std::fs::remove_file(filler).unwrap();
    let mended = recording(|recording| recording["failure"].is_null());
    assert!(mended["bytes"].as_u64() > Some(0) && mended["written_unix_ms"].is_u64(), "{mended}");
    let told = text(&host.vmtide(&["status"]).stdout);
    assert!(told.contains(" of at most 64 MiB in /") && told.contains(" records of this run are lost"), "{told}");
    let events = text(&host.vmtide(&["events"]).stdout);
    let (fails, again) = (events.find("the history is not recorded: "), events.find("the history is recorded again"));
    assert!(fails.is_some() && fails < again, "{events}");
    assert!(bridge.terminate());
}
