//! What expressions may name: the machine as it is now.
//!
//! Each side reads its own facts; what both read is here. [`Facts`] compare equal as long as no value of the catalogue can
//! have changed.

use crate::domain::Domain;
use crate::value::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The facts of a knob and of the disk that its file belongs to, and what each says.
pub const COMMON: &[(&str, &str)] = &[
    ("original", "what the knob held before vmtide changed it"),
    ("current", "what the knob holds"),
    ("device.kind", "of a disk: `virtio`, `nvme`, `scsi` or `other`"),
    ("device.queues", "of a disk: hardware queues"),
    ("device.rotational", "of a disk: whether it says that it turns"),
    ("device.scheduler", "of a disk: its I/O scheduler"),
];

/// Sizes are rounded to this share of themselves, so that a byte more is no reason to write.
const SIZE_STEPS: u64 = 64;

/// The machine at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts(BTreeMap<&'static str, Value>);

impl Facts {
    /// Those of `told` that there are in `domain`.
    pub fn told(domain: &Domain, told: &BTreeMap<String, Value>) -> Self {
        let known = domain.facts.iter().filter_map(|(name, _)| Some((*name, told.get(*name)?.clone())));
        Self(known.collect())
    }

    /// What is known under `name`, but for a knob's and a disk's own facts.
    pub fn get(&self, name: &str) -> Option<Value> {
        self.0.get(name).cloned()
    }

    /// Says that `name` is `value` from now on.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.insert(name, value.into());
    }

    /// Those of `names` that are known, as text.
    pub fn some(&self, names: &[String]) -> BTreeMap<String, String> {
        names.iter().filter_map(|name| Some((name.clone(), self.get(name)?.to_string()))).collect()
    }

    /// Every fact by its name.
    pub fn all(&self) -> &BTreeMap<&'static str, Value> {
        &self.0
    }
}

/// A disk's own fact, for a `path` below `/sys/block`.
pub fn of_device(root: &Path, path: &str, name: &str) -> Option<Value> {
    let disk = path.strip_prefix("/sys/block/")?.split('/').next()?;
    let folder = root.join("sys/block").join(disk);
    match name {
        "device.kind" => Some(kind_of(disk).into()),
        "device.queues" => Some((fs::read_dir(folder.join("mq")).map_or(1, Iterator::count) as u64).into()),
        "device.rotational" => Some((fs::read_to_string(folder.join("queue/rotational")).ok()?.trim() == "1").into()),
        "device.scheduler" => Some(Value::read(&fs::read_to_string(folder.join("queue/scheduler")).ok()?)),
        _ => None,
    }
}

/// `bytes`, rounded down to a 64th of the power of two below it.
pub fn rounded(bytes: u64) -> u64 {
    let step = (bytes.checked_ilog2().map_or(1, |log| 1_u64 << log) / SIZE_STEPS).max(1);
    bytes / step * step
}

/// How many CPUs or nodes a list such as `0-3,5` in `path` names; 1 where there is none.
pub fn counted(root: &Path, path: &str) -> u64 {
    let numbers = |range: &str| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to): (u64, u64) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        to.checked_sub(from)?.checked_add(1)
    };
    let list = fs::read_to_string(root.join(path)).unwrap_or_default();
    list.trim().split(',').filter_map(numbers).fold(0, u64::saturating_add).max(1)
}

/// The kernel's version × 1000 + its patch level, 6.12 is 6012; 0 where it does not say.
pub fn kernel(root: &Path) -> u64 {
    fs::read_to_string(root.join("proc/sys/kernel/osrelease")).map_or(0, |release| version(&release))
}

/// `6.12.43-cloud` is 6012; 0 for what is no release.
pub fn version(release: &str) -> u64 {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u64>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) if major < 1_000 && minor < 1_000 => major * 1_000 + minor,
        _ => 0,
    }
}

