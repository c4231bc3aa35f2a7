//! Programs built from source: our own, statically, and the vsock device that QEMU's guests talk through.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// The version that the lab was tried with; its sockets are Firecracker's hybrid convention.
const VSOCK_DEVICE: &str = "0.3.0";

/// There is no musl std everywhere; glibc links statically too, and the same binary then runs here and in the guest.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Installs `vhost-device-vsock` once under the cache.
pub(super) fn vsock_device(cache: &Path) -> Result<PathBuf> {
    let root = cache.join(format!("vhost-device-vsock-{VSOCK_DEVICE}"));
    let binary = root.join("bin/vhost-device-vsock");
    if !binary.exists() {
        super::say(&format!("building vhost-device-vsock {VSOCK_DEVICE} (about a minute, once)"));
        let mut install = cargo();
        install.args(["install", "vhost-device-vsock", "--version", VSOCK_DEVICE, "--locked", "--quiet", "--root"]);
        install.arg(&root);
        super::run(&mut install)?;
    }
    Ok(binary)
}

/// Builds the workspace's binaries statically; cargo decides what is fresh.
pub(super) fn build(cache: &Path) -> Result<PathBuf> {
    let target = cache.join("build");
    if !target.exists() {
        super::say("building the static binaries (a few minutes, once)");
    }
    let mut build = cargo();
    build.args(["build", "--quiet", "--profile", "lab", "--target", TARGET, "--target-dir"]).arg(&target);
    for package in ["vmtide-agent", "vmtide-bridge", "vmtide-lab"] {
        build.args(["-p", package]);
    }
    for binary in
        ["vmtide-agent", "vmtide-bridge", "vmtide", "vmtide-load", "vmtide-guest", "vmtide-lever", "vmtide-equal"]
    {
        build.args(["--bin", binary]);
    }
    build.env("RUSTFLAGS", "-C target-feature=+crt-static").current_dir(super::workspace_dir());
    super::run(&mut build)?;
    let dir = target.join(TARGET).join("lab");
    fs::canonicalize(&dir).with_context(|| format!("{}: not built", dir.display()))
}

/// The cargo that runs us, or the one in PATH.
pub(crate) fn cargo_program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))
}

/// Frees a command that runs cargo from what an outer `cargo run` or `cargo test` put into the environment: build
/// scripts that ask to be rerun when one of those variables changes would otherwise rebuild each time.
pub(crate) fn cargo_by(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let outer = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
            .iter()
            .any(|prefix| text.starts_with(prefix));
        if outer || matches!(&*text, "CARGO" | "CARGO_TARGET_TMPDIR" | "LD_LIBRARY_PATH" | "OUT_DIR") {
            command.env_remove(&name);
        }
    }
    command
}

fn cargo() -> Command {
    cargo_by(Command::new(cargo_program()))
}
