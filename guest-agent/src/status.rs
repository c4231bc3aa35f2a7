//! What a running agent tells about itself: one JSON object per connection on a unix socket.

use crate::demand::Mode;
use crate::link::LinkState;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{fs, time::Duration};
use tokio::net::UnixListener;
use vmtide_protocol::bridge::{Allocation, Host};
use vmtide_protocol::demand::Demand;

/// An agent that does not answer within this time hangs.
const PATIENCE: Duration = Duration::from_secs(2);
/// No status is longer.
const MOST_BYTES: u64 = 64 * 1024;

/// What a running agent does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub agent: String,
    /// Since it started.
    pub running_ms: u64,
    /// How closely it looks.
    pub mode: Mode,
    /// How often it looked.
    pub looks: u64,
    /// Whether the kernel wakes it when tasks wait for memory.
    pub stall_trigger: bool,
    /// Its session with the bridge.
    pub session: SessionStatus,
    /// Files of the guest that hold a value of vmtide's.
    pub tuned_files: usize,
    /// Units of knobs that an operator had reverted, and that are left alone since.
    pub held: BTreeSet<String>,
    /// What the bridge last said the host is short of.
    pub host: Host,
    /// What the bridge last said the VM has.
    pub allocation: Option<Allocation>,
    /// The last demand.
    pub demand: Demand,
}

/// An agent's session with the bridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Where the bridge listens.
    pub bridge: String,
    /// How it stands.
    pub state: LinkState,
    /// For how long it has stood so.
    pub state_ms: u64,
    /// The VM's name on its host, once a bridge has said it.
    pub vm: Option<String>,
    /// The protocol version of the last session.
    #[serde(default)]
    pub protocol: Option<u32>,
    /// Attempts to connect so far.
    pub attempts: u64,
    /// Why the last session ended, or did not begin.
    pub last_error: Option<String>,
    /// What the bridge said when it last rejected this VM.
    pub last_reject: Option<String>,
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody listens.
    #[error("no agent answers at {}; is vmtide-agent running?", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What came is no status.
    #[error("the agent at {} answers with what is no status", path.display())]
    Unreadable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Asks the agent that listens at `path`.
///
/// # Errors
/// [`StatusError`] when there is none, or it does not answer.
pub fn ask(path: &Path) -> Result<Status, StatusError> {
    let answer = || {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = Vec::new();
        stream.take(MOST_BYTES).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = answer().map_err(|source| StatusError::NotRunning { path: path.into(), source })?;
    serde_json::from_slice(&answer).map_err(|source| StatusError::Unreadable { path: path.into(), source })
}

/// Where a running agent answers. The socket's file goes away with it.
#[derive(Debug)]
pub struct StatusSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl StatusSocket {
    /// Listens at `path`, for its owner and group.
    ///
    /// # Errors
    /// `AddrInUse` when another agent answers there; else why the file cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        Ok(Self { path: path.into(), listener })
    }

    /// Answers the next one that asks, with what `status` returns then. Dropping the future loses nobody.
    pub async fn answer(&self, status: impl FnOnce() -> Status) {
        let Ok((stream, _)) = self.listener.accept().await else {
            // Out of descriptors, say: do not try again at once.
            return tokio::time::sleep(PATIENCE).await;
        };
        // A status fits the socket's buffer; one who does not take it gets none.
        if let (Ok(text), Ok(mut stream)) = (serde_json::to_vec(&status()), stream.into_std()) {
            stream.write_all(&text).ok();
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}
