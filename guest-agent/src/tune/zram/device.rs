//! One device of zram: makes it a swap, and takes it away again. Knows only files and two system calls.

use super::{CONTROL, header};
use nix::{errno::Errno, libc};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;
use vmtide_tuning::journal::{Outcome, Owned};
use vmtide_tuning::place;
use vmtide_tuning::value::Value;

/// Used before any other swap, which has less than 0 unless somebody says so.
const PRIORITY: libc::c_int = 100;
/// `SWAP_FLAG_PREFER` of linux/swap.h: the flags say the priority.
const PREFER: libc::c_int = 0x8000;
/// udev looks at a device that was just closed, and for that long it cannot be taken away.
const BUSY_TIMES: u32 = 10;
const BUSY: Duration = Duration::from_millis(50);

/// What became of a device that a record tells of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// It is swapped to.
    Swapped {
        /// Its size.
        bytes: u64,
        /// What is in it.
        used_bytes: u64,
    },
    /// It is ours, and no swap: not yet, or not any more.
    Off,
    /// Somebody else made another of it.
    Theirs,
    /// There is none of that name.
    Gone,
}

/// The number of the device that the kernel would make next.
pub(super) fn next(root: &Path) -> u32 {
    (0..u32::MAX).find(|number| !root.join(format!("sys/block/zram{number}")).exists()).unwrap_or(u32::MAX)
}

pub(super) fn path(number: u32) -> String {
    format!("/dev/zram{number}")
}

impl Device {
    /// What became of the device that `owned` tells of.
    pub(super) fn seen(root: &Path, owned: &Owned) -> Self {
        let Some(name) = name_of(owned) else { return Self::Gone };
        if !root.join("sys/block").join(name).exists() {
            return Self::Gone;
        }
        let is_ours = uuid(root, &owned.path).is_some_and(|uuid| uuid == owned.written);
        match used_bytes(root, &owned.path) {
            Some(used_bytes) if is_ours => Self::Swapped { bytes: bytes(root, name), used_bytes },
            None if is_ours || is_empty(root, name) => Self::Off,
            _ => Self::Theirs,
        }
    }
}

/// Makes device `number` and swaps to it.
///
/// # Errors
/// The step that failed, and why; then there is no such device.
pub(super) fn create(
    root: &Path,
    number: u32,
    bytes: u64,
    algorithm: Option<&str>,
    uuid: &str,
) -> Result<(), (String, io::Error)> {
    let at = |step: &str| {
        let step = step.to_owned();
        move |error| (step, error)
    };
    // What cannot be taken away is not made.
    let hot_remove = format!("{CONTROL}/hot_remove");
    OpenOptions::new().write(true).open(root.join(&hot_remove[1..])).map_err(at(&hot_remove))?;
    let hot_add = format!("{CONTROL}/hot_add");
    let made = place::value(root, &hot_add).map_err(at(&hot_add))?;
    let Value::Number(made) = made else {
        return Err((hot_add, io::Error::other(format!("the kernel calls it {made}"))));
    };
    let filled = if made == i64::from(number) {
        fill(root, number, bytes, algorithm, uuid)
    } else {
        Err((hot_add, io::Error::other(format!("somebody else was faster: the kernel made zram{made}"))))
    };
    filled.inspect_err(|_| {
        take_away(root, &format!("zram{made}")).ok();
    })
}

fn fill(root: &Path, number: u32, bytes: u64, algorithm: Option<&str>, uuid: &str) -> Result<(), (String, io::Error)> {
    let write = |file: &str, value: Value| {
        let path = format!("/sys/block/zram{number}/{file}");
        place::write(root, &path, &value).map_err(|error| (format!("{value} to {path}"), error))
    };
    let path = path(number);
    let listed = place::text(root, &format!("/sys/block/zram{number}/comp_algorithm")).unwrap_or_default();
    let algorithms: Vec<_> = listed.split_whitespace().map(|name| name.trim_matches(['[', ']'])).collect();
    match algorithm.or(algorithms.contains(&"zstd").then_some("zstd")) {
        Some(name) if algorithms.contains(&name) => write("comp_algorithm", name.into())?,
        Some(name) => {
            let error = format!("this kernel has {}", algorithms.join(", "));
            return Err((format!("algorithm {name:?}"), io::Error::other(error)));
        }
        None => {}
    }
    write("disksize", bytes.into())?;
    let header = header::page(bytes, procfs::page_size(), uuid).and_then(|page| {
        let mut file = OpenOptions::new().write(true).open(root.join(&path[1..]))?;
        file.write_all(&page)?;
        file.sync_all()
    });
    header.map_err(|error| ("its header".into(), error))?;
    swap_on(root, &path).map_err(|error| ("swapon".into(), error))
}

