//! A real guest whose agent tunes it, and a bridge of the test's own that says what the host is short of.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::watch,
};
use vmtide_lab::{Kernel, Lab, Vm, VmConfig, vm::ZRAM_MODULES, wait_for};

/// Generous: two cores that translate run all of it.
pub const SOON: Duration = Duration::from_secs(30);

/// Files that hold the same limit as a knob's.
const TWINS: [&str; 2] = ["/proc/sys/vm/dirty_ratio", "/proc/sys/vm/dirty_background_ratio"];

const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// What each file holds.
pub type Files = BTreeMap<String, String>;

/// A guest with zram loaded, no agent yet, and what the test's bridge heard.
pub struct Guest {
    pub vm: Vm,
    short: watch::Sender<bool>,
    heard: Arc<Mutex<Vec<String>>>,
    files: Vec<String>,
}

/// One file of a knob, as `tuning list --json` has it.
#[derive(Debug)]
pub struct Row {
    pub knob: String,
    pub path: String,
    pub wanted: String,
    pub standing: String,
    pub detail: String,
    pub mode: String,
    pub risk: String,
}

impl Guest {
    /// Boots a guest and prepares it: every file of the catalogue is known, no agent runs.
    pub async fn boot(kernel: Kernel, mib: u64) -> Result<Self> {
        let vm = Lab::ready()?.launch(VmConfig::new("tuned", kernel).memory_mib(mib).vcpus(2).disk_mib(64)).await?;
        vm.load(&ZRAM_MODULES).await?;
        // A second or more after it has booted, a kernel goes from its first clock to the better one by itself.
        wait_for("the kernel has settled on a clock", SOON, async || {
            Ok(!["jiffies", "refined-jiffies", "tsc-early"].contains(&vm.read(CLOCK, 0).await?.trim()))
        })
        .await?;
        let (short, hints) = watch::channel(false);
        let heard = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(bridge(vm.listen(7670)?, hints, Arc::clone(&heard)));
        vm.run("mkdir -p /tmp/tuning.d && : >/tmp/agent.toml").await?;
        let mut guest = Self { vm, short, heard, files: Vec::new() };
        guest.files =
            guest.rows().await?.into_iter().filter(|row| row.standing != "absent").map(|row| row.path).collect();
        guest.files.retain(|path| path.starts_with("/proc/") || path.starts_with("/sys/"));
        guest.files.retain(|path| !path.starts_with("/sys/class/"));
        guest.files.extend(TWINS.map(Into::into));
        Ok(guest)
    }

    /// Writes the agent's configuration: the overall mode, and more of the section on tuning.
    pub async fn configure(&self, mode: &str, also: &str) -> Result<()> {
        let text = format!(
            "bridge = \"vsock://2:7670\"\n[tuning]\nmode = \"{mode}\"\ncatalogue = \"/tmp/tuning.d\"\n{also}\n"
        );
        self.vm.put("/tmp/agent.toml", text.as_bytes()).await
    }

    /// What would only be told or tried becomes static: set at once. The overall mode must let each knob have its own.
    pub async fn set_all_at_once(&self, more: &str) -> Result<()> {
        let mut text = more.to_owned();
        for row in self.rows().await?.iter().filter(|row| row.mode == "observe") {
            // A knob of each disk has a row for each.
            let entry = format!("\n[[knob]]\nid = \"{}\"\nmode = \"static\"\n", row.knob);
            text += if text.contains(&entry) { "" } else { &entry };
        }
        self.vm.put("/tmp/tuning.d/all.toml", text.as_bytes()).await
    }

    /// Starts an agent whose host is short of everything, and waits until nothing waits to be set.
    pub async fn start(&self) -> Result<u32> {
        self.short.send_replace(true);
        let pid = self.vm.start("agent", "vmtide-agent run --config /tmp/agent.toml").await?;
        self.looked().await?;
        Ok(pid)
    }

    /// The host is short of everything, or of nothing; waits until the agent acted on it.
    pub async fn host_is_short(&self, short: bool) -> Result<()> {
        self.short.send_replace(short);
        self.looked().await
    }

