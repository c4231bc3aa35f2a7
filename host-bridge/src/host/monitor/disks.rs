//! `/proc/diskstats`: what each disk did between two looks.

use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What `/proc/diskstats` counts in, whatever the disk's own sectors are.
const SECTOR_BYTES: u64 = 512;

/// One disk over the time between two looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Its name in `/sys/block`.
    pub name: String,
    /// Read.
    pub read_bytes_per_s: u64,
    /// Written.
    pub write_bytes_per_s: u64,
    /// Reads and writes done.
    pub ops_per_s: u64,
    /// How long they took, mean; each `None` where none was done.
    pub latency: Latency,
    /// Requests in flight, mean over the time, thousandths.
    pub queue_permille: u64,
    /// Share of the time with a request in flight, thousandths.
    pub busy_permille: u64,
}

/// From its start to its end, waiting in the queue included, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Of a read.
    pub read_us: Option<u64>,
    /// Of a write.
    pub write_us: Option<u64>,
}

/// A disk's counters since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    reads: u64,
    read_sectors: u64,
    read_ms: u64,
    writes: u64,
    written_sectors: u64,
    write_ms: u64,
    busy_ms: u64,
    queue_ms: u64,
}

/// The whole disks in `text`: those with a folder of their own, which are not loops or disks in memory.
pub(super) fn parse(root: &Path, text: &str) -> BTreeMap<String, Counters> {
    let disk = |line: &str| {
        let mut fields = line.split_whitespace().skip(2);
        let name = fields.next()?;
        // reads, merged, sectors, ms, writes, merged, sectors, ms, in flight, busy ms, weighted ms
        let numbers: Option<Vec<u64>> = fields.take(11).map(|field| field.parse().ok()).collect();
        let [reads, _, read_sectors, read_ms, writes, _, written_sectors, write_ms, _, busy_ms, queue_ms] =
            *numbers?.first_chunk()?;
        let is_disk = !["loop", "ram", "zram"].iter().any(|prefix| name.starts_with(prefix))
            && root.join("sys/block").join(name).exists();
        let counters = Counters { reads, read_sectors, read_ms, writes, written_sectors, write_ms, busy_ms, queue_ms };
        is_disk.then(|| (name.to_owned(), counters))
    };
    text.lines().filter_map(disk).collect()
}

impl Counters {
    pub(super) fn ever_used(&self) -> bool {
        self.reads > 0 || self.writes > 0
    }

    /// Reads and writes done, and how long they took together, milliseconds.
    pub(super) fn done(&self) -> (u64, u64) {
        (self.reads.saturating_add(self.writes), self.read_ms.saturating_add(self.write_ms))
    }

    /// What was done until `after`, `window_ms` later.
    pub(super) fn disk(&self, after: &Self, name: &str, window_ms: u64) -> Disk {
        // The counters of a disk that was unplugged and came again begin anew.
        let more = |of: fn(&Self) -> u64| of(after).saturating_sub(of(self));
        let window_ms = window_ms.max(1);
        let per_s = |amount: u64| amount.saturating_mul(1000) / window_ms;
        let (reads, writes) = (more(|c| c.reads), more(|c| c.writes));
        let mean_us = |ms: u64, ops: u64| ms.saturating_mul(1000).checked_div(ops);
        Disk {
            name: name.to_owned(),
            read_bytes_per_s: per_s(more(|c| c.read_sectors).saturating_mul(SECTOR_BYTES)),
            write_bytes_per_s: per_s(more(|c| c.written_sectors).saturating_mul(SECTOR_BYTES)),
            ops_per_s: per_s(reads.saturating_add(writes)),
            latency: Latency {
                read_us: mean_us(more(|c| c.read_ms), reads),
                write_us: mean_us(more(|c| c.write_ms), writes),
            },
            queue_permille: per_s(more(|c| c.queue_ms)),
            busy_permille: per_s(more(|c| c.busy_ms)).min(1000),
        }
    }
}
