//! The daemon and the operator's command as processes: what they print, how they exit, what they leave behind.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

mod host;

use host::{Bridge, Host, text};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;
use vmtide_bridge::record::{Entry, read};

#[test]
fn a_vm_without_its_qemu_is_unreachable_and_everything_else_works() {
    let host = Host::new("");
    let bridge = host.start();
    let vms = host.json(&["list"]);
    assert_eq!((&vms[0]["name"], &vms[0]["state"]), (&json!("a"), &json!("unreachable")));
    assert!(text(&host.vmtide(&["list"]).stdout).contains("unreachable"));
    assert!(text(&host.vmtide(&["explain", "a"]).stdout).contains("no VM listens there"));
    assert_eq!(host.json(&["status"])["committed_bytes"], 0);

    assert!(bridge.terminate(), "a clean stop");
    assert!(!host.path("control.sock").exists() && !host.path("a.vsock_7670").exists(), "nothing left behind");
}

#[test]
fn a_bridge_records_and_the_next_goes_on_behind_it() {
    let host = Host::new("");
    let mut runs = Vec::new();
    for _ in 0..2 {
        let bridge = host.start();
        std::thread::sleep(Duration::from_millis(1_200));
        assert!(bridge.terminate());
        runs.clear();
        read(&host.path("record"), |entry| {
            let Entry::Tick(header, tick) = entry else { panic!("nothing was decided: {entry:?}") };
            assert_eq!((header.vms.as_slice(), tick.host.capacity_bytes), (&["a".to_owned()][..], 1 << 30));
            runs.push(header.run_unix_ms);
        })
        .unwrap();
    }
    assert!(runs.is_sorted(), "{runs:?}");
    runs.dedup();
    assert_eq!(runs.len(), 2);
    assert_eq!(host.path("record").metadata().unwrap().permissions().mode() & 0o777, 0o750);
}

/// A limit on the size of files stands for a disk that is full: writing fails, the rest works.
#[test]
fn a_bridge_goes_on_without_history_when_the_disk_is_full_and_says_so_once() {
    let host = Host::new("");
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" run --config \"$1\""]);
    shell.arg(env!("CARGO_BIN_EXE_vmtide-bridge")).arg(host.path("bridge.toml"));
    let log = goes_on_without_history(&host, shell);
    assert!(log.contains("File too large"), "{log}");
    let left: u64 =
        std::fs::read_dir(host.path("record")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(left, 0, "no half record stays behind");
}

#[test]
fn a_bridge_goes_on_without_history_when_its_folder_cannot_be_made() {
    let host = Host::new("");
    std::fs::write(host.path("record"), "a file").unwrap();
    let log = goes_on_without_history(&host, host.bridge("run"));
    assert!(log.contains("/record: "), "{log}");
}

/// The bridge that `command` starts answers after some plans, stops cleanly, and said once what is wrong. Its log.
fn goes_on_without_history(host: &Host, mut command: Command) -> String {
    let mut bridge = Bridge(command.stderr(Stdio::piped()).spawn().unwrap());
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(host.json(&["status"])["state"], "calm");
    let mut stderr = bridge.0.stderr.take().unwrap();
    assert!(bridge.terminate());
    let mut log = String::new();
    stderr.read_to_string(&mut log).unwrap();
    assert_eq!(log.matches("the history is not recorded, and tried again each minute").count(), 1, "{log}");
    log
}

#[test]
fn sockets_have_their_modes_whatever_the_umask() {
    for umask in ["000", "077"] {
        let host = Host::new("");
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("umask {umask}; exec \"$0\" run --config \"$1\"")]);
        shell.arg(env!("CARGO_BIN_EXE_vmtide-bridge")).arg(host.path("bridge.toml"));
        let _bridge = host.answering(shell);
        let mode = |name: &str| host.path(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("control.sock"), mode("a.vsock_7670")), (0o600, 0o660), "umask {umask}");
    }
}

