//! Unix sockets that the bridge listens on.
//!
//! A path in, a listener and a [`Claim`] on the path out. What a process that died left behind is replaced; a live
//! socket and a file that is no socket stay. Nothing is done by path that a link there could lead elsewhere: the mode
//! is the socket's own before it has a path, and only the inode that was made here is removed.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;
/// How long a listener may take to answer the question whether it lives.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a socket cannot be had. Whoever asked knows the path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Somebody is there.
    #[error("another process listens here")]
    InUse,
    /// Something else is in the way.
    #[error("exists and is no socket")]
    NotASocket,
    /// The system would not.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// The right to a path: while the inode is there that was made. Given up, that inode is removed.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    made: (u64, u64),
}

/// Listens at `path`. The file has `mode`, less the process's umask, from its first moment.
///
/// # Errors
/// [`Error`]; then nothing was changed but that a dead socket may be gone.
pub(crate) async fn listen(path: &Path, mode: u32) -> Result<(UnixListener, Claim), Error> {
    remove_dead(path).await?;
    let socket = UnixSocket::new_stream()?;
    // fchmod. On Linux, bind gives the file the mode that the socket has (unix_bind_bsd in net/unix/af_unix.c).
    File::from(socket.as_fd().try_clone_to_owned()?).set_permissions(Permissions::from_mode(mode))?;
    socket.bind(path)?;
    let claim = Claim { path: path.to_owned(), made: inode(&path.symlink_metadata()?) };
    Ok((socket.listen(BACKLOG)?, claim))
}

impl Claim {
    /// Whether the path still leads to the socket that was made here.
    pub(crate) fn holds(&self) -> bool {
        self.path.symlink_metadata().is_ok_and(|found| inode(&found) == self.made)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.holds()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "the socket stays behind");
        }
    }
}

fn inode(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Removes a socket that a process which died left behind, and nothing else.
async fn remove_dead(path: &Path) -> Result<(), Error> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => return Err(Error::NotASocket),
        Ok(_) => {}
    }
    match tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(std::fs::remove_file(path)?),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Err(error.into()),
        // It answers, or its backlog is full: somebody is there.
        Ok(_) | Err(_) => Err(Error::InUse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(path: &Path) -> Error {
        listen(path, 0o600).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_removed_with_the_claim() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (_listener, claim) = listen(&path, 0o600).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(claim.holds());
        drop(claim);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_live_socket_stays_even_when_its_backlog_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let _other = socket.listen(1).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            assert!(matches!(refused(&path).await, Error::InUse));
            waiting.push(stream);
        }
        assert!(matches!(refused(&path).await, Error::InUse), "full");
        assert!(path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_stays_and_so_does_what_a_link_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("bridge.toml"), folder.path().join("link"));
        std::fs::write(&file, "precious").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            assert!(matches!(refused(path).await, Error::NotASocket));
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        assert!(link.is_symlink());
    }

    #[tokio::test]
    async fn a_file_that_took_the_sockets_place_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_listener, claim) = listen(&path, 0o600).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!claim.holds());
        std::fs::write(&path, "somebody else's").unwrap();
        drop(claim);
        assert!(path.exists());
    }
}
