//! `cargo lab scenario install`: what is installed works on a Debian 12 that boots, and is gone when it is removed.
//!
//! In: the packages of this commit and the examples of `packaging/cloud-init` as they stand. Out: for each way in whether the agent
//! runs, took its configuration and reports to a bridge on the host; the same for a reboot, an upgrade, a purge, and a guest that
//! has no vsock. The same guest is a host for a while, with a VM of its own, and then has the packages of rpm.

mod host;
mod image;
mod machine;
mod rpm;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{
    Lab,
    package::{self, Revision, Tree},
    prepare::{ensure_debian_tools, run, say, workspace_dir},
    vm::wait_for,
};
use image::Image;
use machine::Machine;

/// What the examples' user-data sets, as `config show --effective --origin` tells it.
const CONFIGURED: [&str; 2] = ["grant_ms = 3000", "log_level = \"debug\""];
const DROP_IN: &str = "/etc/vmtide/agent.conf.d/50-cloud-init.toml";

/// A guest under TCG finishes cloud-init in less than a minute when nothing else runs.
const TIMEOUT: Duration = Duration::from_secs(300);

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub struct Installed {
    /// The agent's package.
    pub deb_agent_bytes: u64,
    /// What worked.
    pub cases: Cases,
    /// From the start of the unit's process to its first report at the bridge, in the first boot of the package.
    pub boot_to_first_report_ms: Option<u64>,
    /// As systemd rates the units.
    pub security_score: Scores,
    /// What did not work, case by case.
    pub failures: Vec<String>,
}

/// Whether each case worked.
#[expect(clippy::struct_excessive_bools, reason = "independent of each other, and the form that the file has")]
#[derive(Debug, Default, Serialize)]
pub struct Cases {
    /// The package by user-data, reporting, and again after a reboot.
    pub package: bool,
    /// The static binary and the unit by user-data.
    pub r#static: bool,
    /// The module for cloud-init.
    pub module: bool,
    /// A later package keeps configuration and connection.
    pub upgrade: bool,
    /// The bridge's package where a QEMU runs, from its installation to its purge.
    pub bridge: bool,
    /// A purge leaves nothing behind.
    pub purge: bool,
    /// The packages of rpm: installed, upgraded, removed.
    pub rpm: bool,
    /// A guest without vsock: inactive and silent.
    pub no_vsock: bool,
}

/// `systemd-analyze security`.
#[derive(Debug, Default, Serialize)]
pub struct Scores {
    /// Of the agent's unit.
    pub agent: f64,
    /// Of the bridge's.
    pub bridge: f64,
}

impl Installed {
    /// Whether all of it worked.
    pub fn works(&self) -> bool {
        self.failures.is_empty()
    }

    fn fail(&mut self, case: &str, error: &anyhow::Error) {
        let failure = format!("{case}: {error:#}");
        say(&format!("install: failed: {failure}"));
        self.failures.push(failure);
    }
}

/// What the cases share.
struct Course {
    lab: &'static Lab,
    image: Image,
    deb: PathBuf,
    next_deb: PathBuf,
    /// Of the bridge, and a later one.
    bridge_debs: [PathBuf; 2],
    /// Of agent and bridge, and later ones.
    rpms: [PathBuf; 2],
    next_rpms: [PathBuf; 2],
    agent: PathBuf,
}

