//! A guest is asked for memory: by the test, which plays the bridge so that nothing but the agent decides, and by the
//! bridge.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};
use vmtide_bridge::record::Asked;
use vmtide_lab::{Kernel, Lab, Vm, VmConfig, fleet::FleetConfig, load::Progress, vm::MIB, wait_for};
use vmtide_protocol::agent::{Reply, ReplyStatus};
use vmtide_protocol::bridge::{Intervals, Welcome, YieldMemory};
use vmtide_protocol::{AgentMessage, BridgeMessage, PORT, decode, encode};

const SOON: Duration = Duration::from_secs(60);
/// For the way through an emulated guest's vsock and its scheduler.
const TRANSIT: Duration = Duration::from_millis(500);

/// The bridge's end of a session.
struct Session {
    stream: BufReader<UnixStream>,
    id: u64,
}

impl Session {
    /// Starts an agent and welcomes it.
    async fn with(vm: &Vm) -> Result<Self> {
        let listener = vm.listen(PORT)?;
        // Tunes nothing: it is the guest as it is that yields.
        vm.put("/tmp/agent.toml", b"[tuning]\nmode = \"observe\"\n").await?;
        vm.start("agent", "vmtide-agent run --config /tmp/agent.toml").await?;
        let (stream, _) = timeout(SOON, listener.accept()).await.context("no agent dials")??;
        let mut session = Self { stream: BufReader::new(stream), id: 0 };
        let AgentMessage::Hello(hello) = session.hears().await? else { bail!("hello comes first") };
        assert!(hello.capabilities.iter().any(|name| name == "yield_memory"), "{:?}", hello.capabilities);
        let welcome = Welcome { protocol: 1, vm: "a".into(), intervals: Intervals::default(), allocation: None };
        session.says(&BridgeMessage::Welcome(welcome)).await?;
        Ok(session)
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

    /// Asks for memory; the reply, and how long it took.
    async fn asks(&mut self, mib: u64, deadline: Duration) -> Result<(Reply, Duration)> {
        self.id += 1;
        let deadline_ms = u64::try_from(deadline.as_millis())?;
        let asked = Instant::now();
        self.says(&BridgeMessage::YieldMemory(YieldMemory { id: self.id, bytes: mib * MIB, deadline_ms })).await?;
        loop {
            if let AgentMessage::Reply(reply) = self.hears().await? {
                assert_eq!(reply.id, self.id);
                println!("{mib} MiB within {deadline:?}: {reply:?} after {:?}", asked.elapsed());
                return Ok((reply, asked.elapsed()));
            }
        }
    }
}

async fn cold_cache_is_freed_by_the_deadline(kernel: Kernel) -> Result<()> {
    let vm = Lab::ready()?.launch(VmConfig::new("cache", kernel).memory_mib(512).disk_mib(512)).await?;
    vm.start("load", "vmtide-load --phases file=300M:25s,idle:600s --think-ms 0").await?;
    wait_for("the cache is full and cold", SOON, async || Ok(last(&vm).await?.phase.starts_with("idle"))).await?;
    let mut session = Session::with(&vm).await?;

    let before = meminfo(&vm, "MemFree").await?;
    let (reply, took) = session.asks(200, Duration::from_secs(10)).await?;
    assert_eq!((reply.status, amount(&reply)), (ReplyStatus::Done, 200 * MIB));
    assert!(took < Duration::from_secs(10) + TRANSIT, "{took:?}");
    let after = meminfo(&vm, "MemFree").await?;
    assert!(after >= 200 * MIB, "{} MiB were free, now {}", before / MIB, after / MIB);
    assert!(after > before, "{} MiB were free, now {}", before / MIB, after / MIB);

    // More than there is, and in no time: what there is, in time.
    let (reply, took) = session.asks(100_000, Duration::from_millis(300)).await?;
    assert_eq!(reply.status, ReplyStatus::Partial);
    assert!(amount(&reply) >= 200 * MIB && amount(&reply) < 512 * MIB, "{reply:?}");
    assert!(took < Duration::from_millis(300) + TRANSIT, "{took:?}");
    assert_eq!(vm.oom_kills().await?, 0);
    Ok(())
}

#[tokio::test]
async fn cold_cache_is_freed_by_the_deadline_on_6_12() -> Result<()> {
    cold_cache_is_freed_by_the_deadline(Kernel::V6_12).await
}

#[tokio::test]
async fn cold_cache_is_freed_by_the_deadline_on_6_1() -> Result<()> {
    cold_cache_is_freed_by_the_deadline(Kernel::V6_1).await
}

#[tokio::test]
async fn cold_anonymous_memory_goes_to_swap() -> Result<()> {
    let vm = Lab::ready()?.launch(VmConfig::new("swap", Kernel::V6_12).memory_mib(512).disk_mib(512)).await?;
    vm.run("mkswap /dev/vda && swapon /dev/vda").await?;
    vm.start("load", "vmtide-load --phases anon=350M/0M:600s --fill-mib 200").await?;
    wait_for("the load is filled", SOON, async || Ok(last(&vm).await?.anon_bytes == 350 * MIB)).await?;
    let mut session = Session::with(&vm).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;

    let before = meminfo(&vm, "MemFree").await?;
    let (reply, took) = session.asks(200, Duration::from_secs(20)).await?;
    let after = meminfo(&vm, "MemFree").await?;
    let figures = format!("{} MiB were free, now {}: {reply:?} after {took:?}", before / MIB, after / MIB);
    assert!(took < Duration::from_secs(20) + TRANSIT, "{figures}");
    assert_eq!((reply.status, amount(&reply)), (ReplyStatus::Done, 200 * MIB), "{figures}");
    assert!(after >= 200 * MIB && after > before, "{figures}");
    assert_eq!(vm.oom_kills().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_hot_working_set_answers_partial_and_hardly_stalls() -> Result<()> {
    let vm = Lab::ready()?.launch(VmConfig::new("hot", Kernel::V6_12).memory_mib(512).disk_mib(512)).await?;
    vm.start("load", "vmtide-load --phases file=300M:600s --think-ms 0").await?;
    // The cache of a block device.
    wait_for("most of the cache is hot", SOON, async || Ok(meminfo(&vm, "Buffers").await? > 280 * MIB)).await?;
    let mut session = Session::with(&vm).await?;

    let (before, free) = (last(&vm).await?, meminfo(&vm, "MemFree").await?);
    let asked = Instant::now();
    let (reply, took) = session.asks(400, Duration::from_secs(10)).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (after, window) = (last(&vm).await?, asked.elapsed());
    let stalled = Duration::from_micros(after.stall_us - before.stall_us);
    let figures = format!("{} MiB were free, {reply:?} after {took:?}, stalled {stalled:?} of {window:?}", free / MIB);
    println!("{figures}");
    assert_eq!(reply.status, ReplyStatus::Partial, "{figures}");
    assert!(amount(&reply) < 300 * MIB, "{figures}");
    assert!(stalled < window / 20, "{figures}");
    assert_eq!(vm.oom_kills().await?, 0);
    Ok(())
}

#[tokio::test]
async fn the_bridge_asks_before_it_takes_cold_cache_and_nobody_in_the_guest_stalls() -> Result<()> {
    let cache = VmConfig::new("cache", Kernel::V6_12).memory_mib(768).disk_mib(512);
    let config = FleetConfig::new(1024).with(cache).bridge_also("[intervals]\nbusy_ms = 500\nquiet_ms = 1000\n");
    let mut fleet = Lab::ready()?.launch_fleet(config).await?;
    let vm = fleet.vm("cache")?;
    vm.start("load", "vmtide-load --phases file=400M:16s,idle:600s --think-ms 0").await?;
    wait_for("the cache is full and cold", SOON, async || Ok(last(vm).await?.phase.starts_with("idle"))).await?;
    fleet.start_bridge().await?;
    fleet.start_agents().await?;
    let (watch, vm, client) = (fleet.watch(), fleet.vm("cache")?, fleet.client());
    let (began, stalled, free) = (Instant::now(), stalled_by(vm).await?, meminfo(vm, "MemFree").await?);

    // A bridge that has just started takes nothing calmly in the first minute, and what was used in the last one is kept.
    wait_for("it yielded what it was asked for", 4 * SOON, async || Ok(client.vm("cache").await?.yields.kept > 0))
        .await?;
    let decisions = client.decisions(Some("cache"), 64).await?;
    let agreed = decisions.iter().find_map(|decision| match decision.asked {
        Some(Asked::Answered { spare_bytes, .. }) => Some((spare_bytes, decision.step)),
        _ => None,
    });
    let (spare_bytes, step) = agreed.with_context(|| format!("{decisions:?}"))?;
    let window = began.elapsed();
    let stalled = stalled_by(vm).await?.saturating_sub(stalled);
    println!("{} MiB spare, {step:?}; stalled {stalled:?} of {window:?}\n{}", spare_bytes / MIB, fleet.explain().await);
    assert!(spare_bytes > free, "{spare_bytes} spare, and {free} were free before");
    assert!(step.from_bytes - step.to_bytes <= spare_bytes, "{step:?} of {spare_bytes}");
    assert!(stalled < window / 100, "stalled {stalled:?} of {window:?}");
    let yields = client.vm("cache").await?.yields;
    assert_eq!((yields.broken, yields.unanswered), (0, 0), "{yields:?}");
    assert_eq!(vm.oom_kills().await?, 0);
    assert_eq!(watch.seen().violation, Duration::ZERO, "{}", fleet.explain().await);
    Ok(())
}

/// How long some task waited for memory since the guest booted (PSI).
async fn stalled_by(vm: &Vm) -> Result<Duration> {
    let text = vm.read("/proc/pressure/memory", 0).await?;
    let total = text.lines().find(|line| line.starts_with("some")).and_then(|line| line.rsplit_once("total="));
    Ok(Duration::from_micros(total.with_context(|| text.clone())?.1.trim().parse()?))
}

fn amount(reply: &Reply) -> u64 {
    reply.amount.within(u64::MAX).0
}

async fn last(vm: &Vm) -> Result<Progress> {
    let log = vm.read("/tmp/load.log", 0).await?;
    // Its last line may be on its way.
    let line = log.rsplit_once('\n').and_then(|(whole, _)| whole.lines().last());
    Ok(line.map(serde_json::from_str).transpose()?.unwrap_or_default())
}

async fn meminfo(vm: &Vm, key: &str) -> Result<u64> {
    let text = vm.read("/proc/meminfo", 0).await?;
    let kib = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    Ok(kib.with_context(|| format!("no {key} in {text}"))?.parse::<u64>()? * 1024)
}
