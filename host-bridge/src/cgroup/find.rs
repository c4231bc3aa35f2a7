//! The group of a process, and whether the process is alone in it.

use super::{Controller, Error, Version, child, read};
use std::path::{Path, PathBuf};

/// A group that holds one VM alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub version: Version,
    pub directory: PathBuf,
}

/// Why a process has no group that holds it alone.
#[derive(Debug)]
pub(super) struct Refusal {
    pub error: Error,
    /// The group that it is in with others, if that is all that is wrong.
    pub shared: Option<Place>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, shared: None }
    }
}

/// The group of process `pid` with this controller, v1's where that has it: a controller is in one hierarchy only.
pub(super) fn find(root: &Path, pid: i32, controller: Controller) -> Result<Place, Refusal> {
    let text = read(&root.join(format!("proc/{pid}/cgroup")))?;
    let mounts = read(&root.join("proc/mounts"))?;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let version = match controllers {
            "" => Version::V2,
            _ if controllers.split(',').any(|name| name == controller.name(Version::V1)) => Version::V1,
            _ => continue,
        };
        let Some(mount) = mount_point(&mounts, version, controller) else { continue };
        let mount = root.join(mount.trim_start_matches('/'));
        let of_unit = unit(path);
        let directory = mount.join(of_unit.trim_start_matches('/'));
        let has_controller = directory.join(controller.file(version)).exists();
        if version == Version::V2 && !has_controller && !lists(&mount, controller) {
            // The hybrid layout: v2 is there for names only.
            continue;
        }
        let foreign = |why: String| Error::Foreign { path: path.to_owned(), why };
        if path.split('/').any(|part| part == "..") {
            return Err(foreign("it is outside of this cgroup namespace".to_owned()).into());
        }
        let of_process = Place { version, directory: mount.join(path.trim_start_matches('/')) };
        let foreign = |why: String| Refusal { error: foreign(why), shared: Some(of_process) };
        if of_unit == "/" {
            return Err(foreign("it is the root group".to_owned()));
        }
        if !has_controller {
            return Err(foreign(format!("the {} controller is not enabled for it", controller.name(version))));
        }
        if let Some(other) = other_than(root, &directory, pid) {
            return Err(foreign(format!("process {other} is in it too")));
        }
        return Ok(Place { version, directory });
    }
    Err(Error::NoController(controller).into())
}

/// libvirt puts a VM's threads into groups below the scope of the VM: the scope is what weighs against others.
fn unit(path: &str) -> &str {
    if child::is_own(Path::new(path)) {
        return path;
    }
    let mut end = 0;
    for part in path.split('/') {
        end += part.len();
        if matches!(part.rsplit_once('.'), Some((_, "scope" | "service"))) {
            return &path[..end];
        }
        end += 1;
    }
    path
}

fn mount_point(mounts: &str, version: Version, controller: Controller) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (mount, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = match version {
            Version::V1 => kind == "cgroup" && options.split(',').any(|option| option == controller.name(version)),
            Version::V2 => kind == "cgroup2",
        };
        is_it.then_some(mount)
    })
}

fn lists(mount: &Path, controller: Controller) -> bool {
    let name = controller.name(Version::V2);
    read(&mount.join("cgroup.controllers")).is_ok_and(|list| list.split(' ').any(|listed| listed == name))
}

/// A process in the group or below it that is not the VM's.
fn other_than(root: &Path, directory: &Path, pid: i32) -> Option<i32> {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        // A threaded group does not list processes; the domain above it does.
        let list = read(&directory.join("cgroup.procs")).unwrap_or_default();
        let others = list.lines().filter_map(|line| line.parse().ok()).filter(|&other| other != pid);
        if let Some(other) = others.into_iter().find(|&other| !is_part_of(root, other, pid)) {
            return Some(other);
        }
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        directories.extend(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    }
    None
}

/// Processes that do a VM's I/O for it, as the kernel cuts their names.
const HELPERS: [&str; 5] = ["qemu-storage-da", "vhost-device-", "vhost-user-", "virtiofsd", "swtpm"];

/// Whether a process in the group of a VM is there for it: a vhost-user backend or another helper, which libvirt puts into the
/// VM's scope.
fn is_part_of(root: &Path, other: i32, pid: i32) -> bool {
    let is_helper = |comm: String| HELPERS.iter().any(|helper| comm.starts_with(helper));
    is_vhost_of(root, other, pid) || read(&root.join(format!("proc/{other}/comm"))).is_ok_and(is_helper)
}

/// Before Linux 6.4 the kernel's worker for a VM's virtio devices is a thread of its own in the VM's group.
pub(super) fn is_vhost_of(root: &Path, other: i32, pid: i32) -> bool {
    read(&root.join(format!("proc/{other}/comm"))).is_ok_and(|comm| comm == format!("vhost-{pid}"))
}
