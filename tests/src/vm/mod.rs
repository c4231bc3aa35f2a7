//! One microVM: QEMU, its vsock device, its balloon, and the lab's own eyes on all three.
//!
//! In: a [`VmConfig`]. Out: a [`Vm`] in which commands run and whose balloon is read from QEMU itself, through a
//! connection that the bridge does not share: the lab measures, it does not believe.
//!
//! ```text
//! launch -> [vsock device up] -> [QEMU up] -> [guest dials the lab] -> Vm -> drop: both killed, files removed
//!              |                   |             |
//!              +---- fails --------+-- fails ----+-> error with the serial log's tail, same clean-up
//! ```

mod config;
mod guest;
mod process;
mod qmp;
mod scratch;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Error, Result, bail};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::net::UnixListener;

pub(crate) use config::kernel_args;
pub use config::{MIB, VmConfig};
pub(crate) use guest::Guest;
pub use guest::Output;
pub use process::Tied;
pub use qmp::Qmp;
pub use scratch::Scratch;
pub(crate) use scratch::sweep as sweep_scratch;

use crate::Lab;

/// zram's modules, in the order in which they load; a kernel has those that it needs.
pub const ZRAM_MODULES: [&str; 7] =
    ["zsmalloc", "lz4_compress", "lz4hc_compress", "lzo_rle", "zstd_compress", "zstd", "zram"];

/// Three guests that boot at once on two cores with TCG stay far below this.
const BOOT_TIMEOUT: Duration = Duration::from_secs(90);

/// A running microVM; dropping it ends it.
#[derive(Debug)]
pub struct Vm {
    config: VmConfig,
    guest: Guest,
    qmp: Arc<Qmp>,
    // Dropped in this order: QEMU before its vsock device, the files last.
    qemu: Tied,
    _vsock_device: Tied,
    dir: Scratch,
}

impl Lab {
    /// Boots a VM and waits until commands can run in it.
    ///
    /// # Errors
    /// When QEMU, the vsock device or the guest does not come up; carries the tail of the serial log.
    pub async fn launch(&self, config: VmConfig) -> Result<Vm> {
        let dir = Scratch::new()?;
        let guest = Guest::listen(&vsock_port(dir.path(), crate::guest::PORT))?;
        let mut vsock_device = self.start_vsock_device(dir.path())?;
        until_exists(&dir.path().join("vhost.sock"), &mut vsock_device).await?;

        for (file, bytes) in config.disks() {
            File::create(dir.path().join(file))?.set_len(bytes)?;
        }
        let mut command = Tied::command(&self.qemu);
        command.args(self.accelerator.qemu_args()).args(config.qemu_args(dir.path(), self.boot_files(config.kernel)?));
        command.stderr(File::create(dir.path().join("qemu.log"))?);
        let mut qemu = Tied::spawn("qemu", &mut command)?;
        let booted = async {
            until_exists(&dir.path().join("lab.qmp"), &mut qemu).await?;
            let qmp = Qmp::connect(&dir.path().join("lab.qmp")).await?;
            tokio::select! {
                output = guest.run("true") => output?,
                () = ended(&mut qemu) => bail!("QEMU ended"),
                () = tokio::time::sleep(BOOT_TIMEOUT) => bail!("no answer from the guest in {BOOT_TIMEOUT:?}"),
            };
            Ok(qmp)
        };
        let qmp = booted.await.map_err(|error| with_logs(error, &config.name, dir.path()))?;
        Ok(Vm { config, guest, qmp: Arc::new(qmp), qemu, _vsock_device: vsock_device, dir })
    }

    pub(crate) fn start_vsock_device(&self, dir: &Path) -> Result<Tied> {
        let mut command = Tied::command(&self.vsock_device);
        command.arg("--guest-cid").arg("3").arg("--socket").arg(dir.join("vhost.sock"));
        command.arg("--uds-path").arg(dir.join("vsock"));
        command.stderr(File::create(dir.join("vsock.log"))?);
        Tied::spawn("vhost-device-vsock", &mut command)
    }
}

