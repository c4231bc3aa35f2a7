//! `cargo lab package`: the packages of this commit, and what systemd says of their units.
//!
//! In: the workspace. Out: `target/packages/*.deb` and `*.rpm` with static binaries. The same commit, built by the same toolchain
//! at any place and time, gives the same bytes: times are the commit's, and paths are not the machine's. `--twice` tries that.

mod pages;
mod reproduce;
mod tools;
mod units;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

pub use reproduce::again;
pub use units::{exposure, exposure_of};

use crate::prepare::{TARGET, cargo_by, cargo_program, lock, run, say, workspace_dir};

/// The crate's folder, and the package's and the crate's name.
const PACKAGES: [(&str, &str); 2] = [("guest-agent", "vmtide-agent"), ("host-bridge", "vmtide-bridge")];

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Which version's packages.
#[derive(Debug, Clone, Copy)]
pub enum Revision {
    /// The workspace's own.
    Current,
    /// The same under a later version, to upgrade to.
    Next,
}

impl Revision {
    fn number(self) -> &'static str {
        match self {
            Self::Current => "1",
            Self::Next => "2",
        }
    }
}

/// A checkout whose packages are built.
#[derive(Debug)]
pub struct Tree(PathBuf);

impl Tree {
    /// The one that the lab was built from.
    pub fn own() -> Self {
        Self(workspace_dir())
    }

    /// Another one.
    fn at(root: PathBuf) -> Self {
        Self(root)
    }

    /// Where its packages go.
    pub fn packages(&self) -> PathBuf {
        self.0.join("target/packages")
    }

    /// Builds all packages; returns them.
    ///
    /// # Errors
    /// When a tool, a binary or a package cannot be built.
    pub fn build(&self) -> Result<Vec<PathBuf>> {
        self.binaries()?;
        let into = self.packages();
        let mut packages = Vec::new();
        for (_, name) in PACKAGES {
            packages.push(self.deb(name, Revision::Current, &into)?);
            packages.push(self.rpm(name, Revision::Current, &into)?);
        }
        Ok(packages)
    }

    /// Builds the release's static binaries, their manual pages and completions; returns the folder of the former.
    ///
    /// # Errors
    /// When they cannot be built.
    pub fn binaries(&self) -> Result<PathBuf> {
        let target = self.target();
        fs::create_dir_all(&target)?;
        let _lock = lock(&self.0.join("target/lab/package-lock"))?;
        say("building the static release (a few minutes, once)");
        let mut build = cargo_by(Command::new(cargo_program()));
        build.args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--target-dir"]).arg(&target);
        for (_, name) in PACKAGES {
            build.args(["-p", name]);
        }
        build.args(["--bins"]).env("RUSTFLAGS", self.rustflags()?).current_dir(&self.0);
        run(&mut build)?;
        pages::pages(&self.0)?;
        Ok(target.join(TARGET).join("release"))
    }

    /// Static, and without the paths of this machine.
    fn rustflags(&self) -> Result<String> {
        let home = env::var_os("HOME").context("HOME is not set")?;
        let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| Path::new(&home).join(".cargo"), PathBuf::from);
        let remap = |path: &Path, to: &str| format!("--remap-path-prefix={}={to}", path.display());
        Ok(["-Ctarget-feature=+crt-static".into(), remap(&cargo_home, "/cargo"), remap(&self.0, "/vmtide")].join(" "))
    }

    /// Builds a `.deb` of the binaries.
    ///
    /// # Errors
    /// When cargo-deb does not.
    pub fn deb(&self, name: &str, revision: Revision, into: &Path) -> Result<PathBuf> {
        let revision = revision.number();
        let package = into.join(format!("{name}_{VERSION}-{revision}_amd64.deb"));
        let mut tool = self.tool(&tools::DEB, into)?;
        tool.args(["--no-build", "--no-strip", "--quiet", "--target", TARGET, "--package", name]);
        tool.args(["--deb-revision", revision, "--output"]).arg(&package);
        run(&mut tool)?;
        Ok(package)
    }

    /// Builds a `.rpm` of the binaries.
    ///
    /// # Errors
    /// When cargo-generate-rpm does not.
    pub fn rpm(&self, name: &str, revision: Revision, into: &Path) -> Result<PathBuf> {
        let revision = revision.number();
        let package = into.join(format!("{name}-{VERSION}-{revision}.x86_64.rpm"));
        let (folder, _) = PACKAGES.iter().find(|(_, of)| *of == name).context("no package of ours")?;
        let mut tool = self.tool(&tools::RPM, into)?;
        let stage = self.stage(folder)?;
        tool.args(["--package", folder, "--target", TARGET, "--target-dir"]).arg(stage.join("target"));
        tool.current_dir(&stage);
        tool.args(["--set-metadata", &format!("release = \"{revision}\"")]).arg("--output").arg(&package);
        run(&mut tool)?;
        Ok(package)
    }

    /// A copy of all that goes into a package: cargo-generate-rpm keeps the time of a file that is older than the commit, and those
    /// of a checkout and of a build are their own.
    fn stage(&self, folder: &str) -> Result<PathBuf> {
        let stage = self.0.join("target/lab/stage");
        if stage.exists() {
            fs::remove_dir_all(&stage).with_context(|| format!("{}: cannot remove", stage.display()))?;
        }
        let release = Path::new(TARGET).join("release");
        let staged_release = stage.join("target").join(&release);
        fs::create_dir_all(&staged_release)?;
        let mut copy = Command::new("cp");
        copy.args(["--recursive", "--parents", "Cargo.toml", "LICENSE", "docs", "packaging", "target/pages", folder]);
        run(copy.arg(&stage).current_dir(&self.0))?;
        for entry in fs::read_dir(self.target().join(&release))? {
            let binary = entry?;
            // Beside them are what cargo knows of them, and folders.
            if binary.file_type()?.is_file() && binary.path().extension().is_none() {
                fs::copy(binary.path(), staged_release.join(binary.file_name()))?;
            }
        }
        Ok(stage)
    }

    /// A tool that is run on this tree's binaries, at the time of its commit.
    fn tool(&self, tool: &tools::Tool, into: &Path) -> Result<Command> {
        fs::create_dir_all(into).with_context(|| format!("{}: cannot create", into.display()))?;
        let mut git = Command::new("git");
        git.args(["log", "-1", "--format=%ct"]).current_dir(&self.0);
        let time = run(&mut git).context("packages carry the time of their commit")?;
        let mut command = cargo_by(Command::new(tool.ready()?));
        command.env("SOURCE_DATE_EPOCH", time.trim()).env("CARGO_TARGET_DIR", self.target()).current_dir(&self.0);
        Ok(command)
    }

    fn target(&self) -> PathBuf {
        self.0.join("target/lab/build")
    }
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
