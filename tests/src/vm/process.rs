//! Child processes that cannot outlive the lab.

use std::{
    ffi::OsStr,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A child process; killed when dropped, and by the kernel when the thread that started it dies, however that is.
#[derive(Debug)]
pub struct Tied {
    name: String,
    child: Child,
}

impl Tied {
    /// A command whose process is killed together with the thread that spawns it. It is `setpriv` that asks the
    /// kernel for the death signal and then becomes the program, so the process id stays and no code of ours runs
    /// between fork and exec.
    pub fn command(program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Starts a [`Tied::command`].
    ///
    /// # Errors
    /// When `setpriv` (util-linux) cannot be started.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// What the process is, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Kills it by SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        self.kill();
    }
}