impl Vm {
    /// The name given to it.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The memory it booted with, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.config.memory_bytes
    }

    /// The most that it can have: what it booted with and all that can be plugged in.
    pub fn most_bytes(&self) -> u64 {
        self.config.memory_bytes + self.config.pluggable_bytes
    }

    /// What virtio-mem has plugged in, read from QEMU.
    ///
    /// # Errors
    /// When QEMU does not answer within the QMP timeout.
    pub async fn plugged_bytes(&self) -> Result<u64> {
        self.qmp.plugged_bytes().await
    }

    /// Asks virtio-mem to come to `bytes`, past any bridge.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer.
    pub async fn request_plugged(&self, bytes: u64) -> Result<()> {
        let value = json!({ "path": "/machine/peripheral/vmem0", "property": "requested-size", "value": bytes });
        self.qmp.execute("qom-set", value).await.map(drop)
    }

    /// Runs a shell line in the guest; its stdout, or an error when it exits with another code than 0.
    ///
    /// # Errors
    /// When the guest does not answer or the line fails.
    pub async fn run(&self, line: &str) -> Result<String> {
        let output = self.try_run(line).await?;
        if output.code != 0 {
            let error = Error::msg(format!("`{line}` exited with {}: {}", output.code, output.stderr.trim_end()));
            return Err(self.explain(error));
        }
        Ok(output.stdout)
    }

    /// Loads those of these modules in `/lib/more` that the kernel does not have built in, in this order.
    ///
    /// # Errors
    /// When one cannot be loaded.
    pub async fn load(&self, modules: &[&str]) -> Result<()> {
        for name in modules {
            self.run(&format!("test ! -e /lib/more/{name}.ko || insmod /lib/more/{name}.ko")).await?;
        }
        Ok(())
    }

    /// Runs a shell line in the guest, whatever its exit code.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn try_run(&self, line: &str) -> Result<Output> {
        self.guest.run(line).await.map_err(|error| self.explain(error))
    }

    /// Starts a program in the guest's background, its output in `/tmp/<name>.log`; returns its pid there.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn start(&self, name: &str, line: &str) -> Result<u32> {
        let pid = self.run(&format!("{line} >/tmp/{name}.log 2>&1 & echo $!")).await?;
        pid.trim().parse().with_context(|| format!("no pid of {name}: {pid:?}"))
    }

    /// Kills a process of the guest.
    ///
    /// # Errors
    /// When the guest does not answer or has no such process.
    pub async fn kill(&self, pid: u32) -> Result<()> {
        self.run(&format!("kill -9 {pid}")).await.map(drop)
    }

    /// A guest file's text from an offset in bytes on; cheap, for it starts no process there.
    ///
    /// # Errors
    /// When the guest does not answer or has no such file.
    pub async fn read(&self, path: &str, from: u64) -> Result<String> {
        self.guest.read(path, from).await.map_err(|error| self.explain(error))
    }

    /// Writes an executable file into the guest.
    ///
    /// # Errors
    /// When the guest does not answer or cannot write it.
    pub async fn put(&self, path: &str, content: &[u8]) -> Result<()> {
        self.guest.put(path, content).await.map_err(|error| self.explain(error))
    }

    /// Waits for connections that the guest makes to CID 2 and this port.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn listen(&self, port: u32) -> Result<UnixListener> {
        let path = vsock_port(self.dir.path(), port);
        UnixListener::bind(&path).with_context(|| format!("{}: cannot bind", path.display()))
    }

    /// What the guest has now, read from QEMU.
    ///
    /// # Errors
    /// When QEMU does not answer within the QMP timeout.
    pub async fn allocation_bytes(&self) -> Result<u64> {
        self.qmp.allocation_bytes().await
    }

    /// Sets the balloon's target past any bridge.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer.
    pub async fn set_allocation(&self, bytes: u64) -> Result<()> {
        self.qmp.execute("balloon", json!({ "value": bytes })).await.map(drop)
    }

    /// The lab's own connection to QEMU.
    pub(crate) fn qmp(&self) -> Arc<Qmp> {
        Arc::clone(&self.qmp)
    }

    /// The QMP socket meant for the bridge.
    pub fn bridge_qmp(&self) -> PathBuf {
        self.dir.path().join("bridge.qmp")
    }

    /// The hybrid vsock socket: a guest's connection to port N arrives at this path with `_N` appended.
    pub fn vsock(&self) -> PathBuf {
        self.dir.path().join("vsock")
    }

    /// Asks the guest's balloon driver for statistics this often from now on, whatever others asked before.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer.
    pub async fn poll_statistics(&self, every: Duration) -> Result<()> {
        let property = "guest-stats-polling-interval";
        let value = json!({ "path": "/machine/peripheral/balloon0", "property": property, "value": every.as_secs() });
        self.qmp.execute("qom-set", value).await.map(drop)
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.qemu.id()
    }

    /// CPU time that QEMU has used.
    ///
    /// # Errors
    /// When QEMU has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.qemu.id());
        let stat = fs::read_to_string(&path).with_context(|| format!("{path}: cannot read"))?;
        cpu_time(&stat).with_context(|| format!("{path}: no times in {stat:?}"))
    }

    /// OOM kills since the guest booted.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn oom_kills(&self) -> Result<u64> {
        let vmstat = self.read("/proc/vmstat", 0).await?;
        vmstat_value(&vmstat, "oom_kill").context("no oom_kill in /proc/vmstat")
    }

    /// Powers the guest off and waits until QEMU has ended.
    ///
    /// # Errors
    /// When it still runs after the boot timeout.
    pub async fn power_off(&mut self) -> Result<()> {
        // The guest does not live to answer.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.guest.run("poweroff -f")).await;
        let waited = tokio::time::timeout(BOOT_TIMEOUT, ended(&mut self.qemu)).await;
        waited.map_err(|_| self.explain(Error::msg("still running after poweroff")))
    }

    /// Stops QEMU as a hung one is stopped: nothing in it runs, no socket answers.
    ///
    /// # Errors
    /// When QEMU has ended.
    pub fn freeze(&self) -> Result<()> {
        self.qemu.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen QEMU run on.
    ///
    /// # Errors
    /// When QEMU has ended.
    pub fn thaw(&self) -> Result<()> {
        self.qemu.signal(Signal::SIGCONT)
    }

    /// The serial console's log so far.
    pub fn serial_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("serial.log")).unwrap_or_default()
    }

    fn explain(&self, error: Error) -> Error {
        with_logs(error, &self.config.name, self.dir.path())
    }
}

