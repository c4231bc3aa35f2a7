//! A VM's group for its disks: weight, the rate of each block device, and what it did.
//!
//! The devices are those that the kernel counts I/O of this group on (`io.stat`). One that another of them stands on, as a disk
//! under LVM, is left out: the same bytes would count, and be held, twice. So are loops and what is in memory.

use super::find::{Place, find};
use super::note::Note;
use super::setting::{Line, Setting};
use super::{Controller, Error, Version, read};
use crate::plan::storage::Throttle;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What v1 calls the rates that v2 has in one line of `io.max`.
const V1_RATES: [(&str, Rate); 4] = [
    ("blkio.throttle.read_bps_device", Rate::Bytes),
    ("blkio.throttle.write_bps_device", Rate::Bytes),
    ("blkio.throttle.read_iops_device", Rate::Ops),
    ("blkio.throttle.write_iops_device", Rate::Ops),
];
const V2_RATES: [(&str, Rate); 4] =
    [("rbps", Rate::Bytes), ("wbps", Rate::Bytes), ("riops", Rate::Ops), ("wiops", Rate::Ops)];
/// The least and the most weight: of the cost model, and of the BFQ scheduler.
const WEIGHTS: [(&str, u64); 2] = [("io.weight", 10_000), ("io.bfq.weight", 1_000)];

#[derive(Clone, Copy, Debug)]
enum Rate {
    Bytes,
    Ops,
}

impl Rate {
    fn of(self, throttle: Throttle) -> u64 {
        match self {
            Self::Bytes => throttle.bytes_per_s.max(1),
            // v1 cuts larger ones off at 32 bits.
            Self::Ops => throttle.ops_per_s.clamp(1, u64::from(u32::MAX)),
        }
    }
}

/// What a group did on its block devices since it was made, reads and writes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCount {
    /// Bytes.
    pub bytes: u64,
    /// Operations.
    pub ops: u64,
}

/// The group of one VM; dropped without [`IoGroup::restore`], what was set stays.
#[derive(Debug)]
pub struct IoGroup {
    root: PathBuf,
    version: Version,
    directory: PathBuf,
    note: Note,
    weights: Vec<(Setting, u64)>,
    /// By device, `MAJOR:MINOR`: those that were held since it was found.
    rates: BTreeMap<String, Vec<Setting>>,
}

