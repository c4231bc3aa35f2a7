//! Which files are read: whoever writes the configuration steers every VM of the host.

use super::Error;
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;
use vmtide_tuning::trust::distrust;

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
    match distrust(metadata) {
        Some(reason) => Err(Error::Untrusted { path: path.to_owned(), reason }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

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
