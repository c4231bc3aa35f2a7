//! Sessions as a guest and as the bridge see them.
//!
//! Time stands still and pipes stand in for sockets, so that a minute of silence takes no time and nothing depends
//! on the machine; only `sockets` uses real ones.

mod admission;
mod hostile;
mod messages;
mod sockets;

use super::desk::Desk;
use super::{GuestEvent, VmIndex, session};
use crate::config::{Address, VmConfig};
use crate::plan::{Limits, MIB};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::time::timeout;
use vmtide_protocol::bridge::{Allocation, Intervals, RejectReason};
use vmtide_protocol::{BridgeMessage, LineBuffer, decode};

const MAXIMUM: u64 = 1024 * MIB;
const HELLO: &str =
    r#"{"kind":"hello","protocol":{"min":1,"max":1},"agent":"0.1.0","kernel":"6.12","boot_id":"b1","capabilities":[]}"#;

fn vm(name: &str, address: Address) -> VmConfig {
    let limits = Limits { minimum_bytes: 64 * MIB, reservation_bytes: 0, maximum_bytes: MAXIMUM, shares: 1000 };
    VmConfig {
        name: name.to_owned(),
        limits,
        cpu: crate::config::CpuConfig::default(),
        io: crate::config::IoConfig::default(),
        qmp: format!("/run/{name}.qmp").into(),
        address,
    }
}

fn report(kind: &str, need: &str) -> String {
    format!(
        r#"{{"kind":"{kind}","sequence":1,"demand":{{"memory":{{"known":{{"need_bytes":{need},"floor_bytes":0,"urgency":"normal","reason":"steady","waiting_ms":0,"signals":{{}}}}}},"cpu":"not_yet","io":"not_yet"}}}}"#
    )
}

fn allocation(bytes: u64) -> Allocation {
    Allocation { allocation_bytes: bytes, target_bytes: bytes, minimum_bytes: 64 * MIB, maximum_bytes: MAXIMUM }
}

/// A bridge with two VMs and no listeners.
struct Bridge {
    desk: Arc<Desk>,
    stopping: watch::Sender<bool>,
}

impl Bridge {
    fn new() -> Self {
        let vms = [vm("a", Address::Cid(3)), vm("b", Address::Cid(4))];
        let desk = Arc::new(Desk::new(Intervals::default()));
        for vm in &vms {
            desk.add(vm);
        }
        Self { desk, stopping: watch::Sender::new(false) }
    }

    /// A connection of `vm` that said nothing yet.
    fn dial(&self, vm: VmIndex) -> Agent<DuplexStream> {
        self.dial_with_buffer(vm, 64 * 1024)
    }

    fn dial_with_buffer(&self, vm: VmIndex, bytes: usize) -> Agent<DuplexStream> {
        let (ours, theirs) = duplex(bytes);
        tokio::spawn(session::serve(self.desk.clone(), vm, theirs, self.stopping.subscribe()));
        Agent::new(ours)
    }

    /// A session of `vm`, of which the bridge has heard.
    async fn connected(&self, vm: VmIndex) -> Agent<DuplexStream> {
        let mut agent = self.dial(vm);
        agent.greet().await;
        assert!(matches!(self.event().await, (from, GuestEvent::Connected(_)) if from == vm));
        agent
    }

    async fn event(&self) -> (VmIndex, GuestEvent) {
        timeout(Duration::from_secs(60), self.desk.registry.next()).await.expect("an event")
    }

    async fn no_event(&self) -> bool {
        timeout(Duration::from_millis(1), self.desk.registry.next()).await.is_err()
    }
}

/// A guest's end of a connection.
struct Agent<S> {
    stream: S,
    lines: LineBuffer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Agent<S> {
    fn new(stream: S) -> Self {
        Self { stream, lines: LineBuffer::default() }
    }

    /// Sends a line; whether the bridge still takes it is its business.
    async fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes()).await;
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        let _hung_up = self.stream.write_all(bytes).await;
    }

    /// The next message; `None` when the bridge has hung up.
    async fn receive(&mut self) -> Option<BridgeMessage> {
        loop {
            if let Some(line) = self.lines.next_line().unwrap() {
                return decode(line).unwrap().message;
            }
            let mut chunk = [0; 1024];
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.lines.push(&chunk[..read]),
            }
        }
    }

    async fn greet(&mut self) {
        self.send(HELLO).await;
        assert!(matches!(self.receive().await, Some(BridgeMessage::Welcome(_))));
    }

    /// Reads to the end: why the bridge hung up.
    async fn rejected(&mut self) -> Option<RejectReason> {
        let mut reason = None;
        while let Some(message) = self.receive().await {
            if let BridgeMessage::Reject(reject) = message {
                reason = Some(reject.reason);
            }
        }
        reason
    }
}
