//! A machine with few knobs, for the engine's own tests.

use crate::domain::Domain;
use std::{fs, path::Path};

/// Its knobs and facts.
pub(crate) static DOMAIN: Domain = Domain {
    machine: "machine",
    daemon: "daemon",
    list: "tuning list",
    files: &[("example.toml", include_str!("example.toml"))],
    facts: &[("swap_kind", "of its swap"), ("virtual", "a VM")],
    reserved: &[("device", "it is no knob: [device] says what it should be")],
    undo: |_, _| None,
};

/// Writes `text` to `path` below `root`, with its folders.
pub(crate) fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
