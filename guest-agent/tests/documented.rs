//! `docs/tuning.md` shows just what the catalogue says. `VMTIDE_UPDATE=1 cargo test -p vmtide-agent` writes it anew.
#![allow(clippy::unwrap_used)] // a test

use std::fs;
use std::path::Path;
use vmtide_agent::tune::{Catalogue, catalogue};

const BEGIN: &str = "<!-- catalogue: written by the tests of vmtide-agent -->\n";

#[test]
fn the_documentation_shows_the_catalogue() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tuning.md");
    let found = fs::read_to_string(&path).unwrap();
    let (before, _) = found.split_once(BEGIN).unwrap();
    let (built_in, errors) = Catalogue::load(Path::new("/no/such/folder"));
    assert!(errors.is_empty());
    let expected = format!("{before}{BEGIN}\n{}", catalogue::document(&built_in));
    if std::env::var_os("VMTIDE_UPDATE").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert!(found == expected, "docs/tuning.md is out of date: VMTIDE_UPDATE=1 cargo test -p vmtide-agent");
}
