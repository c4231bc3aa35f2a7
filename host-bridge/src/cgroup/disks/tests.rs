//! The lever on fixture trees. How a kernel holds to it is tested in a guest that plays the host (`tests/tests/throttle.rs`).

use super::*;
use crate::cgroup::Version;
use std::fs;
use tempfile::TempDir;

const PID: i32 = 700;
const RATE: Option<Throttle> = Some(Throttle { bytes_per_s: 1 << 20, ops_per_s: 64 });
const V1_FILES: [(&str, &str); 6] = [
    ("blkio.throttle.read_bps_device", ""),
    ("blkio.throttle.write_bps_device", "8:0 4096\n"),
    ("blkio.throttle.read_iops_device", "8:0 100\n"),
    ("blkio.throttle.write_iops_device", ""),
    ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 300\n8:0 Write 100\n8:0 Total 400\nTotal 400\n"),
    ("blkio.throttle.io_serviced_recursive", "8:0 Read 3\n8:0 Write 1\n8:0 Sync 4\nTotal 4\n"),
];
/// LVM on a disk and a partition of another, a loop, and a device that was never used.
const STAT: &str = "8:0 rbytes=300 wbytes=100 rios=3 wios=1 dbytes=9 dios=9\n\
                    8:16 rbytes=300 wbytes=0 rios=3 wios=0 dbytes=0 dios=0\n\
                    253:0 rbytes=600 wbytes=100 rios=6 wios=1 dbytes=0 dios=0 cost.usage=7\n\
                    7:0 rbytes=50 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n\
                    8:32\n";

fn write(root: &TempDir, path: &str, text: &str) {
    let path = root.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn host(version: Version) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let (mounts, line, base, files): (_, _, _, &[(&str, &str)]) = match version {
        Version::V1 => ("c /cg cgroup rw,blkio 0 0\n", "3:blkio:/vms/a", "cg/vms/a", &V1_FILES),
        Version::V2 => (
            "c /cg cgroup2 rw 0 0\n",
            "0::/vms/a",
            "cg/vms/a",
            &[
                ("io.max", ""),
                ("io.stat", STAT),
                ("io.weight", "default 100\n8:0 50\n"),
                ("io.bfq.weight", "default 100\n"),
            ],
        ),
    };
    write(&root, "proc/mounts", mounts);
    write(&root, &format!("proc/{PID}/cgroup"), &format!("{line}\n"));
    write(&root, &format!("{base}/cgroup.procs"), "700\n");
    for (name, text) in files {
        write(&root, &format!("{base}/{name}"), text);
    }
    root
}

/// What the device-mapper device stands on: a whole disk, and a partition of another.
fn stack(root: &TempDir) {
    write(root, "sys/dev/block/7:0/uevent", "MAJOR=7\nDEVNAME=loop0\n");
    write(root, "sys/dev/block/253:0/slaves/sda/dev", "8:0\n");
    write(root, "sys/dev/block/253:0/slaves/dev", "8:16\n");
    write(root, "sys/dev/block/253:0/slaves/sdb1/partition", "1\n");
}

fn found(root: &TempDir) -> IoGroup {
    IoGroup::find(root.path(), PID, &root.path().join("run")).unwrap()
}

fn holds(root: &TempDir, name: &str) -> String {
    fs::read_to_string(root.path().join("cg/vms/a").join(name)).unwrap()
}

#[test]
fn each_device_is_held_and_what_is_below_another_is_not() {
    let root = host(Version::V2);
    stack(&root);
    let mut group = found(&root);
    assert_eq!(group.count().unwrap(), IoCount { bytes: 700, ops: 7 });
    assert_eq!(group.hold(RATE).unwrap(), 1);
    // A file keeps the last write; the kernel's has a line for each device.
    assert_eq!(holds(&root, "io.max"), "253:0 rbps=1048576 wbps=1048576 riops=64 wiops=64");
    assert_eq!(group.hold(None).unwrap(), 0);
    assert_eq!(holds(&root, "io.max"), "253:0 rbps=max wbps=max riops=max wiops=max");
    assert_eq!(fs::read_dir(root.path().join("run/cgroup")).unwrap().count(), 0, "nothing is noted any more");
}

#[test]
fn v1_has_a_file_for_each_rate_and_a_tighter_one_of_the_operators_stays() {
    let root = host(Version::V1);
    let mut group = found(&root);
    assert_eq!(group.count().unwrap(), IoCount { bytes: 400, ops: 4 });
    group.hold(RATE).unwrap();
    let rates = |group: &str| V1_RATES.map(|(name, _)| holds(&root, name)).join("|") + group;
    assert_eq!(rates(""), "8:0 1048576|8:0 4096\n|8:0 64|8:0 64");
    group.restore().unwrap();
    assert_eq!(rates(""), "8:0 0|8:0 4096\n|8:0 100|8:0 0");
    group.set_weight(Some(3000)).unwrap();
}

