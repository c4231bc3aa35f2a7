//! The programs that make packages, built from the registry once.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::prepare::{cache_dir, cargo_by, cargo_program, run, say};

/// A program of a crate, at the version that was tried.
pub(super) struct Tool {
    pub(super) name: &'static str,
    version: &'static str,
}

pub(super) const DEB: Tool = Tool { name: "cargo-deb", version: "3.8.0" };
pub(super) const RPM: Tool = Tool { name: "cargo-generate-rpm", version: "0.21.1" };

impl Tool {
    /// Where it is; installs it below the cache when it is not there.
    pub(super) fn ready(&self) -> Result<PathBuf> {
        let Self { name, version } = self;
        let root = cache_dir().join(format!("{name}-{version}"));
        let binary = root.join("bin").join(name);
        if !binary.exists() {
            say(&format!("building {name} {version} (a few minutes, once)"));
            let mut install = cargo_by(Command::new(cargo_program()));
            install.args(["install", name, "--version", version, "--locked", "--quiet", "--root"]).arg(&root);
            if *name == DEB.name {
                // Without its features it compresses by the system's xz, which the lab has.
                install.arg("--no-default-features");
            }
            run(&mut install)?;
        }
        Ok(binary)
    }
}
