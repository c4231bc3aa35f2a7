//! DAMON, set up through sysfs (Documentation/admin-guide/mm/damon/usage.rst): one monitor of the guest's RAM.
//!
//! All RAM is divided into cells of one size that stay what they are. In each, the kernel marks a page taken at random and looks
//! a minute later whether it was used. The cells whose page was used, together, are then what was used within the minute
//! but for chance: a cell of which a tenth is in use counts one time in ten. DAMON as it is meant to be set up, with regions that
//! adapt and many looks a second, counted a region whole when any page of it was used: up to half too much where what is
//! in use lies scattered, and what borders moved over for a minute more.
//!
//! One setting is a number that nobody else would choose, so that an agent that starts after another was killed knows its leftover.

use crate::sense::SenseError;
use crate::sense::physical::firmware_ram;
use std::path::Path;
use std::time::Duration;
use std::{fs, io, thread};

const ADMIN: &str = "sys/kernel/mm/damon/admin/kdamonds";
/// Modules of the kernel that have DAMON for themselves once they are on.
const OTHERS: [&str; 2] =
    ["sys/module/damon_reclaim/parameters/enabled", "sys/module/damon_lru_sort/parameters/enabled"];
/// Between two looks, microseconds; the odd ones are the agent's mark. Each look is a sum of its own.
const LOOK_US: u64 = 60_000_007;
const UPDATE_US: u64 = 600_000_000;
/// Into how many cells RAM is divided. Each costs a look a minute, and a wrong one is off by as much as the cell: with 1000, and
/// every tenth of them half in use, the sum strays by half a percent of RAM (sqrt(100) / 2 cells).
const CELLS: u64 = 1000;
const PAGE_BYTES: u64 = 4096;
const MOST: u64 = u32::MAX as u64;
/// In looks: who was used in one of the last four before a look that found it unused was used within five minutes.
const FIVE_MINUTES: u64 = 4;
/// Which cells each scheme counts: the least and most looks that found them used, and looks since that changed.
const SCHEMES: [[u64; 4]; 2] = [[1, MOST, 0, MOST], [0, 0, 0, FIVE_MINUTES - 1]];
/// While the kernel is at work for one who asks, others are turned away.
const BUSY_TRIES: u32 = 60;
const BUSY_WAIT: Duration = Duration::from_millis(100);

/// Bytes that were used within a minute and five minutes.
pub(super) type Used = [u64; 2];

/// Whether it is there and nobody else has it.
pub(super) fn is_free(root: &Path) -> bool {
    let text = |path: &str| fs::read_to_string(root.join(path)).ok();
    if OTHERS.iter().any(|other| text(other).is_some_and(|enabled| enabled.trim() == "Y")) {
        return false;
    }
    match text(&format!("{ADMIN}/nr_kdamonds")).as_deref().map(str::trim) {
        Some("0") => true,
        Some("1") => is_ours(root),
        _ => false,
    }
}

fn is_ours(root: &Path) -> bool {
    let sample_us = fs::read_to_string(root.join(ADMIN).join("0/contexts/0/monitoring_attrs/intervals/sample_us"));
    sample_us.is_ok_and(|text| text.trim() == LOOK_US.to_string())
}

/// Ends a monitor that this agent, or one before it, began; leaves anybody else's alone.
pub(super) fn end(root: &Path) -> Result<(), SenseError> {
    if !is_ours(root) {
        return Ok(());
    }
    let admin = root.join(ADMIN);
    // Says EINVAL when it is off already.
    set(&admin.join("0/state"), "off").ok();
    set(&admin.join("nr_kdamonds"), "0")
}

/// Begins to monitor.
///
/// # Errors
/// [`SenseError`] with the file that the kernel does not take; then nothing is left behind.
pub(super) fn begin(root: &Path) -> Result<(), SenseError> {
    end(root)?;
    set_up(root).inspect_err(|_| {
        set(&root.join(ADMIN).join("nr_kdamonds"), "0").ok();
    })
}

