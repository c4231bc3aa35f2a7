//! A Debian 12 disk: systemd, udev, cloud-init, Debian's own kernel, and the lab's way in. Built once for each recipe.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::prepare::{cache_dir, first_in, lock, run, say};

/// As small as a cloud image gets that boots by itself; with QEMU, for a host, and rpm, for the packages of other distributions.
const PACKAGES: &str = "systemd,systemd-sysv,udev,dbus,kmod,cloud-init,linux-image-cloud-amd64,initramfs-tools,netbase,init-system-helpers,qemu-system-x86,rpm";

const DISK_MIB: u64 = 2_048;

/// Where the lab's control program is put before each boot; its name does not say whose it is, for the search of leftovers.
pub(super) const CONTROL: &str = "/usr/local/bin/lab-control";

/// Debian's cloud images have all locales; this one goes without, and cloud-init must not miss them.
const CLOUD_CFG: &str = "locale: false\n";

/// Units that the lab brings, each started at boot.
const FILES: [(&str, &str); 3] = [
    ("etc/systemd/system/lab-control.service", include_str!("lab-control.service")),
    ("etc/systemd/system/lab-before.service", include_str!("lab-before.service")),
    ("etc/systemd/system/lab-report.service", include_str!("lab-report.service")),
];

/// A disk that is copied for each machine, and what QEMU boots it with.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) disk: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
}

/// The image of this recipe; builds it when it is not in the cache.
pub(super) fn ready() -> Result<Image> {
    let mut recipe = DefaultHasher::new();
    (PACKAGES, DISK_MIB, CLOUD_CFG, FILES).hash(&mut recipe);
    let dir = cache_dir().join(format!("debian-12-{:016x}", recipe.finish()));
    let _lock = lock(&cache_dir().join("debian-lock"))?;
    if !dir.exists() {
        build(&dir).context("cannot build the Debian image")?;
    }
    let boot = |prefix| first_in(&dir, prefix);
    Ok(Image { disk: dir.join("disk.raw"), kernel: boot("vmlinuz-")?, initrd: boot("initrd.img-")? })
}

fn build(into: &Path) -> Result<()> {
    say("building a Debian 12 image (about three minutes, once)");
    let partial = tempfile::tempdir_in(cache_dir())?;
    let root = partial.path().join("root");
    let mut bootstrap = Command::new("mmdebstrap");
    run(bootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), "bookworm"]).arg(&root))?;
    for (path, text) in FILES {
        fs::write(root.join(path), text)?;
        let name = Path::new(path).file_name().context("a file's path")?;
        let wants = root.join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants)?;
        std::os::unix::fs::symlink(Path::new("..").join(name), wants.join(name))?;
    }
    fs::write(root.join("etc/cloud/cloud.cfg.d/99-lab.cfg"), CLOUD_CFG)?;
    fs::write(root.join("etc/fstab"), "/dev/vda / ext4 defaults 0 1\n")?;
    let made = partial.path().join("image");
    fs::create_dir(&made)?;
    for prefix in ["vmlinuz-", "initrd.img-"] {
        let file = first_in(&root.join("boot"), prefix)?;
        fs::copy(&file, made.join(file.file_name().context("a file's path")?))?;
    }
    let mut format = Command::new("mke2fs");
    format.args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(made.join("disk.raw")).arg(format!("{DISK_MIB}M"));
    run(&mut format)?;
    fs::rename(&made, into).context("cannot keep the image")
}
