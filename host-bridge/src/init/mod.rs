//! Looks at a host for VMs that the bridge could steer.
//!
//! `/proc`, `/sys`, `/dev` and `/run` below a root in, [`Found`] out; [`Found::text`] makes a `bridge.toml` of it. Nothing is
//! opened but files, and nothing is changed. A command line is its process's own text: it is bounded, and what cannot be
//! printed is not passed on.

mod qemu;
mod text;

use serde::Serialize;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// The longest command line that is read.
const MOST_BYTES: u64 = 64 * 1024;
/// The most VMs that are looked at.
const MOST_VMS: usize = 4096;
/// Where Firecracker listens when it is not told where.
const FIRECRACKER_SOCKET: &str = "/run/firecracker.socket";

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// QEMU's VMs, by process id.
    pub vms: Vec<FoundVm>,
    /// VMs of hypervisors that this version does not steer, by process id.
    pub others: Vec<OtherVm>,
    /// MemTotal; `None` where it cannot be read.
    pub memory_bytes: Option<u64>,
    /// SwapTotal.
    pub swap_bytes: Option<u64>,
    /// Whether the kernel tells how long tasks wait.
    pub has_psi: bool,
    /// Whether cgroups are those of version 2.
    pub has_cgroup_v2: bool,
    /// Whether kernel vsock is there.
    pub has_vhost_vsock: bool,
    /// libvirt's socket, where it is.
    pub libvirt: Option<String>,
    /// Processes whose command lines could not be read.
    pub hidden: usize,
}

/// A VM that this version does not steer, by its command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OtherVm {
    /// Its process.
    pub pid: u32,
    /// The program's name.
    pub hypervisor: String,
    /// Where it can be asked for something, as it sees it; `None` when nobody can.
    pub api_socket: Option<String>,
}

/// A VM of QEMU, by its command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent of each other, each a fact")]
pub struct FoundVm {
    /// Its process.
    pub pid: u32,
    /// As it calls itself; printable.
    pub name: Option<String>,
    /// What it was built with.
    pub memory_bytes: Option<u64>,
    /// A QMP monitor that the bridge could have.
    pub qmp: Option<String>,
    /// All of them.
    pub monitors: Vec<String>,
    /// Whether its monitor is libvirt's.
    pub is_libvirt_s: bool,
    /// Kernel vsock.
    pub cid: Option<u32>,
    /// Hybrid vsock: the `uds-path` of its vhost-device-vsock.
    pub vsock: Option<String>,
    /// Whether it has a balloon.
    pub has_balloon: bool,
    /// Whether its balloon gives memory back before its guest kills.
    pub deflates_on_oom: bool,
    /// Whether it has memory that can be plugged.
    pub has_virtio_mem: bool,
}

/// Looks at the host below `root` (`/`).
pub fn look(root: &Path) -> Found {
    let exists = |path: &str| root.join(path).exists();
    let libvirt = ["run/libvirt/virtqemud-sock", "run/libvirt/libvirt-sock"].into_iter().find(|path| exists(path));
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let mut found = Found {
        memory_bytes: amount(&meminfo, "MemTotal:"),
        swap_bytes: amount(&meminfo, "SwapTotal:"),
        has_psi: exists("proc/pressure/memory"),
        has_cgroup_v2: exists("sys/fs/cgroup/cgroup.controllers"),
        has_vhost_vsock: exists("dev/vhost-vsock"),
        libvirt: libvirt.map(|path| format!("/{path}")),
        ..Found::default()
    };
    // The other end of a vhost-user socket knows where agents arrive.
    let mut hybrids = Vec::new();
    for (pid, arguments) in processes(root, &mut found.hidden) {
        let name = arguments.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        match name {
            "firecracker" | "cloud-hypervisor" if found.others.len() < MOST_VMS => {
                found.others.push(other(pid, name, &arguments));
            }
            "vhost-device-vsock" => hybrids.extend(qemu::hybrid(&arguments)),
            _ if (name.starts_with("qemu-system-") || name == "qemu-kvm" || name == "kvm")
                && found.vms.len() < MOST_VMS =>
            {
                found.vms.push(qemu::parse(pid, &arguments));
            }
            _ => {}
        }
    }
    for vm in &mut found.vms {
        let other_end = hybrids.iter().find(|(socket, _)| vm.vsock.as_ref() == Some(socket));
        vm.vsock = other_end.map(|(_, path)| path.clone());
    }
    found
}

/// Process ids and their arguments, in the order of the ids.
fn processes(root: &Path, hidden: &mut usize) -> Vec<(u32, Vec<String>)> {
    let entries = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let mut found = Vec::new();
    for pid in pids {
        let mut bytes = Vec::new();
        let file = File::open(root.join(format!("proc/{pid}/cmdline")));
        match file.and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes)) {
            // One that ended meanwhile is not hidden.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => *hidden += 1,
            Err(_) => {}
            Ok(_) => {
                let arguments = bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
                found.push((pid, arguments.collect()));
            }
        }
    }
    found
}

/// The argument after `option`, or behind its `=`.
fn value<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
    arguments.iter().enumerate().find_map(|(at, argument)| match argument.strip_prefix(option)? {
        "" => arguments.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
}

/// Firecracker has a socket unless it is told otherwise, Cloud Hypervisor none unless it is told to.
fn other(pid: u32, name: &str, arguments: &[String]) -> OtherVm {
    let socket = match name {
        "firecracker" if arguments.iter().any(|argument| argument == "--no-api") => None,
        "firecracker" => Some(value(arguments, "--api-sock").unwrap_or(FIRECRACKER_SOCKET)),
        _ => value(arguments, "--api-socket"),
    };
    let api_socket = socket.map(|socket| printable(socket.strip_prefix("path=").unwrap_or(socket)));
    OtherVm { pid, hypervisor: name.to_owned(), api_socket }
}

fn amount(meminfo: &str, key: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// At most 200 characters of a text, on one line.
fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() || c == '\u{fffd}' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
