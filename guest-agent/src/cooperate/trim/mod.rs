//! Gives unused blocks of the guest's file systems back to the host: FITRIM, a file system at a time.
//!
//! ```text
//! mountinfo, /sys/dev/block -> file systems whose disks take discards
//!                                   |
//! trim_storage -> Trimmer: one thread -> a range -> a rest as long -> the next range … -> reply: bytes, and of which
//!                                             |          |
//!                              FITRIM (kernel)          PSI io: others wait -> stop
//! ```
//!
//! While a range is trimmed the agent itself waits for the disk, so what others miss shows only while it rests.

mod filesystems;
mod fitrim;
mod pass;
mod trimmer;

pub use filesystems::{FileSystem, file_systems};
pub use trimmer::Trimmer;
