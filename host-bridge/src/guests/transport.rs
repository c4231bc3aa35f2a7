//! The ways in which a guest's connection arrives, and what they say about who it is.
//!
//! A guest's identity is a fact of the host: the peer's context id, or the socket that the VMM forwards to.

use super::VmIndex;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};
use vmtide_protocol::PORT;

/// AF_VSOCK cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "vsock port {PORT}: cannot listen; load the kernel module vhost_vsock, stop another bridge, \
         or give every VM a hybrid socket (key vsock) in place of a cid"
)]
pub struct ListenError(#[source] io::Error);

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
    vms: Arc<Cids>,
}

/// Which VM has which context id. It changes when the configuration is read again.
#[derive(Debug, Default)]
pub(super) struct Cids(RwLock<HashMap<u32, VmIndex>>);

impl Cids {
    pub(super) fn insert(&self, cid: u32, vm: VmIndex) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(cid, vm);
    }

    /// Forgets the context id of a VM.
    pub(super) fn remove(&self, vm: VmIndex) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|_, other| *other != vm);
    }

    fn peer(&self, cid: u32) -> Peer {
        let cids = self.0.read().unwrap_or_else(PoisonError::into_inner);
        cids.get(&cid).map_or(Peer::Stranger(cid), |vm| Peer::Vm(*vm))
    }
}

impl Vsock {
    pub(super) fn bind(vms: Arc<Cids>) -> Result<Self, ListenError> {
        let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, PORT)).map_err(ListenError)?;
        Ok(Self { listener, vms })
    }
}

impl Transport for Vsock {
    type Stream = VsockStream;

    async fn accept(&mut self) -> io::Result<(VsockStream, Peer)> {
        let (stream, address) = self.listener.accept().await?;
        Ok((stream, self.vms.peer(address.cid())))
    }
}

/// Hybrid vsock: one unix socket for each VM, to which its VMM forwards port 7670.
pub(super) struct Hybrid {
    pub(super) listener: UnixListener,
    pub(super) vm: VmIndex,
}

impl Transport for Hybrid {
    type Stream = UnixStream;

    async fn accept(&mut self) -> io::Result<(UnixStream, Peer)> {
        Ok((self.listener.accept().await?.0, Peer::Vm(self.vm)))
    }
}

/// Where the bridge listens for the VM whose VMM calls its hybrid socket `vsock`.
pub(crate) fn hybrid_path(vsock: &Path) -> PathBuf {
    let mut path = vsock.as_os_str().to_owned();
    path.push(format!("_{PORT}"));
    path.into()
}
