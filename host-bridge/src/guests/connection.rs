//! One connection: bytes to messages within the bounds of time, size and number, and messages to bytes.

use super::event::End;
use super::limit::Bucket;
use serde::Serialize;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use vmtide_protocol::bridge::Reject;
use vmtide_protocol::{AgentMessage, BridgeMessage, Decoded, LineBuffer, decode, encode};

/// A line has to end within this time after its first byte.
pub(super) const LINE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is sent has to be taken within this time.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The last word has to be taken within this time.
const REJECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Lines: this many at once, then ten a second; a busy agent sends five.
pub(super) const LINE_BURST: u32 = 20;
const LINE_INTERVAL: Duration = Duration::from_millis(100);
/// Lines beyond that are dropped, this many before it counts as a flood; then one a second is forgiven. It is what
/// a busy agent sends while the bridge itself stands still for half a minute.
pub(super) const PATIENCE_BURST: u32 = 200;
const PATIENCE_INTERVAL: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 4096;

pub(super) struct Connection<S> {
    stream: S,
    lines: LineBuffer,
    chunk: Box<[u8; CHUNK_BYTES]>,
    /// When the first byte of an unfinished line came.
    line_began: Option<Instant>,
    /// When the last line ended.
    heard: Instant,
    /// A guest that says nothing for this long is gone.
    silence: Duration,
    budget: Bucket,
    patience: Bucket,
    dropped_lines: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, silence: Duration) -> Self {
        let now = Instant::now();
        Self {
            stream,
            lines: LineBuffer::default(),
            chunk: Box::new([0; CHUNK_BYTES]),
            line_began: None,
            heard: now,
            silence,
            budget: Bucket::new(LINE_BURST, LINE_INTERVAL, now),
            patience: Bucket::new(PATIENCE_BURST, PATIENCE_INTERVAL, now),
            dropped_lines: 0,
        }
    }

    /// The next message. May be abandoned without losing a byte.
    pub(super) async fn receive(&mut self) -> Result<Decoded<AgentMessage>, End> {
        loop {
            let now = Instant::now();
            while let Some(line) = self.lines.next_line()? {
                self.line_began = None;
                self.heard = now;
                if self.budget.take(now) {
                    return Ok(decode(line)?);
                }
                self.dropped_lines += 1;
                if !self.patience.take(now) {
                    return Err(End::TooMany);
                }
            }
            let (deadline, late) = if self.lines.is_partial() {
                (*self.line_began.get_or_insert(now) + LINE_TIMEOUT, End::SlowLine(LINE_TIMEOUT))
            } else {
                (self.heard + self.silence, End::Silent(self.silence))
            };
            let read = timeout_at(deadline, self.stream.read(&mut self.chunk[..])).await.map_err(|_| late)??;
            if read == 0 {
                return Err(End::Closed);
            }
            self.lines.push(&self.chunk[..read]);
        }
    }

    /// How many lines were dropped since the last call.
    pub(super) fn take_dropped_lines(&mut self) -> u64 {
        std::mem::take(&mut self.dropped_lines)
    }

    pub(super) async fn send(&mut self, message: &impl Serialize) -> Result<(), End> {
        let line = encode(message)?;
        timeout(WRITE_TIMEOUT, self.stream.write_all(&line)).await.map_err(|_| End::NotReading(WRITE_TIMEOUT))??;
        Ok(())
    }

    /// Tells the guest why, where that can be, and hangs up.
    pub(super) async fn close(mut self, end: &End) {
        let last_word = async {
            if let Some(reason) = end.reject_reason() {
                let reject = BridgeMessage::Reject(Reject { reason, message: end.to_string() });
                if let Ok(line) = encode(&reject) {
                    self.stream.write_all(&line).await?;
                }
            }
            self.stream.shutdown().await
        };
        // Whether the guest takes it or not, the connection is over.
        let _delivered = timeout(REJECT_TIMEOUT, last_word).await;
    }
}
