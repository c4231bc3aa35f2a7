//! The documentation, the shipped configuration and its schema say what the code does. `VMTIDE_UPDATE=1 cargo test -p
//! vmtide-bridge` writes the schema, the example's `[policy]` and the host's catalogue anew.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use vmtide_bridge::config::{Bytes, Config, Layered, schema};
use vmtide_bridge::plan::Policy;

const EXAMPLE: &str = "packaging/config/bridge.toml";
const SCHEMA: &str = "packaging/config/bridge.schema.json";

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn document(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}

/// Compares a file with what the code says it should be.
fn holds(path: &str, expected: &str) {
    if std::env::var_os("VMTIDE_UPDATE").is_some() {
        fs::write(file(path), expected).unwrap();
    }
    let found = fs::read_to_string(file(path)).unwrap_or_default();
    assert!(found == expected, "{path} is out of date: VMTIDE_UPDATE=1 cargo test -p vmtide-bridge");
}

/// A table's cell without its links.
fn plain(cell: &str) -> String {
    let mut text = String::new();
    let mut rest = cell;
    while let Some((before, link)) = rest.split_once('[') {
        let (label, after) = link.split_once("](").unwrap();
        text += &format!("{before}{label}");
        rest = after.split_once(')').unwrap().1;
    }
    text + rest
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
    let example = document(EXAMPLE);
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

#[test]
fn the_example_shows_every_number_of_the_policy_as_it_is_documented() {
    let example = document(EXAMPLE);
    let (before, rest) = example.split_once("# planner = ").unwrap();
    let (planner, rest) = rest.split_once('\n').unwrap();
    let (_, after) = rest.split_once("# end of policy\n").unwrap();
    let policy = serde_json::to_value(Policy::default()).unwrap();
    let text = document("docs/bridge.md");
    let rows = text.lines().filter_map(|line| {
        let (key, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (default, what) = rest.trim_end_matches(" |").split_once(" | ")?;
        policy.get(key)?;
        let default = if default.parse::<u64>().is_ok() { default.to_owned() } else { format!("\"{default}\"") };
        Some(format!("# {:38} # {}\n", format!("{key} = {default}"), plain(what)))
    });
    let rows: String = rows.collect();
    holds(EXAMPLE, &format!("{before}# planner = {planner}\n{rows}# end of policy\n{after}"));
}

#[test]
fn the_documentation_shows_the_catalogue() {
    const PAGE: &str = "docs/host-tuning.md";
    const BEGIN: &str = "<!-- catalogue: written by the tests of vmtide-bridge -->\n";
    let found = document(PAGE);
    let (before, _) = found.split_once(BEGIN).unwrap();
    let text = vmtide_tuning::catalogue::document(&vmtide_bridge::tune::built_in());
    holds(PAGE, &format!("{before}{BEGIN}\n{text}"));
}

#[test]
fn the_schema_is_the_shipped_one() {
    holds(SCHEMA, &(serde_json::to_string_pretty(&schema()).unwrap() + "\n"));
}

/// Every key that can be written, as `section.key`; those of a VM as `vm.key`.
fn every_key() -> Vec<String> {
    let schema = schema().to_value();
    let resolve = |value: &Value| match value.get("$ref").and_then(Value::as_str) {
        Some(path) => schema.pointer(path.trim_start_matches('#')).unwrap().clone(),
        None => value.clone(),
    };
    let mut open = vec![(String::new(), schema.clone())];
    let mut keys = Vec::new();
    while let Some((at, value)) = open.pop() {
        let value = resolve(&value);
        let value = value.get("items").map_or(value.clone(), resolve);
        match value.get("properties").and_then(Value::as_object) {
            Some(properties) => {
                let inner = properties.iter().map(|(key, value)| (format!("{at}.{key}"), value.clone()));
                open.extend(inner);
            }
            None => keys.push(at.trim_start_matches('.').to_owned()),
        }
    }
    keys
}

#[test]
fn every_key_is_in_the_example_and_has_a_known_default_or_none() {
    let example = document(EXAMPLE);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.toml");
    fs::write(&path, "").unwrap();
    let effective = Layered::load(&path).unwrap().text(true, false);
    let keys = every_key();
    assert!(keys.len() > 30, "{keys:?}");
    for key in keys {
        // A VM's keys are written from the VM on.
        let (section, name) = key.split_once('.').unwrap();
        assert!(example.contains(&format!("# {name} = ")), "{EXAMPLE} does not show {key}");
        assert!(example.contains(&format!("[{section}]")), "{EXAMPLE} does not show [{section}]");
        let depends_on_the_host = ["host.capacity", "host.reserve"].contains(&key.as_str());
        let has_default = effective.contains(&format!("{key} = "));
        assert!(has_default || depends_on_the_host || section == "vm", "config show --effective does not show {key}");
    }
}