/// Runs all cases; one that fails does not keep the others from being tried.
///
/// # Errors
/// When packages or image cannot be built.
pub async fn measure(lab: &'static Lab) -> Result<Installed> {
    ensure_debian_tools()?;
    let tree = Tree::own();
    let release = tree.binaries()?;
    let into = tree.packages();
    let deb = tree.deb("vmtide-agent", Revision::Current, &into)?;
    let next_deb = tree.deb("vmtide-agent", Revision::Next, &release)?;
    let bridge_debs =
        [tree.deb("vmtide-bridge", Revision::Current, &into)?, tree.deb("vmtide-bridge", Revision::Next, &release)?];
    let rpms = |revision, into: &Path| -> Result<[PathBuf; 2]> {
        Ok([tree.rpm("vmtide-agent", revision, into)?, tree.rpm("vmtide-bridge", revision, into)?])
    };
    let (rpms, next_rpms) = (rpms(Revision::Current, &into)?, rpms(Revision::Next, &release)?);
    let agent = release.join("vmtide-agent");
    let mut found = Installed { deb_agent_bytes: fs::metadata(&deb)?.len(), ..Installed::default() };
    found.security_score.agent = package::exposure("vmtide-agent.service")?;
    found.security_score.bridge = package::exposure("vmtide-bridge.service")?;
    let course = Course { lab, image: image::ready()?, deb, next_deb, bridge_debs, rpms, next_rpms, agent };

    if let Err(error) = course.package(&mut found).await {
        found.fail("package", &error);
    }
    let cases =
        [("static", course.by_hand().await), ("module", course.module().await), ("no_vsock", course.no_vsock().await)];
    for (name, result) in cases {
        if let Err(error) = &result {
            found.fail(name, error);
        }
        match name {
            "static" => found.cases.r#static = result.is_ok(),
            "module" => found.cases.module = result.is_ok(),
            _ => found.cases.no_vsock = result.is_ok(),
        }
    }
    Ok(found)
}

fn example(name: &str) -> PathBuf {
    workspace_dir().join("packaging/cloud-init").join(name)
}

impl Course {
    /// The package, and what becomes of it later: one machine through its life.
    async fn package(&self, found: &mut Installed) -> Result<()> {
        let seed = [("user-data", example("package.yaml")), ("vmtide-agent.deb", self.deb.clone())];
        let mut machine = Machine::new("package", self.lab, &self.image, &seed, &[])?;
        machine.start_bridge().await?;
        say("install: the package by user-data");
        machine.boot(true).await?;
        found.boot_to_first_report_ms = Some(first_report_ms(&machine).await?);
        settled(&machine).await?;
        logged(&machine).await?;
        schemas(&machine).await?;
        misconfigured(&machine).await?;
        say("install: a reboot");
        machine.power_off().await?;
        machine.boot(true).await?;
        settled(&machine).await?;
        found.cases.package = true;

        say("install: an upgrade");
        self.upgrade(&machine).await.context("upgrade")?;
        found.cases.upgrade = true;

        say("install: the bridge on a host");
        host::bridge(&machine, self.lab, &self.bridge_debs).await.context("bridge")?;
        found.cases.bridge = true;

        say("install: a purge");
        purge(&mut machine).await.context("purge")?;
        found.cases.purge = true;

        say("install: the packages of rpm");
        machine.start_bridge().await?;
        rpm::life(&machine, &self.rpms, &self.next_rpms).await.context("rpm")?;
        found.cases.rpm = true;
        Ok(())
    }

    async fn upgrade(&self, machine: &Machine) -> Result<()> {
        machine.put(&self.next_deb, "/root/next.deb").await?;
        machine.run("sed -i '1i# an operator was here' /etc/vmtide/agent.toml").await?;
        let before = machine.run("systemctl show -P MainPID vmtide-agent").await?;

        // No space for the new one: the old one goes on.
        machine.run("fallocate -l $(($(stat -f -c '%a * %S' /) - 65536)) /root/full && dd if=/dev/zero of=/root/rest bs=4k; sync; true").await?;
        let full = machine.ask("dpkg --install /root/next.deb").await?;
        machine.run("rm -f /root/full /root/rest").await?;
        ensure!(full.code != 0 && full.stderr.contains("No space left"), "a full disk: {}", full.stderr);
        ensure!(
            machine.run("systemctl show -P MainPID vmtide-agent").await? == before,
            "the agent did not outlive a full disk"
        );
        // All that differs from the package that is installed is what an operator wrote.
        let state = machine
            .run("dpkg-query -W -f '${db:Status-Status} ${Version}' vmtide-agent; dpkg --audit; dpkg --verify vmtide-agent; find / -xdev -name '*.dpkg-new'")
            .await?;
        let whole = format!("installed {}-1??5?????? c /etc/vmtide/agent.toml", env!("CARGO_PKG_VERSION"));
        ensure!(state == whole, "half applied: {state}");

        // A kernel that is too old is said, and installed for.
        let old = "mkdir -p /root/old && printf '#!/bin/sh\necho 4.19.0-27-amd64\n' >/root/old/uname && chmod +x /root/old/uname && \
                   PATH=/root/old:$PATH dpkg --install /root/next.deb </dev/null 2>&1";
        let told = machine.run(old).await?;
        ensure!(told.contains("kernel 4.19.0-27-amd64 is older than 5.4"), "an old kernel: {told}");
        ensure!(machine.run("dpkg-query -W -f '${Version}' vmtide-agent").await?.ends_with("-2"), "not upgraded");
        machine.connected().await?;
        ensure!(machine.run("systemctl show -P MainPID vmtide-agent").await? != before, "the old agent still runs");
        machine.run("grep -q 'an operator was here' /etc/vmtide/agent.toml").await?;
        settled(machine).await
    }

