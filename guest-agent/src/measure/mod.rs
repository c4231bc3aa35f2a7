//! `vmtide-agent measure`: R, T and P of one command.
//!
//! ```text
//! samples each 100 ms: allocation, CPU time, stalls --> tally --> Measured
//! the command's own end: wall time, CPU time -------------'
//! ```
//!
//! Writes nothing and needs neither agent nor bridge: what the VM has, the guest sees in its own balloon. The terms are
//! those of `docs/performance-index.md`.

mod scope;
mod tally;

pub use scope::Scope;
pub use tally::{Measured, Part};

use crate::config::Config;
use crate::sense::{CpuReader, MemoryReader, SenseError};
use crate::status;
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use tally::{Sample, Tally};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// How often the allocation is looked at.
const EACH: Duration = Duration::from_millis(100);
/// The kernel brings its stalls up to date each two seconds.
const SETTLE: Duration = Duration::from_millis(2_100);
/// Of a longer run, what the last two seconds may lack is little.
const SHORT_RUN: Duration = Duration::from_secs(20);

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The command cannot be started.
    #[error("{command}: {}", if *.not_found { "no such command" } else { "cannot be run" })]
    Start {
        /// As it was given.
        command: String,
        /// Whether there is none of that name.
        not_found: bool,
        /// Why.
        source: io::Error,
    },
    /// The guest cannot be read.
    #[error(transparent)]
    Sense(#[from] SenseError),
    /// The command cannot be waited for, or signals cannot be received.
    #[error("the command cannot be waited for")]
    Wait(#[from] io::Error),
}

impl MeasureError {
    /// What a shell would exit with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start { not_found: true, .. } => 127,
            Self::Start { not_found: false, .. } => 126,
            Self::Sense(_) | Self::Wait(_) => 125,
        }
    }
}

/// Runs `command` (a program and its arguments) in the guest below `root` and measures until it ends. It is asked to end
/// when this process is; an interrupt from the terminal reaches it without help.
///
/// # Errors
/// [`MeasureError`]; the command has not run then, unless it cannot be waited for.
pub async fn measure(config: &Config, root: &Path, command: &[String]) -> Result<Measured, MeasureError> {
    let mut readers = Readers::open(config, root)?;
    // From here on an interrupt ends the command only, and what came of it is still told.
    let _interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut tally = Tally::new(readers.sample(Duration::ZERO)?);
    let started = Instant::now();
    let child = start(command)?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut waiting = tokio::task::spawn_blocking(move || wait(child));
    let (status, cpu) = loop {
        tokio::select! {
            ended = &mut waiting => break ended.map_err(io::Error::other)??,
            _ = terminate.recv() => {
                // It may have ended this very moment.
                kill(pid, Signal::SIGTERM).ok();
            }
            () = sleep(EACH) => tally.take(readers.sample(started.elapsed())?),
        }
    };
    let wall = started.elapsed();
    tally.take(readers.sample(wall)?);
    if wall < SHORT_RUN {
        sleep(SETTLE).await;
        tally.settle(readers.sample(wall)?);
    }
    Ok(tally.measured(command, status, cpu, &readers.scope, readers.maximum_bytes.is_some()))
}

fn start(command: &[String]) -> Result<Child, MeasureError> {
    let (program, arguments) = command.split_first().ok_or_else(|| io::Error::from(Errno::EINVAL))?;
    Command::new(program).args(arguments).spawn().map_err(|source| MeasureError::Start {
        command: program.clone(),
        not_found: source.kind() == io::ErrorKind::NotFound,
        source,
    })
}

/// How it ended and the CPU time that it took, with all whom it waited for.
fn wait(mut child: Child) -> io::Result<(ExitStatus, Duration)> {
    let status = child.wait()?;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let of = |time: TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0));
    Ok((status, of(usage.user_time()) + of(usage.system_time())))
}

/// What a shell exits with after such an end.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// What is looked at.
struct Readers {
    memory: MemoryReader,
    cpu: Option<CpuReader>,
    scope: Scope,
    /// What the operator lets the VM have at most, where an agent runs that was told.
    maximum_bytes: Option<u64>,
}

impl Readers {
    fn open(config: &Config, root: &Path) -> Result<Self, SenseError> {
        let agent = status::ask(&config.status_socket).ok();
        Ok(Self {
            memory: MemoryReader::open(root)?,
            cpu: CpuReader::open(root).ok(),
            scope: Scope::of_this_process(root)?,
            maximum_bytes: agent.and_then(|agent| agent.allocation).map(|allocation| allocation.maximum_bytes),
        })
    }

    fn sample(&mut self, at: Duration) -> Result<Sample, SenseError> {
        let memory = self.memory.sample()?;
        let present_bytes = memory.total_bytes.saturating_sub(memory.balloon_bytes);
        Ok(Sample {
            at_us: u64::try_from(at.as_micros()).unwrap_or(u64::MAX),
            present_bytes,
            maximum_bytes: self.maximum_bytes.unwrap_or(memory.total_bytes),
            cpu: self.cpu.as_mut().and_then(|cpu| cpu.sample().ok()),
            stalls: self.scope.sample()?,
        })
    }
}
