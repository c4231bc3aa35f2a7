//! Peers of other versions: what every released version sent is read by today's code, and what a newer one may send beyond that
//! is skipped or refused as docs/protocol.md says. `released/README.md` says when a set of messages is made.
#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use vmtide_protocol::{AgentMessage, BridgeMessage, DecodeError, SUPPORTED, VersionRange, decode};

/// Each version's set, and what its files add up to: they are never changed.
const FROZEN: [(&str, u64); 1] = [("0.1.0", 0xba28_c5c1_9134_254e)];

/// Choices that a newer peer may not widen: to guess at their meaning would be wrong.
const CLOSED: [&str; 2] = ["urgency", "status"];

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a version, by name.
fn set(version: &str) -> BTreeMap<String, String> {
    let files = fs::read_dir(folder().join("tests/released").join(version)).unwrap();
    let named = files.map(|file| {
        let path = file.unwrap().path();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
    });
    named.collect()
}

/// What today's code makes of a line: the message as it would write it, and what it skipped. `None` for an unknown kind.
fn read(message: &Value) -> Result<(Option<Value>, Vec<String>), DecodeError> {
    let line = message.to_string();
    let agent = decode::<AgentMessage>(line.as_bytes())?;
    if let Some(message) = agent.message {
        return Ok((Some(serde_json::to_value(message).unwrap()), agent.unknown));
    }
    let bridge = decode::<BridgeMessage>(line.as_bytes())?;
    Ok((bridge.message.map(|message| serde_json::to_value(message).unwrap()), bridge.unknown))
}

/// Whether everything in `old` is also in `new`, which may say more.
fn holds(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            old.iter().all(|(key, old)| new.get(key).is_some_and(|new| holds(new, old)))
        }
        (new, old) => new == old,
    }
}

/// Paths of all values below `value`, as `Value::pointer` takes them; the value itself first.
fn paths(value: &Value) -> Vec<String> {
    let mut found = vec![String::new()];
    if let Value::Object(fields) = value {
        for (key, inner) in fields {
            found.extend(paths(inner).into_iter().map(|rest| format!("/{key}{rest}")));
        }
    }
    found
}

/// FNV-1a.
fn checksum(set: &BTreeMap<String, String>) -> u64 {
    let bytes = set.iter().flat_map(|(name, text)| name.bytes().chain(text.bytes()));
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn every_version_has_its_set_and_no_set_was_changed() {
    let of_this = FROZEN.iter().any(|(version, _)| *version == env!("CARGO_PKG_VERSION"));
    assert!(of_this, "version {} has no set: see tests/released/README.md", env!("CARGO_PKG_VERSION"));
    for (version, sum) in FROZEN {
        let found = checksum(&set(version));
        assert_eq!(found, sum, "tests/released/{version} was changed: its messages add up to {found:#018x}");
    }
    let sets = fs::read_dir(folder().join("tests/released")).unwrap();
    let sets = sets.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(sets, FROZEN.len(), "a set that this test does not know");
}

#[test]
fn whatever_a_released_version_sent_is_still_read() {
    for (version, _) in FROZEN {
        for (name, text) in set(version) {
            let old: Value = serde_json::from_str(&text).unwrap();
            let (message, skipped) = read(&old).unwrap_or_else(|error| panic!("{version}/{name}: {error}"));
            let message = message.unwrap_or_else(|| panic!("{version}/{name}: nobody knows this kind any more"));
            assert_eq!(skipped, [""; 0], "{version}/{name}: not read any more");
            assert!(holds(&message, &old), "{version}/{name} means something else now: {message}");
        }
    }
}

#[test]
fn every_released_agent_and_bridge_finds_a_common_version() {
    for (version, _) in FROZEN {
        let set = set(version);
        let hello: Value = serde_json::from_str(&set["hello"]).unwrap();
        let agent: VersionRange = serde_json::from_value(hello["protocol"].clone()).unwrap();
        assert!(SUPPORTED.newest_common(agent).is_some(), "today's bridge rejects the agent of {version}");
        let welcome: Value = serde_json::from_str(&set["welcome"]).unwrap();
        let bridge = welcome["protocol"].as_u64().unwrap();
        let bridge = u32::try_from(bridge).unwrap();
        let bridge = VersionRange { min: bridge, max: bridge };
        assert!(SUPPORTED.newest_common(bridge).is_some(), "the bridge of {version} rejects today's agent");
    }
}

#[test]
fn a_newer_peer_may_add_fields_anywhere() {
    for (name, text) in set(env!("CARGO_PKG_VERSION")) {
        let today: Value = serde_json::from_str(&text).unwrap();
        for path in paths(&today) {
            let mut newer = today.clone();
            // `{"known": …}` is a choice, not a record.
            let Some(record) = newer.pointer_mut(&path).and_then(Value::as_object_mut) else { continue };
            if record.contains_key("known") {
                continue;
            }
            record.insert("from_a_newer_version".to_owned(), json!({ "a": [1] }));
            let (message, skipped) = read(&newer).unwrap_or_else(|error| panic!("{name}{path}: {error}"));
            assert_eq!(message.as_ref(), Some(&today), "{name}{path}");
            assert!(
                matches!(&skipped[..], [one] if one.ends_with("from_a_newer_version")),
                "{name}{path}: {skipped:?}"
            );
        }
    }
}

#[test]
fn a_newer_peer_may_add_kinds_and_reasons_but_not_widen_a_closed_choice() {
    let (message, skipped) = read(&json!({ "kind": "from_a_newer_version", "id": 1 })).unwrap();
    assert_eq!((message, &skipped[..]), (None, &["kind \"from_a_newer_version\"".to_owned()][..]));
    let (mut open, mut closed) = (0, 0);
    for (name, text) in set(env!("CARGO_PKG_VERSION")) {
        let today: Value = serde_json::from_str(&text).unwrap();
        for path in paths(&today) {
            let field = path.rsplit('/').next().unwrap();
            if !["reason", "source", "event", "urgency", "status"].contains(&field) {
                continue;
            }
            let mut newer = today.clone();
            *newer.pointer_mut(&path).unwrap() = json!("from_a_newer_version");
            match read(&newer) {
                Ok((message, _)) => {
                    assert_eq!(message.unwrap().pointer(&path), Some(&json!("other")), "{name}{path}");
                    open += 1;
                }
                Err(error) => {
                    assert!(CLOSED.contains(&field), "{name}{path}: {error}");
                    assert!(matches!(error, DecodeError::Malformed { .. }), "{name}{path}: {error}");
                    closed += 1;
                }
            }
        }
    }
    assert!(open >= 5 && closed >= 4, "{open} open, {closed} closed: the messages have more");
}

#[test]
fn a_peer_with_no_common_version_finds_none() {
    let newest = SUPPORTED.max + 1;
    assert_eq!(SUPPORTED.newest_common(VersionRange { min: newest, max: newest }), None);
    assert_eq!(SUPPORTED.newest_common(VersionRange { min: SUPPORTED.max, max: newest }), Some(SUPPORTED.max));
}
