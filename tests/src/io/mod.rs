//! `cargo lab scenario io`: two guests on one slow store, and what one waits for its reads while the other floods it.
//!
//! In: a [`Store`] of 500 operations a second, a victim that reads 100 random pages a second one after the other, a flood of 32
//! readers. Out: the victim's mean read latency, as its own kernel counts it: alone, beside the flood, beside the flood with
//! vmtide. Then the victim stops, and the flood is to be let go.
//!
//! The host's own PSI sees none of it: a QEMU that waits for NBD waits for a socket. vmtide goes by what QEMU measured of the
//! disks, as it does on a host whose store is elsewhere (Ceph, iSCSI by a daemon). No agent is needed, and none runs.

mod store;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

pub use store::Store;

use crate::{Kernel, Lab, Vm, VmConfig, fleet::FleetConfig, wait_for};

const STORE_IOPS: u32 = 500;
const IMAGE_MIB: u64 = 512;
/// Long enough for the first throttle and several tries to let go.
const WINDOW: Duration = Duration::from_secs(60);
const SHORT_WINDOW: Duration = Duration::from_secs(20);
const SETTLE: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(60);
const VICTIM: &str = "vmtide-load --phases file=500M:3600s --rate 100";
const FLOOD: &str = "for i in $(seq 32); do
    while :; do dd if=/dev/vda of=/dev/null bs=4k iflag=direct skip=$((i * 4000 - 4000)) count=4000; done &
done
wait
";

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// The victim's mean read latency beside the flood, by that of the victim alone.
    pub victim_latency_ratio_without: f64,
    /// The same with vmtide, from the moment its bridge began.
    pub victim_latency_ratio_with: f64,
    /// Whether QEMU showed a throttle on the flood's disk.
    pub throttled: bool,
    /// Whether QEMU showed none any more after the victim had stopped.
    pub released: bool,
    /// From the bridge's start to the first throttle.
    pub throttled_after_ms: Option<u64>,
    /// From the victim's end to no throttle.
    pub released_after_ms: Option<u64>,
    /// Mean read latencies.
    pub victim_latency_us: Course,
    /// Reads that the victim did, per second.
    pub victim_reads_per_s: Course,
    /// Reads that the flood did, per second.
    pub flood_reads_per_s: Course,
}

/// A figure in each of the three windows.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Course {
    /// The victim alone.
    pub alone: u64,
    /// Beside the flood.
    pub without: u64,
    /// Beside the flood, with vmtide.
    pub with: u64,
}

/// Measures all three.
///
/// # Errors
/// When the store, a VM or the bridge does not come up.
pub async fn measure(lab: &Lab, kernel: Kernel) -> Result<Figures> {
    let store = Store::start(IMAGE_MIB, STORE_IOPS).await?;
    let vm = |name: &str, image: &str| VmConfig::new(name, kernel).memory_mib(256).on_store(store.socket(), image);
    let config = FleetConfig::new(1024).with(vm("victim", "a")).with(vm("flood", "b"));
    let mut fleet = lab.launch_fleet(config).await?;

    let reads = fleet.vm("victim")?.start("load", VICTIM).await?;
    tokio::time::sleep(SETTLE).await;
    let alone = window(fleet.vms(), SHORT_WINDOW).await?;
    fleet.vm("flood")?.put("/tmp/flood.sh", FLOOD.as_bytes()).await?;
    fleet.vm("flood")?.start("flood", "sh /tmp/flood.sh").await?;
    tokio::time::sleep(SETTLE).await;
    let without = window(fleet.vms(), SHORT_WINDOW).await?;

    let began = Instant::now();
    fleet.start_bridge().await?;
    let counted = begin(fleet.vms()).await?;
    let throttled_after_ms = until_throttled(fleet.vm("flood")?, true, began).await?;
    tokio::time::sleep(WINDOW.saturating_sub(began.elapsed())).await;
    let with = end(fleet.vms(), &counted).await?;

    fleet.vm("victim")?.kill(reads).await?;
    let stopped = Instant::now();
    let released_after_ms = match throttled_after_ms {
        Some(_) => until_throttled(fleet.vm("flood")?, false, stopped).await?,
        None => None,
    };
    let course = |of: fn(&Window) -> u64| Course { alone: of(&alone), without: of(&without), with: of(&with) };
    let latency = |window: &Window| Duration::from_micros(window.latency_us[0].max(1)).as_secs_f64();
    let ratio = |window: &Window| latency(window) / latency(&alone);
    Ok(Figures {
        victim_latency_ratio_without: ratio(&without),
        victim_latency_ratio_with: ratio(&with),
        throttled: throttled_after_ms.is_some(),
        released: released_after_ms.is_some(),
        throttled_after_ms,
        released_after_ms,
        victim_latency_us: course(|window| window.latency_us[0]),
        victim_reads_per_s: course(|window| window.reads_per_s[0]),
        flood_reads_per_s: course(|window| window.reads_per_s[1]),
    })
}

