//! Which accelerator really runs guests here.
//!
//! `/dev/kvm` may open and its guests still never print a byte (nested virtualisation), so KVM counts only once a
//! guest has booted to user space with it; otherwise QEMU translates (TCG). The answer holds until the next boot.

use std::{
    fs,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{BootFiles, initramfs::MARKER};
use crate::vm::{Tied, kernel_args};

/// How QEMU runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's hardware virtualisation.
    Kvm,
    /// Translation, one thread for each vCPU.
    Tcg,
}

impl Accelerator {
    /// The name in results: `kvm` or `tcg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// QEMU's options; `-cpu host` aborts where KVM is absent or odd, so it belongs to KVM only.
    pub(crate) fn qemu_args(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// Long enough for a real KVM a hundred times over.
const PROOF_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn find(qemu: &Path, boot: &BootFiles, cache: &Path) -> Result<Accelerator> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("no boot_id")?;
    let file = cache.join("accelerator");
    if let Ok(known) = fs::read_to_string(&file) {
        for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
            if known == format!("{} {boot_id}", accelerator.name()) {
                return Ok(accelerator);
            }
        }
    }
    let accelerator =
        if Path::new("/dev/kvm").exists() && boots(qemu, boot)? { Accelerator::Kvm } else { Accelerator::Tcg };
    super::say(&format!("guests run with {}", accelerator.name()));
    fs::write(&file, format!("{} {boot_id}", accelerator.name())).context("cannot keep the accelerator")?;
    Ok(accelerator)
}

/// Whether a guest reaches user space under KVM.
fn boots(qemu: &Path, boot: &BootFiles) -> Result<bool> {
    super::say("trying KVM (up to 10 s, once after each boot)");
    let dir = tempfile::tempdir()?;
    let serial = dir.path().join("serial.log");
    let mut command = Tied::command(qemu);
    command.args(Accelerator::Kvm.qemu_args()).args(["-m", "256", "-display", "none", "-nodefaults", "-no-reboot"]);
    command.args(kernel_args(boot)).arg("-serial").arg(format!("file:{}", serial.display()));
    command.stderr(Stdio::null());
    let mut guest = Tied::spawn("qemu", &mut command)?;
    let started = Instant::now();
    while started.elapsed() < PROOF_TIMEOUT && guest.running() {
        if fs::read_to_string(&serial).is_ok_and(|log| log.contains(MARKER)) {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(false)
}
