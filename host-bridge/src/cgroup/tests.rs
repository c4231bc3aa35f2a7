//! The lever on fixture trees, and on the machine's own kernel where that lets a test have a group.

mod child;

use super::*;
use std::fs;
use tempfile::TempDir;

const PID: i32 = 700;
const V1: &str = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
                  cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
const V2: &str = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";

fn write(root: &TempDir, path: &str, text: &str) {
    let path = root.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A host whose process is in `group`.
fn host(version: Version, group: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let (mounts, line, base) = match version {
        Version::V1 => (V1, "4:cpu,cpuacct:", "sys/fs/cgroup/cpu,cpuacct"),
        Version::V2 => (V2, "0::", "sys/fs/cgroup"),
    };
    write(&root, "proc/mounts", mounts);
    write(&root, &format!("proc/{PID}/cgroup"), &format!("9:name=systemd:/x\n{line}{group}\n"));
    let files = match version {
        Version::V1 => [("cpu.shares", "1024\n"), ("cpu.cfs_quota_us", "-1\n")],
        Version::V2 => [("cpu.weight", "100\n"), ("cpu.max", "max 100000\n")],
    };
    for (name, text) in files.into_iter().chain([("cgroup.procs", "700\n")]) {
        write(&root, &format!("{base}{group}/{name}"), text);
    }
    if version == Version::V2 {
        write(&root, "sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory\n");
    }
    root
}

fn found(root: &TempDir) -> Result<Group, String> {
    Group::find(root.path(), PID, &[], &root.path().join("run")).map_err(|error| error.to_string())
}

fn holds(group: &Group, name: &str) -> String {
    read(&group.directory().join(name)).unwrap()
}

#[test]
fn both_versions_take_shares_and_quotas_and_get_their_own_back() {
    for (version, weight, quota) in [
        (Version::V1, ("cpu.shares", "3072", "1024"), ("cpu.cfs_quota_us", "175000", "-1")),
        (Version::V2, ("cpu.weight", "300", "100"), ("cpu.max", "175000 100000", "max 100000")),
    ] {
        let root = host(version, "/vms/a");
        let mut group = found(&root).unwrap();
        group.set_weight(3000).unwrap();
        group.set_quota(Some(1750)).unwrap();
        assert_eq!((holds(&group, weight.0), holds(&group, quota.0)), (weight.1.into(), quota.1.into()));
        group.set_quota(None).unwrap();
        assert_eq!(holds(&group, quota.0), quota.2);
        group.restore().unwrap();
        assert_eq!(holds(&group, weight.0), weight.2);
        assert_eq!(fs::read_dir(root.path().join("run/cgroup")).unwrap().count(), 0, "nothing is noted any more");
    }
}

#[test]
fn a_bridge_that_was_killed_leaves_what_the_next_one_puts_back() {
    let root = host(Version::V2, "/vms/a");
    found(&root).unwrap().set_weight(2000).unwrap();
    let mut group = found(&root).unwrap();
    assert_eq!(holds(&group, "cpu.weight"), "200");
    group.restore().unwrap();
    assert_eq!(holds(&group, "cpu.weight"), "100");
}

#[test]
fn what_somebody_else_set_is_theirs_and_said_once() {
    let root = host(Version::V2, "/vms/a");
    let mut group = found(&root).unwrap();
    group.set_weight(2000).unwrap();
    fs::write(group.directory().join("cpu.weight"), "777\n").unwrap();
    assert!(matches!(group.set_weight(3000), Err(Error::Taken { found, .. }) if found == "777"));
    group.set_weight(4000).unwrap();
    group.restore().unwrap();
    assert_eq!(holds(&group, "cpu.weight"), "777");
}

#[test]
fn a_tighter_quota_of_the_operators_stays() {
    let root = host(Version::V2, "/vms/a");
    write(&root, "sys/fs/cgroup/vms/a/cpu.max", "50000 50000\n");
    let mut group = found(&root).unwrap();
    group.set_quota(Some(1500)).unwrap();
    assert_eq!(holds(&group, "cpu.max"), "50000 50000");
    group.set_quota(Some(500)).unwrap();
    assert_eq!(holds(&group, "cpu.max"), "50000 100000");
    group.restore().unwrap();
    assert_eq!(holds(&group, "cpu.max"), "50000 50000");
}

#[test]
fn shares_beyond_what_the_kernel_takes_are_its_bounds() {
    for (version, file, least, most) in
        [(Version::V1, "cpu.shares", "2", "262144"), (Version::V2, "cpu.weight", "1", "10000")]
    {
        let root = host(version, "/vms/a");
        let mut group = found(&root).unwrap();
        group.set_weight(1).unwrap();
        assert_eq!(holds(&group, file), least);
        group.set_weight(1_000_000).unwrap();
        assert_eq!(holds(&group, file), most);
    }
}

#[test]
fn the_scope_of_a_vm_is_its_group_with_the_kernels_workers() {
    let root = host(Version::V2, "/machine.slice/machine-a.scope");
    write(&root, &format!("proc/{PID}/cgroup"), "0::/machine.slice/machine-a.scope/libvirt/emulator\n");
    write(&root, "sys/fs/cgroup/machine.slice/machine-a.scope/libvirt/vcpu0/cgroup.procs", "");
    write(&root, "sys/fs/cgroup/machine.slice/machine-a.scope/cgroup.procs", "700\n701\n");
    write(&root, "proc/701/comm", "vhost-700\n");
    let group = found(&root).unwrap();
    assert!(group.directory().ends_with("machine.slice/machine-a.scope"));
}

#[test]
fn a_group_of_others_is_not_touched() {
    let shared = host(Version::V2, "/vms");
    write(&shared, "sys/fs/cgroup/vms/cgroup.procs", "700\n900\n");
    let below = host(Version::V2, "/vms");
    write(&below, "sys/fs/cgroup/vms/other/cgroup.procs", "900\n");
    let at_root = host(Version::V2, "/");
    let outside = host(Version::V2, "/../vms");
    let disabled = host(Version::V2, "/vms");
    fs::remove_file(disabled.path().join("sys/fs/cgroup/vms/cpu.weight")).unwrap();
    for (root, why) in [
        (shared, "/vms: foreign cgroup without delegation: process 900 is in it too"),
        (below, "process 900 is in it too"),
        (at_root, "/: foreign cgroup without delegation: it is the root group"),
        (outside, "it is outside of this cgroup namespace"),
        (disabled, "the cpu controller is not enabled for it"),
    ] {
        let error = found(&root).unwrap_err();
        assert!(error.ends_with(why), "{error}");
    }
}

#[test]
fn no_controller_in_either_version_is_said() {
    let root = host(Version::V2, "/vms");
    write(&root, "proc/mounts", "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /m cgroup rw,memory 0 0\n");
    assert!(found(&root).unwrap_err().starts_with("no cpu controller in either cgroup version"));
    write(&root, &format!("proc/{PID}/cgroup"), "");
    assert!(found(&root).unwrap_err().starts_with("no cpu controller in either cgroup version"));
    write(&root, &format!("proc/{PID}/cgroup"), "garbage\n4:cpu\n0::/vms\n");
    assert!(found(&root).unwrap_err().starts_with("no cpu controller in either cgroup version"));
}

#[test]
fn the_hosts_cpus_are_counted() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(host_cpus(root.path()), None);
    for (text, cpus) in [("0-1\n", Some(2)), ("0\n", Some(1)), ("0-3,6,8-9\n", Some(7)), ("\n", None), ("3-1\n", None)]
    {
        write(&root, "sys/devices/system/cpu/online", text);
        assert_eq!(host_cpus(root.path()), cpus, "{text:?}");
    }
}
