//! `vmtide-agent doctor`: every link between this guest and the bridge on its host, and what to do about a broken one.
//!
//! ```text
//! files of the guest, the running agent or a hello of its own --gather--> Facts --checks (pure)--> Report
//! ```
//!
//! It reads, and changes nothing. Where an agent runs it asks that one, for a second hello would take its session; where none
//! runs it says hello itself and hangs up. It dials vsock only from within a VM.

mod checks;
mod facts;
mod gather;
#[cfg(test)]
mod tests;

pub use checks::report;
pub use facts::{Agent, Driver, Facts, Knobs, Port, Pressure, Vsock};
pub use gather::gather;
