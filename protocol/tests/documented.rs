//! The messages as they are documented: every example is read and written back, and `docs/protocol.md` and
//! `docs/protocol.schema.json` show just what the code does. `VMTIDE_UPDATE=1 cargo test -p vmtide-protocol`
//! writes both anew.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use vmtide_protocol::{AgentMessage, BridgeMessage, Wire, decode};

const FROM_AGENT: [&str; 6] = ["hello", "report", "report_not_yet", "urgent", "reply", "event"];
const FROM_BRIDGE: [&str; 8] =
    ["welcome", "reject", "allocation", "host", "yield_memory", "set_online_cpus", "trim_storage", "pause_tuning"];
const BEGIN: &str = "<!-- examples: written by the tests of vmtide-protocol -->\n";
const END: &str = "<!-- end of examples -->\n";

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn example(name: &str) -> String {
    fs::read_to_string(folder().join(format!("tests/messages/{name}.json"))).unwrap()
}

fn survives<M: Wire + Serialize>(name: &str) {
    let text = example(name);
    let decoded = decode::<M>(text.as_bytes()).unwrap();
    assert!(decoded.unknown.is_empty(), "{name}: unknown {:?}", decoded.unknown);
    let written = serde_json::to_value(decoded.message.unwrap()).unwrap();
    assert_eq!(written, serde_json::from_str::<Value>(&text).unwrap(), "{name}");
}

/// Compares a file with what the code says it should be.
fn holds(file: &str, expected: &str) {
    let path: PathBuf = folder().join("../docs").join(file);
    if std::env::var_os("VMTIDE_UPDATE").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "docs/{file} is out of date: VMTIDE_UPDATE=1 cargo test -p vmtide-protocol");
}

#[test]
fn every_example_is_read_and_written_back() {
    for name in FROM_AGENT {
        survives::<AgentMessage>(name);
    }
    for name in FROM_BRIDGE {
        survives::<BridgeMessage>(name);
    }
    let files = fs::read_dir(folder().join("tests/messages")).unwrap().count();
    assert_eq!(files, FROM_AGENT.len() + FROM_BRIDGE.len(), "an example that no list names");
}

#[test]
fn every_kind_has_an_example_and_a_reader() {
    for (schema, names) in [
        (schemars::schema_for!(AgentMessage), &FROM_AGENT[..]),
        (schemars::schema_for!(BridgeMessage), &FROM_BRIDGE[..]),
    ] {
        let variants = schema.get("oneOf").and_then(Value::as_array).unwrap();
        for variant in variants {
            let kind = variant.pointer("/properties/kind/const").and_then(Value::as_str).unwrap();
            assert!(names.contains(&kind), "{kind} has no example");
        }
    }
}

#[test]
fn the_documentation_shows_the_examples() {
    let text = fs::read_to_string(folder().join("../docs/protocol.md")).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let mut examples = String::new();
    for (title, names) in [("The agent sends", &FROM_AGENT[..]), ("The bridge sends", &FROM_BRIDGE[..])] {
        examples += &format!("\n### {title}\n");
        for name in names {
            examples += &format!("\n`{name}`\n\n```json\n{}```\n", example(name));
        }
    }
    holds("protocol.md", &format!("{before}{BEGIN}{examples}\n{END}{after}"));
}

#[test]
fn the_schema_is_the_documented_one() {
    let generate = || SchemaSettings::draft2020_12().into_generator();
    let schema = serde_json::json!({
        "agent": generate().into_root_schema_for::<AgentMessage>(),
        "bridge": generate().into_root_schema_for::<BridgeMessage>(),
    });
    holds("protocol.schema.json", &(serde_json::to_string_pretty(&schema).unwrap() + "\n"));
}

#[test]
fn unknown_kinds_and_fields_are_skipped_and_named() {
    let newer = br#"{"kind":"telepathy","thought":1}"#;
    let decoded = decode::<AgentMessage>(newer).unwrap();
    assert!(decoded.message.is_none());
    assert_eq!(decoded.unknown, ["kind \"telepathy\""]);

    let richer = br#"{"kind":"event","event":"eclipse","message":"m","moon":{"phase":1}}"#;
    let decoded = decode::<AgentMessage>(richer).unwrap();
    assert!(matches!(decoded.message, Some(AgentMessage::Event(_))));
    assert_eq!(decoded.unknown, ["moon"]);
}

#[test]
fn what_is_no_message_is_refused_with_a_reason() {
    for (line, expected) in [
        ("", "not a JSON object with a kind"),
        ("[]", "not a JSON object with a kind"),
        (r#"{"kind":7}"#, "not a JSON object with a kind"),
        (r#"{"kind":"reply","id":-1,"status":"done","amount":0}"#, "malformed reply: invalid value"),
        (r#"{"kind":"report","sequence":1}"#, "malformed report: missing field `demand`"),
        ("{\"kind\":\"hello\"\u{0}}", "not a JSON object with a kind"),
    ] {
        let error = decode::<AgentMessage>(line.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{line}: {error}");
    }
}