    async fn looked(&self) -> Result<()> {
        let short = *self.short.borrow();
        wait_for("the agent knows what the host is short of", SOON, async || {
            let Ok(status) = self.vm.run("vmtide-agent status --json --config /tmp/agent.toml").await else {
                return Ok(false);
            };
            let status: Value = serde_json::from_str(&status)?;
            Ok(status["host"]["io_short"] == short)
        })
        .await
        .with_context(|| self.vm.serial_log())?;
        // The agent's look follows what it heard; the status is answered after it.
        self.vm.run("vmtide-agent status --config /tmp/agent.toml").await.map(drop)
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(&self, pid: u32) -> Result<()> {
        self.vm.run(&format!("kill -TERM {pid}")).await?;
        wait_for("the agent has stopped", SOON, async || Ok(!self.runs(pid).await?)).await
    }

    /// SIGKILL, and waits for its end.
    pub async fn kill(&self, pid: u32) -> Result<()> {
        self.vm.kill(pid).await?;
        wait_for("the agent is dead", SOON, async || Ok(!self.runs(pid).await?)).await
    }

    /// Whether the agent with this pid runs; one that ended is nobody's to wait for.
    pub async fn runs(&self, pid: u32) -> Result<bool> {
        let state = self.vm.try_run(&format!("grep State: /proc/{pid}/status")).await?;
        Ok(state.code == 0 && !state.stdout.contains('Z'))
    }

    /// What the agent's own command says of each file.
    pub async fn rows(&self) -> Result<Vec<Row>> {
        let text = self.vm.run("vmtide-agent tuning list --json --config /tmp/agent.toml").await?;
        let list: Value = serde_json::from_str(&text)?;
        ensure!(list["errors"].as_array().is_some_and(Vec::is_empty), "{}", list["errors"]);
        let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), Into::into);
        let row = |row: &Value| Row {
            knob: word(&row["knob"]),
            path: word(&row["path"]),
            wanted: word(&row["wanted"]),
            standing: word(&row["standing"]),
            detail: word(&row["detail"]),
            mode: word(&row["mode"]),
            risk: word(&row["risk"]),
        };
        Ok(list["knobs"].as_array().context("no knobs")?.iter().map(row).collect())
    }

    /// How a knob stands, and why.
    pub async fn stands(&self, knob: &str) -> Result<(String, String)> {
        let row = self.rows().await?.into_iter().find(|row| row.knob == knob).context("no such knob")?;
        Ok((row.standing, row.detail))
    }

    /// What the kernel's files hold: read by the test, not by the agent.
    pub async fn files(&self) -> Result<Files> {
        let line = format!("for file in {}; do echo \"$file=$(cat $file)\"; done", self.files.join(" "));
        let text = self.vm.run(&line).await?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(path, text)| (path.into(), holds(text)))
            .collect())
    }

    /// What one file holds.
    pub async fn holds(&self, path: &str) -> Result<String> {
        Ok(holds(&self.vm.read(path, 0).await?))
    }

    /// Events of the agent that contain `what`.
    pub fn heard(&self, what: &str) -> Vec<String> {
        let heard = self.heard.lock().map(|heard| heard.clone()).unwrap_or_default();
        heard.into_iter().filter(|event| event.contains(what)).collect()
    }
}

/// The choice that the kernel marks by brackets, a number without its leading zeros, or all of it.
fn holds(text: &str) -> String {
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(chosen, _)| chosen);
    let text = chosen.unwrap_or(text).trim();
    match text.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16)) {
        Some(Ok(number)) => number.to_string(),
        _ => text.into(),
    }
}

/// Welcomes each agent, tells it what the host is short of whenever that changes, and keeps its events.
async fn bridge(listener: UnixListener, hints: watch::Receiver<bool>, heard: Arc<Mutex<Vec<String>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(session(stream, hints.clone(), Arc::clone(&heard)));
    }
}

async fn session(stream: UnixStream, mut hints: watch::Receiver<bool>, heard: Arc<Mutex<Vec<String>>>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await?;
    let intervals = json!({ "busy_ms": 500, "quiet_ms": 500 });
    let welcome = json!({ "kind": "welcome", "protocol": 1, "vm": "tuned", "intervals": intervals });
    stream.write_all(format!("{welcome}\n").as_bytes()).await?;
    hints.mark_changed();
    line.clear();
    loop {
        tokio::select! {
            length = stream.read_until(b'\n', &mut line) => {
                ensure!(length? > 0, "the agent is gone");
                let message: Value = serde_json::from_slice(&std::mem::take(&mut line))?;
                if let (Some(text), Ok(mut heard)) = (message["message"].as_str(), heard.lock()) {
                    heard.push(text.to_owned());
                }
            }
            changed = hints.changed() => {
                changed?;
                let short = *hints.borrow_and_update();
                let host = json!({ "kind": "host", "cpu_short": short, "memory_short": short, "io_short": short });
                stream.write_all(format!("{host}\n").as_bytes()).await?;
            }
        }
    }
}