    /// The static binary, without a package.
    async fn by_hand(&self) -> Result<()> {
        say("install: the static binary by user-data");
        let seed = [("user-data", example("static.yaml")), ("vmtide-agent", self.agent.clone())];
        let mut machine = Machine::new("static", self.lab, &self.image, &seed, &[])?;
        machine.start_bridge().await?;
        machine.boot(true).await?;
        settled(&machine).await
    }

    /// The module, in an image that has the agent's files.
    async fn module(&self) -> Result<()> {
        say("install: the module for cloud-init");
        let packaging = workspace_dir().join("packaging");
        let cat = run(Command::new("debugfs").args(["-R", "cat /etc/cloud/cloud.cfg"]).arg(&self.image.disk))?;
        let list = tempfile::NamedTempFile::new()?;
        fs::write(&list, cat.replace(" - scripts-user\n", " - vmtide\n - scripts-user\n"))?;
        let files = [
            (example("cc_vmtide.py"), "/usr/lib/python3/dist-packages/cloudinit/config/cc_vmtide.py"),
            (list.path().to_owned(), "/etc/cloud/cloud.cfg"),
            (self.agent.clone(), "/usr/bin/vmtide-agent"),
            (packaging.join("systemd/vmtide-agent.service"), "/usr/lib/systemd/system/vmtide-agent.service"),
            (packaging.join("systemd/vmtide.slice"), "/usr/lib/systemd/system/vmtide.slice"),
            (packaging.join("udev/60-vmtide-agent.rules"), "/usr/lib/udev/rules.d/60-vmtide-agent.rules"),
        ];
        let seed = [("user-data", example("module.yaml")), ("vendor-data", example("vendor-data.yaml"))];
        let mut machine = Machine::new("module", self.lab, &self.image, &seed, &files)?;
        machine.start_bridge().await?;
        machine.boot(true).await?;
        settled(&machine).await?;
        let shown = machine.run("vmtide-agent config show --effective --origin").await?;
        ensure!(shown.contains(&format!("tuning.mode = \"static\"  # {DROP_IN}")), "{shown}");
        machine.run("grep -q 'grant_ms = 4000' /usr/lib/vmtide/agent.conf.d/10-platform.toml").await.map(drop)
    }

    /// The package where there is no vsock.
    async fn no_vsock(&self) -> Result<()> {
        say("install: the package in a guest without vsock");
        let seed = [("user-data", example("package.yaml")), ("vmtide-agent.deb", self.deb.clone())];
        let mut machine = Machine::new("no-vsock", self.lab, &self.image, &seed, &[])?;
        machine.boot(false).await?;
        let expected = "lab-report: package=installed unit=inactive enabled=enabled failed=inactive lines=0 mentions=0";
        wait_for("the guest's report", TIMEOUT, async || Ok(machine.console().contains("lab-report: "))).await?;
        let console = machine.console();
        let line = console.lines().find(|line| line.contains("lab-report: ")).unwrap_or_default();
        ensure!(line.trim_end().ends_with(expected), "{line:?} is not {expected:?}");
        Ok(())
    }
}

