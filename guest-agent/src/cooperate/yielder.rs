//! Carries out `yield_memory`, on a thread of its own: a write to `memory.reclaim` takes as long as it takes.

use super::yielding::{Next, Reading, Stop, Yield};
use crate::demand::margin_bytes;
use crate::sense::{MemoryReader, MemorySample, SenseError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io, thread};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};
use vmtide_protocol::agent::{Reply, ReplyStatus};
use vmtide_protocol::bridge::YieldMemory;

/// Reclaims from the whole guest, at the root of cgroup v2, since Linux 5.19.
pub const RECLAIM: &str = "/sys/fs/cgroup/memory.reclaim";
/// Nobody waits longer for memory.
const LONGEST_MS: u64 = 60_000;
/// The thread is to be done by a tenth of the time, or this, before the reply is due.
const AHEAD_MS: u64 = 50;
const MIB: u64 = 1024 * 1024;

/// Frees memory for the bridge, one request at a time.
#[derive(Debug)]
pub struct Yielder {
    root: PathBuf,
    /// The request that has no reply yet.
    open: Option<Open>,
    /// Set while a thread reclaims, which a deadline does not end at once.
    works: Arc<AtomicBool>,
    cancel: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Open {
    id: u64,
    wanted_bytes: u64,
    deadline: Instant,
    result: oneshot::Receiver<Result<End, SenseError>>,
}

/// What came of a request.
#[derive(Clone, Copy, Debug)]
struct End {
    stop: Stop,
    spare_bytes: u64,
}

impl Yielder {
    /// For the guest below `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), open: None, works: Arc::default(), cancel: Arc::default() }
    }

    /// Whether memory is being freed.
    pub fn works(&self) -> bool {
        self.works.load(Ordering::Relaxed)
    }

    /// Begins; the reply comes from [`Self::reply`], or at once when the request is refused.
    pub fn begin(&mut self, request: YieldMemory) -> Option<Reply> {
        let YieldMemory { id, bytes: wanted_bytes, deadline_ms } = request;
        if self.open.is_some() || self.works.swap(true, Ordering::Relaxed) {
            return Some(refused(id, "an earlier request is still being carried out"));
        }
        let deadline_ms = deadline_ms.min(LONGEST_MS);
        let (done, result) = oneshot::channel();
        self.cancel = Arc::default();
        let (root, works, cancel) = (self.root.clone(), Arc::clone(&self.works), Arc::clone(&self.cancel));
        let work_ms = deadline_ms - AHEAD_MS.min(deadline_ms / 10);
        let work = move || {
            let end = free(&root, wanted_bytes, work_ms, &cancel);
            works.store(false, Ordering::Relaxed);
            // Who waited may have replied by the deadline.
            done.send(end).ok();
        };
        if let Err(error) = thread::Builder::new().name("yield".into()).stack_size(128 * 1024).spawn(work) {
            self.works.store(false, Ordering::Relaxed);
            return Some(refused(id, &format!("no thread: {error}")));
        }
        let deadline = Instant::now() + Duration::from_millis(deadline_ms);
        self.open = Some(Open { id, wanted_bytes, deadline, result });
        None
    }

    /// The reply to the request that was begun, by its deadline; never without one. Dropping the future loses nothing.
    pub async fn reply(&mut self) -> Reply {
        let Some(open) = &mut self.open else { return std::future::pending().await };
        let end = tokio::select! {
            biased;
            end = &mut open.result => end.ok(),
            () = sleep_until(open.deadline) => {
                // A step takes longer than any before it; it ends after this one.
                self.cancel.store(true, Ordering::Relaxed);
                Some(look(&self.root).map(|now| End { stop: Stop::Deadline, spare_bytes: now.spare_bytes() }))
            }
        };
        let (id, wanted_bytes) = (open.id, open.wanted_bytes);
        self.open = None;
        match end {
            Some(Ok(end)) => end.reply(id, wanted_bytes),
            Some(Err(error)) => refused(id, &crate::full_text(&error)),
            None => refused(id, "the agent failed"),
        }
    }

    /// Ends what is being done; nobody gets a reply.
    pub fn stop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        self.open = None;
    }
}

impl End {
    fn reply(self, id: u64, wanted_bytes: u64) -> Reply {
        let amount = self.spare_bytes.min(wanted_bytes);
        let status = match self.stop {
            _ if amount == wanted_bytes => ReplyStatus::Done,
            Stop::AtTheFloor if amount == 0 => ReplyStatus::Refused,
            _ => ReplyStatus::Partial,
        };
        let (spare_mib, wanted_mib, text) = (self.spare_bytes / MIB, wanted_bytes / MIB, self.stop.text());
        info!(id, ?status, wanted_mib, spare_mib, "asked to yield: {text}");
        let detail =
            (status != ReplyStatus::Done).then(|| format!("{text}: {spare_mib} of {wanted_mib} MiB are spare"));
        Reply { id, status, amount: amount.into(), detail }
    }
}

fn refused(id: u64, why: &str) -> Reply {
    Reply { id, status: ReplyStatus::Refused, amount: 0.into(), detail: Some(why.into()) }
}

/// Frees memory until there is a reason to stop.
fn free(root: &Path, wanted_bytes: u64, deadline_ms: u64, cancel: &AtomicBool) -> Result<End, SenseError> {
    let began = std::time::Instant::now();
    let now_ms = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut memory = MemoryReader::open(root)?;
    let mut request = Yield::new(wanted_bytes, deadline_ms);
    let reclaim = root.join(RECLAIM.trim_start_matches('/'));
    let mut now = reading(&memory.sample()?);
    let stop = loop {
        let bytes = match request.next(now_ms(), &now) {
            Next::Stop(stop) => break stop,
            Next::Reclaim { .. } if cancel.load(Ordering::Relaxed) => break Stop::Deadline,
            Next::Reclaim { bytes } => bytes,
        };
        let step = std::time::Instant::now();
        match fs::OpenOptions::new().write(true).open(&reclaim).and_then(|file| write(file, bytes)) {
            // EAGAIN: it found less than that; how much, free memory tells.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                warn!("cannot reclaim by {}: {error}", reclaim.display());
                break Stop::Unable;
            }
            _ => {}
        }
        let took_ms = u64::try_from(step.elapsed().as_millis()).unwrap_or(u64::MAX);
        thread::sleep(Duration::from_millis(Yield::pause_ms(took_ms)));
        now = reading(&memory.sample()?);
    };
    Ok(End { stop, spare_bytes: now.spare_bytes() })
}

fn write(mut file: fs::File, bytes: u64) -> io::Result<()> {
    io::Write::write_all(&mut file, bytes.to_string().as_bytes())
}

fn look(root: &Path) -> Result<Reading, SenseError> {
    Ok(reading(&MemoryReader::open(root)?.sample()?))
}

fn reading(sample: &MemorySample) -> Reading {
    Reading {
        free_bytes: sample.free_bytes,
        available_bytes: sample.available_bytes,
        margin_bytes: margin_bytes(sample),
        stalled_us: sample.stall.map_or(0, |stall| stall.some_us),
        missed_bytes: sample.refault_file_bytes.saturating_add(sample.swap_in_bytes.max(sample.refault_anon_bytes)),
    }
}
