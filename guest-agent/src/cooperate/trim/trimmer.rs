//! Carries out `trim_storage`, on a thread of its own: the kernel discards as long as it takes.

use super::fitrim::{self, Opened};
use super::pass::{Stop, Tally, is_busy, ranges, rest_ms};
use super::{FileSystem, file_systems};
use crate::sense::PressureReader;
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tracing::info;
use vmtide_protocol::agent::{Reply, ReplyStatus};
use vmtide_protocol::bridge::TrimStorage;

/// Nobody waits longer.
const LONGEST: Duration = Duration::from_secs(3_600);
/// What makes it able, where the unit's own rights do not.
const NOT_ALLOWED: &str = "cannot: the agent has no CAP_SYS_ADMIN, which the drop-in trim.conf gives it";

/// Gives blocks back for the bridge, one request at a time.
#[derive(Debug)]
pub struct Trimmer {
    root: PathBuf,
    open: Option<Open>,
    /// Set while a thread is at it, which a deadline does not end at once.
    works: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Open {
    id: u64,
    deadline: Instant,
    done: oneshot::Receiver<()>,
    pass: Arc<Pass>,
}

/// What the thread and who waits for it share.
#[derive(Debug, Default)]
struct Pass {
    cancel: AtomicBool,
    tally: Mutex<Tally>,
}

impl Trimmer {
    /// For the guest below `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), open: None, works: Arc::default() }
    }

    /// Whether this agent may give blocks back and there is a file system that has some.
    pub fn is_able(&self) -> bool {
        self.candidates().is_ok()
    }

    fn candidates(&self) -> Result<Vec<FileSystem>, String> {
        if !fitrim::is_allowed(&self.root) {
            return Err(NOT_ALLOWED.to_owned());
        }
        match file_systems(&self.root) {
            Err(error) => Err(format!("cannot: /proc/self/mountinfo: {error}")),
            Ok(found) if found.is_empty() => Err("cannot: no file system is on a disk that takes discards".to_owned()),
            Ok(found) => Ok(found),
        }
    }

    /// Begins; the reply comes from [`Self::reply`], or at once when the request is refused.
    pub fn begin(&mut self, request: TrimStorage) -> Option<Reply> {
        let TrimStorage { id, deadline_ms } = request;
        let found = match self.candidates() {
            Ok(found) => found,
            Err(why) => return Some(refused(id, why)),
        };
        if self.open.is_some() || self.works.swap(true, Ordering::Relaxed) {
            return Some(refused(id, "an earlier request is still being carried out".to_owned()));
        }
        let pass = Arc::new(Pass::default());
        let (finished, done) = oneshot::channel();
        let (root, works, shared) = (self.root.clone(), Arc::clone(&self.works), Arc::clone(&pass));
        let work = move || {
            shared.walk(&root, &found);
            works.store(false, Ordering::Relaxed);
            // Who waited may have replied by the deadline.
            finished.send(()).ok();
        };
        if let Err(error) = thread::Builder::new().name("trim".into()).stack_size(128 * 1024).spawn(work) {
            self.works.store(false, Ordering::Relaxed);
            return Some(refused(id, format!("no thread: {error}")));
        }
        let deadline = Instant::now() + Duration::from_millis(deadline_ms).min(LONGEST);
        self.open = Some(Open { id, deadline, done, pass });
        None
    }

    /// The reply to the request that was begun, by its deadline. Dropping the future loses nothing.
    pub async fn reply(&mut self) -> Reply {
        let Some(open) = &mut self.open else { return std::future::pending().await };
        let is_done = tokio::select! {
            biased;
            done = &mut open.done => Some(done.is_ok()),
            () = sleep_until(open.deadline) => None,
        };
        // The range that is under way ends by itself.
        open.pass.cancel.store(true, Ordering::Relaxed);
        let mut tally = open.pass.tally().clone();
        let id = open.id;
        self.open = None;
        match is_done {
            Some(false) => return refused(id, "the agent failed".to_owned()),
            None => tally.stop = Some(Stop::Deadline),
            Some(true) => {}
        }
        let reply = told(id, &tally);
        info!(id, status = ?reply.status, "asked to give blocks back: {}", reply.detail.as_deref().unwrap_or_default());
        reply
    }

