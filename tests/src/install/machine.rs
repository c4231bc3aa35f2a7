//! A Debian guest that was given user-data, and the bridge on its host.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use vmtide_bridge::api::client::Client;

use super::image::{CONTROL, Image};
use crate::{
    Lab,
    prepare::run,
    vm::{Guest, Output, Scratch, Tied, until_exists, vsock_port, wait_for},
};

/// A Debian boots and finishes cloud-init in less than one minute under TCG when nothing else runs.
const BOOT_TIMEOUT: Duration = Duration::from_secs(300);
const MEMORY_MIB: u64 = 768;

/// A guest and its bridge; dropping it ends both.
pub(super) struct Machine {
    name: &'static str,
    lab: &'static Lab,
    kernel: PathBuf,
    initrd: PathBuf,
    running: Option<Running>,
    bridge: Option<Tied>,
    dir: Scratch,
}

struct Running {
    guest: Guest,
    qemu: Tied,
    _vsock_device: Option<Tied>,
}

impl Machine {
    /// A machine with a disk and a seed of its own, off; `seed` are files of the NoCloud disk, by name, and `also` files that
    /// are put into its own disk.
    pub(super) fn new(
        name: &'static str,
        lab: &'static Lab,
        image: &Image,
        seed: &[(&str, PathBuf)],
        also: &[(PathBuf, &str)],
    ) -> Result<Self> {
        let dir = Scratch::new()?;
        let at = |file: &str| dir.path().join(file);
        run(Command::new("cp").arg("--sparse=always").arg(&image.disk).arg(at("disk.raw")))?;
        let mut script = format!(
            "write {} {CONTROL}\nset_inode_field {CONTROL} mode 0100755\n",
            lab.binary("vmtide-guest").display()
        );
        for (from, to) in also {
            // It does not overwrite, and goes on where there is nothing to remove.
            script += &format!("rm {to}\nwrite {} {to}\nset_inode_field {to} mode 0100755\n", from.display());
        }
        fs::write(at("debugfs"), script)?;
        run(Command::new("debugfs").arg("-w").arg("-f").arg(at("debugfs")).arg(at("disk.raw")))?;
        fs::create_dir(at("seed"))?;
        for (file, from) in seed {
            fs::copy(from, at("seed").join(file)).with_context(|| format!("{}: cannot copy", from.display()))?;
        }
        fs::write(at("seed/meta-data"), format!("instance-id: {name}\nlocal-hostname: {name}\n"))?;
        let mut iso = Command::new("genisoimage");
        run(iso
            .args(["-quiet", "-volid", "cidata", "-joliet", "-rock", "-output"])
            .arg(at("seed.iso"))
            .arg(at("seed")))?;
        let (kernel, initrd) = (image.kernel.clone(), image.initrd.clone());
        Ok(Self { name, lab, kernel, initrd, running: None, bridge: None, dir })
    }

    /// Turns it on; with vsock the guest can be asked once this returns.
    pub(super) async fn boot(&mut self, with_vsock: bool) -> Result<()> {
        for file in ["vhost.sock", "vsock", "bridge.qmp"] {
            // Left behind by the last boot, if there was one.
            fs::remove_file(self.at(file)).ok();
        }
        let control = vsock_port(self.dir.path(), crate::guest::PORT);
        fs::remove_file(&control).ok();
        let guest = Guest::listen(&control)?;
        let vsock_device = if with_vsock {
            let mut device = self.lab.start_vsock_device(self.dir.path())?;
            until_exists(&self.at("vhost.sock"), &mut device).await?;
            Some(device)
        } else {
            None
        };
        let qemu = Tied::spawn("qemu", &mut self.qemu(with_vsock)?)?;
        self.running = Some(Running { guest, qemu, _vsock_device: vsock_device });
        if with_vsock {
            wait_for("the guest answers", BOOT_TIMEOUT, async || Ok(self.ask("true").await.is_ok())).await?;
        }
        Ok(())
    }

    /// Turns it off in an orderly way: what it wrote is on its disk.
    pub(super) async fn power_off(&mut self) -> Result<()> {
        self.ask("systemctl poweroff --no-block").await?;
        let Some(mut running) = self.running.take() else { bail!("{} does not run", self.name) };
        wait_for("the guest is off", BOOT_TIMEOUT, async || Ok(!running.qemu.running())).await
    }

