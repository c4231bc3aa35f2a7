//! Which files are read: whoever writes the configuration steers every VM of the host.

use super::Error;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Others may write.
const WORLD_WRITABLE: u32 = 0o002;
/// Whoever it is, it can change the configuration as it likes already.
const ROOT: u32 = 0;

/// What a trusted file says.
///
/// # Errors
/// [`Error::Read`], or [`Error::Untrusted`] with the reason.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    let unreadable = |source| Error::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(unreadable)?;
    // Of the open file: the path may lead elsewhere by now.
    check(path, &file.metadata().map_err(unreadable)?)?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// Refuses a file or folder that somebody could write who is neither root nor the bridge's user.
///
/// # Errors
/// [`Error::Untrusted`] with the reason.
pub(super) fn check(path: &Path, metadata: &Metadata) -> Result<(), Error> {
    match distrust(metadata.mode() & 0o7777, metadata.uid(), nix::unistd::geteuid().as_raw()) {
        Some(reason) => Err(Error::Untrusted { path: path.to_owned(), reason }),
        None => Ok(()),
    }
}

/// Why a file is not trusted by `user`; `None` if it is.
fn distrust(mode: u32, owner: u32, user: u32) -> Option<String> {
    if mode & WORLD_WRITABLE != 0 {
        return Some(format!("everybody may write to it (mode {mode:04o}); `chmod o-w` takes that away"));
    }
    let trusted = [ROOT, user].contains(&owner);
    (!trusted).then(|| format!("it belongs to user {owner}, expected root or user {user}, who runs the bridge"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_root_s_or_one_s_own_and_not_for_everybody() {
        assert_eq!(distrust(0o644, ROOT, 990), None);
        assert_eq!(distrust(0o660, 990, 990), None);
        let reason = distrust(0o600, 1000, 990).unwrap();
        assert_eq!(reason, "it belongs to user 1000, expected root or user 990, who runs the bridge");
        let reason = distrust(0o646, ROOT, ROOT).unwrap();
        assert_eq!(reason, "everybody may write to it (mode 0646); `chmod o-w` takes that away");
    }

    #[test]
    fn what_everybody_may_write_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bridge.toml");
        write(&path, "[host]\n").unwrap();
        assert_eq!(read(&path).unwrap(), "[host]\n");
        set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("bridge.toml: everybody may write to it (mode 0666)"), "{error}");
    }
}
