//! The binary as an operator meets it.
#![allow(clippy::unwrap_used)] // a test

use std::path::Path;
use std::process::{Command, Output};

fn agent(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmtide-agent")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A configuration whose status socket nobody else uses.
fn config(dir: &Path, more: &str) -> String {
    let path = dir.join("agent.toml");
    let socket = dir.join("agent.sock");
    std::fs::write(&path, format!("status_socket = \"{}\"\n{more}\n", socket.display())).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn once_shows_the_samples_and_the_demand_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let output = agent(&["once", "--json", "--config", &config(dir.path(), "")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let total = json["samples"]["memory"]["total_bytes"].as_u64().unwrap();
    let memory = &json["demand"]["memory"]["known"];
    let (need, floor) = (memory["need_bytes"].as_u64().unwrap(), memory["floor_bytes"].as_u64().unwrap());
    assert!(total > 64 << 20 && floor > 0 && need >= floor, "{memory}");
    assert!(json["demand"]["cpu"]["known"]["signals"]["online_cpus"].as_u64().unwrap() > 0);

    let output = agent(&["once", "--config", &config(dir.path(), "")]);
    let table = text(&output.stdout);
    assert!(table.lines().count() == 4 && table.contains("memory") && table.contains("MiB"), "{table}");
}

#[test]
fn once_without_a_guest_says_what_is_missing() {
    let output = agent(&["once", "--root", "/no/such/root"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/no/such/root/proc/meminfo"), "{}", text(&output.stderr));
}

#[test]
fn check_and_run_refuse_a_wrong_configuration_with_2() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(agent(&["check", "--config", &config(dir.path(), "")]).status.code(), Some(0));
    let wrong = config(dir.path(), "brigde = \"x\"");
    for command in ["check", "run", "once", "status"] {
        let output = agent(&[command, "--config", &wrong]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        let error = text(&output.stderr);
        for part in ["agent.toml", "line 2", "brigde", "`bridge`"] {
            assert!(error.contains(part), "{error}");
        }
    }
    assert_eq!(agent(&["check", "--config", "/no/such/file"]).status.code(), Some(2));
    assert_eq!(agent(&["no-such-command"]).status.code(), Some(2));
}

#[test]
fn status_without_an_agent_is_1_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let output = agent(&["status", "--config", &config(dir.path(), "")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is vmtide-agent running?"));
}
