//! A client for the QEMU Machine Protocol: greeting, capabilities, one command at a time, events.
//!
//! Commands and events are JSON objects, a line each (QEMU, docs/interop/qmp-spec). Unknown events are handed
//! on like any other: a new QEMU must not break an old bridge.

use super::super::Error;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long an answer may take. A monitor answers in well under a millisecond unless QEMU is stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// No answer that is asked for here comes near this.
const LONGEST_ANSWER_BYTES: usize = 1 << 20;
/// Events that wait for [`Qmp::event`]; beyond this the oldest go. Each only says "read the state again".
const MOST_EVENTS: usize = 64;

/// An event as QEMU sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name, such as `BALLOON_CHANGE`.
    pub name: String,
    /// What it carries; `Null` for nothing.
    pub data: Value,
}

/// A connection to a monitor.
#[derive(Debug)]
pub struct Qmp {
    path: PathBuf,
    stream: UnixStream,
    received: Vec<u8>,
    events: VecDeque<Event>,
    next_id: u64,
}

impl Qmp {
    /// Connects to the monitor at `path` and leaves its negotiation mode.
    ///
    /// # Errors
    /// [`Error::Absent`] when nobody listens, [`Error::Timeout`] when the monitor does not greet (QEMU is stuck, or
    /// somebody else holds this monitor), [`Error::Senseless`] when it is no QMP monitor.
    pub async fn connect(path: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(path).await.map_err(|source| {
            let path = path.display().to_string();
            match source.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => Error::Absent { path, source },
                _ => Error::Lost { path, source },
            }
        })?;
        let mut qmp = Self { path: path.to_owned(), stream, received: Vec::new(), events: VecDeque::new(), next_id: 1 };
        let greeting = match timeout(ANSWER_TIMEOUT, qmp.line()).await {
            Err(_) => return Err(qmp.timed_out("the greeting")),
            Ok(line) => line.map_err(|source| qmp.lost(source))?,
        };
        if greeting.get("QMP").is_none() {
            return Err(qmp.senseless("the greeting", "it has no \"QMP\"".to_owned()));
        }
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// The process on the other side, where the kernel tells.
    pub fn peer_pid(&self) -> Option<i32> {
        self.stream.peer_cred().ok()?.pid()
    }

    /// Runs a command and returns what it returned.
    ///
    /// # Errors
    /// [`Error::Refused`] with QEMU's words; any other error ends the connection.
    pub async fn execute(&mut self, command: &'static str, arguments: Value) -> Result<Value, Error> {
        let id = self.next_id;
        self.next_id += 1;
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        match timeout(ANSWER_TIMEOUT, self.round_trip(&line, id)).await {
            Err(_) => Err(self.timed_out(command)),
            Ok(Err(source)) => Err(self.lost(source)),
            Ok(Ok(mut answer)) => {
                if let Some(value) = answer.get_mut("return") {
                    return Ok(value.take());
                }
                match answer.pointer("/error/desc").and_then(Value::as_str) {
                    Some(words) => Err(Error::Refused { path: self.path(), command, message: words.to_owned() }),
                    None => Err(self.senseless(command, "neither return nor error".to_owned())),
                }
            }
        }
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Lost`] when the connection ends.
    pub async fn event(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let line = self.line().await.map_err(|source| self.lost(source))?;
            self.keep_event(&line);
        }
    }

    async fn round_trip(&mut self, line: &str, id: u64) -> io::Result<Value> {
        self.stream.write_all(line.as_bytes()).await?;
        loop {
            let line = self.line().await?;
            if line.get("id").and_then(Value::as_u64) == Some(id) {
                return Ok(line);
            }
            self.keep_event(&line);
        }
    }

    fn keep_event(&mut self, line: &Value) {
        if let Some(name) = line.get("event").and_then(Value::as_str) {
            if self.events.len() == MOST_EVENTS {
                self.events.pop_front();
            }
            let data = line.get("data").cloned().unwrap_or(Value::Null);
            self.events.push_back(Event { name: name.to_owned(), data });
        }
    }

    /// The next line as JSON. Cancel safe: what was received stays in the buffer.
    async fn line(&mut self) -> io::Result<Value> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|error| io::Error::new(ErrorKind::InvalidData, error));
            }
            if self.received.len() > LONGEST_ANSWER_BYTES {
                return Err(io::Error::new(ErrorKind::InvalidData, "a line without end"));
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "the monitor closed the connection"));
            }
        }
    }

    pub(super) fn path(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn senseless(&self, command: &'static str, message: String) -> Error {
        Error::Senseless { path: self.path(), command, message }
    }

    fn lost(&self, source: io::Error) -> Error {
        Error::Lost { path: self.path(), source }
    }

    fn timed_out(&self, command: &'static str) -> Error {
        let timeout_ms = u64::try_from(ANSWER_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        Error::Timeout { path: self.path(), command, timeout_ms }
    }
}