/// Waits until the VM's disk is throttled, or is not; when that was, unless it takes too long.
async fn until_throttled(vm: &Vm, wanted: bool, since: Instant) -> Result<Option<u64>> {
    let seen = wait_for("the throttle", SOON, async || Ok(limits(vm).await?.is_empty() != wanted)).await;
    Ok(seen.is_ok().then(|| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)))
}

/// What QEMU says is set of the VM's first disk: names and values.
///
/// # Errors
/// When QEMU does not answer.
pub async fn limits(vm: &Vm) -> Result<Vec<(String, u64)>> {
    let blocks = vm.qmp().execute("query-block", json!({})).await?;
    let disk = blocks.pointer("/0/inserted").and_then(Value::as_object).context("no disk")?;
    let limit = |(name, value): (&String, &Value)| {
        let is_limit = name.starts_with("bps") || name.starts_with("iops");
        Some((name.clone(), value.as_u64().filter(|value| is_limit && *value > 0)?))
    };
    Ok(disk.iter().filter_map(limit).collect())
}

/// Two VMs' reads over a time.
struct Window {
    latency_us: [u64; 2],
    reads_per_s: [u64; 2],
}

struct Begin {
    at: Instant,
    reads: Vec<Reads>,
}

async fn window(vms: &[Vm], length: Duration) -> Result<Window> {
    let begin = begin(vms).await?;
    tokio::time::sleep(length).await;
    end(vms, &begin).await
}

async fn begin(vms: &[Vm]) -> Result<Begin> {
    let mut reads = Vec::new();
    for vm in vms {
        reads.push(Reads::of(vm).await?);
    }
    Ok(Begin { at: Instant::now(), reads })
}

async fn end(vms: &[Vm], begin: &Begin) -> Result<Window> {
    let mut window = Window { latency_us: [0; 2], reads_per_s: [0; 2] };
    for (number, (vm, before)) in vms.iter().zip(&begin.reads).enumerate().take(2) {
        let now = Reads::of(vm).await?;
        let (count, waited_ms) = (now.count - before.count, now.waited_ms - before.waited_ms);
        window.latency_us[number] = (waited_ms * 1000).checked_div(count).unwrap_or(0);
        let elapsed_ms = u64::try_from(begin.at.elapsed().as_millis())?;
        window.reads_per_s[number] = count * 1000 / elapsed_ms.max(1);
    }
    Ok(window)
}

/// What a guest's kernel counted of its disk.
#[derive(Debug, PartialEq, Eq)]
struct Reads {
    count: u64,
    waited_ms: u64,
}

impl Reads {
    async fn of(vm: &Vm) -> Result<Self> {
        let stat = vm.read("/sys/block/vda/stat", 0).await?;
        Self::parse(&stat).with_context(|| format!("unexpected /sys/block/vda/stat: {stat:?}"))
    }

    /// Reads done, merged, sectors, time that they took.
    fn parse(stat: &str) -> Option<Self> {
        let mut fields = stat.split_whitespace().map(str::parse);
        let count = fields.next()?.ok()?;
        Some(Self { count, waited_ms: fields.nth(2)?.ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_their_time_are_the_first_and_the_fourth_field() {
        let stat =
            "     120        3     4000      450       10        0       80       20        0      100      470\n";
        assert_eq!(Reads::parse(stat), Some(Reads { count: 120, waited_ms: 450 }));
        assert_eq!(Reads::parse("120 3"), None);
    }
}