/// From the start of the agent's process to the arrival of its first report, by the guest's clock: the report's time on the host is
/// told in that clock by asking the guest what time it is now.
async fn first_report_ms(machine: &Machine) -> Result<u64> {
    let reported = machine.reported().await?;
    let started = machine.run("systemctl show -P ExecMainStartTimestampMonotonic vmtide-agent").await?;
    let uptime = machine.run("cat /proc/uptime").await?;
    let since_report = reported.elapsed();
    let seconds: f64 = uptime.split(' ').next().context("no uptime")?.parse()?;
    let started = Duration::from_micros(started.parse()?);
    let at = Duration::from_secs_f64(seconds).saturating_sub(since_report);
    Ok(u64::try_from(at.saturating_sub(started).as_millis())?)
}

/// The agent is active, configured and connected once cloud-init has finished, and cloud-init has nothing to complain of.
async fn settled(machine: &Machine) -> Result<()> {
    let status = "cloud-init status --wait >/dev/null; cloud-init status --long";
    let status = machine.run(status).await?;
    ensure!(status.contains("status: done"), "cloud-init: {status}");
    wait_for("the unit is active", TIMEOUT, async || {
        Ok(machine.ask("systemctl is-active vmtide-agent").await?.code == 0)
    })
    .await?;
    machine.connected().await?;
    machine.reported().await?;
    let shown = machine.run("vmtide-agent config show --effective --origin").await?;
    for line in CONFIGURED {
        ensure!(shown.contains(&format!("{line}  # {DROP_IN}")), "not in effect: {line}\n{shown}");
    }
    // What the unit's own text promises.
    let shown =
        machine.run("systemctl show -P StatusText vmtide-agent; cat /sys/fs/cgroup/vmtide.slice/memory.min").await?;
    ensure!(shown.starts_with("VM ") && shown.ends_with("\n8388608"), "{shown}");
    Ok(())
}

/// Lines are the journal's own, with their rank and fields.
async fn logged(machine: &Machine) -> Result<()> {
    let lines = "journalctl --quiet --no-pager -o json -u vmtide-agent VMTIDE_VM=package";
    let lines = machine.run(lines).await?;
    for field in [
        "\"PRIORITY\":\"6\"",
        "\"SYSLOG_IDENTIFIER\":\"vmtide-agent\"",
        "\"MESSAGE\":\"session with the bridge vm=package",
    ] {
        ensure!(lines.contains(field), "no {field} in the journal: {lines}");
    }
    let knob = "journalctl --quiet --no-pager -o json -u vmtide-agent | grep -q '\"VMTIDE_KNOB\"'";
    wait_for("a knob's field", TIMEOUT, async || Ok(machine.ask(knob).await?.code == 0)).await
}

/// The examples are what cloud-init takes for its configuration.
async fn schemas(machine: &Machine) -> Result<()> {
    for name in ["package.yaml", "static.yaml", "vendor-data.yaml", "module.yaml"] {
        machine.put(&example(name), "/root/example.yaml").await?;
        let told = machine
            .run("cloud-init schema --config-file /root/example.yaml 2>&1")
            .await
            .with_context(|| name.to_owned())?;
        ensure!(told.contains("Valid"), "{name}: {told}");
    }
    Ok(())
}

