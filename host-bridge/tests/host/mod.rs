//! A host with one VM for the tests of the daemon and the operator's command as processes.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]
#![allow(dead_code, reason = "no test needs all of it")]

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A host with one VM, `a`, whose QEMU is not there and whose agent may come.
pub struct Host {
    pub folder: TempDir,
}

impl Host {
    pub fn new(extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "[host]\ncapacity = '1GiB'\nreserve = '64MiB'\n[control]\nsocket = '{}'\n\
             [record]\ndirectory = '{}'\n[[vm]]\nname = 'a'\nminimum = '128MiB'\nmaximum = '512MiB'\nqmp = '{}'\nvsock = '{}'\n{extra}",
            path("control.sock"),
            path("record"),
            path("a.qmp"),
            path("a.vsock")
        );
        std::fs::write(folder.path().join("bridge.toml"), config).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn bridge(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmtide-bridge"));
        command.args([verb, "--config"]).arg(self.path("bridge.toml")).stderr(Stdio::piped());
        command
    }

    /// A running bridge that answers.
    pub fn start(&self) -> Bridge {
        self.answering(self.bridge("run"))
    }

    pub fn answering(&self, mut command: Command) -> Bridge {
        let bridge = Bridge(command.stderr(Stdio::null()).spawn().unwrap());
        let patience = Instant::now() + Duration::from_secs(20);
        while !self.vmtide(&["status"]).status.success() {
            assert!(Instant::now() < patience, "the bridge does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        bridge
    }

    pub fn vmtide(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vmtide"))
            .arg("--socket")
            .arg(self.path("control.sock"))
            .args(arguments)
            .output()
            .unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.vmtide(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Ended when the test ends, however it ends.
pub struct Bridge(pub Child);

impl Bridge {
    pub fn terminate(mut self) -> bool {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.0.wait().unwrap().success()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
