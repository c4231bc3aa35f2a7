//! What is installed, as far as it can be seen without installing it; `cargo lab scenario install` does that.
#![allow(clippy::unwrap_used)] // a test

use std::{collections::BTreeMap, fs, path::Path};
use vmtide_lab::{
    Lab,
    install::holds,
    package::{exposure, exposure_of},
};

#[test]
fn units_can_do_little_more_than_they_need() {
    // For its systemd-analyze.
    Lab::ready().unwrap();
    for (unit, most) in
        [("vmtide-agent.service", 2.5), ("vmtide-bridge.service", 2.0), ("vmtide-host-tuning.service", 2.0)]
    {
        let found = exposure(unit).unwrap();
        assert!(found > 0.0 && found <= most, "{unit}: {found}, at most {most}");
    }
    let bare = exposure_of("bare.service", "[Service]\nExecStart=/bin/true\n").unwrap();
    assert!(bare > 9.0, "the rating is not read: {bare}");
    assert!(exposure("none.service").is_err());
}

#[test]
fn the_example_without_a_package_holds_the_units_word_for_word() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let example = packaging.join("cloud-init/static.yaml");
    for file in ["systemd/vmtide-agent.service", "systemd/vmtide.slice", "udev/60-vmtide-agent.rules"] {
        assert!(holds(&example, &packaging.join(file)).unwrap(), "{file} is not in {}", example.display());
    }
    assert!(!holds(&example, &packaging.join("systemd/vmtide-bridge.service")).unwrap());
}

/// Where each file of the workspace goes, by its path from there; a folder is what it ends with.
fn installed(assets: &toml::Value) -> BTreeMap<String, String> {
    let text = |value: &toml::Value| value.as_str().unwrap().trim_start_matches('/').to_owned();
    let pairs = assets.as_array().unwrap().iter().map(|asset| match asset {
        toml::Value::Array(asset) => (text(&asset[0]), text(&asset[1])),
        asset => (text(&asset["source"]), text(&asset["dest"])),
    });
    let whole = |from: &str, to: String| match to.strip_suffix('/') {
        Some(folder) => format!("{folder}/{}", from.rsplit('/').next().unwrap()),
        None => to,
    };
    pairs.map(|(from, to)| (from.clone(), whole(&from, to))).collect()
}

#[test]
fn both_forms_of_a_package_hold_the_same_files() {
    for folder in ["guest-agent", "host-bridge"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder).join("Cargo.toml");
        let manifest: toml::Value = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let metadata = &manifest["package"]["metadata"];
        let (mut deb, mut rpm) =
            (installed(&metadata["deb"]["assets"]), installed(&metadata["generate-rpm"]["assets"]));
        assert!(deb.len() > 10, "{folder}: {deb:?}");
        // Debian's own: cargo-deb adds the licence, and zsh looks elsewhere.
        deb.retain(|from, _| !from.ends_with("lintian-overrides"));
        rpm.retain(|from, _| !from.ends_with("LICENSE"));
        for to in deb.values_mut() {
            *to = to.replace("zsh/vendor-completions", "zsh/site-functions");
        }
        assert_eq!(deb, rpm, "{folder}");
    }
}
