//! The keys of `/proc/meminfo` and `/proc/vmstat` that are wanted.

use crate::sense::{SenseError, source::Source};

/// Bytes, of `/proc/meminfo`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    pub(super) total: u64,
    pub(super) available: u64,
    pub(super) free: u64,
    pub(super) anon: u64,
    pub(super) active_file: u64,
    pub(super) inactive_file: u64,
    pub(super) swap_total: u64,
    pub(super) swap_free: u64,
}

impl Sizes {
    /// The sizes now.
    pub(super) fn read(meminfo: &mut Source) -> Result<Self, SenseError> {
        let text = meminfo.read()?;
        let mut sizes = Self::default();
        let (mut total, mut available, mut free) = (None, None, None);
        for (key, line) in text.lines() {
            let bytes = || Ok::<_, SenseError>(line.number()?.saturating_mul(1024));
            match key {
                "MemTotal:" => total = Some(bytes()?),
                "MemFree:" => free = Some(bytes()?),
                "MemAvailable:" => available = Some(bytes()?),
                "AnonPages:" => sizes.anon = bytes()?,
                "Active(file):" => sizes.active_file = bytes()?,
                "Inactive(file):" => sizes.inactive_file = bytes()?,
                "SwapTotal:" => sizes.swap_total = bytes()?,
                "SwapFree:" => sizes.swap_free = bytes()?,
                _ => {}
            }
        }
        sizes.total = total.ok_or_else(|| text.missing("MemTotal"))?;
        sizes.free = free.ok_or_else(|| text.missing("MemFree"))?;
        sizes.available = available.ok_or_else(|| text.missing("MemAvailable"))?;
        Ok(sizes)
    }
}

/// Counts, of `/proc/vmstat`; 0 for what this kernel was built without.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) refault_file: u64,
    pub(super) refault_anon: u64,
    pub(super) swap_in: u64,
    pub(super) alloc_stalls: u64,
    pub(super) oom_kills: u64,
    inflated: u64,
    deflated: u64,
}

impl Counters {
    /// What the balloon driver holds.
    pub(super) fn balloon_pages(self) -> u64 {
        self.inflated.saturating_sub(self.deflated)
    }
}

impl Counters {
    /// The counters now.
    pub(super) fn read(vmstat: &mut Source) -> Result<Self, SenseError> {
        let mut counters = Self::default();
        for (key, line) in vmstat.read()?.lines() {
            match key {
                "workingset_refault_file" => counters.refault_file = line.number()?,
                "workingset_refault_anon" => counters.refault_anon = line.number()?,
                "pswpin" => counters.swap_in = line.number()?,
                "oom_kill" => counters.oom_kills = line.number()?,
                "balloon_inflate" => counters.inflated = line.number()?,
                "balloon_deflate" => counters.deflated = line.number()?,
                _ if key.starts_with("allocstall_") => {
                    counters.alloc_stalls = counters.alloc_stalls.saturating_add(line.number()?);
                }
                _ => {}
            }
        }
        Ok(counters)
    }
}
