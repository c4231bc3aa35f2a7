//! A bridge for tests, on a unix socket.

use crate::link::Address;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use vmtide_protocol::bridge::{Allocation, Intervals, Welcome};
use vmtide_protocol::{AgentMessage, BridgeMessage, decode, encode};

pub(crate) struct FakeBridge {
    listener: UnixListener,
    dir: TempDir,
}

impl FakeBridge {
    pub(crate) fn listen() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { listener: UnixListener::bind(dir.path().join("bridge")).unwrap(), dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("bridge")
    }

    pub(crate) fn address(&self) -> Address {
        Address::Unix(self.path())
    }

    /// The next agent that connects, before it said anything.
    pub(crate) async fn accept(&self) -> Guest {
        Guest { stream: BufReader::new(self.listener.accept().await.unwrap().0) }
    }

    /// The next agent, after hello and welcome.
    pub(crate) async fn welcome(&self) -> Guest {
        let mut guest = self.accept().await;
        assert!(matches!(guest.hears().await, AgentMessage::Hello(_)), "hello comes first");
        guest.says(&welcome()).await;
        guest
    }
}

pub(crate) fn welcome() -> BridgeMessage {
    let intervals = Intervals { busy_ms: 1_000, quiet_ms: 10_000 };
    BridgeMessage::Welcome(Welcome { protocol: 1, vm: "a".into(), intervals, allocation: Some(allocation(768)) })
}

pub(crate) fn allocation(mib: u64) -> Allocation {
    let bytes = mib * 1024 * 1024;
    Allocation { allocation_bytes: bytes, target_bytes: bytes, minimum_bytes: 0, maximum_bytes: bytes }
}

/// The bridge's end of a session.
pub(crate) struct Guest {
    stream: BufReader<UnixStream>,
}

impl Guest {
    /// The agent's next message.
    pub(crate) async fn hears(&mut self) -> AgentMessage {
        self.hears_or_end().await.expect("the agent closed the session")
    }

    /// The agent's next message; `None` when it closed the session.
    pub(crate) async fn hears_or_end(&mut self) -> Option<AgentMessage> {
        let mut line = Vec::new();
        if self.stream.read_until(b'\n', &mut line).await.unwrap_or(0) == 0 {
            return None;
        }
        assert_eq!(line.pop(), Some(b'\n'));
        decode(&line).unwrap().message
    }

    /// Whether the agent is silent for that long.
    pub(crate) async fn hears_nothing_for(&mut self, time: Duration) -> bool {
        timeout(time, self.stream.fill_buf()).await.is_err()
    }

    pub(crate) async fn says(&mut self, message: &BridgeMessage) {
        self.says_bytes(&encode(message).unwrap()).await;
    }

    pub(crate) async fn says_bytes(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }
}
