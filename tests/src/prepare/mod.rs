//! What must exist before the first VM boots, made once and cached under `target/lab`.
//!
//! In: a Debian with a Rust toolchain (or the environment variables of `tests/README.md` elsewhere).
//! Out: a [`Lab`], which knows where QEMU, the kernels, the static binaries and the initramfs images are, and
//! which accelerator really runs guests here. A lock file keeps parallel test processes from preparing twice.

mod accelerator;
mod binaries;
mod cpio;
mod initramfs;
mod kernels;
mod packages;

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

pub use accelerator::Accelerator;
pub(crate) use binaries::{TARGET, cargo_by, cargo_program};
pub use kernels::Kernel;
pub(crate) use kernels::first_in;
pub(crate) use packages::ensure_debian_tools;

/// A machine that is ready to boot microVMs.
#[derive(Debug)]
pub struct Lab {
    pub(crate) qemu: PathBuf,
    pub(crate) vsock_device: PathBuf,
    pub(crate) accelerator: Accelerator,
    binaries: PathBuf,
    kernels: Vec<BootFiles>,
}

/// What QEMU boots: a kernel and its initramfs.
#[derive(Debug, Clone)]
pub(crate) struct BootFiles {
    pub(crate) kernel: Kernel,
    pub(crate) vmlinuz: PathBuf,
    pub(crate) initramfs: PathBuf,
}

impl Lab {
    /// The prepared machine; prepares it on the first call in this process.
    ///
    /// # Errors
    /// Says which package, kernel or build is missing and what to do about it.
    pub fn ready() -> Result<&'static Self> {
        static READY: OnceLock<Result<Lab, String>> = OnceLock::new();
        READY
            .get_or_init(|| Self::prepare().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow::anyhow!("the lab cannot run VMs here: {error}"))
    }

    /// A static binary of this workspace, such as `vmtide-bridge`.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// The accelerator's name, as QEMU has it.
    pub fn accelerator(&self) -> &'static str {
        self.accelerator.name()
    }

    pub(crate) fn boot_files(&self, kernel: Kernel) -> Result<&BootFiles> {
        self.kernels.iter().find(|files| files.kernel == kernel).context("this kernel was not prepared")
    }

    fn prepare() -> Result<Self> {
        die_with_the_lab()?;
        let cache = cache_dir();
        fs::create_dir_all(&cache).with_context(|| format!("{}: cannot create", cache.display()))?;
        let _lock = lock(&cache.join("lock"))?;
        crate::vm::sweep_scratch();

        let tools = packages::ensure()?;
        let vsock_device = binaries::vsock_device(&cache)?;
        let binaries = binaries::build(&cache)?;
        let mut kernels = Vec::new();
        for kernel in [Kernel::V6_1, Kernel::V6_12] {
            let unpacked = kernels::find(kernel, &cache)?;
            kernels.push(initramfs::build(kernel, &unpacked, &tools.busybox, &binaries, &cache)?);
        }
        let newest = kernels.last().context("no kernel")?;
        let accelerator = accelerator::find(&tools.qemu, newest, &cache)?;
        Ok(Self { qemu: tools.qemu, vsock_device, accelerator, binaries, kernels })
    }
}

/// `target/lab` of this workspace.
pub(crate) fn cache_dir() -> PathBuf {
    workspace_dir().join("target/lab")
}

/// The workspace's root.
pub(crate) fn workspace_dir() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// A test process started by `cargo lab test` must not outlive it: its parent is cargo, which dies with the lab.
fn die_with_the_lab() -> Result<()> {
    if env::var_os("VMTIDE_LAB_TIED").is_some() {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    }
    Ok(())
}

pub(crate) fn lock(path: &Path) -> Result<Flock<File>> {
    let file = File::create(path).with_context(|| format!("{}: cannot create", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("cannot take the lab's lock")
}

/// Says on stderr what takes time or changes the machine.
pub(crate) fn say(what: &str) {
    eprintln!("lab: {what}");
}

/// Runs a command to its end; its output appears only in the error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
