//! `vmtide-bridge tune`: the tuner as a process, until it is told to stop; then all goes back.

use super::tuner::{Tuner, TunerError};
use crate::config::Config;
use crate::host::HostError;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};
use vmtide_tuning::confine::{confine, files_of};
use vmtide_tuning::hand::Undone;
use vmtide_tuning::inventory::now_ms;
use vmtide_tuning::{control, full_text};

/// How often the host is looked at: trials want windows of two seconds.
const EACH: Duration = Duration::from_secs(2);

/// Why the tuner could not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// It could not start.
    #[error(transparent)]
    Start(#[from] TunerError),
    /// The host cannot be read any more; all was put back.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It cannot wait for a signal.
    #[error("cannot wait for signals")]
    Signal(#[source] io::Error),
}

/// Tunes this host by `config` until SIGTERM or SIGINT, then puts back what it set. By a mode that sets nothing it puts back
/// what a killed tuner left, and ends.
///
/// # Errors
/// [`DaemonError`]; nothing is left set then either.
pub async fn run(config: &Config) -> Result<(), DaemonError> {
    let signals = |kind| signal(kind).map_err(DaemonError::Signal);
    let (mut terminate, mut interrupt) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let mut hangup = signals(SignalKind::hangup())?;
    let tuning = &config.tuning;
    let mut tuner = Tuner::start(Path::new("/"), tuning, config.policy.clone(), now_ms())?;
    if !tuning.mode.writes() {
        info!("nothing to do: tuning.mode sets nothing; `vmtide tuning list` tells what static and adaptive would set");
        return Ok(());
    }
    let (sender, mut requests) = mpsc::channel(1);
    let _listening = control::listen(&tuning.journal, sender)
        .inspect_err(|error| warn!("`vmtide tuning revert` will not reach this tuner: {error}"));
    // From here on it writes the journal and the knobs that there are, and nothing else.
    let own = tuning.journal.parent().unwrap_or(Path::new("/"));
    let _confined = confine(&[own], &files_of(tuner.catalogue()))
        .inspect_err(|error| warn!("the tuner may write more than it has to: {}", full_text(error)));
    let mut ticks = tokio::time::interval(EACH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    info!(mode = ?tuning.mode, "tuning this host");
    let end = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            // Nobody loses what was set because a terminal went away.
            _ = hangup.recv() => info!("a changed configuration is taken in by a restart"),
            Some((request, reply)) = requests.recv() => {
                reply.send(tuner.serve(&request, now_ms())).ok();
            }
            _ = ticks.tick() => {
                if let Err(error) = tuner.tend(now_ms()) {
                    break Err(error);
                }
            }
        }
    };
    let undone = tuner.stop(now_ms());
    let kept = undone.iter().filter(|file: &&Undone| file.outcome.is_none()).count();
    info!("put back {} files, {kept} could not be", undone.len() - kept);
    Ok(end?)
}
