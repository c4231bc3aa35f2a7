//! The recording of a running bridge: a thread of its own, so that no disk holds up a plan.
//!
//! ```text
//!  Bridge --records--> bounded queue --> thread --> Writer --> segments
//! ```
//!
//! When the queue is full, records are dropped. When the disk does not take them, or the folder cannot be had, they are
//! dropped too, and it is tried again each minute. Both are logged when they begin and when they end, not in between;
//! [`Recorder::health`] tells at any time.

use super::entry::{Ended, Header, Tick};
use super::health::Health;
use super::store::StoreError;
use super::writer::Writer;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// Records that wait for the disk: a minute of a calm host.
const WAITING_RECORDS: usize = 64;
/// What was written is synced this often.
const SYNC_EACH: Duration = Duration::from_secs(10);
/// After a failure it is tried again this often.
const RETRY_EACH: Duration = Duration::from_secs(60);
/// How long the bridge waits for the last records when it stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Something to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A plan.
    Tick(Box<Tick>),
    /// What came of a decision.
    Ended(Ended),
}

/// What the queue holds.
enum Item {
    Record(Record),
    /// What follows is another run.
    Header(Box<Header>),
}

/// The bridge's end of the queue.
#[derive(Debug)]
pub struct Recorder {
    queue: SyncSender<Item>,
    /// A new run's header that the queue had no room for: what follows means nothing before it.
    waiting: Option<Header>,
    stopped: Receiver<()>,
    health: watch::Receiver<Health>,
    /// Since the queue is full.
    dropped: u64,
    /// Each time that it was full before.
    dropped_before: u64,
}

impl Recorder {
    /// Records in segments in `folder`, of at most `cap_bytes` together. Does not wait for the disk.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(folder: PathBuf, cap_bytes: u64, header: Header) -> std::io::Result<Self> {
        let (queue, records) = mpsc::sync_channel(WAITING_RECORDS);
        let (stopping, stopped) = mpsc::channel();
        let (tell, health) = watch::channel(Health { folder: folder.clone(), cap_bytes, ..Health::default() });
        std::thread::Builder::new().name("record".to_owned()).spawn(move || {
            Scribe { folder, cap_bytes, header, writer: None, failed: None, health: tell }.run(&records);
            let _ = stopping.send(());
        })?;
        Ok(Self { queue, waiting: None, stopped, health, dropped: 0, dropped_before: 0 })
    }

    /// How it goes.
    pub fn health(&self) -> Health {
        let mut health = self.health.borrow().clone();
        health.lost_records += self.dropped_before + self.dropped;
        health
    }

    /// Says that what follows is another run: another policy, or other VMs.
    pub fn begin(&mut self, header: Header) {
        self.waiting = Some(header);
    }

    /// Hands over a record, or drops it when the disk is that far behind.
    pub fn record(&mut self, record: Record) {
        if let Some(header) = &self.waiting
            && self.queue.try_send(Item::Header(Box::new(header.clone()))).is_ok()
        {
            self.waiting = None;
        }
        let sent = self.waiting.is_none() && self.queue.try_send(Item::Record(record)).is_ok();
        if sent {
            let dropped = std::mem::take(&mut self.dropped);
            self.dropped_before += dropped;
            if dropped > 0 {
                tracing::info!(dropped, "the disk takes records again; the history has a gap");
            }
        } else {
            if self.dropped == 0 {
                tracing::warn!("the disk is slower than the bridge: records are dropped");
            }
            self.dropped += 1;
        }
    }

    /// Waits until all that was handed over is on the disk, but not for a disk that hangs.
    pub fn stop(self) {
        drop(self.queue);
        let _ = self.stopped.recv_timeout(STOP_TIMEOUT);
    }
}

/// The thread's side.
struct Scribe {
    folder: PathBuf,
    cap_bytes: u64,
    header: Header,
    writer: Option<Writer>,
    /// When it failed last.
    failed: Option<Instant>,
    health: watch::Sender<Health>,
}

impl Scribe {
    fn run(mut self, records: &Receiver<Item>) {
        let mut synced = Instant::now();
        loop {
            match records.recv_timeout(SYNC_EACH) {
                Ok(Item::Record(record)) => self.take(record),
                Ok(Item::Header(header)) => {
                    // Its folder is locked until it is gone.
                    self.writer = None;
                    self.header = *header;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if synced.elapsed() >= SYNC_EACH {
                // While it fails, the next try is a record's.
                if let Some(writer) = self.writer.as_mut().filter(|_| self.failed.is_none())
                    && let Err(error) = writer.sync()
                {
                    self.fail(&error);
                }
                synced = Instant::now();
            }
        }
    }

    fn take(&mut self, record: Record) {
        if self.failed.is_some_and(|at| at.elapsed() < RETRY_EACH) {
            return self.health.send_modify(|health| health.lost_records += 1);
        }
        match self.write(record) {
            // An outcome without its plan: nothing was tried.
            Ok(None) => {}
            Ok(Some(bytes)) => {
                if self.failed.take().is_some() {
                    tracing::info!(folder = %self.folder.display(), "the history is recorded again");
                }
                self.health.send_modify(|health| health.worked(unix_ms(), bytes));
            }
            Err(error) => {
                self.health.send_modify(|health| health.lost_records += 1);
                self.fail(&error);
            }
        }
    }

    /// What all segments have now; `None` when the record was none to write.
    fn write(&mut self, record: Record) -> Result<Option<u64>, StoreError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(Writer::open(&self.folder, self.cap_bytes, self.header.clone())?),
        };
        match record {
            Record::Tick(tick) => writer.tick(*tick)?,
            Record::Ended(_) if !writer.has_begun() => return Ok(None),
            Record::Ended(ended) => writer.ended(ended)?,
        }
        Ok(Some(writer.bytes()))
    }

    fn fail(&mut self, error: &StoreError) {
        if self.failed.replace(Instant::now()).is_none() {
            tracing::warn!("the history is not recorded, and tried again each minute: {error}");
        }
        self.health.send_modify(|health| health.failed(unix_ms(), error.to_string()));
    }
}

fn unix_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}
