//! `vmtide optimize` as a process.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

mod host;

use host::{Host, text};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn optimize_goes_on_for_its_time_and_tells_in_json() {
    let host = Host::new("");
    let _bridge = host.start();
    host.json(&["pause"]);
    let begun = Instant::now();
    let told = host.json(&["optimize", "--vm", "a", "--duration", "2s"]);
    assert!((2..10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!((&told["seconds"], &told["vms"][0]["name"]), (&json!(2), &json!("a")));
    assert_eq!(
        (&told["vms"][0]["p_before"], &told["vms"][0]["changes"]),
        (&json!(null), &json!([])),
        "no VM, no index"
    );
    assert_eq!(host.json(&["status"])["paused"], true, "as it was");
    let tried = host.json(&["optimize", "--vm", "a", "--dry-run"]);
    assert_eq!((&tried["dry_run"], &tried["seconds"]), (&json!(true), &json!(0)));
}

#[test]
fn an_interrupt_ends_optimizing_early_with_the_same_summary() {
    let host = Host::new("");
    let _bridge = host.start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmtide"));
    command.arg("--socket").arg(host.path("control.sock")).args(["optimize", "--vm", "a", "--json"]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let events = || text(&host.vmtide(&["events"]).stdout);
    let patience = Instant::now() + Duration::from_secs(10);
    while !events().contains("is optimized for 3600 s") {
        assert!(Instant::now() < patience);
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["ended"], &told["vms"][0]["name"]), (&json!("it was ended early"), &json!("a")));
    assert!(events().contains("is not optimized any more: it was ended early"), "{}", events());
}

#[test]
fn optimize_names_what_is_allowed() {
    let host = Host::new("");
    let _bridge = host.start();
    for (arguments, status, part) in [
        (&["--vm", "a", "--duration", "0s"][..], 2, "0s cannot be; allowed is 1s to 24h"),
        (&["--vm", "a", "--duration", "25h"], 2, "allowed is 1s to 24h"),
        (&["--vm", "a", "--resource", "memory,luck"], 2, "\"luck\" is no resource; allowed are memory, cpu and io"),
        (&["--vm", "a,b"], 1, "there is no VM \"b\"; there are: a"),
        (&[], 2, "--vm"),
    ] {
        let output = host.vmtide(&[&["optimize"], arguments].concat());
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(status) && error.contains(part), "{arguments:?}: {error}");
    }
}
