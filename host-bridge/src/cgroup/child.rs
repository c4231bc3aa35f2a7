//! A group of a VM's own below one that it shares with others, where nobody else has to move for that.
//!
//! ```text
//! shared group --+-- vmtide-vm-700   700 moved there, and back when it is let go
//!   others stay  `-- vmtide-vm-701
//! ```
//!
//! - v1 lets processes and groups be beside each other, so that is always possible.
//! - v2 does not where a controller is on ("no internal processes"), so everybody in the shared group has to be a VM of this bridge,
//!   and all move at once. And the group has to be delegated: its manager must not be surprised (systemd's `Delegate=yes`, as
//!   the extended attribute `user.delegate` or `trusted.delegate` says, or a user's own group).
//!
//! What was made is noted, so that the next bridge takes it away after a crash. In v2 the processes can go back only together, when
//! the last one is let go.

use super::find::{Place, Refusal, is_vhost_of};
use super::note::{self, Note};
use super::{Error, Version, read};
use nix::errno::Errno;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Begins the name of a group that is made here; the pid follows.
const NAME: &str = "vmtide-vm-";
const PROCS: &str = "cgroup.procs";
const SUBTREE: &str = "cgroup.subtree_control";

/// Whether this group was made here.
pub(super) fn is_own(directory: &Path) -> bool {
    directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(NAME))
}

/// Gives process `pid` a group of its own, if that can be where it was refused one; `vms` are this bridge's.
pub(super) fn make(root: &Path, folder: &Path, pid: i32, vms: &[i32], refused: Refusal) -> Result<Place, Error> {
    let Refusal { error, shared } = refused;
    let Some(Place { version, directory: shared }) = shared else { return Err(error) };
    let mut members = vec![pid];
    if version == Version::V2 {
        if !is_delegated(&shared) {
            return Err(error);
        }
        let delegated = |why: String| Error::Delegated { path: shared.clone(), why };
        if !lists_cpu(&shared.join("cgroup.controllers")) {
            let why = "the cpu controller is not enabled for it; CPUWeight=100 in its unit does that";
            return Err(delegated(why.to_owned()));
        }
        let all = processes(&shared);
        if all == [pid] && shared.join("cpu.weight").exists() {
            return Ok(Place { version, directory: shared });
        }
        let is_vm = |other: i32| other == pid || vms.contains(&other);
        let is_worker = |other: i32| vms.iter().chain([&pid]).any(|vm| is_vhost_of(root, other, *vm));
        if let Some(other) = all.iter().find(|&&other| !is_vm(other) && !is_worker(other)) {
            let why = format!(
                "process {other} is in it and no VM of this bridge: cgroup v2 shares CPU time only between groups, and it is not ours to move"
            );
            return Err(delegated(why));
        }
        members.extend(all.into_iter().filter(|&other| other != pid));
    }
    let made = members.iter().try_for_each(|&member| enter(folder, &shared, member));
    let made = made.and_then(|()| if version == Version::V2 { enable(folder, &shared) } else { Ok(()) });
    if let Err(error) = made {
        for member in &members {
            Note::of(folder, &own(&shared, *member)).forget(PROCS)?;
        }
        finish(folder, &shared)?;
        return Err(error);
    }
    Ok(Place { version, directory: own(&shared, pid) })
}

/// Lets a group go that was made here: its process goes back, or stays with what others have until they go back, too.
pub(super) fn release(folder: &Path, own: &Path) -> Result<(), Error> {
    let Some(shared) = own.parent() else { return Ok(()) };
    Note::of(folder, own).forget(PROCS)?;
    let is_v2 = shared.join("cgroup.controllers").exists();
    let is_held = |other: &PathBuf| Note::of(folder, other).read(PROCS).is_some();
    if is_v2 && owns(shared).iter().any(is_held) {
        return if processes(own).is_empty() { remove(folder, own) } else { Ok(()) };
    }
    if is_v2 { finish(folder, shared) } else { leave(folder, shared, own) }
}

/// Takes away what bridges before left of VMs that are gone.
pub fn sweep(folder: &Path) {
    for own in note::directories(folder, PROCS).into_iter().filter(|own| processes(own).is_empty()) {
        if let Err(error) = release(folder, &own) {
            tracing::warn!(%error, "a cgroup of a VM that is gone cannot be removed");
        }
    }
}

fn own(shared: &Path, pid: i32) -> PathBuf {
    shared.join(format!("{NAME}{pid}"))
}

/// The groups below this one that were made here.
fn owns(shared: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(shared).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| is_own(path) && path.is_dir()).collect()
}

fn enter(folder: &Path, shared: &Path, pid: i32) -> Result<(), Error> {
    let own = own(shared, pid);
    // Noted first: what is there after a crash is known.
    Note::of(folder, &own).write(PROCS, &shared.display().to_string(), &pid.to_string())?;
    match fs::create_dir(&own) {
        Err(source) if source.kind() != ErrorKind::AlreadyExists => return Err(Error::File { path: own, source }),
        _ => {}
    }
    write(&own.join(PROCS), &pid.to_string())
}

/// Turns the controller on for the groups below.
fn enable(folder: &Path, shared: &Path) -> Result<(), Error> {
    let path = shared.join(SUBTREE);
    if lists_cpu(&path) {
        return Ok(());
    }
    Note::of(folder, shared).write(SUBTREE, &read(&path)?, "+cpu")?;
    write(&path, "+cpu")
}

/// Puts a v2 group back as it was: the controller off, all that were moved in it again.
fn finish(folder: &Path, shared: &Path) -> Result<(), Error> {
    let note = Note::of(folder, shared);
    if note.read(SUBTREE).is_some() {
        write(&shared.join(SUBTREE), "-cpu")?;
        note.forget(SUBTREE)?;
    }
    owns(shared).iter().try_for_each(|own| leave(folder, shared, own))
}

fn leave(folder: &Path, shared: &Path, own: &Path) -> Result<(), Error> {
    for pid in processes(own) {
        match write(&shared.join(PROCS), &pid.to_string()) {
            // It ended meanwhile.
            Err(Error::File { source, .. }) if source.raw_os_error() == Some(Errno::ESRCH as i32) => {}
            moved => moved?,
        }
    }
    remove(folder, own)
}

fn remove(folder: &Path, own: &Path) -> Result<(), Error> {
    match fs::remove_dir(own) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::File { path: own.to_owned(), source }),
        _ => Note::of(folder, own).forget_all(),
    }
}

/// Whether systemd, or whoever made the group, left what is below it to others: it, or one above it.
fn is_delegated(directory: &Path) -> bool {
    let uid = nix::unistd::geteuid().as_raw();
    directory.ancestors().take_while(|above| above.join(PROCS).exists()).any(|above| {
        let says = |name: &str| {
            let mut value = [0; 8];
            rustix::fs::getxattr(above, name, &mut value).is_ok_and(|length| value[..length] == *b"1")
        };
        let is_users = uid != 0 && above.metadata().is_ok_and(|metadata| metadata.uid() == uid);
        is_users || says("user.delegate") || says("trusted.delegate")
    })
}

fn lists_cpu(path: &Path) -> bool {
    read(path).is_ok_and(|list| list.split(' ').any(|controller| controller == "cpu"))
}

fn processes(directory: &Path) -> Vec<i32> {
    let list = read(&directory.join(PROCS)).unwrap_or_default();
    list.lines().filter_map(|line| line.parse().ok()).collect()
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::File { path: path.to_owned(), source })
}