    fn qemu(&self, with_vsock: bool) -> Result<Command> {
        let mut command = Tied::command(&self.lab.qemu);
        command.args(self.lab.accelerator.qemu_args());
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-smp", "2"]);
        command.args(["-machine", "q35,memory-backend=ram", "-m", &format!("{MEMORY_MIB}M")]);
        command.args(["-object", &format!("memory-backend-memfd,id=ram,size={MEMORY_MIB}M,share=on")]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd);
        command.args(["-append", "root=/dev/vda rw console=ttyS0 quiet psi=1 mitigations=off ds=nocloud"]);
        command.arg("-serial").arg(format!("file:{}", self.at("serial.log").display()));
        command.args(["-device", "virtio-balloon-pci,id=balloon0,deflate-on-oom=on"]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", self.at("bridge.qmp").display()));
        for (file, more) in [("disk.raw", ""), ("seed.iso", ",readonly=on")] {
            let path = self.at(file);
            command.arg("-drive").arg(format!("file={},if=none,id={file},format=raw{more}", path.display()));
            command.args(["-device", &format!("virtio-blk-pci,drive={file}")]);
        }
        if with_vsock {
            command.arg("-chardev").arg(format!("socket,id=vsock,path={}", self.at("vhost.sock").display()));
            command.args(["-device", "vhost-user-vsock-pci,chardev=vsock"]);
        }
        command.stderr(File::create(self.at("qemu.log"))?);
        Ok(command)
    }

    /// Starts the bridge on its host.
    pub(super) async fn start_bridge(&mut self) -> Result<()> {
        let at = |file: &str| self.at(file).display().to_string();
        let toml = format!(
            "[host]\ncapacity = \"1536MiB\"\nreserve = \"256MiB\"\n[control]\nsocket = \"{}\"\n[record]\nsize = 0\n\
             [[vm]]\nname = \"{}\"\nminimum = \"512MiB\"\nmaximum = \"{MEMORY_MIB}MiB\"\nqmp = \"{}\"\nvsock = \"{}\"\n",
            at("control.sock"),
            self.name,
            at("bridge.qmp"),
            at("vsock"),
        );
        fs::write(self.at("bridge.toml"), toml)?;
        let mut command = Tied::command(self.lab.binary("vmtide-bridge"));
        command.arg("run").arg("--config").arg(self.at("bridge.toml")).stderr(File::create(self.at("bridge.log"))?);
        self.bridge = Some(Tied::spawn("vmtide-bridge", &mut command)?);
        let client = self.client();
        wait_for("the bridge answers", BOOT_TIMEOUT, async || Ok(client.status().await.is_ok())).await
    }

    /// Kills the bridge.
    pub(super) fn kill_bridge(&mut self) {
        self.bridge = None;
    }

    /// Waits for a report of its agent; says when the bridge had it.
    pub(super) async fn reported(&self) -> Result<Instant> {
        let client = self.client();
        let waited = Instant::now();
        while waited.elapsed() < BOOT_TIMEOUT {
            if let Some(age_ms) = client.vm(self.name).await?.agent.demand_age_ms
                && let Some(at) = Instant::now().checked_sub(Duration::from_millis(age_ms))
            {
                return Ok(at);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("no report in {BOOT_TIMEOUT:?}")
    }

    /// Waits until the agent in the guest says that it has a session.
    pub(super) async fn connected(&self) -> Result<()> {
        let connected = "vmtide-agent status --json | grep -q '\"state\":\"connected\"'";
        wait_for("the agent has a session", BOOT_TIMEOUT, async || Ok(self.ask(connected).await?.code == 0)).await
    }

    /// Runs a shell line in the guest; its output without the last line's end, or an error when it fails.
    pub(super) async fn run(&self, line: &str) -> Result<String> {
        let output = self.ask(line).await?;
        if output.code != 0 {
            bail!("{}: `{line}` exited with {}: {}{}", self.name, output.code, output.stdout, output.stderr);
        }
        Ok(output.stdout.trim_end().to_owned())
    }

    /// Runs a shell line in the guest, whatever comes of it.
    pub(super) async fn ask(&self, line: &str) -> Result<Output> {
        self.guest()?.run(line).await
    }

    /// Writes an executable file into the guest.
    pub(super) async fn put(&self, from: &Path, to: &str) -> Result<()> {
        self.guest()?.put(to, &fs::read(from)?).await
    }

    /// What it wrote to its console.
    pub(super) fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.at("serial.log")).unwrap_or_default()).into_owned()
    }

    fn guest(&self) -> Result<&Guest> {
        self.running.as_ref().map(|running| &running.guest).with_context(|| format!("{} does not run", self.name))
    }

    fn client(&self) -> Client {
        Client::new(self.at("control.sock"))
    }

    fn at(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }
}
