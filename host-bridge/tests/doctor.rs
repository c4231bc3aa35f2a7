//! `vmtide doctor` as a process. The monitor is the test's own: it says who connects, and what is asked of it.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

mod host;

use host::{Host, text};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::Output;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

fn doctor(host: &Host, arguments: &[&str]) -> Output {
    // Another root than the machine's: what that is like is not the test's business.
    let config = host.path("bridge.toml");
    let root = host.path("root");
    std::fs::create_dir_all(root.join("proc")).unwrap();
    std::fs::copy("/proc/meminfo", root.join("proc/meminfo")).unwrap();
    let common = ["doctor", "--config", config.to_str().unwrap(), "--root", root.to_str().unwrap()];
    host.vmtide(&[&common, arguments].concat())
}

fn report(host: &Host) -> Value {
    serde_json::from_slice(&doctor(host, &["--json"]).stdout).unwrap()
}

fn check(report: &Value, name: &str) -> Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}")).clone()
}

/// A monitor of a guest that runs and has no balloon; sends each command that it was given.
fn monitor(host: &Host) -> mpsc::Receiver<String> {
    let listener = UnixListener::bind(host.path("a.qmp")).unwrap();
    let (commands, asked) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            writeln!(stream, "{}", json!({ "QMP": { "version": {}, "capabilities": [] } })).unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for line in lines.map_while(Result::ok) {
                let request: Value = serde_json::from_str(&line).unwrap();
                let command = request["execute"].as_str().unwrap().to_owned();
                let answer = match command.as_str() {
                    "query-balloon" => json!({ "error": { "desc": "none" }, "id": request["id"] }),
                    _ => json!({ "return": { "running": true }, "id": request["id"] }),
                };
                if commands.send(command).is_err() || writeln!(stream, "{answer}").is_err() {
                    break;
                }
            }
        }
    });
    asked
}

#[test]
fn without_a_bridge_the_next_command_is_said_and_the_exit_code_is_1() {
    let host = Host::new("");
    let output = doctor(&host, &[]);
    let shown = text(&output.stdout);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), ""), "{shown}");
    assert!(shown.contains("\nFAIL  bridge") && shown.contains("try: systemctl start vmtide-bridge"), "{shown}");
    assert!(shown.contains("ok    configuration"), "{shown}");
    assert!(shown.contains(&format!("start the VM with -qmp unix:{}", host.path("a.qmp").display())), "{shown}");
}

#[test]
fn a_configuration_that_is_wrong_or_gone_is_a_finding_and_not_the_end() {
    let host = Host::new("share = 5\n");
    let report = report(&host);
    let found = check(&report, "configuration");
    assert_eq!((&report["ok"], &found["state"]), (&json!(false), &json!("fail")));
    assert!(found["found"].as_str().unwrap().contains("did you mean `shares`?"), "{found}");
    assert!(found["try"].as_str().unwrap().starts_with("vmtide-bridge config check --config "), "{found}");
    std::fs::remove_file(host.path("bridge.toml")).unwrap();
    assert_eq!(check(&self::report(&host), "configuration")["state"], "fail");
}

#[test]
fn a_monitor_is_asked_only_while_no_bridge_can_be_connected_and_nothing_is_set() {
    let host = Host::new("");
    let asked = monitor(&host);
    let alone = report(&host);
    assert_eq!(check(&alone, "a: monitor")["state"], "ok", "{alone}");
    assert_eq!(check(&alone, "a: balloon")["state"], "fail");
    let commands: Vec<String> = asked.try_iter().collect();
    assert_eq!(commands, ["qmp_capabilities", "query-status", "query-balloon"]);

    // The control socket is there, and this is no answer of a bridge's: it may be one that hangs.
    let control = UnixListener::bind(host.path("control.sock")).unwrap();
    thread::spawn(move || drop(control.accept()));
    let broken = report(&host);
    assert_eq!(check(&broken, "bridge")["try"], "systemctl restart vmtide-bridge");
    assert_eq!(check(&broken, "a: monitor")["state"], "skip");
    assert!(asked.recv_timeout(Duration::from_millis(200)).is_err(), "nobody connected");
}

#[test]
fn a_monitor_that_never_greets_holds_it_up_for_seconds_only() {
    let host = Host::new("");
    let _listener = UnixListener::bind(host.path("a.qmp")).unwrap();
    let found = check(&report(&host), "a: monitor");
    assert!(found["found"].as_str().unwrap().contains("no answer to the greeting within 2000 ms"), "{found}");
    assert!(found["try"].as_str().unwrap().contains("ss -xp"), "{found}");
}

#[test]
fn what_a_running_bridge_says_is_taken() {
    let host = Host::new("");
    let _bridge = host.start();
    let before = host.json(&["status"]);
    let report = report(&host);
    assert_eq!(report["ok"], true, "a VM that is off is nothing broken: {report}");
    assert_eq!(check(&report, "bridge")["state"], "ok");
    let found = check(&report, "a: monitor");
    assert_eq!(found["state"], "warn", "{found}");
    assert!(check(&report, "a: address")["found"].as_str().unwrap().ends_with("a.vsock_7670"));
    let after = host.json(&["status"]);
    assert_eq!((&before["refused"], &before["agents"]), (&after["refused"], &after["agents"]), "it dials nobody");
    assert_eq!(doctor(&host, &[]).status.code(), Some(0));
}
