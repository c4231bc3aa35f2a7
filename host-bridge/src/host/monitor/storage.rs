//! Where running VMs keep their images, and how much room is left there.

use super::Absent;
use nix::sys::statvfs::statvfs;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileSystem {
    /// The files and folders that led there.
    pub paths: Vec<PathBuf>,
    /// Its size.
    pub total_bytes: u64,
    /// What unprivileged users may still take of it.
    pub available_bytes: u64,
    /// The device-mapper device that it is on, such as `vg0-images`.
    pub device_mapper: Option<String>,
}

/// The file systems of `paths` and of the regular files that QEMU processes below `root` have open.
pub(super) fn read(root: &Path, paths: &[PathBuf], absent: &mut Absent) -> Vec<FileSystem> {
    let (images, devices) = open_images(root, absent);
    let mut by_device: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for path in paths.iter().cloned().chain(images) {
        match fs::metadata(&path) {
            Ok(metadata) => by_device.entry(metadata.dev()).or_default().push(path),
            Err(error) => absent.say(&path.display().to_string(), &error),
        }
    }
    for device in devices {
        absent.say(&device.display().to_string(), &"an image that is a block device has no file system to look at");
    }
    if by_device.is_empty() {
        absent.say("storage", &"no QEMU process with images was found, or its files may not be read; give --path");
    }
    let file_system = |(device, paths): (u64, Vec<PathBuf>)| {
        let space =
            statvfs(paths.first()?).inspect_err(|error| absent.say(&paths[0].display().to_string(), error)).ok()?;
        let device_mapper = device_mapper(root, device);
        if let Some(name) = &device_mapper {
            let why =
                "data and metadata in use cannot be read from sysfs; `lvs -o data_percent,metadata_percent` tells";
            absent.say(&format!("thin pool of {name}"), &why);
        }
        let bytes = |blocks: u64| blocks.saturating_mul(space.fragment_size());
        let (total_bytes, available_bytes) = (bytes(space.blocks()), bytes(space.blocks_available()));
        Some(FileSystem { paths, total_bytes, available_bytes, device_mapper })
    };
    by_device.into_iter().filter_map(file_system).collect()
}

/// Regular files, and block devices, that processes named `qemu-…` have open.
fn open_images(root: &Path, absent: &mut Absent) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut files, mut devices) = (Vec::new(), Vec::new());
    for process in fs::read_dir(root.join("proc")).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let comm = fs::read_to_string(process.join("comm")).unwrap_or_default();
        if !comm.starts_with("qemu-") {
            continue;
        }
        let descriptors = match fs::read_dir(process.join("fd")) {
            Ok(descriptors) => descriptors,
            Err(error) => {
                absent.say(&process.join("fd").display().to_string(), &error);
                continue;
            }
        };
        for target in descriptors.flatten().filter_map(|descriptor| fs::read_link(descriptor.path()).ok()) {
            // Sockets, pipes, memory and what was deleted have no path that exists; the kernel's own files are no images.
            if ["/dev/kvm", "/proc", "/sys"].iter().any(|other| target.starts_with(other)) {
                continue;
            }
            let Ok(kind) = fs::metadata(&target).map(|metadata| metadata.file_type()) else { continue };
            let found = if kind.is_block_device() { &mut devices } else { &mut files };
            if (kind.is_file() || kind.is_block_device()) && !found.contains(&target) {
                found.push(target);
            }
        }
    }
    files.sort_unstable();
    devices.sort_unstable();
    (files, devices)
}

/// The device-mapper name of a device number, if it has one.
fn device_mapper(root: &Path, device: u64) -> Option<String> {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let name = fs::read_to_string(root.join(format!("sys/dev/block/{major}:{minor}/dm/name"))).ok()?;
    Some(name.trim().to_owned())
}
