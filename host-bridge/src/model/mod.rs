//! What a host would do with other plans: balloons that take their time, and the books.
//!
//! ```text
//!  views, time --> planner --> Plan --> send: targets --> Speeds::moved: allocations --> views
//!                                 `--------> Ledger: bytes moved, stalls, violations
//! ```
//!
//! Pure: [`crate::replay`] drives it with demand out of a recording, [`crate::simulate`] with that of made-up guests.

mod balloon;
mod ledger;

pub use balloon::{Speed, Speeds, send};
pub use ledger::{Figures, GAP_MS, Ledger, Time, VmFigures};
