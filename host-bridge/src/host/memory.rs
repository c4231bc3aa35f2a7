//! `/proc/meminfo`.

use super::HostError;
use procfs::{FromRead, Meminfo};
use std::path::Path;

/// The host's memory.
pub(super) struct Memory {
    pub(super) total_bytes: u64,
    pub(super) available_bytes: Option<u64>,
}

impl Memory {
    pub(super) fn read(root: &Path) -> Result<Self, HostError> {
        let path = root.join("proc/meminfo");
        match Meminfo::from_file(&path) {
            Ok(meminfo) => Ok(Self { total_bytes: meminfo.mem_total, available_bytes: meminfo.mem_available }),
            Err(source) => Err(HostError::Read { path, source }),
        }
    }
}