/// Takes away the device that `owned` tells of, if it is ours; returns how it ended, and what there is now.
///
/// # Errors
/// `NotFound` when it is gone already; else why it stays.
pub fn remove(root: &Path, owned: &Owned) -> io::Result<(Outcome, String)> {
    match Device::seen(root, owned) {
        Device::Gone => return Err(io::ErrorKind::NotFound.into()),
        Device::Theirs => return Ok((Outcome::Taken, "another swap's".into())),
        Device::Swapped { used_bytes, .. } => {
            // While its pages are read back, the rest of the guest goes on, and the kernel would rather kill than wait.
            let room_bytes = available_bytes(root) / 4 * 3;
            if used_bytes > room_bytes {
                let [has_mib, fits_mib] = [used_bytes, room_bytes].map(|bytes| bytes >> 20);
                return Err(io::Error::other(format!(
                    "the {has_mib} MiB in it do not fit into {fits_mib} MiB of memory"
                )));
            }
            swap_off(root, &owned.path)?;
        }
        Device::Off => {}
    }
    take_away(root, name_of(owned).unwrap_or_default())?;
    Ok((Outcome::Restored, "none".into()))
}

/// The files that have to be written when what `owned` tells of is taken away.
pub fn removed_through(owned: &Owned) -> Vec<String> {
    vec![owned.path.clone(), format!("{CONTROL}/hot_remove")]
}

/// Frees what a device holds, and the device: the kernel resets what it removes.
fn take_away(root: &Path, name: &str) -> io::Result<()> {
    let number = Value::read(name.trim_start_matches("zram"));
    let take = || place::write(root, &format!("{CONTROL}/hot_remove"), &number);
    for _ in 1..BUSY_TIMES {
        match take() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(BUSY),
            result => return result,
        }
    }
    take()
}

/// `zram1` of `/dev/zram1`.
fn name_of(owned: &Owned) -> Option<&str> {
    let name = owned.path.strip_prefix("/dev/")?;
    name.strip_prefix("zram")?.parse::<u32>().is_ok().then_some(name)
}

fn bytes(root: &Path, name: &str) -> u64 {
    let size = place::text(root, &format!("/sys/block/{name}/disksize")).unwrap_or_default();
    size.trim().parse().unwrap_or(0)
}

/// Whether nothing was ever written to it.
fn is_empty(root: &Path, name: &str) -> bool {
    let stored = place::text(root, &format!("/sys/block/{name}/mm_stat")).unwrap_or_default();
    stored.split_whitespace().next() == Some("0")
}

fn uuid(root: &Path, path: &str) -> Option<String> {
    let mut page = vec![0; usize::try_from(procfs::page_size()).ok()?];
    File::open(root.join(path.trim_start_matches('/'))).and_then(|mut file| file.read_exact(&mut page)).ok()?;
    header::uuid_of(&page)
}

/// What is in the swap at `path`; `None` when that is no swap.
fn used_bytes(root: &Path, path: &str) -> Option<u64> {
    let swaps = std::fs::read_to_string(root.join("proc/swaps")).unwrap_or_default();
    let line = swaps.lines().find(|line| line.split_whitespace().next() == Some(path))?;
    Some(line.split_whitespace().nth(3)?.parse::<u64>().ok()?.saturating_mul(1024))
}

fn available_bytes(root: &Path) -> u64 {
    let meminfo = std::fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
}

#[allow(unsafe_code)] // nix has no swapon
fn swap_on(root: &Path, path: &str) -> io::Result<()> {
    let path = of_this_machine(root, path)?;
    // SAFETY: the kernel reads the path up to its NUL, and nothing else of this process.
    Errno::result(unsafe { libc::swapon(path.as_ptr(), PREFER | PRIORITY) })?;
    Ok(())
}

#[allow(unsafe_code)] // nix has no swapoff
fn swap_off(root: &Path, path: &str) -> io::Result<()> {
    let path = of_this_machine(root, path)?;
    // SAFETY: the kernel reads the path up to its NUL, and nothing else of this process.
    Errno::result(unsafe { libc::swapoff(path.as_ptr()) })?;
    Ok(())
}

/// A tree of files has no swap: what is swapped to would be this machine's.
fn of_this_machine(root: &Path, path: &str) -> io::Result<CString> {
    if root == Path::new("/") { Ok(CString::new(path)?) } else { Err(io::ErrorKind::Unsupported.into()) }
}
