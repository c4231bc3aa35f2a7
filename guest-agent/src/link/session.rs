//! One session with a bridge: hello, welcome, then messages both ways.

use super::{Address, News, stream::Stream};
use crate::said::Said;
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{trace, warn};
use vmtide_protocol::agent::Hello;
use vmtide_protocol::bridge::{RejectReason, Welcome};
use vmtide_protocol::{AgentMessage, BridgeMessage, DecodeError, FrameError, LineBuffer, SUPPORTED, decode, encode};

/// A bridge that takes no byte for this long is gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 4 * 1024;
/// A bridge's explanation is kept to this length.
const EXPLANATION_CHARS: usize = 200;

/// Why a session ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    #[error("the bridge closed the connection")]
    Closed,
    #[error("the bridge did not answer within {waited:?}")]
    Silent { waited: Duration },
    #[error("the bridge sent what is no line")]
    Frame(#[from] FrameError),
    #[error("the bridge sent what is no message")]
    Decode(#[from] DecodeError),
    #[error("the bridge began with something other than a welcome")]
    NoWelcome,
    #[error("the bridge speaks protocol {chosen}, this agent {} to {}", SUPPORTED.min, SUPPORTED.max)]
    Version { chosen: u32 },
    #[error("the bridge rejects this VM ({reason:?}): {message}")]
    Rejected { reason: RejectReason, message: String },
}

impl SessionError {
    /// Whether the next attempt will end the same way unless an operator does something.
    pub(super) fn lasts(&self) -> bool {
        match self {
            Self::Version { .. } => true,
            Self::Rejected { reason, .. } => {
                matches!(reason, RejectReason::UnknownVm | RejectReason::Version | RejectReason::Replaced)
            }
            _ => false,
        }
    }
}

/// A connection, and the line that is on its way in.
#[derive(Debug)]
pub(super) struct Session {
    stream: Stream,
    lines: LineBuffer,
    chunk: Box<[u8; READ_BYTES]>,
    sequence: u64,
}

impl Session {
    pub(super) async fn connect(address: &Address) -> Result<Self, SessionError> {
        let stream = Stream::connect(address).await.map_err(SessionError::Connect)?;
        Ok(Self { stream, lines: LineBuffer::default(), chunk: Box::new([0; READ_BYTES]), sequence: 0 })
    }

    /// Says hello; returns the bridge's welcome.
    pub(super) async fn greet(&mut self, hello: &Hello, unknown: &mut Said) -> Result<Welcome, SessionError> {
        self.send(AgentMessage::Hello(hello.clone())).await?;
        match self.receive(unknown).await? {
            BridgeMessage::Welcome(welcome) if (SUPPORTED.min..=SUPPORTED.max).contains(&welcome.protocol) => {
                Ok(welcome)
            }
            BridgeMessage::Welcome(welcome) => Err(SessionError::Version { chosen: welcome.protocol }),
            BridgeMessage::Reject(reject) => Err(rejected(reject.reason, &reject.message)),
            _ => Err(SessionError::NoWelcome),
        }
    }

    /// Carries messages both ways; `Ok` once the outbox is closed and empty.
    pub(super) async fn carry(
        &mut self,
        outbox: &mut mpsc::Receiver<AgentMessage>,
        news: &mpsc::Sender<News>,
        unknown: &mut Said,
    ) -> Result<(), SessionError> {
        loop {
            tokio::select! {
                message = outbox.recv() => match message {
                    Some(message) => self.send(message).await?,
                    None => return Ok(()),
                },
                message = self.receive(unknown) => self.take(message?, news).await?,
            }
        }
    }

    /// Acts on a message of a session that runs.
    async fn take(&mut self, message: BridgeMessage, news: &mpsc::Sender<News>) -> Result<(), SessionError> {
        let news_of = match message {
            BridgeMessage::Reject(reject) => return Err(rejected(reject.reason, &reject.message)),
            // A session that runs begins no second time.
            BridgeMessage::Welcome(_) => return Ok(()),
            BridgeMessage::Allocation(allocation) => News::Allocation(allocation),
            BridgeMessage::Host(host) => News::Host(host),
            BridgeMessage::PauseTuning(request) => News::PauseTuning(request),
            BridgeMessage::YieldMemory(request) => News::YieldMemory(request),
            BridgeMessage::SetOnlineCpus(request) => News::SetOnlineCpus(request),
            BridgeMessage::TrimStorage(request) => News::TrimStorage(request),
        };
        // The loop takes news whenever it waits; it goes away only together with the outbox.
        news.send(news_of).await.ok();
        Ok(())
    }

    async fn send(&mut self, mut message: AgentMessage) -> Result<(), SessionError> {
        if let AgentMessage::Report(report) | AgentMessage::Urgent(report) = &mut message {
            self.sequence += 1;
            report.sequence = self.sequence;
        }
        trace!(?message, "to the bridge");
        // One write for a whole line: some vsock devices forward each write by itself.
        let written = timeout(WRITE_PATIENCE, self.stream.write_all(&encode(&message)?)).await;
        Ok(written.map_err(|_| SessionError::Silent { waited: WRITE_PATIENCE })??)
    }

    /// The next message that this agent knows. Dropping the future loses nothing.
    async fn receive(&mut self, unknown: &mut Said) -> Result<BridgeMessage, SessionError> {
        loop {
            while let Some(line) = self.lines.next_line()? {
                let decoded = decode::<BridgeMessage>(line)?;
                for what in decoded.unknown.iter().filter(|what| unknown.is_new(what)) {
                    warn!("skipping what this agent does not know in the bridge's messages: {what}");
                }
                if let Some(message) = decoded.message {
                    trace!(?message, "from the bridge");
                    return Ok(message);
                }
            }
            match self.stream.read(&mut self.chunk[..]).await? {
                0 => return Err(SessionError::Closed),
                bytes => self.lines.push(&self.chunk[..bytes]),
            }
        }
    }
}

fn rejected(reason: RejectReason, message: &str) -> SessionError {
    SessionError::Rejected { reason, message: message.chars().take(EXPLANATION_CHARS).collect() }
}
