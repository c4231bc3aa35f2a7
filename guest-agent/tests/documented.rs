//! `docs/tuning.md` shows just what the catalogue says, and the shipped schema what the configuration may say.
//! `VMTIDE_UPDATE=1 cargo test -p vmtide-agent` writes both anew.
#![allow(clippy::unwrap_used)] // a test

use std::fs;
use std::path::{Path, PathBuf};
use vmtide_agent::config::schema;
use vmtide_agent::tune;
use vmtide_tuning::catalogue;

const BEGIN: &str = "<!-- catalogue: written by the tests of vmtide-agent -->\n";

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Compares a file with what the code says it should be.
fn holds(path: &str, expected: &str) {
    if std::env::var_os("VMTIDE_UPDATE").is_some() {
        fs::write(file(path), expected).unwrap();
    }
    let found = fs::read_to_string(file(path)).unwrap_or_default();
    assert!(found == expected, "{path} is out of date: VMTIDE_UPDATE=1 cargo test -p vmtide-agent");
}

#[test]
fn the_documentation_shows_the_catalogue() {
    let found = fs::read_to_string(file("docs/tuning.md")).unwrap();
    let (before, _) = found.split_once(BEGIN).unwrap();
    holds("docs/tuning.md", &format!("{before}{BEGIN}\n{}", catalogue::document(&tune::built_in())));
}

#[test]
fn the_schema_is_the_shipped_one_and_the_example_has_every_key_of_it() {
    let schema = schema();
    holds("packaging/config/agent.schema.json", &(serde_json::to_string_pretty(&schema).unwrap() + "\n"));
    let example = fs::read_to_string(file("guest-agent/agent.toml")).unwrap();
    let schema = schema.to_value();
    let properties = |pointer: &str| schema.pointer(pointer).unwrap().as_object().unwrap().clone();
    let mut keys: Vec<String> = properties("/properties").into_iter().map(|(key, _)| key).collect();
    for part in ["Tuning", "WorkingSet", "Zram"] {
        keys.extend(properties(&format!("/$defs/{part}/properties")).into_iter().map(|(key, _)| key));
    }
    assert!(keys.len() > 10, "{keys:?}");
    for key in keys {
        let has = |line: &str| {
            let line = line.trim_start_matches("#:").trim();
            line.contains(&format!("{key} =")) || line.ends_with(&format!("{key}]"))
        };
        assert!(example.lines().any(has), "{key} is not in agent.toml");
    }
}
