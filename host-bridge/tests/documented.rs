//! The documentation says what the code does.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::fs;
use std::path::Path;
use vmtide_bridge::config::{Bytes, Config};
use vmtide_bridge::plan::Policy;

fn document(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

#[test]
fn every_key_of_the_policy_is_documented_with_its_default() {
    let text = document("docs/bridge.md");
    let policy = serde_json::to_value(Policy::default()).unwrap();
    for (key, default) in policy.as_object().unwrap() {
        let row = text.lines().find_map(|line| line.strip_prefix(&format!("| `{key}` | ")));
        let row = row.unwrap_or_else(|| panic!("docs/bridge.md does not say what {key} is"));
        let documented = row.split(" |").next().unwrap();
        assert_eq!(Bytes::parse(documented).ok().map(|value| value.0), default.as_u64(), "{key}: {documented}");
    }
}

#[test]
fn the_example_configuration_is_valid_with_every_key_given() {
    let example = document("packaging/config/bridge.toml");
    let lines = example.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
    // A VM has one of cid and vsock.
    let keys = lines.filter(|line| !line.starts_with("vsock") && (line.contains(" = ") || line.starts_with('[')));
    let keys: Vec<&str> = keys.collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.toml");
    fs::write(&path, keys.join("\n")).unwrap();
    let config = Config::load(&path).unwrap();
    assert_eq!((config.vms.len(), config.policy), (1, Policy::default()), "the defaults that it shows are those");
    fs::write(&path, example).unwrap();
    assert!(Config::load(&path).unwrap().vms.is_empty(), "as shipped");
}
