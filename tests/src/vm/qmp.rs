//! The lab's own view of QEMU, independent of the bridge's client on purpose: it checks what that one claims.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::UnixStream,
    sync::Mutex,
    time::timeout,
};

/// QEMU answers from its main loop, which a busy host delays.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to one QMP socket.
#[derive(Debug)]
pub struct Qmp(Mutex<Wire>);

#[derive(Debug)]
struct Wire {
    stream: BufStream<UnixStream>,
    last_id: u64,
    /// Bytes of a line that a given up call had begun to read.
    line: Vec<u8>,
}

impl Qmp {
    /// Connects and leaves the negotiation mode.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).await.with_context(|| format!("{}: cannot connect", path.display()))?;
        let qmp = Self(Mutex::new(Wire { stream: BufStream::new(stream), last_id: 0, line: Vec::new() }));
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs a command; what QEMU returns.
    ///
    /// # Errors
    /// QEMU's own error, or that it did not answer within five seconds.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        let mut wire = self.0.lock().await;
        let answer = timeout(TIMEOUT, wire.call(command, arguments)).await;
        answer.with_context(|| format!("QMP {command}: no answer in {TIMEOUT:?}"))?
    }

    /// What the guest has now.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn allocation_bytes(&self) -> Result<u64> {
        let balloon = self.execute("query-balloon", json!({})).await?;
        let unballooned = balloon["actual"].as_u64().with_context(|| format!("no balloon size in {balloon}"))?;
        Ok(unballooned + self.plugged_bytes().await?)
    }

    /// What virtio-mem has plugged in, which the balloon does not know of.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn plugged_bytes(&self) -> Result<u64> {
        let devices = self.execute("query-memory-devices", json!({})).await?;
        let sizes = devices.as_array().into_iter().flatten().filter_map(|device| device["data"]["size"].as_u64());
        Ok(sizes.sum())
    }
}

impl Wire {
    /// A call that was given up may be answered late: ids tell the answers apart. Events and the greeting have none.
    async fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.last_id += 1;
        let line = json!({ "execute": command, "arguments": arguments, "id": self.last_id }).to_string();
        self.stream.write_all(line.as_bytes()).await?;
        self.stream.flush().await?;
        loop {
            if self.stream.read_until(b'\n', &mut self.line).await? == 0 {
                bail!("QMP {command}: QEMU closed the connection");
            }
            let line = std::mem::take(&mut self.line);
            let mut message: Value = serde_json::from_slice(&line).context("not QMP")?;
            if message["id"] != self.last_id {
                continue;
            }
            if let Some(error) = message.get("error") {
                bail!("QMP {command}: {error}");
            }
            return Ok(message["return"].take());
        }
    }
}
