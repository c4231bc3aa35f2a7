//! `vmtide doctor`: every link between this host's VMs and the bridge, and what to do about a broken one.
//!
//! ```text
//! configuration, files of the host, the bridge's API --gather--> Facts --checks (pure)--> Report
//! ```
//!
//! It reads, and changes nothing. A monitor of QEMU serves one client: while a bridge runs, that is the bridge, and what it
//! says is taken; only without one the monitors are asked, and left again. vsock is never dialled.

mod checks;
mod facts;
mod gather;
#[cfg(test)]
mod tests;
mod vm;

pub use checks::report;
pub use facts::{Bridge, Facts, Group, Known, Monitor, Running, Socket, Vm};
pub use gather::gather;
