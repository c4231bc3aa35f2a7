//! What to give VMs for good, from what they needed while they were recorded.
//!
//! ```text
//!  record::read --> needs of memory, weighed by how long; the most CPU time and I/O of each minute
//!               --> percentile --> and headroom, as the planner gives it --> a size, and how to say it to virsh and QEMU
//! ```
//!
//! A percentile below 100 leaves out the highest peaks: what the balloon, weights and throttles are for. Pure but for the reading.

use crate::config::Bytes;
use crate::plan::{Demand, MIB, Millis, Policy};
use crate::record::{Entry, Losses, ReadError, Tick, Used, read};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// A longer time between two plans is a gap: nobody knows what was needed in it.
const GAP_MS: Millis = 10_000;
/// Sizes of memory are multiples of this: one hot-plug block of x86-64 (Documentation/admin-guide/mm/memory-hotplug.rst).
const STEP_BYTES: u64 = 128 * MIB;

/// Sizes for VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sizing {
    /// So much of the time, or of the minutes, a VM needed no more.
    pub percentile: u32,
    /// The VMs, by name.
    pub vms: Vec<Size>,
    /// What of the recording could not be used.
    pub losses: Losses,
}

/// One VM's size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Its name.
    pub name: String,
    /// How long its need was known.
    pub known_ms: Millis,
    /// At the percentile, and at most.
    pub need_bytes: [u64; 2],
    /// What to give it; headroom included.
    pub memory_bytes: u64,
    /// In how many minutes CPU time and I/O were seen.
    pub minutes: u64,
    /// At the percentile, and at most, of the most of each minute; likewise below.
    pub cpu_millicpus: [u64; 2],
    /// vCPUs to give it; `None` where nothing was seen.
    pub vcpus: Option<u64>,
    /// Bytes per second of its disks.
    pub io_bytes_per_s: [u64; 2],
    /// Their operations per second.
    pub io_ops_per_s: [u64; 2],
    /// Rates to allow its disks, headroom included: bytes and operations per second; `None` where nothing was seen.
    pub io_limits: Option<[u64; 2]>,
    /// As arguments of `virsh`, one command each.
    pub virsh: Vec<String>,
    /// As arguments of QEMU.
    pub qemu: Vec<String>,
}

#[derive(Default)]
struct Seen {
    /// How long each need held, by MiB.
    needs: BTreeMap<u64, u64>,
    used: Vec<Used>,
}

/// The needs that a tick showed.
struct Shown {
    run_unix_ms: u64,
    ms: Millis,
    needs_mib: Vec<(String, u64)>,
}

/// Sizes for `names`, or for all that were recorded.
///
/// # Errors
/// [`ReadError`] when there is nothing to read. A name that was not recorded has no size.
pub fn sizes(path: &Path, names: &[String], percentile: u32) -> Result<Sizing, ReadError> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    // That of the last run.
    let mut policy = Policy::default();
    // What a tick shows counts until the next one, as in a replay.
    let mut last: Option<Shown> = None;
    let losses = read(path, |entry| {
        let Entry::Tick(header, tick) = entry else { return };
        if policy != header.policy {
            policy = header.policy.clone();
        }
        let of = |number: usize| header.vms.get(number).filter(|name| names.is_empty() || names.contains(name));
        let needs_mib =
            needs(tick).filter_map(|(number, need)| Some((of(number)?.clone(), need.div_ceil(MIB)))).collect();
        let now = Shown { run_unix_ms: header.run_unix_ms, ms: tick.ms, needs_mib };
        if let Some(before) = last.replace(now).filter(|before| before.run_unix_ms == header.run_unix_ms) {
            let held_ms = tick.ms.saturating_sub(before.ms);
            for (name, need_mib) in before.needs_mib.into_iter().filter(|_| held_ms <= GAP_MS) {
                *seen.entry(name).or_default().needs.entry(need_mib).or_default() += held_ms;
            }
        }
        for (number, used) in &tick.used {
            if let Some(name) = of(*number) {
                seen.entry(name.clone()).or_default().used.push(*used);
            }
        }
    })?;
    let vms = seen.into_iter().map(|(name, seen)| size(name, seen, percentile, &policy)).collect();
    Ok(Sizing { percentile, vms, losses })
}

