//! The bridge's end of a session with a guest's agent, played by the lab.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};
use vmtide_protocol::agent::{Reply, Report};
use vmtide_protocol::bridge::{Intervals, SetOnlineCpus, Welcome};
use vmtide_protocol::{AgentMessage, BridgeMessage, PORT, decode, encode};

use crate::{Vm, fleet::start_agent};

const SOON: Duration = Duration::from_secs(60);
const DEADLINE_MS: u64 = 10_000;

/// A session.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<UnixStream>,
    id: u64,
    /// What the agent said that it can do.
    pub capabilities: Vec<String>,
    /// The agent's pid in its guest.
    pub agent: u32,
}

impl Session {
    /// Starts an agent and welcomes it.
    ///
    /// # Errors
    /// When no agent dials, or says something else than hello.
    pub async fn with(vm: &Vm) -> Result<Self> {
        Self::reporting_each(vm, Intervals::default()).await
    }

    /// The same, for an agent that reports as often as this.
    ///
    /// # Errors
    /// As [`Self::with`].
    pub async fn reporting_each(vm: &Vm, intervals: Intervals) -> Result<Self> {
        let listener = vm.listen(PORT)?;
        // Tunes nothing: only its CPUs are of interest.
        let agent = start_agent(vm, "[tuning]\nmode = \"observe\"\n").await?;
        let (stream, _) = timeout(SOON, listener.accept()).await.context("no agent dials")??;
        let mut session = Self { stream: BufReader::new(stream), id: 0, capabilities: Vec::new(), agent };
        let AgentMessage::Hello(hello) = session.hears().await? else { bail!("hello comes first") };
        session.capabilities = hello.capabilities;
        let welcome = Welcome { protocol: 1, vm: "a".into(), intervals, allocation: None };
        session.says(&BridgeMessage::Welcome(welcome)).await?;
        Ok(session)
    }

    /// Asks the guest to run on so many CPUs; its reply, and how long it took.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn set_online(&mut self, cpus: u32) -> Result<(Reply, Duration)> {
        self.id += 1;
        let request = SetOnlineCpus { id: self.id, cpus, deadline_ms: DEADLINE_MS };
        let asked = Instant::now();
        self.says(&BridgeMessage::SetOnlineCpus(request)).await?;
        loop {
            if let AgentMessage::Reply(reply) = self.hears().await? {
                anyhow::ensure!(reply.id == self.id, "a reply to another request: {reply:?}");
                return Ok((reply, asked.elapsed()));
            }
        }
    }

    /// The next report; `None` when none comes `within`.
    ///
    /// # Errors
    /// When the session ends.
    pub async fn report(&mut self, within: Duration) -> Result<Option<Report>> {
        let next = async {
            loop {
                if let AgentMessage::Report(report) | AgentMessage::Urgent(report) = self.hears().await? {
                    return Ok(report);
                }
            }
        };
        timeout(within, next).await.ok().transpose()
    }

    async fn says(&mut self, message: &BridgeMessage) -> Result<()> {
        Ok(self.stream.get_mut().write_all(&encode(message)?).await?)
    }

    async fn hears(&mut self) -> Result<AgentMessage> {
        let mut line = Vec::new();
        timeout(SOON, self.stream.read_until(b'\n', &mut line)).await.context("the agent is silent")??;
        line.pop();
        decode(&line)?.message.context("an unknown message")
    }
}
