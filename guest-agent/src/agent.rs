//! The loop: look, estimate, tell the bridge, sleep until it is time or something happens.
//!
//! ```text
//!            time is up, stall triggers, welcome, host hints
//!   +-------------------------------------------------------+
//!   v                                                       |
//! look -> demand -> report, urgent or nothing -> tune -> sleep <-> allocation, status asked, revert asked
//!                                                           |
//!                                                           v
//!                                                         stop: puts the knobs back, says so, ends the session
//! ```
//!
//! The link has a task of its own, so that neither a slow bridge nor none holds up the looking.

use crate::alarm::CpuAlarm;
use crate::config::Config;
use crate::cooperate::{Onliner, Trimmer, Yielder};
use crate::demand::{Mode, Pace, Schedule, interval_ms};
use crate::link::{self, Backoff, BackoffError, Link, LinkStatus, News};
use crate::observer::{Observation, Observer};
use crate::sense::working_set::{Leisure, Sampler};
use crate::sense::{SenseError, StallTrigger};
use crate::status::{SessionStatus, Status, StatusSocket};
use crate::supervisor::Supervisor;
use crate::tune::Tuner;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};
use vmtide_protocol::agent::{Event, EventKind, Hello, Reply, ReplyStatus};
use vmtide_protocol::bridge::{Allocation, Host, Intervals, PauseTuning};
use vmtide_protocol::{AgentMessage, SUPPORTED};
use vmtide_tuning::control::{self, Asked};
use vmtide_tuning::{facts::version, inventory, journal::LockError};

/// Messages that wait for a bridge that does not read: few, as they grow stale.
const OUTBOX_MESSAGES: usize = 4;
const NEWS_MESSAGES: usize = 8;
/// Tuning events that wait for a session; older ones are in the journal.
const UNSAID_EVENTS: usize = 16;
/// An event is for a person.
const MOST_EVENT_CHARS: usize = 400;
/// How long a stopping agent tries to say so.
const FAREWELL: Duration = Duration::from_secs(1);
/// The second look, when there is no demand yet.
const FIRST_LOOK_MS: u64 = 1_000;
/// A quiet agent lets its wake-ups be moved by this much, to fall together with others.
const QUIET_SLACK_NS: u64 = 100_000_000;
/// What a bridge may ask of the intervals, milliseconds.
const SHORTEST_INTERVAL_MS: u64 = 100;
const LONGEST_INTERVAL_MS: u64 = 600_000;
/// What this agent can tell.
const CAPABILITIES: [&str; 5] = ["memory", "cpu", "io", "pause_tuning", "yield_memory"];
/// What it can tell where CPUs can come and go.
const ONLINE_CPUS: &str = "set_online_cpus";
/// The same where unused blocks can be given back.
const TRIM: &str = "trim_storage";