#[test]
fn a_control_socket_that_names_a_file_by_mistake_leaves_it_alone() {
    let host = Host::new("");
    let typo = std::fs::read_to_string(host.path("bridge.toml")).unwrap().replace("control.sock", "bridge.toml");
    std::fs::write(host.path("bridge.toml"), &typo).unwrap();
    let output = host.bridge("run").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("exists and is no socket"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(host.path("bridge.toml")).unwrap(), typo);
}

#[test]
fn a_second_bridge_is_refused_and_does_not_harm_the_first() {
    let host = Host::new("");
    let _bridge = host.start();
    let output = host.bridge("run").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another vmtide-bridge serves this socket"), "{}", text(&output.stderr));
    assert!(host.vmtide(&["status"]).status.success());
}

#[test]
fn a_killed_bridge_leaves_sockets_that_the_next_one_replaces() {
    let host = Host::new("");
    drop(host.start());
    assert!(host.path("control.sock").exists(), "SIGKILL leaves it");
    host.start();
}

#[test]
fn limits_are_set_and_impossible_ones_refused() {
    let host = Host::new("");
    let _bridge = host.start();
    let said = text(
        &host.vmtide(&["set", "a", "shares=2000", "minimum=256MiB", "cpu.maximum=1500m", "io.maximum=50MiB/s"]).stdout,
    );
    let expected = "a: 256 MiB to 512 MiB, 2000 shares; of CPU time 2000 shares, at most 1.5; \
                    of the disks 2000 shares, at most 50 MiB/s; until the bridge restarts\n";
    assert_eq!(said, expected);
    for (arguments, code, part) in [
        (&["set", "a", "minimum=1GiB"][..], 1, "maximum: 512 MiB is less than the minimum of 1024 MiB"),
        (&["set", "b", "shares=1"], 1, "there is no VM \"b\"; there are: a"),
        (&["set", "a", "shares=0"], 1, "allowed is 1 to 1000000"),
        (&["set", "a", "colour=blue"], 2, "allowed are minimum, reservation, maximum, shares, cpu.shares"),
        (&["set", "a", "cpu.minimum=2"], 1, "cpu.maximum: 1.5 is less than the minimum of 2"),
        (&["set", "a", "cpu.maximum=much"], 2, "allowed is a number of CPUs or \"1500m\""),
        (&["set", "a", "io.minimum=1GiB/s"], 1, "io.maximum: 50 MiB/s is less than the minimum of 1024 MiB/s"),
        (&["set", "a", "io.maximum=0"], 1, "io.maximum: 0 B/s cannot be; allowed is 64KiB/s to 1TiB/s"),
        (&["set", "a", "io.maximum=99999999999TiB/s"], 2, "allowed is \"50MiB/s\""),
        (&["set", "a", "minimum=7 apples"], 2, "allowed is a number with B, KiB"),
        (&["set", "a"], 2, "KEY=VALUE"),
        (&["explain", "../x y"], 1, "there is no VM"),
    ] {
        let output = host.vmtide(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    assert_eq!(host.json(&["list"])[0]["minimum_bytes"], 256 << 20, "refusals changed nothing");
}

#[test]
fn pausing_is_seen_and_ended() {
    let host = Host::new("");
    let _bridge = host.start();
    assert!(host.vmtide(&["pause"]).status.success());
    assert_eq!(host.json(&["status"])["paused"], true);
    assert!(host.vmtide(&["resume"]).status.success());
    assert!(host.vmtide(&["pause", "a"]).status.success());
    assert_eq!(host.json(&["list"])[0]["paused"], true);
    let events = text(&host.vmtide(&["events"]).stdout);
    assert!(events.contains("an operator paused all planning") && events.contains("an operator paused its planning"));
}

#[test]
fn pausing_says_what_it_did() {
    let host = Host::new("");
    let _bridge = host.start();
    let said = |arguments: &[&str]| text(&host.vmtide(arguments).stdout);
    assert_eq!(said(&["pause"]), "all VMs: paused: no memory is moved until resumed\n");
    assert_eq!(said(&["resume", "a"]), "a: resumed: memory is moved again\n");
    assert_eq!(host.json(&["pause"]), json!({ "vm": null, "paused": true }));
    assert_eq!(host.json(&["resume", "a"]), json!({ "vm": "a", "paused": false }));
}

#[test]
fn events_are_followed_across_a_restart_of_the_bridge() {
    let host = Host::new("");
    let bridge = host.start();
    let mut vmtide = Command::new(env!("CARGO_BIN_EXE_vmtide"))
        .args(["events", "--follow", "--socket"])
        .arg(host.path("control.sock"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = BufReader::new(vmtide.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = BufReader::new(vmtide.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(host.vmtide(&["pause"]).status.success());
    assert!(events.any(|event| event.contains("Z  host  an operator paused all planning")), "with the time in UTC");
    assert!(bridge.terminate());
    assert!(said.next().unwrap().ends_with("waiting for it"));

    let _bridge = host.start();
    assert_eq!(said.next().unwrap(), "vmtide: the bridge restarted");
    assert!(events.next().unwrap().contains("unreachable"), "from the first event on");
    assert!(host.vmtide(&["resume"]).status.success());
    assert!(events.any(|event| event.ends_with("an operator resumed all planning")));
    vmtide.kill().unwrap();
    vmtide.wait().unwrap();
}

#[test]
fn every_refusal_of_the_api_is_in_its_own_form() {
    let host = Host::new("");
    let _bridge = host.start();
    for (request, status) in [
        ("GET /v1/decisions?last=many", 400),
        ("GET /v1/events?after=-1", 400),
        ("GET /v1/events?aftre=1", 400),
        ("GET /v1/vms/a/events?last=-1", 400),
        ("GET /v1/vms/b/events", 404),
        ("GET /v1/vms/%ff", 400),
        ("POST /v1/pause?vm=b", 404),
        ("GET /v1/pause", 405),
        ("PATCH /v1/vms/a", 400),
        ("GET /", 404),
    ] {
        let mut stream = UnixStream::connect(host.path("control.sock")).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: vmtide\r\nConnection: close\r\n\r\n").unwrap();
        let answer = std::io::read_to_string(stream).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
        let refusal: Value = serde_json::from_str(body).unwrap();
        assert_eq!(refusal["not_found"], status == 404, "{request}: {body}");
        assert!(!refusal["message"].as_str().unwrap().is_empty(), "{request}");
    }
}

#[test]
fn without_a_bridge_the_command_says_so_and_exits_with_1() {
    let host = Host::new("");
    let output = host.vmtide(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("control.sock: no vmtide-bridge answers there"));
}

#[test]
fn a_reader_that_hangs_up_is_no_failure() {
    let host = Host::new("");
    let _bridge = host.start();
    let mut vmtide = Command::new(env!("CARGO_BIN_EXE_vmtide"))
        .args(["events", "--follow", "--socket"])
        .arg(host.path("control.sock"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(vmtide.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("unreachable"), "{first}");
    // Its next line finds nobody who reads.
    assert!(host.vmtide(&["pause"]).status.success());
    assert!(vmtide.wait().unwrap().success());
}

#[test]
fn the_host_is_shown_without_a_bridge() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_vmtide")).arg("host").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let path = folder.path().to_str().unwrap();
    let report: Value = serde_json::from_str(&run(&["--json", "--path", path])).unwrap();
    assert!(report["window_ms"].as_u64().unwrap() >= 1_000 && report["absent"].is_array(), "{report}");
    assert!(report["memory"]["total_bytes"].as_u64().unwrap() > 0 && report["cpu"]["cpus"].as_u64().unwrap() > 0);
    assert!(report["storage"].to_string().contains(path), "{report}");
    assert!(run(&[]).starts_with("CPU         "));
}
