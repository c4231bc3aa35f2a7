//! A connected socket, of either family.

use super::Address;
use crate::watched::watched;
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, getsockopt, sockopt::SocketError};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use tokio::io::{Interest, unix::AsyncFd};
use tokio::net::UnixStream;
use vsock::{VsockAddr, VsockStream};

/// A connection to a bridge.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Vsock(AsyncFd<VsockStream>),
}

impl Stream {
    /// Connects, without holding up the runtime.
    pub(super) async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
            Address::Vsock { cid, port } => Ok(Self::Vsock(connect_vsock(*cid, *port).await?)),
        }
    }

    /// Reads some bytes; 0 at the end. Dropping the future loses none.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.async_io(Interest::READABLE, || stream.try_read(buffer)).await,
            Self::Vsock(stream) => stream.async_io(Interest::READABLE, |mut stream| stream.read(buffer)).await,
        }
    }

    /// Writes all bytes.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                Self::Unix(stream) => stream.async_io(Interest::WRITABLE, || stream.try_write(bytes)).await?,
                Self::Vsock(stream) => stream.async_io(Interest::WRITABLE, |mut stream| stream.write(bytes)).await?,
            };
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

/// The vsock crate connects blocking, up to two seconds; this begins to connect and lets the runtime wait.
async fn connect_vsock(cid: u32, port: u32) -> io::Result<AsyncFd<VsockStream>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    match socket::connect(socket.as_raw_fd(), &VsockAddr::new(cid, port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = watched(VsockStream::from(socket), Interest::READABLE | Interest::WRITABLE)?;
    stream.writable().await?.retain_ready();
    match getsockopt(&stream, SocketError)? {
        0 => Ok(stream),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