/// Why an agent could not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The guest's memory cannot be read.
    #[error(transparent)]
    Sense(#[from] SenseError),
    /// The VM has an agent: two would take the session from each other.
    #[error("another agent answers at {}", path.display())]
    AlreadyRunning {
        /// The status socket.
        path: PathBuf,
    },
    /// The same, as its lock on the journal says.
    #[error("another agent runs")]
    Locked(#[from] LockError),
    /// A wrong constant.
    #[error(transparent)]
    Backoff(#[from] BackoffError),
}

/// Why an agent ended that was asked to.
#[derive(Debug)]
pub enum End {
    /// For good.
    Stop,
    /// To run anew by another configuration, in the same process.
    Reload(Box<Config>),
}

/// What carries out the bridge's requests.
struct Helpers {
    yielder: Yielder,
    onliner: Onliner,
    trimmer: Trimmer,
}

impl Helpers {
    /// Ends what is under way, and takes back what was done for a bridge that is not there.
    fn stop(&mut self) {
        self.yielder.stop();
        self.onliner.stop();
        self.trimmer.stop();
    }
}

/// The loop's state.
struct Agent {
    config: Config,
    started: Instant,
    observer: Observer,
    trigger: StallTrigger,
    alarm: CpuAlarm,
    pace: Pace,
    schedule: Schedule,
    tuner: Tuner,
    /// When the agent started, milliseconds since boot: the tuner's times outlive it.
    boot_ms: u64,
    unsaid: VecDeque<String>,
    host: Host,
    connected: bool,
    intervals: Intervals,
    allocation: Option<Allocation>,
    outbox: mpsc::Sender<AgentMessage>,
    link: watch::Receiver<LinkStatus>,
    looks: u64,
}

/// Senses the guest below `root`, tunes it by `tuner` and keeps the bridge and the `supervisor` informed, until `stop` returns; then
/// all that it changed goes back. Returns what `stop` did.
///
/// # Errors
/// [`AgentError`] when the guest's memory cannot be read, or another agent runs. Once it runs, only `stop` ends it.
pub async fn run(
    config: Config,
    root: &Path,
    mut tuner: Tuner,
    supervisor: &mut Supervisor,
    stop: impl Future<Output = End>,
) -> Result<End, AgentError> {
    let boot_ms = inventory::now_ms();
    let (observer, trigger, status) = match senses(&config, root) {
        Ok(senses) => senses,
        Err(error) => {
            tuner.stop(boot_ms);
            return Err(error);
        }
    };
    let (asked, mut requests) = mpsc::channel(1);
    let control = control::listen(&config.tuning.journal, asked)
        .inspect_err(|error| warn!("`vmtide-agent revert` will not reach this agent: {error}"));
    let (outbox, from_agent) = mpsc::channel(OUTBOX_MESSAGES);
    let (to_agent, mut news) = mpsc::channel(NEWS_MESSAGES);
    let backoff = Backoff::new(link::SHORTEST, link::LONGEST)?;
    let onliner = Onliner::new(root, config.tuning.folder());
    let mut helpers = Helpers { yielder: Yielder::new(root), onliner, trimmer: Trimmer::new(root) };
    let able = [(ONLINE_CPUS, helpers.onliner.is_able()), (TRIM, helpers.trimmer.is_able())];
    let hello = hello(root, able.into_iter().filter_map(|(name, is_able)| is_able.then_some(name)));
    if is_too_old(&hello.kernel) {
        warn!("Linux {}: vmtide is made for 5.4 and later; what is missing is said as it is missed", hello.kernel);
    }
    let (link, link_status) = Link::new(config.bridge.clone(), hello, backoff, to_agent);
    let link = tokio::spawn(link.run(from_agent));
    let mut agent = Agent {
        config,
        started: Instant::now(),
        observer,
        trigger,
        alarm: CpuAlarm::new(root),
        pace: Pace::default(),
        schedule: Schedule::default(),
        tuner,
        boot_ms,
        unsaid: VecDeque::new(),
        host: Host::default(),
        connected: false,
        intervals: Intervals::default(),
        allocation: None,
        outbox,
        link: link_status,
        looks: 0,
    };
    supervisor.ready();
    let end = tokio::select! {
        never = agent.watch(&mut news, &mut requests, &mut helpers, status.as_ref(), supervisor) => match never {},
        end = stop => end,
    };
    if matches!(end, End::Stop) {
        supervisor.stopping();
    }
    drop(control);
    helpers.stop();
    agent.tuner.stop(agent.boot_ms + agent.now_ms());
    let message = "the agent was stopped".into();
    agent.outbox.try_send(AgentMessage::Event(Event { event: EventKind::Stopping, message })).ok();
    let Agent { mut observer, outbox, .. } = agent;
    drop(outbox);
    if timeout(FAREWELL, link).await.is_err() {
        info!("the bridge did not take the farewell within {FAREWELL:?}");
    }
    // DAMON takes its time to end.
    observer.stop();
    Ok(end)
}

/// What an agent looks with, and where it is asked; an agent without the last goes on.
fn senses(config: &Config, root: &Path) -> Result<(Observer, StallTrigger, Option<StatusSocket>), AgentError> {
    let mut observer = Observer::open(root, config.grant_ms)?;
    observer.sense_working_set(Sampler::new(root, config.working_set.source));
    let trigger = StallTrigger::memory(root).unwrap_or_else(|error| {
        warn!("no PSI trigger: {error}; a stall is seen at the next look");
        StallTrigger::absent()
    });
    let status = match StatusSocket::bind(&config.status_socket) {
        Ok(socket) => Some(socket),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            return Err(AgentError::AlreadyRunning { path: config.status_socket.clone() });
        }
        Err(error) => {
            warn!(path = %config.status_socket.display(), "no status socket: {error}");
            None
        }
    };
    Ok((observer, trigger, status))
}

impl Agent {
    /// The loop; does not end.
    async fn watch(
        &mut self,
        news: &mut mpsc::Receiver<News>,
        requests: &mut mpsc::Receiver<Asked>,
        helpers: &mut Helpers,
        status: Option<&StatusSocket>,
        supervisor: &mut Supervisor,
    ) -> Infallible {
        loop {
            if helpers.yielder.works() {
                self.observer.yields(self.now_ms());
            }
            let (seen, next_ms) = self.look();
            // What is told goes before what takes its time; and until the first look is over, nobody dials the bridge.
            tokio::task::yield_now().await;
            let next_ms = if self.looks > 1 { self.tend(next_ms) } else { next_ms };
            let wake = self.started + Duration::from_millis(next_ms);
            let mut resting = true;
            while resting {
                tokio::select! {
                    () = sleep_until(wake) => resting = false,
                    () = self.trigger.fired() => resting = false,
                    () = self.alarm.fired() => {
                        self.alarm.on_fired();
                        resting = false;
                    }
                    Some(news) = news.recv() => {
                        self.report_standing(&news, supervisor);
                        resting = !self.hear(news, helpers);
                    }
                    () = supervisor.watched() => {}
                    reply = helpers.yielder.reply() => {
                        self.observer.yields(self.now_ms());
                        self.answer(Some(reply));
                    }
                    reply = helpers.onliner.reply() => self.answer(Some(reply)),
                    reply = helpers.trimmer.reply() => self.answer(Some(reply)),
                    Some((request, reply)) = requests.recv() => {
                        // Who asked may have gone.
                        reply.send(self.tuner.serve(&request, self.boot_ms + self.now_ms())).ok();
                    }
                    () = answer(status, || self.status(&seen)) => {}
                }
            }
        }
    }

    /// Looks, and tells the bridge what it has to know; returns what was seen and when to look again.
    fn look(&mut self) -> (Observation, u64) {
        let now_ms = self.now_ms();
        let maximum_bytes = self.allocation.map(|allocation| allocation.maximum_bytes);
        // A demand for CPU that is gone is to be told as soon as it was there.
        let mode = self.reporting();
        let rest_ms = if self.alarm.is_due(now_ms) { 0 } else { interval_ms(mode, self.intervals) };
        let seen = self.observer.look(now_ms, rest_ms, maximum_bytes);
        self.looks += 1;
        let outlook = seen.outlook.as_ref();
        if let Some(kills) = outlook.map(|outlook| outlook.new_oom_kills).filter(|&kills| kills > 0) {
            warn!(kills, "the kernel killed for lack of memory");
            let message = format!("{kills} killed for lack of memory");
            self.tell(AgentMessage::Event(Event { event: EventKind::OomKill, message }));
        }
        let was = self.pace.mode();
        let wait_ms = outlook.map_or(FIRST_LOOK_MS, |outlook| self.pace.next_ms(now_ms, outlook, self.intervals));
        self.relax(was);
        let alarm_ms = self.alarm.looked(now_ms, self.reporting() != Mode::Quiet).unwrap_or(u64::MAX);
        let mut next_ms = now_ms.saturating_add(wait_ms).min(alarm_ms);
        if self.connected {
            let mode = mode.max(self.reporting());
            if let Some(kind) = self.schedule.due(now_ms, outlook, mode, self.intervals)
                && self.tell(kind.message(seen.demand.clone()))
            {
                self.schedule.sent(now_ms, outlook, kind);
            }
            let report_ms = self.schedule.next_report_ms(mode, self.intervals).filter(|&report_ms| report_ms > now_ms);
            next_ms = report_ms.map_or(next_ms, |report_ms| next_ms.min(report_ms));
        }
        (seen, next_ms)
    }

    /// Looks after the knobs and the working set; returns when to look again, `next_ms` at the latest.
    fn tend(&mut self, next_ms: u64) -> u64 {
        let now_ms = self.now_ms();
        self.tune(now_ms);
        let leisure = match self.pace.mode() {
            Mode::Quiet => Leisure::Quiet,
            Mode::Busy => Leisure::Busy,
            Mode::Fast => Leisure::None,
        };
        next_ms.min(self.observer.tend_working_set(now_ms, leisure))
    }

    /// How often to report: as memory has it, and as in a busy guest while CPUs are.
    fn reporting(&self) -> Mode {
        let least = if self.observer.has_busy_cpus() { Mode::Busy } else { Mode::Quiet };
        self.pace.mode().max(least)
    }

    /// Looks after the knobs, and tells the bridge what happened to them.
    fn tune(&mut self, now_ms: u64) {
        let events = self.tuner.tend(self.boot_ms + now_ms, self.observer.samples());
        self.unsaid.extend(events.into_iter().map(|event| event.chars().take(MOST_EVENT_CHARS).collect()));
        self.unsaid.drain(..self.unsaid.len().saturating_sub(UNSAID_EVENTS));
        while let Some(message) = self.unsaid.front().cloned() {
            if !self.tell(AgentMessage::Event(Event { event: EventKind::Tuning, message })) {
                break;
            }
            self.unsaid.pop_front();
        }
    }

    /// Tells the supervisor of a session that begins or ends.
    fn report_standing(&self, news: &News, supervisor: &Supervisor) {
        let bridge = &self.config.bridge;
        match news {
            News::Welcome(welcome) => supervisor.stands(&format!("VM {}, session with {bridge}", welcome.vm)),
            News::Lost => supervisor.stands(&format!("no session with {bridge}; it is dialled again")),
            _ => {}
        }
    }

    /// Acts on what the bridge said; returns whether to look at once.
    fn hear(&mut self, news: News, helpers: &mut Helpers) -> bool {
        match news {
            News::Welcome(welcome) => {
                let busy_ms = welcome.intervals.busy_ms.clamp(SHORTEST_INTERVAL_MS, LONGEST_INTERVAL_MS);
                let quiet_ms = welcome.intervals.quiet_ms.clamp(busy_ms, LONGEST_INTERVAL_MS);
                self.intervals = Intervals { busy_ms, quiet_ms };
                self.allocation = welcome.allocation.or(self.allocation);
                self.schedule = Schedule::default();
                self.connected = true;
            }
            News::Allocation(allocation) => self.allocation = Some(allocation),
            News::Host(host) => return self.hear_of_host(host),
            News::PauseTuning(PauseTuning { id, pause_ms }) => {
                self.tuner.pause((self.boot_ms + self.now_ms()).saturating_add(pause_ms));
                self.answer(Some(Reply { id, status: ReplyStatus::Done, amount: pause_ms.into(), detail: None }));
            }
            News::YieldMemory(request) => self.answer(helpers.yielder.begin(request)),
            News::SetOnlineCpus(request) => self.answer(helpers.onliner.begin(request)),
            News::TrimStorage(request) => self.answer(helpers.trimmer.begin(request)),
            News::Lost => {
                self.connected = false;
                // Nobody waits for the reply, and the next bridge's request may have the same id. Nobody brings CPUs back.
                helpers.stop();
                // Nobody says any more that the host is short of anything.
                return self.hear_of_host(Host::default());
            }
        }
        self.connected && self.schedule.next_report_ms(Mode::Busy, self.intervals).is_none()
    }

    fn hear_of_host(&mut self, host: Host) -> bool {
        self.host = host;
        self.tuner.hear(host)
    }

    /// Sends a reply, if there is one; a bridge that went away meanwhile misses it.
    fn answer(&self, reply: Option<Reply>) {
        if let Some(reply) = reply {
            self.tell(AgentMessage::Reply(reply));
        }
    }

    /// Hands a message to the link; `false` when there is no session, or the bridge does not keep up.
    fn tell(&self, message: AgentMessage) -> bool {
        self.connected && self.outbox.try_send(message).is_ok()
    }

    /// Lets the kernel move a quiet agent's wake-ups, and no others.
    fn relax(&self, was: Mode) {
        let mode = self.pace.mode();
        if (mode == Mode::Quiet) != (was == Mode::Quiet) {
            // 0 is the kernel's default. That it cannot be set costs a few wake-ups, no more.
            nix::sys::prctl::set_timerslack(if mode == Mode::Quiet { QUIET_SLACK_NS } else { 0 }).ok();
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn status(&self, seen: &Observation) -> Status {
        let link = self.link.borrow();
        Status {
            agent: env!("CARGO_PKG_VERSION").into(),
            running_ms: self.now_ms(),
            mode: self.pace.mode(),
            looks: self.looks,
            stall_trigger: self.trigger.is_registered(),
            session: SessionStatus {
                bridge: self.config.bridge.to_string(),
                state: link.state,
                state_ms: u64::try_from(link.since.elapsed().as_millis()).unwrap_or(u64::MAX),
                vm: link.vm.clone(),
                protocol: link.protocol,
                attempts: link.attempts,
                last_error: link.last_error.clone(),
                last_reject: link.last_reject.clone(),
            },
            tuned_files: self.tuner.applied(),
            held: self.tuner.held().clone(),
            host: self.host,
            allocation: self.allocation,
            demand: seen.demand.clone(),
        }
    }
}

/// Answers the next one that asks for the status; without a socket nobody does.
async fn answer(socket: Option<&StatusSocket>, status: impl FnOnce() -> Status) {
    match socket {
        Some(socket) => socket.answer(status).await,
        None => std::future::pending().await,
    }
}

/// Whether this release of Linux is before 5.4, if it is one.
fn is_too_old(release: &str) -> bool {
    (1..5_004).contains(&version(release))
}

/// Who speaks; empty where the guest does not say.
pub(crate) fn hello(root: &Path, able: impl IntoIterator<Item = &'static str>) -> Hello {
    let line = |path| fs::read_to_string(root.join(path)).unwrap_or_default().trim().to_owned();
    Hello {
        protocol: SUPPORTED,
        agent: env!("CARGO_PKG_VERSION").into(),
        kernel: line("proc/sys/kernel/osrelease"),
        boot_id: line("proc/sys/kernel/random/boot_id"),
        capabilities: CAPABILITIES.into_iter().chain(able).map(Into::into).collect(),
    }
}

#[cfg(test)]
mod tests;
