//! The guests' whole disk: a static busybox, our static binaries and the kernel's virtio modules.

use std::{
    fs,
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{BootFiles, Kernel, cpio::Archive, kernels::Unpacked};

/// Loaded at boot in this order; a kernel that has one built in needs no file.
const AT_BOOT: [&str; 11] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_balloon",
    "virtio_blk",
    "virtio_mem",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
];

/// In `/lib/more`, for a test that loads them itself.
///
/// The compressors that zram takes are modules of the crypto API in 6.1 (`lzo_rle`, its default, and `zstd`) and
/// libraries in 6.12; in the order given here they load on both.
const ON_DEMAND: [&str; 15] = [
    "vsock_loopback",
    "zsmalloc",
    "lz4_compress",
    "lz4hc_compress",
    "lzo_rle",
    "zstd_compress",
    "zstd",
    "zram",
    "crc32c_generic",
    "crc16",
    "mbcache",
    "jbd2",
    "ext4",
    "irqbypass",
    "kvm",
];

const PROGRAMS: [&str; 3] = ["vmtide-guest", "vmtide-agent", "vmtide-load"];

const DIRECTORIES: [&str; 12] =
    ["bin", "dev", "etc", "lib", "lib/boot", "lib/more", "proc", "sys", "tmp", "run", "var", "var/lib"];

/// Printed by `init.sh` once user space runs.
pub(super) const MARKER: &str = "lab: user space is up";

/// Writes the image for this kernel into the cache.
pub(super) fn build(
    kernel: Kernel,
    unpacked: &Unpacked,
    busybox: &Path,
    binaries: &Path,
    cache: &Path,
) -> Result<BootFiles> {
    let initramfs = cache.join(format!("initramfs-{kernel}.cpio"));
    // A VM that starts meanwhile reads the old image or the new one, never half of one.
    let partial = tempfile::NamedTempFile::new_in(cache)?;
    let mut archive = Archive::new(BufWriter::new(partial.as_file()));
    for directory in DIRECTORIES {
        archive.directory(directory)?;
    }
    archive.device("dev/console", 5, 1)?;
    archive.file("init", include_bytes!("init.sh"))?;
    archive.file("bin/busybox", &read(busybox)?)?;
    for program in PROGRAMS {
        archive.file(&format!("bin/{program}"), &read(&binaries.join(program))?)?;
    }
    let modules = files_below(&unpacked.modules.join("kernel"))?;
    for (position, name) in AT_BOOT.iter().enumerate() {
        if let Some(image) = module(&modules, name)? {
            archive.file(&format!("lib/boot/{position:02}-{name}.ko"), &image)?;
        }
    }
    for name in ON_DEMAND {
        if let Some(image) = module(&modules, name)? {
            archive.file(&format!("lib/more/{name}.ko"), &image)?;
        }
    }
    archive.finish()?;
    partial.persist(&initramfs).context("cannot keep the initramfs")?;
    Ok(BootFiles { kernel, vmlinuz: unpacked.vmlinuz.clone(), initramfs })
}

/// The module's image, decompressed; none when the kernel has it built in.
fn module(files: &[PathBuf], name: &str) -> Result<Option<Vec<u8>>> {
    let stem = format!("{name}.ko");
    let found = files.iter().find(|path| {
        let file = path.file_name().map(|file| file.to_string_lossy().replace('-', "_")).unwrap_or_default();
        file == stem || file.strip_prefix(&stem).is_some_and(|rest| rest.starts_with('.'))
    });
    let Some(path) = found else { return Ok(None) };
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return read(path).map(Some),
    };
    let output = Command::new(tool).arg("-dc").arg(path).output().with_context(|| format!("cannot start {tool}"))?;
    anyhow::ensure!(output.status.success(), "{tool} cannot unpack {}", path.display());
    Ok(Some(output.stdout))
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![dir.to_path_buf()];
    while let Some(dir) = directories.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("{}: cannot list", dir.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{}: cannot read", path.display()))
}
