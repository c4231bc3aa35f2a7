//! Answers what the host asks of the guest.
//!
//! ```text
//! yield_memory -> Yielder: one thread at a time ---------------------------> reply: what the balloon can take now
//!                    |  reads memory, writes memory.reclaim  ^                 by the deadline, done or not
//!                    +--------> Yield (pure): what next -----+
//!
//! set_online_cpus -> Onliner: a CPU at a time -> Cpus (who needs which, note) --> reply: how many are online
//!
//! trim_storage -> Trimmer: one thread at a time, see [`trim`] --------------> reply: how much each file system gave back
//! ```
//!
//! In: a request of the bridge. Out: its one reply, by the deadline. What is asked is never more than a wish: the guest keeps
//! its floor, and stops when somebody misses what was taken.

mod cpus;
mod onliner;
pub mod trim;
mod yielder;
mod yielding;

pub use cpus::{CpuError, Cpus, FOLDER as CPUS};
pub use onliner::Onliner;
pub use trim::Trimmer;
pub use yielder::{RECLAIM, Yielder};
pub use yielding::{Next, Reading, Stop, Yield};