impl IoGroup {
    /// The group of process `pid` below `root`. What a bridge that was killed set there is put back by
    /// [`IoGroup::restore`], as the note in `folder` knows it.
    ///
    /// # Errors
    /// [`Error`]: there is no controller, or the group is not the VM's alone.
    pub fn find(root: &Path, pid: i32, folder: &Path) -> Result<Self, Error> {
        let Place { version, directory } = find(root, pid, Controller::Io).map_err(|refusal| refusal.error)?;
        let note = Note::of(folder, &directory);
        let mut weights = Vec::new();
        for (name, most) in WEIGHTS {
            if version == Version::V2 && directory.join(name).exists() {
                let line = Line { key: "default".to_owned(), absent: "100" };
                weights.push((Setting::find(&directory, name, Some(line), &note)?, most));
            }
        }
        let root = root.to_owned();
        let mut group = Self { root, version, directory, note, weights, rates: BTreeMap::new() };
        for (name, _) in group.rate_files() {
            for line in read(&group.directory.join(name))?.lines() {
                let Some(device) = line.split(' ').next().filter(|device| device.contains(':')) else { continue };
                let settings = group.settings(device)?;
                if settings.iter().any(Setting::is_ours) {
                    group.rates.insert(device.to_owned(), settings);
                }
            }
        }
        Ok(group)
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it did so far.
    ///
    /// # Errors
    /// [`Error::File`] when the kernel's count cannot be read.
    pub fn count(&self) -> Result<IoCount, Error> {
        let counts = self.counts()?;
        let own = self.own_devices(&counts);
        let add = |sum: IoCount, count: &IoCount| IoCount {
            bytes: sum.bytes.saturating_add(count.bytes),
            ops: sum.ops.saturating_add(count.ops),
        };
        Ok(own.iter().filter_map(|device| counts.get(*device)).fold(IoCount::default(), add))
    }

    /// Gives the group this weight, 1000 shares being what a group has by default; `None`: the one before vmtide. A kernel
    /// without weights has none.
    ///
    /// # Errors
    /// [`Error`] with the file; [`Error::Taken`] once, when somebody else set another value.
    pub fn set_weight(&mut self, shares: Option<u32>) -> Result<(), Error> {
        let note = &self.note;
        let set = |(setting, most): &mut (Setting, u64)| {
            let weight = shares.map(|shares| (u64::from(shares) / 10).clamp(1, *most).to_string());
            setting.set(note, weight.as_deref())
        };
        first_error(self.weights.iter_mut().map(set))
    }

    /// Holds each of its devices to this rate in each direction, or gives them back what they had. Returns how many are held.
    ///
    /// # Errors
    /// [`Error::NoDevice`]; [`Error::File`] when one cannot be held; then none is. [`Error::Taken`] once, when somebody else
    /// holds one since.
    pub fn hold(&mut self, throttle: Option<Throttle>) -> Result<usize, Error> {
        let Some(throttle) = throttle else { return self.release().map(|()| 0) };
        let counts = self.counts()?;
        for device in self.own_devices(&counts) {
            if !self.rates.contains_key(device) {
                let settings = self.settings(device)?;
                self.rates.insert(device.to_owned(), settings);
            }
        }
        if self.rates.is_empty() {
            return Err(Error::NoDevice { path: self.directory.clone() });
        }
        let (note, version) = (&self.note, self.version);
        let set = |setting: (&mut Setting, Rate)| {
            let (setting, rate) = setting;
            let value = match version {
                Version::V1 => tighter(setting.original(), rate.of(throttle)),
                Version::V2 => tighter_line(setting.original(), throttle),
            };
            setting.set(note, value.as_deref())
        };
        let all = self.rates.values_mut().flat_map(|settings| settings.iter_mut().zip(V1_RATES.map(|(_, rate)| rate)));
        let held = first_error(all.map(set));
        if let Err(Error::File { .. }) = held {
            // What came before it is not left half done; of two failures the first tells why.
            let _ = self.release();
        }
        held.map(|()| self.rates.len())
    }

    /// Puts back what was there before and nobody else changed; all that can be is.
    ///
    /// # Errors
    /// The first that could not be.
    pub fn restore(&mut self) -> Result<(), Error> {
        let weight = self.set_weight(None);
        self.release().and(weight)
    }

    /// Drops the notes about a group that is gone, as it is with its VM.
    pub fn forget(&self) {
        let weights = self.weights.iter().map(|(setting, _)| setting);
        weights.chain(self.rates.values().flatten()).for_each(|setting| setting.forget(&self.note));
    }

    fn release(&mut self) -> Result<(), Error> {
        let note = &self.note;
        first_error(self.rates.values_mut().flatten().map(|setting| setting.set(note, None)))
    }

    fn rate_files(&self) -> &'static [(&'static str, Rate)] {
        match self.version {
            Version::V1 => &V1_RATES,
            Version::V2 => &[("io.max", Rate::Bytes)],
        }
    }

    fn settings(&self, device: &str) -> Result<Vec<Setting>, Error> {
        let absent = match self.version {
            Version::V1 => "0",
            Version::V2 => "rbps=max wbps=max riops=max wiops=max",
        };
        let line = || Some(Line { key: device.to_owned(), absent });
        let files = self.rate_files().iter();
        files.map(|(name, _)| Setting::find(&self.directory, name, line(), &self.note)).collect()
    }

    /// What the kernel counted, by device.
    fn counts(&self) -> Result<BTreeMap<String, IoCount>, Error> {
        let mut counts: BTreeMap<String, IoCount> = BTreeMap::new();
        match self.version {
            Version::V2 => {
                for line in read(&self.directory.join("io.stat"))?.lines() {
                    let mut fields = line.split(' ');
                    let count = counts.entry(fields.next().unwrap_or_default().to_owned()).or_default();
                    for (key, value) in fields.filter_map(|field| field.split_once('=')) {
                        let value = value.parse().unwrap_or(0);
                        match key {
                            "rbytes" | "wbytes" => count.bytes = count.bytes.saturating_add(value),
                            "rios" | "wios" => count.ops = count.ops.saturating_add(value),
                            _ => {}
                        }
                    }
                }
            }
            Version::V1 => {
                type Part = fn(&mut IoCount) -> &mut u64;
                let files: [(&str, Part); 2] = [
                    ("blkio.throttle.io_service_bytes_recursive", |count| &mut count.bytes),
                    ("blkio.throttle.io_serviced_recursive", |count| &mut count.ops),
                ];
                for (file, part) in files {
                    for line in read(&self.directory.join(file))?.lines() {
                        let mut fields = line.split(' ');
                        let (Some(device), Some("Read" | "Write"), Some(value)) =
                            (fields.next(), fields.next(), fields.next())
                        else {
                            continue;
                        };
                        let part = part(counts.entry(device.to_owned()).or_default());
                        *part = part.saturating_add(value.parse().unwrap_or(0));
                    }
                }
            }
        }
        counts.retain(|_, count| count.ops > 0);
        Ok(counts)
    }

    /// The devices that the VM's disks are on.
    fn own_devices<'a>(&self, counts: &'a BTreeMap<String, IoCount>) -> Vec<&'a str> {
        let sysfs = |device: &str| self.root.join("sys/dev/block").join(device);
        let below: Vec<String> = counts.keys().flat_map(|device| slaves(&sysfs(device))).collect();
        let is_disk = |device: &&String| {
            let told = std::fs::read_to_string(sysfs(device).join("uevent")).unwrap_or_default();
            let name = told.lines().find_map(|line| line.strip_prefix("DEVNAME=")).unwrap_or_default();
            !["loop", "ram", "zram"].iter().any(|prefix| name.starts_with(prefix)) && !below.contains(device)
        };
        counts.keys().filter(is_disk).map(String::as_str).collect()
    }
}

