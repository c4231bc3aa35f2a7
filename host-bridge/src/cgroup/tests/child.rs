//! Groups of a VM's own below one that it shares. What the kernel does with them is tested on a kernel (`tests/tests/cgroup.rs`).

use super::*;

const OTHER: i32 = 900;

/// A host whose process shares its group with another; below it is what the kernel would make of a group for the process.
fn shared(version: Version) -> (TempDir, PathBuf) {
    let root = host(version, "/vms");
    let base = if version == Version::V1 { "sys/fs/cgroup/cpu,cpuacct/vms" } else { "sys/fs/cgroup/vms" };
    write(&root, &format!("{base}/cgroup.procs"), &format!("{PID}\n{OTHER}\n"));
    for pid in [PID, OTHER] {
        for (name, text) in [("cpu.shares", "1024\n"), ("cpu.cfs_quota_us", "-1\n")] {
            write(&root, &format!("{base}/vmtide-vm-{pid}/{name}"), text);
        }
        for (name, text) in [("cpu.weight", "100\n"), ("cpu.max", "max 100000\n")] {
            write(&root, &format!("{base}/vmtide-vm-{pid}/{name}"), text);
        }
    }
    if version == Version::V2 {
        write(&root, &format!("{base}/cgroup.controllers"), "cpu memory\n");
        write(&root, &format!("{base}/cgroup.subtree_control"), "memory\n");
    }
    let group = root.path().join(base);
    (root, group)
}

/// Leaves a group to others as systemd does.
fn delegate(group: &Path) {
    let set = |name| rustix::fs::setxattr(group, name, b"1", rustix::fs::XattrFlags::empty());
    let is_users = !nix::unistd::geteuid().is_root();
    assert!(
        is_users || set("trusted.delegate").or_else(|_| set("user.delegate")).is_ok(),
        "no extended attributes here"
    );
}

fn find_with(root: &TempDir, vms: &[i32]) -> Result<Group, String> {
    Group::find(root.path(), PID, vms, &root.path().join("run")).map_err(|error| error.to_string())
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn v1_gives_a_vm_a_group_beside_others_who_stay() {
    let (root, group) = shared(Version::V1);
    let mut own = find_with(&root, &[]).unwrap();
    assert_eq!(own.directory(), group.join("vmtide-vm-700"));
    assert_eq!(text(&own.directory().join("cgroup.procs")), "700");
    assert!(!group.join("vmtide-vm-900/cgroup.procs").exists(), "nobody else is moved");
    own.set_weight(3000).unwrap();
    assert_eq!(text(&own.directory().join("cpu.shares")), "3072");
}

#[test]
fn v2_moves_all_vms_at_once_where_the_group_is_delegated() {
    let (root, group) = shared(Version::V2);
    delegate(&group);
    let own = find_with(&root, &[PID, OTHER]).unwrap();
    assert_eq!(own.directory(), group.join("vmtide-vm-700"));
    assert_eq!(text(&group.join("vmtide-vm-900/cgroup.procs")), "900");
    assert_eq!(text(&group.join("cgroup.subtree_control")), "+cpu");
}

#[test]
fn what_is_in_the_way_is_said_and_nothing_is_touched() {
    let (undelegated, _) = shared(Version::V2);
    let (others, group) = shared(Version::V2);
    delegate(&group);
    let (no_controller, group) = shared(Version::V2);
    delegate(&group);
    fs::write(group.join("cgroup.controllers"), "memory\n").unwrap();
    let mut cases = vec![
        (others, &[PID][..], "delegated cgroup, but process 900 is in it and no VM of this bridge"),
        (no_controller, &[PID, OTHER][..], "delegated cgroup, but the cpu controller is not enabled for it"),
    ];
    if nix::unistd::geteuid().is_root() {
        cases.push((
            undelegated,
            &[PID, OTHER][..],
            "/vms: foreign cgroup without delegation: process 900 is in it too",
        ));
    }
    for (root, vms, why) in cases {
        let error = find_with(&root, vms).unwrap_err();
        assert!(error.contains(why), "{error}");
        assert!(!root.path().join("run/cgroup").exists(), "nothing is noted");
    }
}

#[test]
fn a_vm_alone_in_a_part_of_what_is_delegated_has_that() {
    let root = host(Version::V2, "/a.service/vm");
    write(&root, "sys/fs/cgroup/a.service/cgroup.procs", "900\n");
    write(&root, "sys/fs/cgroup/a.service/vm/cgroup.controllers", "cpu\n");
    delegate(&root.path().join("sys/fs/cgroup/a.service"));
    assert!(find_with(&root, &[]).unwrap().directory().ends_with("a.service/vm"));
}

#[test]
fn groups_that_a_killed_bridge_made_for_vms_that_are_gone_are_removed() {
    let (root, group) = shared(Version::V1);
    find_with(&root, &[]).unwrap().set_weight(2000).unwrap();
    let own = group.join("vmtide-vm-700");
    sweep(&root.path().join("run"));
    assert!(own.exists(), "its VM runs");
    // As the kernel has it: gone with its files.
    fs::remove_dir_all(&own).unwrap();
    fs::create_dir(&own).unwrap();
    sweep(&root.path().join("run"));
    assert!(!own.exists());
    assert_eq!(fs::read_dir(root.path().join("run/cgroup")).unwrap().count(), 0, "nothing is noted any more");
}
