//! Files and sockets that the runtime watches.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use tokio::io::{Interest, unix::AsyncFd};

/// Has the runtime watch `file` for `interest`; `T` is a type of std's or vsock's that owns one descriptor.
pub(crate) fn watched<T: AsRawFd + Into<OwnedFd>>(file: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    #[allow(unsafe_code)] // tokio has no safe way to watch a descriptor
    // SAFETY: what turns into an `OwnedFd` owns its one descriptor, which stays open and the same until it is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(file, interest) };
    registered.map_err(io::Error::from)
}
