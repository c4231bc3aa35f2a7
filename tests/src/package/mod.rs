//! The packages, and what is in them.

mod units;

pub use units::{exposure, exposure_of};
