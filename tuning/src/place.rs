//! The files of a knob: which there are, what they hold, and writing one.

use crate::value::Value;
use nix::errno::Errno;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// No knob is longer; what is, is none.
const MOST_BYTES: usize = 4096;

/// The paths below `root` that `pattern` stands for, in order; as the machine names them. In a name, `*` stands for its rest,
/// and `{a,b}` for either.
pub fn places(root: &Path, pattern: &str) -> Vec<String> {
    if let Some((before, rest)) = pattern.split_once('{')
        && let Some((either, after)) = rest.split_once('}')
    {
        return either.split(',').flat_map(|one| places(root, &format!("{before}{one}{after}"))).collect();
    }
    let mut found = vec![String::new()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let Some((before, after)) = part.split_once('*') else {
            for path in &mut found {
                *path += &format!("/{part}");
            }
            continue;
        };
        let mut next = Vec::new();
        for path in &found {
            let Ok(entries) = fs::read_dir(below(root, path)) else { continue };
            let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            let fitting = names.filter(|name| {
                name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
            });
            next.extend(fitting.map(|name| format!("{path}/{name}")));
        }
        next.sort();
        found = next;
    }
    found.retain(|path| below(root, path).exists());
    found
}

/// Whether an error says that the file is not there, or that the device behind it was unplugged.
pub fn is_gone(error: &io::Error) -> bool {
    let unplugged = [Errno::ENODEV, Errno::ENXIO].map(|errno| Some(errno as i32));
    error.kind() == io::ErrorKind::NotFound || unplugged.contains(&error.raw_os_error())
}

/// What the file at `path` holds, as it is written there.
///
/// # Errors
/// The kernel's; `InvalidData` for what is no short text.
pub fn text(root: &Path, path: &str) -> io::Result<String> {
    let text = fs::read_to_string(below(root, path))?;
    if text.len() > MOST_BYTES { Err(io::ErrorKind::InvalidData.into()) } else { Ok(text) }
}

/// What the file at `path` holds.
///
/// # Errors
/// As for [`text`].
pub fn value(root: &Path, path: &str) -> io::Result<Value> {
    text(root, path).map(|text| Value::read(&text))
}

/// Writes `value` in one piece, as the kernel wants it.
///
/// # Errors
/// The kernel's.
pub fn write(root: &Path, path: &str, value: &Value) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(below(root, path))?;
    let text = value.to_string();
    // `write_all` would write the rest by itself, and the kernel would take that for another value.
    if file.write(text.as_bytes())? == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::write as fixture;

    #[test]
    fn finds_each_device_s_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        for disk in ["vda", "vdb", "sda"] {
            fixture(dir.path(), &format!("sys/block/{disk}/queue/nr_requests"), "256\n");
        }
        fixture(dir.path(), "sys/block/vdc/size", "1\n");
        assert_eq!(
            places(dir.path(), "/sys/block/vd*/queue/nr_requests"),
            ["/sys/block/vda/queue/nr_requests", "/sys/block/vdb/queue/nr_requests"]
        );
        assert_eq!(places(dir.path(), "/sys/block/sda/queue/nr_requests").len(), 1);
        assert_eq!(places(dir.path(), "/sys/block/{sda,vdb,sdx}/queue/nr_requests").len(), 2);
        for absent in ["/sys/block/sdb/queue/nr_requests", "/sys/nothing/*/x", "/sys/block/*x/queue"] {
            assert!(places(dir.path(), absent).is_empty(), "{absent}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        let dir = tempfile::tempdir().unwrap();
        fixture(dir.path(), "proc/sys/vm/swappiness", "60\n");
        write(dir.path(), "/proc/sys/vm/swappiness", &Value::Number(5)).unwrap();
        assert_eq!(text(dir.path(), "/proc/sys/vm/swappiness").unwrap(), "5");
        assert_eq!(value(dir.path(), "/proc/sys/vm/swappiness").unwrap(), Value::Number(5));
        write(dir.path(), "/proc/sys/vm/absent", &Value::Number(5)).unwrap_err();
        fixture(dir.path(), "sys/long", &"x".repeat(5000));
        assert!(value(dir.path(), "/sys/long").is_err());
    }
}