/// A configuration that is refused is said so in one place, and the guest's knobs go back whatever it says.
async fn misconfigured(machine: &Machine) -> Result<()> {
    wait_for("knobs are set", TIMEOUT, async || {
        Ok(machine.ask("vmtide-agent status --json | grep -q '\"tuned_files\":0'").await?.code != 0)
    })
    .await?;
    let drop_in = "/etc/vmtide/agent.conf.d/99-wrong.toml";
    for (make, said) in [
        (format!("printf '\\001garbage' >{drop_in}"), "is not a valid configuration"),
        (format!("echo 'grant_ms = 500' >{drop_in}; chmod 666 {drop_in}"), "everybody may write to it (mode 0666)"),
        (
            format!("echo 'grant_ms = 500' >{drop_in}; chmod 644 {drop_in}; chown 4242 {drop_in}"),
            "belongs to user 4242",
        ),
    ] {
        machine.run(&make).await?;
        machine.run("systemctl kill --signal KILL vmtide-agent").await?;
        wait_for("the unit has failed", TIMEOUT, async || {
            Ok(machine.ask("systemctl is-failed vmtide-agent").await?.code == 0)
        })
        .await
        .with_context(|| make.clone())?;
        let log = machine.run("journalctl --quiet --no-pager -o cat -u vmtide-agent -p err -n 20").await?;
        ensure!(log.contains(said) && log.contains("99-wrong.toml"), "{make}: {log}");
        let journal = machine.run("vmtide-agent revert --all 2>/dev/null").await?;
        ensure!(journal == "nothing holds a value of vmtide's", "{make}: not put back: {journal}");
        machine.run(&format!("rm {drop_in}; systemctl start vmtide-agent")).await?;
        machine.connected().await?;
    }
    Ok(())
}

/// All that is named after the project in files, units, users and groups, what belongs to nobody, and the device that only the
/// agent's rule has systemd see.
const TRACES: &str = "udevadm settle; systemctl --quiet is-active dev-vsock.device && echo dev-vsock.device; \
                      find / -xdev '(' -path '*vmtide*' -o -nouser -o -nogroup ')' -not -path '/var/lib/cloud/*' -not -path '/proc/*' -not -path '/sys/*'; \
                      ls -d /run/vmtide* /sys/fs/cgroup/vmtide.slice /sys/fs/cgroup/system.slice/vmtide* 2>/dev/null; \
                      getent passwd vmtide; getent group vmtide; systemctl list-unit-files --no-legend '*vmtide*'; \
                      systemctl list-units --all --no-legend '*vmtide*'; dpkg --get-selections | grep vmtide; true";

/// Purges the package and looks for what is left of it.
async fn purge(machine: &mut Machine) -> Result<()> {
    // One minute without a bridge: it is told of once, not at each attempt.
    let before = Instant::now();
    machine
        .run("sed -i s/debug/info/ /etc/vmtide/agent.conf.d/50-cloud-init.toml; systemctl restart vmtide-agent")
        .await?;
    machine.connected().await?;
    machine.kill_bridge();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let since = before.elapsed().as_secs();
    let lines = machine
        .run(&format!("journalctl --quiet --no-pager -o cat -u vmtide-agent --since -{since}s | grep -c 'session'"))
        .await?;
    ensure!(lines.parse::<u32>()? <= 6, "{lines} lines about sessions in a minute without a bridge");

    let paths = "grep -o '\"path\":\"[^\"]*\"' /run/vmtide/tuning.journal | cut -d'\"' -f4 | sort -u";
    let paths = machine.run(paths).await?;
    ensure!(!paths.is_empty(), "no knob was set, so nothing could be left behind");
    machine.run("dpkg --purge vmtide-agent").await?;
    for path in paths.lines() {
        let before = machine.run(&format!("grep '^{path}:' /var/lib/lab-before")).await?;
        let now = machine.run(&format!("grep -H . {path}")).await?;
        ensure!(before == now, "a knob is left: {now}, was {before}");
    }
    let left = machine.run(TRACES).await?;
    ensure!(left.is_empty(), "left behind:\n{left}");
    Ok(())
}

/// The workspace's copy of an example holds another file of it, word for word.
///
/// # Errors
/// When a file cannot be read.
pub fn holds(yaml: &Path, file: &Path) -> Result<bool> {
    let text = fs::read_to_string(yaml).with_context(|| format!("{}: cannot read", yaml.display()))?;
    let file = fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))?;
    let indented = file.lines().map(|line| if line.is_empty() { "\n".into() } else { format!("      {line}\n") });
    Ok(text.contains(&indented.collect::<String>()))
}