fn needs(tick: &Tick) -> impl Iterator<Item = (usize, u64)> {
    tick.numbers.iter().zip(&tick.views).filter_map(|(number, view)| match view.demand {
        Demand::Fresh(demand) => Some((*number, demand.need_bytes)),
        Demand::Stale { .. } | Demand::Unknown { .. } => None,
    })
}

fn size(name: String, seen: Seen, percentile: u32, policy: &Policy) -> Size {
    let known_ms = seen.needs.values().sum();
    let needs: Vec<(u64, u64)> = seen.needs.into_iter().map(|(mib, ms)| (mib * MIB, ms)).collect();
    let need_bytes = [at(&needs, percentile), at(&needs, 100)];
    let with_headroom =
        |amount: u64, permille: u32| amount.saturating_add(amount.saturating_mul(permille.into()) / 1000);
    let wanted_bytes = need_bytes[0].saturating_add(policy.headroom(need_bytes[0]));
    let memory_bytes = wanted_bytes.div_ceil(STEP_BYTES).max(1) * STEP_BYTES;
    let of = |pick: fn(&Used) -> u64| {
        let mut amounts: Vec<(u64, u64)> = seen.used.iter().map(|used| (pick(used), 1)).collect();
        amounts.sort_unstable();
        [at(&amounts, percentile), at(&amounts, 100)]
    };
    let cpu_millicpus = of(|used| used.cpu_millicpus);
    let (io_bytes_per_s, io_ops_per_s) = (of(|used| used.io_bytes_per_s), of(|used| used.io_ops_per_s));
    let minutes = seen.used.len() as u64;
    let vcpus =
        (minutes > 0).then(|| with_headroom(cpu_millicpus[0], policy.cpu_headroom_permille).div_ceil(1000).max(1));
    // A disk that did nothing still has to boot.
    let least = [policy.io_floor_bytes_per_s, policy.io_floor_bytes_per_s / crate::plan::storage::OP_BYTES];
    let rates = [io_bytes_per_s[0], io_ops_per_s[0]].map(|rate| with_headroom(rate, policy.cpu_headroom_permille));
    let io_limits = (minutes > 0).then(|| [rates[0].max(least[0]), rates[1].max(least[1])]);
    let mut size = Size {
        name,
        known_ms,
        need_bytes,
        memory_bytes,
        minutes,
        cpu_millicpus,
        vcpus,
        io_bytes_per_s,
        io_ops_per_s,
        io_limits,
        virsh: Vec::new(),
        qemu: Vec::new(),
    };
    size.say();
    size
}

/// The least amount that at least `percentile` percent of the weight does not exceed; `amounts` rise.
fn at(amounts: &[(u64, u64)], percentile: u32) -> u64 {
    let total: u128 = amounts.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let mut below = 0;
    for (amount, weight) in amounts {
        below += u128::from(*weight);
        if below * 100 >= total * u128::from(percentile) {
            return *amount;
        }
    }
    0
}

impl Size {
    fn say(&mut self) {
        let mib = self.memory_bytes / MIB;
        if self.known_ms > 0 {
            self.virsh.push(format!("setmaxmem {} {mib}MiB --config", self.name));
            self.virsh.push(format!("setmem {} {mib}MiB --config", self.name));
            self.qemu.push(format!("-m {mib}M"));
        }
        if let Some(vcpus) = self.vcpus {
            self.virsh.push(format!("setvcpus {} {vcpus} --maximum --config", self.name));
            self.virsh.push(format!("setvcpus {} {vcpus} --config", self.name));
            self.qemu.push(format!("-smp {vcpus}"));
        }
        if let Some([bytes, ops]) = self.io_limits {
            let limits = format!("--total-bytes-sec {bytes} --total-iops-sec {ops}");
            self.virsh.push(format!("blkdeviotune {} DISK {limits} --config", self.name));
            self.qemu.push(format!("-drive …,throttling.bps-total={bytes},throttling.iops-total={ops}"));
        }
    }
}

