//! The ways in which a guest's connection arrives, and what they say about who it is.
//!
//! A guest's identity is a fact of the host: the peer's context id, or the socket that the VMM forwards to.

use super::VmIndex;
use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};
use vmtide_protocol::PORT;

/// Connections that wait to be accepted on one hybrid socket.
const BACKLOG: u32 = 16;
/// Owner and group: the VMM's user connects, so it owns the folder's group or shares the bridge's.
const SOCKET_MODE: u32 = 0o660;
/// How long a listener may take to answer the question whether it lives.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the bridge cannot listen to its guests.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process has the socket.
    #[error("{}: another process listens here; stop it, or give the VM another vsock path", .0.display())]
    InUse(PathBuf),
    /// Something else is in the way.
    #[error("{}: exists and is no socket; move it away, or give the VM another vsock path", .0.display())]
    NotASocket(PathBuf),
    /// The hybrid socket cannot be made.
    #[error("{}: cannot listen; the folder must exist and be writable for the bridge", path.display())]
    Hybrid {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// AF_VSOCK cannot be used.
    #[error(
        "vsock port {PORT}: cannot listen; load the kernel module vhost_vsock, stop another bridge, \
             or give every VM a hybrid socket (key vsock) in place of a cid"
    )]
    Vsock(#[source] io::Error),
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// A configured VM.
    Vm(VmIndex),
    /// A context id that no VM has.
    Stranger(u32),
}

/// One way in.
pub(super) trait Transport: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection and who it is; may be abandoned without losing one.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

/// Kernel vsock: one listener for all VMs that have a context id.
pub(super) struct Vsock {
    listener: VsockListener,
    vms: HashMap<u32, VmIndex>,
}

impl Vsock {
    pub(super) fn bind(vms: HashMap<u32, VmIndex>) -> Result<Self, ListenError> {
        let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, PORT)).map_err(ListenError::Vsock)?;
        Ok(Self { listener, vms })
    }
}

impl Transport for Vsock {
    type Stream = VsockStream;

    async fn accept(&mut self) -> io::Result<(VsockStream, Peer)> {
        let (stream, address) = self.listener.accept().await?;
        let cid = address.cid();
        Ok((stream, self.vms.get(&cid).map_or(Peer::Stranger(cid), |vm| Peer::Vm(*vm))))
    }
}

/// Hybrid vsock: one unix socket for each VM, to which its VMM forwards port 7670. Removed with the value.
pub(super) struct Hybrid {
    listener: UnixListener,
    vm: VmIndex,
    path: PathBuf,
    /// Device and inode, so that only what we made is removed.
    made: (u64, u64),
}

impl Hybrid {
    /// Listens at `<vsock>_7670`; a socket there that nobody listens on any more is replaced.
    pub(super) async fn bind(vm: VmIndex, vsock: &Path) -> Result<Self, ListenError> {
        let mut path = vsock.as_os_str().to_owned();
        path.push(format!("_{PORT}"));
        let path = PathBuf::from(path);
        remove_stale(&path).await?;
        let listen = || {
            let socket = UnixSocket::new_stream()?;
            // The file gets the mode that the socket has when it is bound; nobody gets in before it is right.
            File::from(socket.as_fd().try_clone_to_owned()?).set_permissions(Permissions::from_mode(0o600))?;
            socket.bind(&path)?;
            let metadata = path.symlink_metadata()?;
            std::fs::set_permissions(&path, Permissions::from_mode(SOCKET_MODE))?;
            Ok((socket.listen(BACKLOG)?, (metadata.dev(), metadata.ino())))
        };
        match listen() {
            Ok((listener, made)) => Ok(Self { listener, vm, path, made }),
            Err(source) => Err(ListenError::Hybrid { path, source }),
        }
    }
}

impl Transport for Hybrid {
    type Stream = UnixStream;

    async fn accept(&mut self) -> io::Result<(UnixStream, Peer)> {
        Ok((self.listener.accept().await?.0, Peer::Vm(self.vm)))
    }
}

impl Drop for Hybrid {
    fn drop(&mut self) {
        let ours = self.path.symlink_metadata().is_ok_and(|found| (found.dev(), found.ino()) == self.made);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket stays behind");
        }
    }
}

/// Removes a socket that a process which died left behind, and nothing else.
async fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Hybrid { path: path.to_owned(), source };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Err(failed(error)),
        // It answers, or its backlog is full: somebody is there.
        Ok(_) | Err(_) => Err(ListenError::InUse(path.to_owned())),
    }
}
