//! Block I/O: counters from `/proc/diskstats`, stalls from `/proc/pressure/io`.

use super::pressure::{PressureReader, Stall};
use super::{SenseError, source::Source};
use procfs::DiskStat;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// `/proc/diskstats` counts in these, whatever the disk's own sectors are.
const SECTOR_BYTES: u64 = 512;

/// Devices that stand on others (they would count twice) or on memory.
const NOT_DISKS: [&str; 8] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];

/// All disks of the guest at one moment. Counters count since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StorageSample {
    /// Counter: bytes read.
    pub read_bytes: u64,
    /// Counter: bytes written.
    pub write_bytes: u64,
    /// Counter: reads and writes done.
    pub ops: u64,
    /// Counter: time that requests took, added up.
    pub request_ms: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Waiting for I/O; `None` without PSI.
    pub stall: Option<Stall>,
}

/// Takes [`StorageSample`]s.
#[derive(Debug)]
pub struct StorageReader {
    block: PathBuf,
    diskstats: Source,
    pressure: PressureReader,
    /// Whether a name is a whole disk: asked once per name.
    known: Vec<(String, bool)>,
}

impl StorageReader {
    /// Opens the files below `root`.
    ///
    /// # Errors
    /// [`SenseError`] when `/proc/diskstats` cannot be opened.
    pub fn open(root: &Path) -> Result<Self, SenseError> {
        Ok(Self {
            block: root.join("sys/block"),
            diskstats: Source::open(root, "proc/diskstats")?,
            pressure: PressureReader::open(root, "io")?,
            known: Vec::new(),
        })
    }

    /// All disks now.
    ///
    /// # Errors
    /// [`SenseError`] with file and line.
    pub fn sample(&mut self) -> Result<StorageSample, SenseError> {
        let mut sample = StorageSample { stall: self.pressure.sample()?, ..StorageSample::default() };
        for (_, line) in self.diskstats.read()?.lines() {
            let Some(name) = line.whole().split_ascii_whitespace().nth(2) else {
                return Err(line.unexpected("expected a disk"));
            };
            if !is_whole_disk(&mut self.known, &self.block, name) {
                continue;
            }
            let disk = DiskStat::from_line(line.whole()).map_err(|_| line.unexpected("expected a disk's counters"))?;
            let add = |sum: &mut u64, value: u64| *sum = sum.saturating_add(value);
            add(&mut sample.read_bytes, disk.sectors_read.saturating_mul(SECTOR_BYTES));
            add(&mut sample.write_bytes, disk.sectors_written.saturating_mul(SECTOR_BYTES));
            add(&mut sample.ops, disk.reads.saturating_add(disk.writes));
            add(&mut sample.request_ms, disk.time_reading.saturating_add(disk.time_writing));
            add(&mut sample.in_flight, disk.in_progress);
        }
        Ok(sample)
    }
}

/// A whole disk has a folder of its own in `/sys/block`, a partition only one inside its disk's.
fn is_whole_disk(known: &mut Vec<(String, bool)>, block: &Path, name: &str) -> bool {
    if let Some((_, answer)) = known.iter().find(|(known, _)| known == name) {
        return *answer;
    }
    let answer = !NOT_DISKS.iter().any(|prefix| name.starts_with(prefix)) && block.join(name).exists();
    known.push((name.to_owned(), answer));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{guest, write};

    #[test]
    fn sums_whole_disks_once() {
        let dir = guest();
        let sample = StorageReader::open(dir.path()).unwrap().sample().unwrap();
        assert_eq!(sample.read_bytes, 8_080 * 512);
        assert_eq!(sample.write_bytes, 4_040 * 512);
        assert_eq!(sample.ops, 1_515);
        assert_eq!(sample.request_ms, 50 + 60 + 1 + 1);
        assert_eq!(sample.in_flight, 3);
    }

    #[test]
    fn no_disks_is_an_answer() {
        let dir = guest();
        write(dir.path(), "proc/diskstats", "");
        let sample = StorageReader::open(dir.path()).unwrap().sample().unwrap();
        assert_eq!(sample.ops, 0);
    }

    #[test]
    fn odd_lines_are_errors_with_their_line() {
        for line in ["254 0", "254 0 vda 1 2 3", "254 0 vda x 10 8000 50 500 20 4000 60 2 100 110"] {
            let dir = guest();
            write(dir.path(), "proc/diskstats", &format!("   7 0 loop0 garbage\n {line}\n"));
            let error = StorageReader::open(dir.path()).unwrap().sample().unwrap_err().to_string();
            assert!(error.contains("diskstats, line 2: expected a disk"), "{error}");
        }
    }
}
