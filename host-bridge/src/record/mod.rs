//! What was decided, what came of it, and what else happened: bounded, in memory and on disk.
//!
//! ```text
//!  Bridge --> Decisions, Events ------------------------> control API, vmtide explain   (in memory, the last few)
//!         --> Recorder --> Writer --> frame --> store --> segments                       (on disk, under a cap)
//!                                               segments --> read --> vmtide replay
//! ```
//!
//! A recording has everything that the planner of memory was given and all that it answered, so that `vmtide replay` can feed it
//! again. Of CPU time and disks it has what was changed, why, and what came of it. The rule for types of [`crate::plan`] that change: a field that comes new has a `serde` default, and a reader
//! skips fields that it does not know; so a recording of any version can be read by any other with the same
//! [`FORMAT`]. Integers only: what is read is what was written.

mod decisions;
mod entry;
mod explain;
mod frame;
mod health;
mod lever;
mod patch;
mod reader;
mod recorder;
mod store;
mod writer;

pub use crate::plan::asking::Asked;
pub use decisions::{DECISIONS_KEPT, Decision, Decisions, EVENTS_KEPT, Event, Events, Outcome};
pub use entry::{Ended, FORMAT, FULL_EACH_MS, Header, Tick, Used};
pub use explain::{sentence, standing};
pub use health::{Failure, Health};
pub(crate) use lever::rule_name;
pub use lever::{Lever, LeverChange, LeverChanges, LeverEntry, LeverOutcome};
pub use reader::{Entry, Losses, ReadError, read};
pub use recorder::{Record, Recorder};
pub use store::StoreError;
pub use writer::Writer;