#[test]
fn a_tighter_limit_of_the_operators_stays_in_each_rate_and_comes_back_whole() {
    let root = host(Version::V2);
    let before = "8:0 rbps=4096 wbps=max riops=max wiops=9";
    write(&root, "cg/vms/a/io.max", before);
    write(&root, "cg/vms/a/io.stat", "8:0 rbytes=300 wbytes=100 rios=3 wios=1 dbytes=9 dios=9\n");
    let mut group = found(&root);
    group.hold(RATE).unwrap();
    assert_eq!(holds(&root, "io.max"), "8:0 rbps=4096 wbps=1048576 riops=64 wiops=9");
    let tight = Throttle { bytes_per_s: 1 << 30, ops_per_s: 1 << 20 };
    group.hold(Some(Throttle { bytes_per_s: u64::MAX, ops_per_s: u64::MAX })).unwrap();
    assert_eq!(holds(&root, "io.max"), format!("8:0 rbps=4096 wbps={} riops={} wiops=9", u64::MAX, u32::MAX));
    group.hold(Some(Throttle { bytes_per_s: 0, ops_per_s: 0 })).unwrap();
    assert_eq!(holds(&root, "io.max"), "8:0 rbps=1 wbps=1 riops=1 wiops=1", "0 would be no limit, or refused");
    group.hold(Some(tight)).unwrap();
    group.restore().unwrap();
    assert_eq!(holds(&root, "io.max"), before);
}

#[test]
fn a_bridge_that_was_killed_leaves_what_the_next_one_puts_back() {
    let root = host(Version::V2);
    stack(&root);
    let mut killed = found(&root);
    killed.hold(RATE).unwrap();
    killed.set_weight(Some(20_000)).unwrap();
    assert_eq!(
        (holds(&root, "io.weight"), holds(&root, "io.bfq.weight")),
        ("default 2000".into(), "default 1000".into())
    );
    drop(killed);
    found(&root).restore().unwrap();
    assert_eq!(holds(&root, "io.max"), "253:0 rbps=max wbps=max riops=max wiops=max");
    assert_eq!(holds(&root, "io.weight"), "default 100");
    assert_eq!(fs::read_dir(root.path().join("run/cgroup")).unwrap().count(), 0);
}

#[test]
fn what_somebody_else_set_is_theirs_and_said_once() {
    let root = host(Version::V2);
    stack(&root);
    let mut group = found(&root);
    group.hold(RATE).unwrap();
    let theirs = "253:0 rbps=7 wbps=max riops=max wiops=max";
    write(&root, "cg/vms/a/io.max", theirs);
    assert!(
        matches!(group.hold(Some(Throttle { bytes_per_s: 5, ops_per_s: 5 })), Err(Error::Taken { found, .. }) if found.starts_with("rbps=7"))
    );
    group.hold(RATE).unwrap();
    group.restore().unwrap();
    assert_eq!(holds(&root, "io.max"), theirs);
}

#[test]
fn a_group_without_a_block_device_cannot_be_held_and_a_failure_leaves_nothing_half_done() {
    let root = host(Version::V2);
    write(&root, "cg/vms/a/io.stat", "7:0\n");
    let mut group = found(&root);
    assert!(group.hold(RATE).unwrap_err().to_string().ends_with("no block device that its I/O is counted on"));
    assert_eq!(group.count().unwrap(), IoCount::default());

    let root = host(Version::V1);
    let mut group = found(&root);
    group.hold(RATE).unwrap();
    group.hold(None).unwrap();
    // The last of the four cannot be read or written any more.
    let last = root.path().join("cg/vms/a/blkio.throttle.write_iops_device");
    fs::remove_file(&last).unwrap();
    fs::create_dir(&last).unwrap();
    assert!(matches!(group.hold(RATE), Err(Error::File { path, .. }) if path == last));
    assert_eq!(holds(&root, "blkio.throttle.read_iops_device"), "8:0 100", "what came before it is as it was");
    fs::remove_file(root.path().join("cg/vms/a/blkio.throttle.io_serviced_recursive")).unwrap();
    assert!(group.count().is_err());
}

#[test]
fn helpers_of_a_vm_are_part_of_it_and_others_are_not() {
    let root = host(Version::V2);
    write(&root, "cg/vms/a/cgroup.procs", "700\n701\n702\n");
    write(&root, "proc/701/comm", "qemu-storage-da\n");
    write(&root, "proc/702/comm", "swtpm\n");
    found(&root);
    write(&root, "proc/702/comm", "qemu-system-x86\n");
    let error = IoGroup::find(root.path(), PID, &root.path().join("run")).unwrap_err().to_string();
    assert!(error.ends_with("process 702 is in it too"), "{error}");
}

#[test]
fn no_controller_is_said() {
    let root = host(Version::V2);
    write(&root, "cg/cgroup.controllers", "cpu memory\n");
    fs::remove_file(root.path().join("cg/vms/a/io.max")).unwrap();
    let error = || IoGroup::find(root.path(), PID, root.path()).unwrap_err().to_string();
    assert_eq!(error(), "no io controller in either cgroup version; disks are held by their hypervisor alone");
    write(&root, "cg/cgroup.controllers", "cpu io memory\n");
    assert!(error().ends_with("the io controller is not enabled for it"), "{}", error());
}