/// Waits until a condition holds, asking again every 200 ms.
///
/// # Errors
/// When it does not within `timeout`; says `what` was awaited.
pub async fn wait_for<F: AsyncFnMut() -> Result<bool>>(what: &str, timeout: Duration, mut holds: F) -> Result<()> {
    let waiting = async {
        while !holds().await? {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    };
    tokio::time::timeout(timeout, waiting).await.unwrap_or_else(|_| bail!("{timeout:?} passed and still not: {what}"))
}

/// User and system time of a `/proc/PID/stat`. The name in it may hold anything but a line's end.
fn cpu_time(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ticks = fields.nth(11)?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    // USER_HZ is 100 on x86, whatever the kernel's own.
    Some(Duration::from_millis(10 * ticks))
}

/// A counter of `/proc/vmstat`.
pub fn vmstat_value(vmstat: &str, name: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

pub(crate) fn vsock_port(dir: &Path, port: u32) -> PathBuf {
    dir.join(format!("vsock_{port}"))
}

pub(crate) async fn until_exists(path: &Path, owner: &mut Tied) -> Result<()> {
    while !path.exists() {
        if !owner.running() {
            bail!("{} ended at once", owner.name());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn ended(process: &mut Tied) {
    while process.running() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn with_logs(error: Error, name: &str, dir: &Path) -> Error {
    let tails = ["serial.log", "qemu.log", "vsock.log"].map(|file| {
        let text = fs::read(dir.join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(25)..].join("\n    ");
        if tail.is_empty() { String::new() } else { format!("\n  {file} ends:\n    {tail}") }
    });
    error.context(format!("VM {name}{}", tails.concat()))
}
