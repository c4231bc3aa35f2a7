//! Tunes the guest: the only part of the agent that writes outside its own files.
//!
//! ```text
//! catalogue (data) --.
//! facts (the guest) --+--> survey --> assess: how each knob stands, what to do (pure)
//! journal (what was) -'                 |
//!                                       v
//!                       tuner: journal, write, read back ---> trial: did it help? (pure)
//! ```
//!
//! In: samples and host hints from the agent's loop, the operator's mode. Out: values in `/proc/sys` and `/sys`, each with
//! a record in the journal before it is written, and events for the bridge. What vmtide changed goes back when the agent
//! stops, when an operator says so, and after a crash; what somebody else has set is theirs.

pub mod assess;
pub mod catalogue;
pub mod claims;
pub mod control;
pub mod expression;
pub mod facts;
pub mod hand;
pub mod inventory;
pub mod journal;
pub mod place;
pub mod revert;
pub mod show;
pub mod survey;
pub mod trial;
pub mod trials;
pub mod tuner;
pub mod value;
pub mod window;
pub mod zram;

pub use catalogue::{Catalogue, Knob, Mode};
pub use facts::Facts;
pub use inventory::{Inventory, InventoryError};
pub use survey::{Row, Survey};
pub use tuner::Tuner;
