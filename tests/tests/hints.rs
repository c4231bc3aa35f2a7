//! A guest whose host is short of something tunes itself for it at once. The test is the bridge.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{Instant, timeout},
};
use vmtide_lab::{Kernel, Lab, Vm, VmConfig};
use vmtide_protocol::{
    AgentMessage, BridgeMessage, LineBuffer, PORT, SUPPORTED,
    agent::EventKind,
    bridge::{Host, Intervals, Welcome},
    decode, encode,
};

const HALT_POLL: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";
/// From the bridge's word to the guest's kernel.
const PROMPT: Duration = Duration::from_secs(2);
/// Generous: two cores that translate run all of it.
const SOON: Duration = Duration::from_secs(60);
/// The longest interval that an agent takes.
const RARELY_MS: u64 = 600_000;
const AGENT: &str = "bridge = \"vsock://2:7670\"\n[tuning]\nmode = \"adaptive\"\n";

/// The bridge's end of a session.
struct Session {
    stream: UnixStream,
    received: LineBuffer,
}

impl Session {
    /// Starts the agent, takes its hello and welcomes it. It reports so rarely that a report wakes it in no test.
    async fn begin(vm: &Vm) -> Result<Self> {
        let listener = vm.listen(PORT)?;
        vm.put("/tmp/agent.toml", AGENT.as_bytes()).await?;
        vm.start("agent", "vmtide-agent run --config /tmp/agent.toml").await?;
        let (stream, _) = timeout(SOON, listener.accept()).await.context("the agent does not connect")??;
        let mut session = Self { stream, received: LineBuffer::default() };
        let hello = timeout(SOON, session.next()).await.context("the agent does not say hello")??;
        assert!(matches!(hello, AgentMessage::Hello(_)), "{hello:?}");
        let welcome = Welcome {
            protocol: SUPPORTED.max,
            vm: vm.name().to_owned(),
            intervals: Intervals { busy_ms: RARELY_MS, quiet_ms: RARELY_MS },
            allocation: None,
        };
        session.send(&BridgeMessage::Welcome(welcome)).await?;
        Ok(session)
    }

    async fn send(&mut self, message: &BridgeMessage) -> Result<()> {
        Ok(self.stream.write_all(&encode(message)?).await?)
    }

    async fn next(&mut self) -> Result<AgentMessage> {
        loop {
            while let Some(line) = self.received.next_line()? {
                if let Some(message) = decode(line)?.message {
                    return Ok(message);
                }
            }
            let mut bytes = [0; 4096];
            let count = self.stream.read(&mut bytes).await?;
            if count == 0 {
                bail!("the agent ended the session");
            }
            self.received.push(&bytes[..count]);
        }
    }

    /// The next tuning event that tells of the knob.
    async fn tuning_of(&mut self, knob: &str) -> Result<String> {
        loop {
            match self.next().await? {
                AgentMessage::Event(event) if event.event == EventKind::Tuning && event.message.contains(knob) => {
                    return Ok(event.message);
                }
                _ => {}
            }
        }
    }
}

async fn halt_poll_ns(vm: &Vm) -> Result<u64> {
    Ok(vm.read(HALT_POLL, 0).await?.trim().parse()?)
}

/// Waits until the guest's kernel holds the value; how long that took since `since`.
async fn holds(vm: &Vm, value: u64, since: Instant) -> Result<Duration> {
    let waiting = async {
        while halt_poll_ns(vm).await? != value {}
        Ok(since.elapsed())
    };
    if let Ok(took) = timeout(PROMPT, waiting).await {
        return took;
    }
    let log = vm.read("/tmp/agent.log", 0).await.unwrap_or_default();
    bail!("{HALT_POLL} is not {value} within {PROMPT:?}; the agent's log:\n{log}")
}

#[tokio::test]
async fn a_guest_stops_polling_while_its_host_is_short_of_cpu() -> Result<()> {
    let vm = Lab::ready()?.launch(VmConfig::new("hints", Kernel::V6_12).memory_mib(512)).await?;
    let original = halt_poll_ns(&vm).await?;
    assert!(original > 0, "nothing would change");
    let mut session = Session::begin(&vm).await?;
    // What it sets for a host that is short of nothing.
    timeout(SOON, session.tuning_of("set ")).await.context("the agent does not tune")??;
    assert_eq!(halt_poll_ns(&vm).await?, original, "not before the host is short");

    let told = Instant::now();
    session.send(&BridgeMessage::Host(Host { cpu_short: true, ..Host::default() })).await?;
    let stopped = holds(&vm, 0, told).await?;
    let event = timeout(SOON, session.tuning_of("guest_halt_poll_ns")).await.context("no word of it")??;
    assert!(event.contains("guest_halt_poll_ns=0"), "{event}");

    let told = Instant::now();
    session.send(&BridgeMessage::Host(Host::default())).await?;
    let resumed = holds(&vm, original, told).await?;
    let event = timeout(SOON, session.tuning_of("guest_halt_poll_ns")).await.context("no word of it")??;
    assert!(event.starts_with("put back ") && !event.contains('='), "{event}");
    println!("polling stopped after {stopped:?} and began again after {resumed:?}");
    Ok(())
}