fn set_up(root: &Path) -> Result<(), SenseError> {
    let admin = root.join(ADMIN);
    set(&admin.join("nr_kdamonds"), "1")?;
    set(&admin.join("0/contexts/nr_contexts"), "1")?;
    let context = admin.join("0/contexts/0");
    let number = |path: &str, value: u64| set(&context.join(path), &value.to_string());
    // The mark first: what fails later is known as ours.
    number("monitoring_attrs/intervals/sample_us", LOOK_US)?;
    number("monitoring_attrs/intervals/aggr_us", LOOK_US)?;
    number("monitoring_attrs/intervals/update_us", UPDATE_US)?;
    set(&context.join("operations"), "paddr")?;
    number("targets/nr_targets", 1)?;
    let ram = firmware_ram(root).unwrap_or_default();
    if ram.is_empty() {
        return Err(SenseError::Missing { path: root.join("sys/firmware/memmap"), key: "System RAM" });
    }
    let cells = cells(&ram);
    // The kernel merges neighbours that come to less than a part of RAM in `min`, and splits while there are less than half of `max`.
    number("monitoring_attrs/nr_regions/max", CELLS.max(cells.len() as u64))?;
    number("monitoring_attrs/nr_regions/min", CELLS)?;
    number("targets/0/regions/nr_regions", cells.len() as u64)?;
    for (index, (start, end)) in cells.iter().enumerate() {
        number(&format!("targets/0/regions/{index}/start"), *start)?;
        number(&format!("targets/0/regions/{index}/end"), *end)?;
    }
    number("schemes/nr_schemes", SCHEMES.len() as u64)?;
    for (index, [looks_least, looks_most, age_least, age_most]) in SCHEMES.into_iter().enumerate() {
        let scheme = format!("schemes/{index}");
        set(&context.join(&scheme).join("action"), "stat")?;
        for (what, value) in [
            ("sz/min", 0),
            ("sz/max", u64::MAX),
            ("nr_accesses/min", looks_least),
            ("nr_accesses/max", looks_most),
            ("age/min", age_least),
            ("age/max", age_most),
        ] {
            number(&format!("{scheme}/access_pattern/{what}"), value)?;
        }
    }
    set(&admin.join("0/state"), "on")?;
    // It has them now; a thousand folders are of no use any more.
    number("targets/0/regions/nr_regions", 0)
}

/// `ram` in cells of one size, in whole pages; the last one of each range may be smaller.
fn cells(ram: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let total_bytes: u64 = ram.iter().map(|(start, end)| end.saturating_sub(*start)).sum();
    let cell_bytes = total_bytes.div_ceil(CELLS * PAGE_BYTES).max(1).saturating_mul(PAGE_BYTES);
    let divide = |&(start, end): &(u64, u64)| {
        let mut next = start;
        std::iter::from_fn(move || {
            let cell = (next, next.saturating_add(cell_bytes).min(end));
            next = cell.1;
            (cell.0 < cell.1).then_some(cell)
        })
    };
    ram.iter().flat_map(divide).collect()
}

/// What was used, as of the next look: that is waited for, a minute at most. Asked as a look begins, the kernel turns everybody
/// away until it ends.
///
/// # Errors
/// [`SenseError`] when the monitor is no longer there.
pub(super) fn read(root: &Path) -> Result<Used, SenseError> {
    let kdamond = root.join(ADMIN).join("0");
    set(&kdamond.join("state"), "update_schemes_tried_bytes")?;
    let counted = |scheme: usize| {
        let path = kdamond.join(format!("contexts/0/schemes/{scheme}/tried_regions/total_bytes"));
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse::<u64>().map_err(|_| SenseError::Line {
                path,
                line: 1,
                expected: "expected a number",
                found: text.chars().take(80).collect(),
            }),
            Err(source) => Err(SenseError::Read { path, source }),
        }
    };
    let used_60_s = counted(0)?;
    Ok([used_60_s, used_60_s.saturating_add(counted(1)?)])
}

/// CPU time that the monitor's thread took so far, microseconds.
pub(super) fn cost_us(root: &Path) -> Option<u64> {
    let pid = fs::read_to_string(root.join(ADMIN).join("0/pid")).ok()?;
    let text = fs::read_to_string(root.join(format!("proc/{}/schedstat", pid.trim()))).ok()?;
    Some(text.split(' ').next()?.parse::<u64>().ok()? / 1_000)
}

