//! Guest kernels: Debian's cloud images, fetched and unpacked without being installed.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

/// The kernel series that guests boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// Debian 12's own: MGLRU built but off, no DAMON.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's newest: MGLRU on, DAMON.
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    fn series(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.series())
    }
}

/// An unpacked kernel package.
pub(super) struct Unpacked {
    pub(super) vmlinuz: PathBuf,
    /// `lib/modules/<version>`.
    pub(super) modules: PathBuf,
}

/// Finds the kernel in its environment variable or the cache, or fetches it.
pub(super) fn find(kernel: Kernel, cache: &Path) -> Result<Unpacked> {
    let variable = format!("VMTIDE_LAB_KERNEL_{}", kernel.series().replace('.', "_"));
    if let Some(dir) = env::var_os(&variable) {
        return unpacked(Path::new(&dir)).with_context(|| format!("{variable} names no unpacked kernel package"));
    }
    let dir = cache.join(format!("kernel-{kernel}"));
    if !dir.exists() {
        fetch(kernel, &dir).with_context(|| format!("cannot fetch kernel {kernel}; {variable} can name one"))?;
    }
    unpacked(&dir)
}

fn unpacked(dir: &Path) -> Result<Unpacked> {
    let vmlinuz = first_in(&dir.join("boot"), "vmlinuz-")?;
    let version = vmlinuz.file_name().map(|name| name.to_string_lossy().replacen("vmlinuz-", "", 1));
    let modules = dir.join("lib/modules").join(version.unwrap_or_default());
    if !modules.is_dir() {
        bail!("{}: no such directory", modules.display());
    }
    Ok(Unpacked { vmlinuz, modules })
}

pub(crate) fn first_in(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("{}: cannot list", dir.display()))?;
    entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .with_context(|| format!("{}: no {prefix}*", dir.display()))
}

fn fetch(kernel: Kernel, into: &Path) -> Result<()> {
    if !super::packages::debian() {
        bail!("this is not Debian");
    }
    let parent = into.parent().context("the cache has no parent")?;
    let partial = tempfile::tempdir_in(parent)?;
    if download(kernel, partial.path()).is_err() {
        // Lists are empty, or name a version that a newer one has replaced in the archive.
        super::packages::update()?;
        download(kernel, partial.path())?;
    }
    let package = first_in(partial.path(), "linux-image-")?;
    let root = partial.path().join("root");
    super::run(Command::new("dpkg").arg("-x").arg(&package).arg(&root))?;
    fs::rename(&root, into).context("cannot keep the unpacked kernel")
}

fn download(kernel: Kernel, into: &Path) -> Result<()> {
    let package = newest_package(kernel)?;
    super::say(&format!("fetching {package}"));
    super::run(super::packages::apt_get().arg("download").arg(&package).current_dir(into)).map(drop)
}

/// The concrete package behind Debian's metapackage, such as `linux-image-6.1.0-56-cloud-amd64`.
fn newest_package(kernel: Kernel) -> Result<String> {
    let prefix = format!("linux-image-{kernel}.");
    for meta in [format!("linux-image-{kernel}-cloud-amd64"), "linux-image-cloud-amd64".to_owned()] {
        let Ok(depends) = super::run(Command::new("apt-cache").args(["depends", &meta]).env("LC_ALL", "C")) else {
            continue;
        };
        let found = depends.split_whitespace().find(|word| word.starts_with(&prefix));
        if let Some(package) = found {
            return Ok(package.to_owned());
        }
    }
    bail!("apt knows no {prefix}* cloud kernel")
}