    /// Ends what is under way after its range; nobody gets a reply.
    pub fn stop(&mut self) {
        if let Some(open) = self.open.take() {
            open.pass.cancel.store(true, Ordering::Relaxed);
        }
    }
}

impl Pass {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        // Every state of it is a whole one.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One file system after the other.
    fn walk(&self, root: &Path, found: &[FileSystem]) {
        let mut stalls = Stalls::open(root);
        let stop = found.iter().find_map(|file_system| self.trim(file_system, &mut stalls));
        self.tally().stop = stop;
    }

    /// All ranges of one; why to stop.
    fn trim(&self, file_system: &FileSystem, stalls: &mut Stalls) -> Option<Stop> {
        let at = file_system.mounted_at.display().to_string();
        let opened = match Opened::open(file_system) {
            Ok(opened) => opened,
            Err(why) => {
                self.tally().each.push((at, Err(why)));
                return None;
            }
        };
        // Before the first range as well: a guest may be busy already.
        let mut took_ms = 0;
        for (start_bytes, length_bytes) in ranges(opened.size_bytes) {
            let rest_ms = rest_ms(took_ms);
            if is_busy(stalls.over(rest_ms), rest_ms) {
                return Some(Stop::Busy);
            }
            if self.cancel.load(Ordering::Relaxed) {
                return Some(Stop::Deadline);
            }
            let began = std::time::Instant::now();
            let trimmed = opened.trim(start_bytes, length_bytes);
            took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            if !self.count(&at, trimmed) {
                return None;
            }
        }
        None
    }

    /// Whether to go on with this file system.
    fn count(&self, at: &str, trimmed: Result<u64, Errno>) -> bool {
        let mut tally = self.tally();
        let is_known = tally.each.last().is_some_and(|(known, _)| known == at);
        match (trimmed, tally.each.last_mut()) {
            (Ok(bytes), Some((_, Ok(sum)))) if is_known => *sum = sum.saturating_add(bytes),
            // What it gave before counts; the rest of it is tried no more.
            (Err(_), Some((_, Ok(_)))) if is_known => return false,
            (Ok(bytes), _) => tally.each.push((at.to_owned(), Ok(bytes))),
            (Err(Errno::ENOTTY | Errno::EOPNOTSUPP), _) => {
                tally.each.push((at.to_owned(), Err("it does not know how".to_owned())));
            }
            (Err(error), _) => tally.each.push((at.to_owned(), Err(error.desc().to_owned()))),
        }
        trimmed.is_ok()
    }
}

/// How long tasks wait for I/O; nothing without PSI, where only the deadline ends a walk early.
struct Stalls(Option<PressureReader>);

impl Stalls {
    fn open(root: &Path) -> Self {
        Self(PressureReader::open(root, "io").ok())
    }

    fn stalled_us(&mut self) -> u64 {
        self.0.as_mut().and_then(|reader| reader.sample().ok().flatten()).map_or(0, |stall| stall.some_us)
    }

    /// Rests, and returns what others waited meanwhile, microseconds.
    fn over(&mut self, rest_ms: u64) -> u64 {
        let before_us = self.stalled_us();
        thread::sleep(Duration::from_millis(rest_ms));
        self.stalled_us().saturating_sub(before_us)
    }
}

fn told(id: u64, tally: &Tally) -> Reply {
    let status = match tally.stop {
        Some(_) => ReplyStatus::Partial,
        None if tally.is_in_vain() => ReplyStatus::Refused,
        None => ReplyStatus::Done,
    };
    Reply { id, status, amount: tally.bytes().into(), detail: Some(tally.text()) }
}