fn set(path: &Path, value: &str) -> Result<(), SenseError> {
    let mut tries = BUSY_TRIES;
    loop {
        match fs::write(path, value) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries > 0 => {
                tries -= 1;
                thread::sleep(BUSY_WAIT);
            }
            written => return written.map_err(|source| SenseError::Write { path: path.to_owned(), source }),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sense::fixture::{guest, write};

    /// A guest whose kernel has made all the files that it makes in the course of setting up.
    pub(in crate::sense::working_set) fn with_damon(kdamonds: &str) -> tempfile::TempDir {
        let dir = guest();
        let file = |path: &str, text: &str| write(dir.path(), &format!("{ADMIN}/{path}"), text);
        file("nr_kdamonds", kdamonds);
        file("0/pid", "77\n");
        for folder in ["contexts/0/monitoring_attrs/intervals", "contexts/0/monitoring_attrs/nr_regions"] {
            file(&format!("0/{folder}/min"), "0\n");
        }
        for region in 0..=CELLS {
            file(&format!("0/contexts/0/targets/0/regions/{region}/start"), "0\n");
        }
        for scheme in 0..2 {
            for part in ["sz", "nr_accesses", "age"] {
                file(&format!("0/contexts/0/schemes/{scheme}/access_pattern/{part}/min"), "0\n");
            }
            file(
                &format!("0/contexts/0/schemes/{scheme}/tried_regions/total_bytes"),
                &format!("{}\n", 10_u64.pow(scheme)),
            );
        }
        dir
    }

    pub(in crate::sense::working_set) fn text(root: &Path, path: &str) -> String {
        fs::read_to_string(root.join(ADMIN).join(path)).unwrap()
    }

    #[test]
    fn it_watches_all_ram_and_ends_without_a_trace() {
        let dir = with_damon("0\n");
        let root = dir.path();
        assert!(is_free(root));
        begin(root).unwrap();
        assert_eq!((text(root, "nr_kdamonds"), text(root, "0/state")), ("1".into(), "on".into()));
        assert_eq!(text(root, "0/contexts/0/schemes/1/access_pattern/age/max"), "3");
        assert_eq!(read(root).unwrap(), [1, 11]);
        end(root).unwrap();
        assert_eq!((text(root, "nr_kdamonds"), text(root, "0/state")), ("0".into(), "off".into()));
    }

    #[test]
    fn cells_are_all_of_ram_and_no_two_of_them_are_small_enough_to_be_merged() {
        for ram in [vec![(0, 0x9_f000), (0x10_0000, 0x3000_0000)], vec![(0, 4096)], vec![(4096, 5 << 40)], vec![]] {
            let cells = cells(&ram);
            let bytes = |ranges: &[(u64, u64)]| ranges.iter().map(|(start, end)| end - start).sum::<u64>();
            assert_eq!(bytes(&cells), bytes(&ram));
            assert!(cells.len() as u64 <= CELLS + ram.len() as u64, "{} cells", cells.len());
            let neighbours = |pair: &&[(u64, u64)]| pair[0].1 == pair[1].0;
            for pair in cells.windows(2).filter(neighbours) {
                assert!(bytes(pair) > bytes(&ram) / CELLS, "{pair:?}");
            }
        }
    }

    #[test]
    fn somebody_elses_monitor_is_left_alone_and_ones_own_leftover_is_not() {
        let dir = with_damon("1\n");
        let root = dir.path();
        let sample_us = format!("{ADMIN}/0/contexts/0/monitoring_attrs/intervals/sample_us");
        write(root, &sample_us, "5000\n");
        assert!(!is_free(root));
        end(root).unwrap();
        assert_eq!(text(root, "nr_kdamonds"), "1\n");
        write(root, &sample_us, &format!("{LOOK_US}\n"));
        assert!(is_free(root));
        end(root).unwrap();
        assert_eq!(text(root, "nr_kdamonds"), "0");
    }

    #[test]
    fn a_module_that_has_damon_keeps_it_and_no_damon_is_none() {
        let dir = with_damon("0\n");
        write(dir.path(), OTHERS[0], "Y\n");
        assert!(!is_free(dir.path()));
        assert!(!is_free(tempfile::tempdir().unwrap().path()));
        end(tempfile::tempdir().unwrap().path()).unwrap();
    }

    #[test]
    fn a_set_up_that_fails_leaves_nothing() {
        let dir = with_damon("0\n");
        fs::remove_dir_all(dir.path().join("sys/firmware/memmap")).unwrap();
        let error = begin(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("memmap has no System RAM"), "{error}");
        assert_eq!(text(dir.path(), "nr_kdamonds"), "0");
    }
}
