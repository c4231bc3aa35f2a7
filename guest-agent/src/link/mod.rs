//! The link to the bridge: one session at a time, and a new one after a while whenever it ends.
//!
//! ```text
//!            connect        welcome                 any error, end of stream
//! connecting ------> greeting ------> connected -----------------------------+
//!   ^   |               | reject, silence                                    |
//!   |   v               v                                                    |
//!   +- waiting <-------------------------------------------------------------+
//! ```
//!
//! In: messages for the bridge, from the agent's loop, dropped while there is no session. Out: what the loop has to know
//! of the bridge's messages, and a [`LinkStatus`]. Without a bridge the link waits longer and longer, up to
//! [`LONGEST`]; after a rejection that will last, [`REJECTED`]. Both vary by chance, so that the VMs of a host do not
//! come back all at once.

mod address;
mod backoff;
mod greeting;
mod session;
mod stream;

pub use address::{Address, AddressError};
pub use backoff::{Backoff, BackoffError};
pub use greeting::{Greeting, greet};

use crate::said::Said;
use serde::{Deserialize, Serialize};
use session::{Session, SessionError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};
use vmtide_protocol::bridge::{Allocation, Host, PauseTuning, SetOnlineCpus, TrimStorage, Welcome, YieldMemory};
use vmtide_protocol::{AgentMessage, agent::Hello};

/// The shortest wait before another attempt, before chance halves it.
pub const SHORTEST: Duration = Duration::from_millis(250);
/// The longest wait before another attempt.
pub const LONGEST: Duration = Duration::from_secs(10);
/// The wait after a rejection that only an operator can change.
pub const REJECTED: Duration = Duration::from_secs(60);
/// For each of connecting and greeting.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the agent's loop hears of the bridge.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A session began.
    Welcome(Welcome),
    /// The VM's memory changed.
    Allocation(Allocation),
    /// What the host is short of.
    Host(Host),
    /// A request to leave the knobs alone for a while.
    PauseTuning(PauseTuning),
    /// A request to free memory.
    YieldMemory(YieldMemory),
    /// A request to change how many CPUs are online.
    SetOnlineCpus(SetOnlineCpus),
    /// A request to discard unused blocks.
    TrimStorage(TrimStorage),
    /// The session ended.
    Lost,
}

/// Where a link stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// Dials, or waits for the bridge's welcome.
    #[default]
    Connecting,
    /// Has a session.
    Connected,
    /// Waits before another attempt.
    Waiting,
}

/// What `vmtide-agent status` shows of a link.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// Where it stands.
    pub state: LinkState,
    /// Since when.
    pub since: Instant,
    /// The VM's name on its host, once a bridge has said it.
    pub vm: Option<String>,
    /// The version that the last session spoke.
    pub protocol: Option<u32>,
    /// Attempts to connect so far.
    pub attempts: u64,
    /// Why the last session ended, or did not begin.
    pub last_error: Option<String>,
    /// What the bridge said when it last rejected this VM.
    pub last_reject: Option<String>,
}

/// The link.
#[derive(Debug)]
pub struct Link {
    address: Address,
    hello: Hello,
    backoff: Backoff,
    news: mpsc::Sender<News>,
    status: watch::Sender<LinkStatus>,
    /// Unknown kinds and fields that were logged.
    unknown: Said,
    /// Errors that were logged since the last welcome.
    errors: Said,
}

impl Link {
    /// A link to the bridge at `address`, not connected yet; and where its status can be seen.
    pub fn new(
        address: Address,
        hello: Hello,
        backoff: Backoff,
        news: mpsc::Sender<News>,
    ) -> (Self, watch::Receiver<LinkStatus>) {
        let (status, seen) = watch::channel(LinkStatus {
            state: LinkState::Connecting,
            since: Instant::now(),
            vm: None,
            protocol: None,
            attempts: 0,
            last_error: None,
            last_reject: None,
        });
        let link = Self { address, hello, backoff, news, status, unknown: Said::default(), errors: Said::default() };
        (link, seen)
    }

    /// Keeps a session with the bridge until `outbox` is closed; what is in it by then is still sent.
    pub async fn run(mut self, mut outbox: mpsc::Receiver<AgentMessage>) {
        loop {
            let began = Instant::now();
            let Err(error) = self.session(&mut outbox).await else { return };
            if began.elapsed() > self.backoff.most() {
                self.backoff.reset();
            }
            let lasts = error.lasts();
            let delay = if lasts { backoff::shortened(REJECTED) } else { self.backoff.next_delay() };
            self.failed(&error, delay);
            tokio::select! {
                () = sleep(delay) => {}
                () = closed(&mut outbox) => return,
            }
        }
    }

    /// One session, from dialling to its end; `Ok` when the agent ended it.
    async fn session(&mut self, outbox: &mut mpsc::Receiver<AgentMessage>) -> Result<(), SessionError> {
        self.stand(LinkState::Connecting, |status| status.attempts += 1);
        let mut session = tokio::select! {
            connected = timeout(PATIENCE, Session::connect(&self.address)) => {
                connected.map_err(|_| SessionError::Silent { waited: PATIENCE })??
            }
            () = closed(outbox) => return Ok(()),
        };
        let welcome = tokio::select! {
            welcome = timeout(PATIENCE, session.greet(&self.hello, &mut self.unknown)) => {
                welcome.map_err(|_| SessionError::Silent { waited: PATIENCE })??
            }
            () = closed(outbox) => return Ok(()),
        };
        info!(vm = welcome.vm, protocol = welcome.protocol, bridge = %self.address, "session with the bridge");
        self.errors = Said::default();
        self.stand(LinkState::Connected, |status| {
            status.vm = Some(welcome.vm.clone());
            status.protocol = Some(welcome.protocol);
        });
        // The loop takes news whenever it waits; it goes away only together with the outbox.
        self.news.send(News::Welcome(welcome)).await.ok();
        let end = session.carry(outbox, &self.news, &mut self.unknown).await;
        self.news.send(News::Lost).await.ok();
        end
    }

    fn stand(&self, state: LinkState, change: impl FnOnce(&mut LinkStatus)) {
        self.status.send_modify(|status| {
            status.state = state;
            status.since = Instant::now();
            change(status);
        });
    }

    fn failed(&mut self, error: &SessionError, delay: Duration) {
        let text = crate::full_text(error);
        let retry_ms = delay.as_millis();
        if self.errors.is_new(&text) {
            warn!(bridge = %self.address, retry_ms, "no session: {text}");
        } else {
            debug!(bridge = %self.address, retry_ms, "no session: {text}");
        }
        self.stand(LinkState::Waiting, |status| {
            if let SessionError::Rejected { .. } = error {
                status.last_reject = Some(text.clone());
            }
            status.last_error = Some(text);
        });
    }
}

/// Returns once the outbox is closed; drops what comes until then, as there is nobody to send it to.
async fn closed(outbox: &mut mpsc::Receiver<AgentMessage>) {
    while outbox.recv().await.is_some() {}
}

#[cfg(test)]
mod tests;