impl Sizing {
    /// For a person.
    pub fn text(&self) -> String {
        let mut text = format!("Sizes at the percentile {}, headroom included.\n", self.percentile);
        for size in &self.vms {
            // Writing to a String does not fail.
            let hours = |ms: Millis| format!("{}.{} h", ms / 3_600_000, ms / 360_000 % 10);
            _ = writeln!(text, "\n{}", size.name);
            if size.known_ms > 0 {
                let [usual, most] = size.need_bytes.map(Bytes);
                let (size, known) = (Bytes(size.memory_bytes), hours(size.known_ms));
                _ = writeln!(text, "  memory  {size}: it needed up to {usual}, at most {most}, in {known}");
            } else {
                text.push_str("  memory  not known: its agent told nothing\n");
            }
            if let (Some(vcpus), Some([bytes, ops])) = (size.vcpus, size.io_limits) {
                let [usual, most] = size.cpu_millicpus.map(crate::config::Millicpus);
                let minutes = size.minutes;
                _ = writeln!(
                    text,
                    "  vCPUs   {vcpus}: it needed up to {usual} CPUs, at most {most}, in {minutes} minutes"
                );
                let ([usual, most], [usual_ops, most_ops]) = (size.io_bytes_per_s.map(Bytes), size.io_ops_per_s);
                _ = writeln!(
                    text,
                    "  disks   {}/s and {ops} operations/s: it did up to {usual}/s and {usual_ops}, at most {most}/s and {most_ops}",
                    Bytes(bytes)
                );
            } else {
                text.push_str("  vCPUs, disks  not recorded yet: once a minute\n");
            }
            for line in &size.virsh {
                _ = writeln!(text, "    virsh {line}");
            }
            _ = writeln!(text, "    qemu  {}", size.qemu.join(" "));
        }
        if self.losses.unusable_records + self.losses.damaged_stretches > 0 {
            _ = writeln!(text, "\nNot all of the recording could be read: {:?}", self.losses);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(needs: &[(u64, u64)], cpu: &[u64]) -> Seen {
        let used = cpu.iter().map(|&cpu_millicpus| Used { cpu_millicpus, io_bytes_per_s: 8 * MIB, io_ops_per_s: 100 });
        Seen { needs: needs.iter().copied().collect(), used: used.collect() }
    }

    #[test]
    fn a_peak_that_is_rarer_than_the_percentile_leaves_out_is_not_bought() {
        let needs = [(500, 96_000), (3_000, 4_000)];
        let usual = size("a".into(), seen(&needs, &[]), 95, &Policy::default());
        assert_eq!(usual.need_bytes, [500 * MIB, 3_000 * MIB]);
        assert!(
            (500 * MIB..=768 * MIB).contains(&usual.memory_bytes) && usual.memory_bytes.is_multiple_of(STEP_BYTES),
            "{usual:?}"
        );
        let all = size("a".into(), seen(&needs, &[]), 100, &Policy::default());
        assert!(all.memory_bytes >= 3_000 * MIB, "{all:?}");
        assert_eq!((all.vcpus, all.io_limits), (None, None), "nothing was seen of them");
        assert!(all.virsh.iter().all(|line| line.starts_with("setm")), "{:?}", all.virsh);
    }

    #[test]
    fn vcpus_and_rates_have_headroom_and_are_said_to_virsh_and_qemu() {
        let cpu: Vec<u64> = (1..=100).map(|minute| if minute > 97 { 4_000 } else { 1_100 }).collect();
        let sized = size("web-1".into(), seen(&[(100, 1)], &cpu), 95, &Policy::default());
        assert_eq!((sized.cpu_millicpus, sized.vcpus), ([1_100, 4_000], Some(2)));
        assert!(sized.io_limits.unwrap()[0] > 8 * MIB);
        assert!(sized.virsh.contains(&"setvcpus web-1 2 --config".to_owned()), "{:?}", sized.virsh);
        assert!(sized.qemu.contains(&"-smp 2".to_owned()), "{:?}", sized.qemu);
    }

    #[test]
    fn percentiles_of_nothing_and_of_one() {
        assert_eq!((at(&[], 95), at(&[(7, 1)], 1), at(&[(7, 1)], 100)), (0, 7, 7));
        assert_eq!([50, 51, 100].map(|percentile| at(&[(1, 50), (2, 50)], percentile)), [1, 2, 2]);
    }
}