/// Of the swap that is used first: `none`, `zram`, `zswap` or `disk`.
pub fn swap_kind(root: &Path) -> &'static str {
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let zswap = text("sys/module/zswap/parameters/enabled").trim() == "Y";
    first_swap(&text("proc/swaps"), zswap)
}

/// Of the area with the highest priority.
fn first_swap(swaps: &str, zswap: bool) -> &'static str {
    let areas = swaps.lines().skip(1).filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        Some((words.last()?.parse::<i64>().ok()?, name))
    });
    match areas.max_by_key(|(priority, _)| *priority) {
        None => "none",
        Some((_, name)) if name.trim_start_matches("/dev/").starts_with("zram") => "zram",
        Some(_) if zswap => "zswap",
        Some(_) => "disk",
    }
}

/// How transparent huge pages are set: `always`, `madvise`, `never`, or `absent`.
pub fn huge_pages(root: &Path) -> Value {
    let text = fs::read_to_string(root.join("sys/kernel/mm/transparent_hugepage/enabled"));
    text.map_or_else(|_| "absent".into(), |text| Value::read(&text))
}

/// How many whole disks there are.
pub fn disks(root: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(root.join("sys/block")) else { return 0 };
    entries.flatten().filter(|entry| kind_of(&entry.file_name().to_string_lossy()) != "other").count() as u64
}

fn kind_of(disk: &str) -> &'static str {
    let kinds = [("vd", "virtio"), ("nvme", "nvme"), ("sd", "scsi")];
    kinds.iter().find(|(prefix, _)| disk.starts_with(prefix)).map_or("other", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::write;

    const GIB: u64 = 1 << 30;

    #[test]
    fn sizes_move_in_steps() {
        assert_eq!(rounded(GIB + 1), GIB);
        assert_eq!(rounded(GIB - 1), GIB - (8 << 20));
        assert_eq!(rounded(0), 0);
        assert_eq!(rounded(77), 77);
        assert_eq!(rounded(u64::MAX), u64::MAX - ((1 << 57) - 1));
    }

    #[test]
    fn swap_is_what_is_used_first() {
        let head = "Filename\tType\tSize\tUsed\tPriority\n";
        for (areas, zswap, expected) in [
            ("", true, "none"),
            ("/dev/zram0 partition 1 0 100\n", false, "zram"),
            ("/swapfile file 1 0 -2\n", false, "disk"),
            ("/swapfile file 1 0 -2\n", true, "zswap"),
            ("garbage\n", false, "none"),
        ] {
            assert_eq!(first_swap(&format!("{head}{areas}"), zswap), expected, "{areas}");
        }
    }

    #[test]
    fn a_disk_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "sys/block/vda/mq/0/cpu_list", "0\n");
        write(dir.path(), "sys/block/vda/mq/1/cpu_list", "1\n");
        write(dir.path(), "sys/block/vda/queue/rotational", "1\n");
        write(dir.path(), "sys/block/vda/queue/scheduler", "[none] mq-deadline\n");
        let of = |name| of_device(dir.path(), "/sys/block/vda/queue/nr_requests", name);
        assert_eq!(of("device.kind"), Some("virtio".into()));
        assert_eq!(of("device.queues"), Some(Value::Number(2)));
        assert_eq!(of("device.rotational"), Some(true.into()));
        assert_eq!(of("device.scheduler"), Some("none".into()));
        assert_eq!(of_device(dir.path(), "/proc/sys/vm/swappiness", "device.kind"), None);
    }

    #[test]
    fn an_empty_tree_says_little_and_breaks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!((kernel(dir.path()), swap_kind(dir.path()), disks(dir.path())), (0, "none", 0));
        assert_eq!(
            (counted(dir.path(), "sys/devices/system/cpu/online"), huge_pages(dir.path())),
            (1, "absent".into())
        );
        for (release, expected) in [("6.12.43-cloud", 6_012), ("5.4", 5_004), ("x", 0), ("9999.1", 0)] {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}
