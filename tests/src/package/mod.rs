//! `cargo lab package`: the packages of this commit, and what systemd says of their units.
//!
//! In: the workspace. Out: `target/packages/*.deb` and `*.rpm` with static binaries. The same commit, built by the same toolchain
//! at any place and time, gives the same bytes: times are the commit's, and paths are not the machine's.

mod pages;
mod tools;
mod units;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

pub use units::{exposure, exposure_of};

use crate::prepare::{TARGET, cache_dir, cargo_by, cargo_program, lock, run, say, workspace_dir};

/// The crate's folder, and the package's and the crate's name.
const PACKAGES: [(&str, &str); 2] = [("guest-agent", "vmtide-agent"), ("host-bridge", "vmtide-bridge")];

/// Which version's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revision {
    /// The workspace's own.
    Current,
    /// The same under a later version, to upgrade to.
    Next,
}

/// Builds all packages into `target/packages`; returns them.
///
/// # Errors
/// When a tool, a binary or a package cannot be built.
pub fn build() -> Result<Vec<PathBuf>> {
    let into = workspace_dir().join("target/packages");
    let target = binaries()?;
    let mut packages = Vec::new();
    for (folder, name) in PACKAGES {
        packages.push(deb(name, Revision::Current, &target, &into)?);
        packages.push(rpm(folder, name, &target, &into)?);
    }
    Ok(packages)
}

/// Builds the release's static binaries, their manual pages and completions; returns cargo's target folder.
///
/// # Errors
/// When they cannot be built.
pub fn binaries() -> Result<PathBuf> {
    let target = cache_dir().join("build");
    fs::create_dir_all(&target)?;
    let _lock = lock(&cache_dir().join("package-lock"))?;
    say("building the static release (a few minutes, once)");
    let mut build = cargo_by(Command::new(cargo_program()));
    build.args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--target-dir"]).arg(&target);
    for (_, name) in PACKAGES {
        build.args(["-p", name]);
    }
    build.args(["--bins"]).env("RUSTFLAGS", rustflags()?).current_dir(workspace_dir());
    run(&mut build)?;
    pages::pages()?;
    Ok(target)
}

/// Static, and without the paths of this machine.
fn rustflags() -> Result<String> {
    let home = env::var_os("HOME").context("HOME is not set")?;
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| Path::new(&home).join(".cargo"), PathBuf::from);
    let remap = |path: &Path, to: &str| format!("--remap-path-prefix={}={to}", path.display());
    Ok(["-Ctarget-feature=+crt-static".into(), remap(&cargo_home, "/cargo"), remap(&workspace_dir(), "/vmtide")]
        .join(" "))
}

/// Builds a `.deb` of the binaries in `target`.
///
/// # Errors
/// When cargo-deb does not.
pub fn deb(name: &str, revision: Revision, target: &Path, into: &Path) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let revision = if revision == Revision::Next { "2" } else { "1" };
    let package = into.join(format!("{name}_{version}-{revision}_amd64.deb"));
    let mut tool = tool(&tools::DEB, target, into)?;
    tool.args(["--no-build", "--no-strip", "--quiet", "--target", TARGET, "--package", name]);
    tool.args(["--deb-revision", revision, "--output"]).arg(&package);
    run(&mut tool)?;
    Ok(package)
}

fn rpm(folder: &str, name: &str, target: &Path, into: &Path) -> Result<PathBuf> {
    let package = into.join(format!("{name}-{}-1.x86_64.rpm", env!("CARGO_PKG_VERSION")));
    let mut tool = tool(&tools::RPM, target, into)?;
    tool.args(["--package", folder, "--target", TARGET, "--target-dir"]).arg(target);
    tool.arg("--output").arg(&package);
    run(&mut tool)?;
    Ok(package)
}

/// A tool that is run on this workspace's binaries, at the time of its commit.
fn tool(tool: &tools::Tool, target: &Path, into: &Path) -> Result<Command> {
    fs::create_dir_all(into).with_context(|| format!("{}: cannot create", into.display()))?;
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(workspace_dir());
    let time = run(&mut git).context("packages carry the time of their commit")?;
    let mut command = cargo_by(Command::new(tool.ready()?));
    command.env("SOURCE_DATE_EPOCH", time.trim()).env("CARGO_TARGET_DIR", target).current_dir(workspace_dir());
    Ok(command)
}

/// Has lintian and shellcheck look at what was built, where they are installed.
///
/// # Errors
/// With what they found.
pub fn check(packages: &[PathBuf]) -> Result<()> {
    let debs = packages.iter().filter(|package| package.extension().is_some_and(|extension| extension == "deb"));
    let mut lintian = Command::new("lintian");
    let found = run(lintian.args(["--fail-on", "error,warning", "--allow-root"]).args(debs))?;
    ensure!(found.is_empty(), "lintian: {found}");
    let folder = workspace_dir().join("packaging");
    for scripts in ["deb/agent", "deb/bridge", "rpm"] {
        for entry in fs::read_dir(folder.join(scripts))? {
            let script = entry?.path();
            if script.extension().is_none_or(|extension| extension.to_string_lossy().starts_with('p'))
                && !["changelog", "lintian-overrides"].iter().any(|other| script.ends_with(other))
            {
                run(Command::new("shellcheck").args(["--shell", "sh"]).arg(&script))?;
            }
        }
    }
    Ok(())
}