fn refused(id: u64, why: String) -> Reply {
    Reply { id, status: ReplyStatus::Refused, amount: 0.into(), detail: Some(why) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::write;
    use std::os::unix::fs::{FileExt, symlink};
    use tempfile::TempDir;

    const ABLE: &str = "CapEff:\t0000000000200000\n";

    /// A guest in which the kernel's /proc is mounted on a disk: it says what it cannot.
    fn guest(capabilities: &str, most: &str) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/self/status", capabilities);
        write(root.path(), "proc/self/mountinfo", "1 0 0:9 / /proc rw - ext4 /dev/vda rw\n");
        write(root.path(), "sys/devices/vda/queue/discard_max_bytes", most);
        std::fs::create_dir_all(root.path().join("sys/class/block")).unwrap();
        symlink(root.path().join("sys/devices/vda"), root.path().join("sys/class/block/vda")).unwrap();
        root
    }

    fn asks(trimmer: &mut Trimmer) -> Option<Reply> {
        trimmer.begin(TrimStorage { id: 3, deadline_ms: 60_000 })
    }

    #[tokio::test]
    async fn an_agent_without_the_right_or_a_disk_says_what_it_lacks() {
        for (capabilities, most, why) in [
            ("CapEff:\t0000000001000000\n", "4096\n", NOT_ALLOWED),
            (ABLE, "0\n", "cannot: no file system is on a disk that takes discards"),
        ] {
            let root = guest(capabilities, most);
            let mut trimmer = Trimmer::new(root.path());
            assert!(!trimmer.is_able());
            assert_eq!(asks(&mut trimmer), Some(refused(3, why.to_owned())));
        }
    }

    #[tokio::test]
    async fn a_file_system_that_does_not_know_how_is_named_and_a_second_request_waits_for_nobody() {
        let root = guest(ABLE, "4096\n");
        let mut trimmer = Trimmer::new(root.path());
        assert!(trimmer.is_able());
        assert_eq!(asks(&mut trimmer), None);
        assert!(asks(&mut trimmer).unwrap().detail.unwrap().starts_with("an earlier request"));
        let reply = trimmer.reply().await;
        assert_eq!((reply.status, reply.amount), (ReplyStatus::Refused, 0.into()));
        assert!(reply.detail.unwrap().starts_with("/proc: cannot: "));
        assert_eq!(asks(&mut trimmer), None, "the next one is taken");
    }

    #[tokio::test]
    async fn the_deadline_is_kept_while_the_kernel_is_at_it() {
        let root = guest(ABLE, "4096\n");
        let mut trimmer = Trimmer::new(root.path());
        assert_eq!(trimmer.begin(TrimStorage { id: 3, deadline_ms: 0 }), None);
        let reply = trimmer.reply().await;
        assert_eq!((reply.status, reply.detail.as_deref()), (ReplyStatus::Partial, Some("stopped by the deadline")));
    }

    #[test]
    fn a_busy_guest_is_left_alone() {
        let root = guest(ABLE, "4096\n");
        write(root.path(), "proc/pressure/io", "some avg10=0 total=000000000\n");
        let pressure = std::fs::File::options().write(true).open(root.path().join("proc/pressure/io")).unwrap();
        let file_system = FileSystem { mounted_at: "/".into(), device: None };
        let pass = Pass::default();
        thread::scope(|scope| {
            let walk = scope.spawn(|| pass.walk(root.path(), &[file_system]));
            // Whenever its rest before the first range is: others wait all the time, and each reading is a whole one.
            let began = std::time::Instant::now();
            while !walk.is_finished() {
                let line = format!("some avg10=0 total={:09}\n", began.elapsed().as_micros());
                pressure.write_all_at(line.as_bytes(), 0).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
            walk.join().unwrap();
        });
        assert_eq!(*pass.tally(), Tally { each: Vec::new(), stop: Some(Stop::Busy) });
    }

    #[test]
    fn what_ranges_give_adds_up_and_an_error_ends_only_its_file_system() {
        let pass = Pass::default();
        assert!(pass.count("/", Ok(5)) && pass.count("/", Ok(6)));
        assert!(!pass.count("/", Err(Errno::EIO)));
        assert!(!pass.count("/data", Err(Errno::EOPNOTSUPP)));
        let expected = [("/".to_owned(), Ok(11)), ("/data".to_owned(), Err("it does not know how".to_owned()))];
        assert_eq!(pass.tally().each, expected);
        let reply = told(1, &pass.tally());
        assert_eq!((reply.status, reply.amount), (ReplyStatus::Done, 11.into()));
    }
}
