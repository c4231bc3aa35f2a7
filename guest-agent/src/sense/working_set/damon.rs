//! DAMON, set up through sysfs (Documentation/admin-guide/mm/damon/usage.rst): one monitor of the guest's RAM.
//!
//! The kernel looks at one page of each region four times a second and adapts the regions. Four schemes do nothing but count
//! bytes: of regions in use, and of others by how long they were not used. One setting is a number that nobody else would choose, so that an agent
//! that starts after another was killed knows its leftover.

use crate::sense::SenseError;
use crate::sense::physical::firmware_ram;
use std::path::Path;
use std::time::Duration;
use std::{fs, io, thread};

const ADMIN: &str = "sys/kernel/mm/damon/admin/kdamonds";
/// Modules of the kernel that have DAMON for themselves once they are on.
const OTHERS: [&str; 2] =
    ["sys/module/damon_reclaim/parameters/enabled", "sys/module/damon_lru_sort/parameters/enabled"];
/// Each look, microseconds; the odd ones are the agent's mark.
const SAMPLE_US: u64 = 250_007;
/// Each sum of looks. A region keeps its age while its sum changes by no more than a tenth of the looks, so with ten of them a
/// single stray access is no use; with five it made megabytes of cold memory young again each time.
const SUM_US: u64 = 10 * SAMPLE_US;
const UPDATE_US: u64 = 60_000_000;
/// More tell hot from cold memory more finely, and each costs a look.
const REGIONS: (u64, u64) = (100, 1000);
/// In sums: 10 s, a minute, five.
const AGES: [u64; 3] = [4, 24, 120];
const MOST: u64 = u32::MAX as u64;
/// Which regions each scheme counts: the least and most looks that found them used, and sums since that changed.
const SCHEMES: [[u64; 4]; 4] =
    [[1, MOST, 0, MOST], [0, 0, 0, AGES[0] - 1], [0, 0, AGES[0], AGES[1] - 1], [0, 0, AGES[1], AGES[2] - 1]];
/// As long as the kernel takes a sum's time to answer one who asks, others are turned away.
const BUSY_TRIES: u32 = 60;
const BUSY_WAIT: Duration = Duration::from_millis(100);

/// Bytes that were used within 10 s, a minute and five minutes.
pub(super) type Used = [u64; 3];

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
    sample_us.is_ok_and(|text| text.trim() == SAMPLE_US.to_string())
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
    number("monitoring_attrs/intervals/sample_us", SAMPLE_US)?;
    number("monitoring_attrs/intervals/aggr_us", SUM_US)?;
    number("monitoring_attrs/intervals/update_us", UPDATE_US)?;
    number("monitoring_attrs/nr_regions/max", REGIONS.1)?;
    number("monitoring_attrs/nr_regions/min", REGIONS.0)?;
    set(&context.join("operations"), "paddr")?;
    number("targets/nr_targets", 1)?;
    let ram = firmware_ram(root).unwrap_or_default();
    if ram.is_empty() {
        return Err(SenseError::Missing { path: root.join("sys/firmware/memmap"), key: "System RAM" });
    }
    number("targets/0/regions/nr_regions", ram.len() as u64)?;
    for (index, (start, end)) in ram.iter().enumerate() {
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
    set(&admin.join("0/state"), "on")
}

/// What was used, as of the latest sum. Takes as long as one or two of them.
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
    let used_10_s = counted(0)?.saturating_add(counted(1)?);
    let used_60_s = used_10_s.saturating_add(counted(2)?);
    Ok([used_10_s, used_60_s, used_60_s.saturating_add(counted(3)?)])
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
        for region in 0..2 {
            file(&format!("0/contexts/0/targets/0/regions/{region}/start"), "0\n");
        }
        for scheme in 0..4 {
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
        assert_eq!(text(root, "0/contexts/0/targets/0/regions/1/start"), 0x10_0000.to_string());
        assert_eq!(text(root, "0/contexts/0/targets/0/regions/1/end"), 0x3000_0000.to_string());
        assert_eq!(text(root, "0/contexts/0/schemes/2/access_pattern/age/max"), "23");
        assert_eq!(read(root).unwrap(), [11, 111, 1_111]);
        end(root).unwrap();
        assert_eq!((text(root, "nr_kdamonds"), text(root, "0/state")), ("0".into(), "off".into()));
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
        write(root, &sample_us, &format!("{SAMPLE_US}\n"));
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