/// The whole devices that a device stands on.
fn slaves(device: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(device.join("slaves")).into_iter().flatten().flatten();
    let number = |slave: PathBuf| {
        let whole = if slave.join("partition").exists() { slave.join("..") } else { slave };
        std::fs::read_to_string(whole.join("dev")).ok().map(|number| number.trim().to_owned())
    };
    entries.filter_map(|entry| number(entry.path())).collect()
}

/// The value for a file that holds one rate; `None` where the one before is tighter.
fn tighter(original: &str, rate: u64) -> Option<String> {
    let before = original.parse().ok().filter(|before| *before > 0);
    before.is_none_or(|before: u64| rate < before).then(|| rate.to_string())
}

/// The value for a line of `io.max`: in each rate the lower of the two; `None` where that is all as before.
fn tighter_line(original: &str, throttle: Throttle) -> Option<String> {
    let before = |key: &str| original.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
    let part = |(key, rate): (&str, Rate)| {
        let before = before(key).and_then(|value| value.parse::<u64>().ok()).unwrap_or(u64::MAX);
        format!("{key}={}", rate.of(throttle).min(before))
    };
    let line = V2_RATES.map(part).join(" ");
    (line != original).then_some(line)
}

fn first_error(results: impl Iterator<Item = Result<(), Error>>) -> Result<(), Error> {
    results.fold(Ok(()), Result::and)
}

#[cfg(test)]
mod tests;
