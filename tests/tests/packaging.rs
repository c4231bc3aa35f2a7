//! What is installed, as far as it can be seen without installing it; `cargo lab scenario install` does that.
#![allow(clippy::unwrap_used)] // a test

use std::path::Path;
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
