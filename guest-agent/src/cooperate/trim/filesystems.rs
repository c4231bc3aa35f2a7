//! Which mounted file systems can give blocks back.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Devices that end in the guest's memory, in one of its files, or on another machine: what they give back is not the host's.
const NOT_DISKS: [&str; 4] = ["loop", "ram", "zram", "nbd"];

/// A mounted file system on a disk that takes discards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Where it is mounted.
    pub mounted_at: PathBuf,
    /// The device of its files, as `stat` tells; `None` for those such as btrfs, which have one for each subvolume.
    pub device: Option<(u64, u64)>,
}

/// The file systems that the process sees below `root`, each once, in the order in which they were mounted.
///
/// Read-only is what the file system is, not its mount: what confines the agent mounts everything read-only for it.
///
/// # Errors
/// When the list of mounts cannot be read.
pub fn file_systems(root: &Path) -> io::Result<Vec<FileSystem>> {
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo"))?;
    let mut found: Vec<(PathBuf, bool, FileSystem)> = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse).filter(|mount| !mount.is_read_only) {
        let Some(device) = mount.block_device(root) else { continue };
        let file_system = FileSystem { mounted_at: mount.at, device: mount.device };
        match found.iter_mut().find(|(known, ..)| *known == device) {
            // One of a folder of it serves as well, but tells a person less.
            Some(known) if mount.is_whole && !known.1 => *known = (device, true, file_system),
            None if takes_discards(&device) => found.push((device, mount.is_whole, file_system)),
            Some(_) | None => {}
        }
    }
    Ok(found.into_iter().map(|(_, _, file_system)| file_system).collect())
}

/// A line of mountinfo.
struct Mount<'a> {
    device: Option<(u64, u64)>,
    is_whole: bool,
    at: PathBuf,
    source: &'a str,
    is_read_only: bool,
}

impl<'a> Mount<'a> {
    /// `ID PARENT MAJOR:MINOR ROOT AT OPTIONS [FIELDS…] - TYPE SOURCE SUPER-OPTIONS`, see proc(5).
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, super_block) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(2);
        let (major, minor) = mount.next()?.split_once(':')?;
        let (root, at) = (mount.next()?, mount.next()?);
        let mut super_block = super_block.split(' ').skip(1);
        let (source, options) = (super_block.next()?, super_block.next()?);
        let (major, minor): (u64, u64) = (major.parse().ok()?, minor.parse().ok()?);
        Some(Self {
            device: (major != 0).then_some((major, minor)),
            is_whole: root == "/",
            at: unescaped(at).into(),
            source,
            is_read_only: options.split(',').any(|option| option == "ro"),
        })
    }

    /// The folder in `/sys` of the disk or partition that it is on; `None` for what is on none: a network's, or the kernel's own.
    fn block_device(&self, root: &Path) -> Option<PathBuf> {
        let link = match self.device {
            Some((major, minor)) => root.join(format!("sys/dev/block/{major}:{minor}")),
            None => root.join("sys/class/block").join(self.source.strip_prefix("/dev/")?),
        };
        fs::canonicalize(link).ok()
    }
}

/// Whether what is discarded on this device leaves the guest.
fn takes_discards(device: &Path) -> bool {
    // A partition's folder is in its disk's.
    let is_partition = device.join("partition").exists();
    let Some(disk) = (if is_partition { device.parent() } else { Some(device) }) else { return false };
    let name = disk.file_name().unwrap_or_default().to_string_lossy();
    let most = fs::read_to_string(disk.join("queue/discard_max_bytes")).unwrap_or_default();
    let most: u64 = most.trim().parse().unwrap_or(0);
    most > 0 && !NOT_DISKS.iter().any(|prefix| name.starts_with(prefix))
}

/// Blanks and backslashes in a path are written as `\040` and the like.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = octal.filter(|_| first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::write;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A guest with the disk vda (discards), its partition vda1, sr0 (none), loop0 and zram0.
    fn guest(mounts: &str) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/self/mountinfo", mounts);
        fs::create_dir_all(root.path().join("sys/dev/block")).unwrap();
        fs::create_dir_all(root.path().join("sys/class/block")).unwrap();
        for (device, path, most) in [
            ("254:0", "vda", "2147483648\n"),
            ("11:0", "sr0", "0\n"),
            ("7:0", "loop0", "4096\n"),
            ("252:0", "zram0", "4096\n"),
        ] {
            write(root.path(), &format!("sys/devices/{path}/queue/discard_max_bytes"), most);
            symlink(root.path().join("sys/devices").join(path), root.path().join("sys/dev/block").join(device))
                .unwrap();
            symlink(root.path().join("sys/devices").join(path), root.path().join("sys/class/block").join(path))
                .unwrap();
        }
        write(root.path(), "sys/devices/vda/vda1/partition", "1\n");
        symlink(root.path().join("sys/devices/vda/vda1"), root.path().join("sys/dev/block/254:1")).unwrap();
        root
    }

    fn found(mounts: &str) -> Vec<String> {
        let found = file_systems(guest(mounts).path()).unwrap();
        found.into_iter().map(|found| found.mounted_at.display().to_string()).collect()
    }

    #[test]
    fn a_disk_that_takes_discards_counts_and_others_do_not() {
        for (line, expected) in [
            ("1 0 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw", &["/"][..]),
            ("1 0 254:0 / /a\\040b rw - xfs /dev/vda rw,noquota", &["/a b"]),
            // A confined agent's mounts are read-only, and the file systems are not.
            ("1 0 254:1 / / ro - ext4 /dev/root rw,errors=remount-ro", &["/"]),
            ("1 0 254:1 / / rw - ext4 /dev/vda1 ro", &[]),
            ("1 0 0:30 / /data rw - btrfs /dev/vda rw", &["/data"]),
            ("1 0 0:31 / /net rw - nfs4 host:/dev/vda rw", &[]),
            ("1 0 0:5 / /dev rw - devtmpfs udev rw", &[]),
            ("1 0 7:0 / /snap rw - squashfs /dev/loop0 rw", &[]),
            ("1 0 252:0 / /fast rw - ext4 /dev/zram0 rw", &[]),
            ("1 0 11:0 / /cd rw - udf /dev/sr0 rw", &[]),
            ("1 0 9:9 / /gone rw - ext4 /dev/md9 rw", &[]),
            ("garbage", &[]),
            ("1 0 254 / / rw - ext4 /dev/vda1 rw", &[]),
        ] {
            assert_eq!(found(line), expected, "{line}");
        }
    }

    #[test]
    fn a_file_system_that_is_mounted_twice_is_one_and_shown_where_all_of_it_is() {
        let mounts = "1 0 254:0 /folder /mnt rw - ext4 /dev/vda rw\n2 0 254:0 / /data rw - ext4 /dev/vda rw\n3 0 254:0 / /again rw - ext4 /dev/vda rw\n";
        assert_eq!(found(mounts), ["/data"]);
    }

    #[test]
    fn two_partitions_of_a_disk_are_two() {
        let root = guest("1 0 254:1 / / rw - ext4 /dev/vda1 rw\n2 0 254:2 / /home rw - ext4 /dev/vda2 rw\n");
        write(root.path(), "sys/devices/vda/vda2/partition", "2\n");
        symlink(root.path().join("sys/devices/vda/vda2"), root.path().join("sys/dev/block/254:2")).unwrap();
        assert_eq!(file_systems(root.path()).unwrap().len(), 2);
    }
}
