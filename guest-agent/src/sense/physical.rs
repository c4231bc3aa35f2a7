//! What the VM was given at boot and what its balloon promised: read once.

use std::fs;
use std::path::Path;

/// The bit of `VIRTIO_BALLOON_F_DEFLATE_ON_OOM`.
const DEFLATE_ON_OOM: usize = 2;
/// The bit of `VIRTIO_BALLOON_F_REPORTING`.
const REPORTING: usize = 5;

/// RAM that the firmware handed over at boot, bytes; `None` where the kernel does not show it, as to users other
/// than root.
pub(super) fn firmware_ram_bytes(root: &Path) -> Option<u64> {
    let total_bytes =
        firmware_ram(root)?.into_iter().try_fold(0_u64, |sum, (start, end)| sum.checked_add(end - start))?;
    (total_bytes > 0).then_some(total_bytes)
}

/// Where that RAM lies: from the first address of each range up to the one behind its last, in rising order.
pub(super) fn firmware_ram(root: &Path) -> Option<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    for range in fs::read_dir(root.join("sys/firmware/memmap")).ok()? {
        let range = range.ok()?.path();
        let text = |name| fs::read_to_string(range.join(name)).ok();
        if text("type")?.trim() != "System RAM" {
            continue;
        }
        let address = |name| u64::from_str_radix(text(name)?.trim().strip_prefix("0x")?, 16).ok();
        let (start, last) = (address("start")?, address("end")?);
        let end = last.checked_add(1).filter(|&end| end > start)?;
        ranges.push((start, end));
    }
    ranges.sort_unstable();
    Some(ranges)
}

/// Memory that was plugged in and that nobody has put to use, bytes: where the kernel does not do that by itself, user space has
/// to (Documentation/admin-guide/mm/memory-hotplug.rst).
pub(crate) fn offline_bytes(root: &Path) -> u64 {
    let folder = root.join("sys/devices/system/memory");
    let Ok(block) = fs::read_to_string(folder.join("block_size_bytes")) else { return 0 };
    let block_bytes = u64::from_str_radix(block.trim(), 16).unwrap_or(0);
    let Ok(blocks) = fs::read_dir(folder) else { return 0 };
    let is_offline = |path: &Path| fs::read_to_string(path.join("state")).is_ok_and(|state| state.trim() == "offline");
    block_bytes.saturating_mul(blocks.flatten().filter(|block| is_offline(&block.path())).count() as u64)
}

/// Whether the balloon gives way before the kernel kills. Then the kernel goes on counting ballooned pages in
/// MemTotal; otherwise it takes them out.
pub(crate) fn balloon_deflates_on_oom(root: &Path) -> bool {
    balloon_has(root, DEFLATE_ON_OOM)
}

/// Whether the balloon tells the host which memory is free.
pub(crate) fn balloon_reports_free_pages(root: &Path) -> bool {
    balloon_has(root, REPORTING)
}

fn balloon_has(root: &Path, feature: usize) -> bool {
    let Ok(devices) = fs::read_dir(root.join("sys/bus/virtio/drivers/virtio_balloon")) else { return false };
    devices.flatten().any(|device| {
        let features = fs::read_to_string(device.path().join("features"));
        features.is_ok_and(|bits| bits.as_bytes().get(feature) == Some(&b'1'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{guest, write};

    #[test]
    fn sums_ram_and_only_ram() {
        let dir = guest();
        assert_eq!(firmware_ram_bytes(dir.path()), Some(0x9fc00 + 0x2ff0_0000));
    }

    #[test]
    fn a_map_that_makes_no_sense_is_no_map() {
        for (end, kind) in [("0x0", "System RAM"), ("zz", "System RAM"), ("0xffffffffffffffff", "System RAM")] {
            let dir = guest();
            write(dir.path(), "sys/firmware/memmap/2/end", end);
            write(dir.path(), "sys/firmware/memmap/2/type", kind);
            if end == "0xffffffffffffffff" {
                write(dir.path(), "sys/firmware/memmap/2/start", "0x0");
            }
            assert_eq!(firmware_ram_bytes(dir.path()), None, "{end}");
        }
        assert_eq!(firmware_ram_bytes(tempfile::tempdir().unwrap().path()), None);
    }

    #[test]
    fn counts_memory_that_nobody_put_to_use() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(offline_bytes(dir.path()), 0, "a kernel without hotplug");
        write(dir.path(), "sys/devices/system/memory/block_size_bytes", "8000000\n");
        for (block, state) in [(0, "online\n"), (8, "offline\n"), (9, "offline\n"), (10, "going-offline\n")] {
            write(dir.path(), &format!("sys/devices/system/memory/memory{block}/state"), state);
        }
        assert_eq!(offline_bytes(dir.path()), 2 << 27);
    }

    #[test]
    fn reads_the_balloons_feature_bit() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!balloon_deflates_on_oom(dir.path()));
        let features = "sys/bus/virtio/drivers/virtio_balloon/virtio3/features";
        write(dir.path(), "sys/bus/virtio/drivers/virtio_balloon/bind", "");
        for (bits, expected) in [("0110000\n", true), ("0100000\n", false), ("01", false), ("", false)] {
            write(dir.path(), features, bits);
            assert_eq!(balloon_deflates_on_oom(dir.path()), expected, "{bits:?}");
        }
        write(dir.path(), features, "001001\n");
        assert!(balloon_reports_free_pages(dir.path()));
    }
}
