//! Whether merging equal pages pays. Pure.
//!
//! ```text
//!            two scans of everything since it began to run         saves less than a hundredth of memory
//! unknown -----------------------------------------------> yes ------------------------------------------> no
//!    ^                                                                                                       |
//!    +------------------------- there is another VM more, or 6 hours went by --------------------------------+
//! ```
//!
//! Nobody knows beforehand what is equal: the first scan only takes checksums, the second merges what did not change
//! between the two (`mm/ksm.c`, `cmp_and_merge_page`). What it saves is the kernel's own `general_profit` (Linux 6.4),
//! pages saved less what the kernel keeps about each page that it looks at.

use std::fs;
use std::path::Path;

/// It does not pay to save less than this part of the host's memory.
const LEAST_PART: u64 = 100;
/// What the kernel keeps about a page that it looks at (`struct ksm_rmap_item` on 64 bits).
const ITEM_BYTES: u64 = 64;
/// After that it is tried again.
const AGAIN_MS: u64 = 6 * 3_600_000;
/// So many scans of everything tell.
const SCANS: u64 = 2;

/// What `/sys/kernel/mm/ksm` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) runs: bool,
    pub(super) full_scans: u64,
    pub(super) saved_bytes: u64,
}

impl Counts {
    /// Of the host below `root`; `None` where there is no KSM.
    pub(super) fn read(root: &Path, page_bytes: u64) -> Option<Self> {
        let text = |name: &str| fs::read_to_string(root.join("sys/kernel/mm/ksm").join(name)).ok();
        let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
        let looked_at = ["pages_shared", "pages_sharing", "pages_unshared", "pages_volatile"];
        let items = looked_at.iter().filter_map(|name| number(name)).fold(0, u64::saturating_add);
        let saved = number("pages_sharing")?.saturating_mul(page_bytes);
        let profit = text("general_profit").and_then(|text| text.trim().parse::<i64>().ok());
        Some(Self {
            runs: number("run")? == 1,
            full_scans: number("full_scans")?,
            saved_bytes: match profit {
                Some(profit) => u64::try_from(profit).unwrap_or(0),
                None => saved.saturating_sub(items.saturating_mul(ITEM_BYTES)),
            },
        })
    }
}

/// Whether it pays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pays {
    /// It has not run for long enough.
    #[default]
    Unknown,
    /// It saves enough.
    Yes,
    /// It does not.
    No,
}

impl Pays {
    /// As facts say it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Yes => "yes",
            Self::No => "no",
        }
    }
}

/// What was seen of it so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Judge {
    /// Scans of everything when it began to run.
    began_scans: Option<u64>,
    pays: Pays,
    /// When that was said to be no, and how many VMs there were.
    refused: Option<(u64, u64)>,
}

impl Judge {
    /// Takes in what is counted at `now_ms` on a host of `memory_bytes` with so many VMs.
    pub(super) fn update(&mut self, now_ms: u64, counts: Option<Counts>, memory_bytes: u64, vms: u64) -> Pays {
        if let Some((at_ms, had_vms)) = self.refused
            && (vms > had_vms || now_ms.saturating_sub(at_ms) >= AGAIN_MS)
        {
            *self = Self::default();
        }
        let Some(counts) = counts.filter(|counts| counts.runs) else {
            self.began_scans = None;
            return self.pays;
        };
        let began = *self.began_scans.get_or_insert(counts.full_scans);
        if counts.full_scans.saturating_sub(began) >= SCANS {
            self.pays = if counts.saved_bytes >= (memory_bytes / LEAST_PART).max(1) { Pays::Yes } else { Pays::No };
            self.refused = (self.pays == Pays::No).then(|| self.refused.unwrap_or((now_ms, vms)));
        }
        self.pays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn counts(runs: bool, full_scans: u64, saved_mib: u64) -> Counts {
        Counts { runs, full_scans, saved_bytes: saved_mib << 20 }
    }

    #[test]
    fn two_scans_tell_and_what_does_not_pay_is_tried_again_with_another_vm_or_much_later() {
        let mut judge = Judge::default();
        let mut says = |now_ms, counts, vms| judge.update(now_ms, Some(counts), 64 * GIB, vms);
        assert_eq!(says(0, counts(false, 7, 0), 2), Pays::Unknown);
        assert_eq!(says(1, counts(true, 7, 0), 2), Pays::Unknown);
        assert_eq!(says(2, counts(true, 8, 0), 2), Pays::Unknown, "the first scan only takes checksums");
        assert_eq!(says(3, counts(true, 9, 600), 2), Pays::No, "600 MiB are less than a hundredth of 64 GiB");
        assert_eq!(says(4, counts(false, 9, 600), 2), Pays::No);
        assert_eq!(says(5, counts(false, 9, 600), 1), Pays::No);
        assert_eq!(says(6, counts(false, 9, 600), 3), Pays::Unknown, "one VM more");
        assert_eq!(says(7, counts(true, 9, 600), 3), Pays::Unknown);
        assert_eq!(says(8, counts(true, 11, 700), 3), Pays::Yes);
        assert_eq!(says(9, counts(true, 12, 10), 3), Pays::No, "what was equal is not any more");
        assert_eq!(says(8 + AGAIN_MS, counts(false, 12, 10), 3), Pays::No);
        assert_eq!(says(9 + AGAIN_MS, counts(false, 12, 10), 3), Pays::Unknown);
    }

    #[test]
    fn without_ksm_nothing_is_known() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Counts::read(dir.path(), 4096), None);
        assert_eq!(Judge::default().update(0, None, GIB, 9), Pays::Unknown);
    }

    #[test]
    fn what_is_saved_is_the_kernel_s_own_count_or_pages_less_what_they_cost() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("sys/kernel/mm/ksm");
        fs::create_dir_all(&folder).unwrap();
        for (name, holds) in
            [("run", 1), ("full_scans", 3), ("pages_shared", 10), ("pages_sharing", 100), ("pages_unshared", 1000)]
        {
            fs::write(folder.join(name), format!("{holds}\n")).unwrap();
        }
        let saved = |dir: &Path| Counts::read(dir, 4096).unwrap().saved_bytes;
        assert_eq!(saved(dir.path()), 100 * 4096 - 1110 * 64);
        for (profit, expected) in [("5000\n", 5000), ("-70000\n", 0)] {
            fs::write(folder.join("general_profit"), profit).unwrap();
            assert_eq!(saved(dir.path()), expected);
        }
        assert_eq!(Counts::read(dir.path(), 4096).unwrap().full_scans, 3);
    }
}
