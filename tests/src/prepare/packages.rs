//! Debian packages the lab stands on, installed when they are missing and apt may be used.

use std::{
    env, fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

/// Programs found or installed.
pub(super) struct Tools {
    pub(super) qemu: PathBuf,
    pub(super) busybox: PathBuf,
}

/// One thing the lab needs, the package that has it, and how to see that it is there.
struct Need {
    package: &'static str,
    present: fn() -> bool,
}

const NEEDS: [Need; 7] = [
    Need { package: "qemu-system-x86", present: || qemu().is_some() },
    Need { package: "busybox-static", present: || busybox().is_some() },
    Need { package: "xz-utils", present: || in_path("xz").is_some() },
    Need { package: "util-linux", present: || in_path("setpriv").is_some() },
    Need { package: "gcc", present: || in_path("cc").is_some() },
    Need { package: "libc6-dev", present: || Path::new("/usr/lib/x86_64-linux-gnu/libc.a").exists() || !debian() },
    Need { package: "systemd", present: || in_path("systemd-analyze").is_some() },
];

/// Finds every tool; installs what is missing.
pub(super) fn ensure() -> Result<Tools> {
    let missing: Vec<&str> = NEEDS.iter().filter(|need| !(need.present)()).map(|need| need.package).collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    match (qemu(), busybox()) {
        (Some(qemu), Some(busybox)) => Ok(Tools { qemu, busybox }),
        (qemu, _) => {
            bail!("{} is still missing", if qemu.is_none() { "qemu-system-x86_64" } else { "a static busybox" })
        }
    }
}

/// Installs what builds a Debian image, where it is missing.
///
/// # Errors
/// Says which packages are missing.
pub(crate) fn ensure_debian_tools() -> Result<()> {
    const TOOLS: [(&str, &str); 3] =
        [("mmdebstrap", "mmdebstrap"), ("genisoimage", "genisoimage"), ("e2fsprogs", "mke2fs")];
    let missing: Vec<_> =
        TOOLS.iter().filter(|(_, tool)| in_path(tool).is_none()).map(|(package, _)| *package).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !debian() || !nix::unistd::geteuid().is_root() {
        bail!(
            "these Debian packages are missing: {list}\n\
             as root: apt-get install {list}\n\
             elsewhere: set VMTIDE_LAB_QEMU, VMTIDE_LAB_BUSYBOX (static), VMTIDE_LAB_KERNEL_6_1 and \
             VMTIDE_LAB_KERNEL_6_12 as tests/README.md says"
        );
    }
    super::say(&format!("installing by apt-get: {list}"));
    if apt_install(packages).is_err() {
        update()?;
        apt_install(packages)?;
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let args = ["install", "--yes", "--quiet", "--no-install-recommends"];
    super::run(apt_get().args(args).args(packages)).map(drop)
}

/// Refreshes apt's lists.
pub(super) fn update() -> Result<()> {
    super::say("apt-get update");
    super::run(apt_get().args(["update", "--quiet"])).map(drop)
}

/// `apt-get` that never asks.
pub(super) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Whether apt may be expected here.
pub(super) fn debian() -> bool {
    Path::new("/etc/debian_version").exists() && in_path("apt-get").is_some()
}

fn qemu() -> Option<PathBuf> {
    env::var_os("VMTIDE_LAB_QEMU").map(PathBuf::from).or_else(|| in_path("qemu-system-x86_64"))
}

/// Debian's plain `busybox` has the same path and cannot run in the initramfs. A dynamic program names its loader
/// right behind the ELF headers.
fn busybox() -> Option<PathBuf> {
    let path = env::var_os("VMTIDE_LAB_BUSYBOX").map(PathBuf::from).or_else(|| in_path("busybox"))?;
    let mut head = [0; 4096];
    fs::File::open(&path).ok()?.read_exact(&mut head).ok()?;
    let loader = b"/ld-";
    (!head.windows(loader.len()).any(|window| window == loader)).then_some(path)
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}
