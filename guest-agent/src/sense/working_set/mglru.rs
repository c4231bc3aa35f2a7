//! The generations of the multi-generational LRU (Documentation/admin-guide/mm/multigen_lru.rst).
//!
//! `lru_gen` of debugfs lists, for each cgroup and NUMA node, up to four generations of pages: number, age, anonymous and
//! file pages. A new generation is made by writing `+ cgroup node youngest can_swap force`; before that, the kernel walks
//! the page tables and moves what was used since the last one into the youngest. So the pages of a generation were last used
//! between its birth and that of the next. The oldest has no beginning: those before it were merged into it.

use crate::sense::SenseError;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

const ENABLED: &str = "sys/kernel/mm/lru_gen/enabled";
const LRU_GEN: &str = "sys/kernel/debug/lru_gen";
/// The LRU is on, and the kernel walks page tables: without the second bit nothing would be seen used.
const WALKS: u32 = 0x3;
/// Two births are the same when no more lies between them: one tick of the slowest clock, and rounding.
const SAME_MS: u64 = 12;

/// The pages of one cgroup on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    cgroup: u64,
    node: u64,
    /// Youngest first.
    generations: Vec<Generation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Generation {
    number: u64,
    age_ms: u64,
    anon_pages: u64,
    file_pages: u64,
}

/// How many pages were and were not used within a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_field_names)] // the unit
pub(super) struct Use {
    /// Used.
    pub(super) used_pages: u64,
    /// Of these, file pages.
    pub(super) used_file_pages: u64,
    /// Not used.
    pub(super) idle_pages: u64,
    /// One or the other: no generation was born near that time.
    pub(super) unsure_pages: u64,
}

/// Whether the LRU is on and can be asked.
pub(super) fn is_on(root: &Path) -> bool {
    let bits = std::fs::read_to_string(root.join(ENABLED)).unwrap_or_default();
    let bits = bits.trim().strip_prefix("0x").and_then(|bits| u32::from_str_radix(bits, 16).ok()).unwrap_or(0);
    // Root may not, either, where the kernel is locked down.
    bits & WALKS == WALKS && OpenOptions::new().read(true).write(true).open(root.join(LRU_GEN)).is_ok()
}

/// The generations now.
///
/// # Errors
/// [`SenseError`] with file and line.
pub(super) fn read(root: &Path) -> Result<Vec<Pages>, SenseError> {
    let path = root.join(LRU_GEN);
    let unreadable = |source| SenseError::Read { path: path.clone(), source };
    let mut file = BufReader::new(File::open(&path).map_err(unreadable)?);
    let (mut all, mut line, mut number, mut cgroup) = (Vec::<Pages>::new(), String::new(), 0, 0);
    loop {
        line.clear();
        if file.read_line(&mut line).map_err(unreadable)? == 0 {
            break;
        }
        number += 1;
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let known = match words[..] {
            ["memcg", id, ..] => id.parse().map(|id| cgroup = id).is_ok(),
            ["node", node] => {
                node.parse().map(|node| all.push(Pages { cgroup, node, generations: Vec::with_capacity(4) })).is_ok()
            }
            [..] => match (all.last_mut(), generation(&words)) {
                (Some(pages), Some(generation)) => {
                    // Oldest first, there.
                    pages.generations.insert(0, generation);
                    true
                }
                _ => false,
            },
        };
        if !known {
            let expected = "expected a generation: number, age, anonymous and file pages";
            let found = line.trim_end().chars().take(80).collect();
            return Err(SenseError::Line { path, line: number, expected, found });
        }
    }
    Ok(all)
}

fn generation(words: &[&str]) -> Option<Generation> {
    let [number, age_ms, anon_pages, file_pages] = words else { return None };
    Some(Generation {
        number: number.parse().ok()?,
        age_ms: age_ms.parse().ok()?,
        // Counted on several CPUs and summed without a lock: may be negative for a moment.
        anon_pages: anon_pages.parse::<i64>().ok()?.try_into().unwrap_or(0),
        file_pages: file_pages.parse::<i64>().ok()?.try_into().unwrap_or(0),
    })
}

/// Makes a new generation for each of `all`.
///
/// # Errors
/// [`SenseError`] when the kernel takes none of them. One alone may have gone, or have been aged by reclaim meanwhile.
pub(super) fn age(root: &Path, all: &[Pages]) -> Result<(), SenseError> {
    let path = root.join(LRU_GEN);
    let (mut refusal, mut taken) = (None, false);
    let file = OpenOptions::new().write(true).open(&path);
    let mut file = file.map_err(|source| SenseError::Write { path: path.clone(), source })?;
    for pages in all {
        let Some(youngest) = pages.generations.first() else { continue };
        // With anonymous pages whether there is swap or not, and all page tables rather than those that looked busy.
        match file.write_all(format!("+ {} {} {} 1 1\n", pages.cgroup, pages.node, youngest.number).as_bytes()) {
            Ok(()) => taken = true,
            Err(error) => refusal = Some(error),
        }
    }
    match refusal {
        Some(source) if !taken => Err(SenseError::Write { path, source }),
        _ => Ok(()),
    }
}

/// What of `all` was used within the last `time_ms`. A birth that is off by a fifth, or late by a half, is near enough.
pub(super) fn used_within(all: &[Pages], time_ms: u64) -> Use {
    let mut sum = Use::default();
    for pages in all {
        let mut younger_ms = 0;
        for (position, generation) in pages.generations.iter().enumerate() {
            let count = generation.anon_pages.saturating_add(generation.file_pages);
            // A cgroup is born with all its generations at once, so none was merged into its oldest.
            let is_newborn = generation.age_ms.abs_diff(younger_ms) <= SAME_MS;
            let has_beginning = position + 1 < pages.generations.len() || generation.number == 0 || is_newborn;
            if has_beginning && generation.age_ms <= time_ms / 2 * 3 {
                sum.used_pages = sum.used_pages.saturating_add(count);
                sum.used_file_pages = sum.used_file_pages.saturating_add(generation.file_pages);
            } else if younger_ms >= time_ms / 5 * 4 {
                sum.idle_pages = sum.idle_pages.saturating_add(count);
            } else {
                sum.unsure_pages = sum.unsure_pages.saturating_add(count);
            }
            younger_ms = generation.age_ms;
        }
    }
    sum
}

/// The generations that a file of `text` shows.
#[cfg(test)]
pub(super) fn parsed(text: &str) -> Vec<Pages> {
    let dir = tempfile::tempdir().unwrap();
    crate::sense::fixture::write(dir.path(), LRU_GEN, text);
    read(dir.path()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::write;

    fn listed(text: &str) -> Result<Vec<Pages>, SenseError> {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), LRU_GEN, text);
        read(dir.path())
    }

    #[test]
    fn pages_of_real_guests_are_told_by_age() {
        // 250 MiB that are worked on; two generations were born five seconds ago.
        for (text, used, idle) in [
            (include_str!("../../../tests/guest/lru_gen-6.1"), 3 + 63_276 + 4, 3_143),
            (include_str!("../../../tests/guest/lru_gen-6.12"), 63_742 + 6, 2_649),
        ] {
            let all = listed(text).unwrap();
            let seen = used_within(&all, 5_100);
            assert_eq!((seen.used_pages, seen.idle_pages, seen.unsure_pages), (used, idle, 0));
            assert_eq!(seen.used_file_pages, 0);
        }
    }

    #[test]
    fn a_fresh_kernel_knows_only_that_all_is_as_old_as_itself() {
        let all = listed("memcg     1 /\n node     0\n 0 9000 0 5\n 1 9000 0 6\n 2 9000 7 0\n 3 9000 8 0\n").unwrap();
        assert_eq!(used_within(&all, 60_000).used_pages, 26);
        // Of what its programs did first, nobody knows when.
        assert_eq!(used_within(&all, 1_000), Use { unsure_pages: 8, idle_pages: 18, ..Use::default() });
    }

    #[test]
    fn the_oldest_generation_holds_what_is_older() {
        let text = "memcg 1 /\n node 0\n 4 70000 1 0\n 5 60000 2 0\n 6 10000 0 4\n 7 20 8 0\n";
        let all = listed(text).unwrap();
        assert_eq!(
            used_within(&all, 60_000),
            Use { used_pages: 14, used_file_pages: 4, idle_pages: 1, unsure_pages: 0 }
        );
        assert_eq!(
            used_within(&all, 10_000),
            Use { used_pages: 12, used_file_pages: 4, idle_pages: 3, unsure_pages: 0 }
        );
        let fast = "memcg 1 /\n node 0\n 4 9000 1000 0\n 5 6000 2 0\n 6 3000 0 4\n 7 20 8 0\n";
        assert_eq!(used_within(&listed(fast).unwrap(), 60_000).unsure_pages, 1000, "the kernel ages by itself");
    }

    #[test]
    fn a_cgroup_that_has_just_begun_is_in_use() {
        let text = "memcg 9 /new\n node 0\n 2 20000 100 0\n 3 20000 0 0\n 4 10000 5 0\n 5 20 0 0\n";
        assert_eq!(used_within(&listed(text).unwrap(), 60_000).used_pages, 105);
    }

    #[test]
    fn each_list_gets_its_command_and_one_that_has_gone_harms_nobody() {
        let text = "memcg 1 /\n node 0\n 4 9 1 0\n 5 6 2 0\n node 1\n 7 9 1 0\nmemcg 33 /a b\n node 0\n 0 9 1 -1\n";
        let all = listed(text).unwrap();
        assert_eq!(all.len(), 3);
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), LRU_GEN, "");
        age(dir.path(), &all).unwrap();
        let written = std::fs::read_to_string(dir.path().join(LRU_GEN)).unwrap();
        assert_eq!(written, "+ 1 0 5 1 1\n+ 1 1 7 1 1\n+ 33 0 0 1 1\n");
        assert!(age(tempfile::tempdir().unwrap().path(), &all).is_err());
    }

    #[test]
    fn it_has_to_be_on_walk_page_tables_and_be_open_to_this_agent() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_on(dir.path()));
        write(dir.path(), LRU_GEN, "");
        for (bits, expected) in
            [("0x0007\n", true), ("0x0003\n", true), ("0x0005\n", false), ("0x0000\n", false), ("y", false)]
        {
            write(dir.path(), ENABLED, bits);
            assert_eq!(is_on(dir.path()), expected, "{bits}");
        }
        write(dir.path(), ENABLED, "0x0007\n");
        std::fs::remove_file(dir.path().join(LRU_GEN)).unwrap();
        assert!(!is_on(dir.path()));
    }

    #[test]
    fn odd_content_is_an_error_with_its_line() {
        for (text, line) in [("4 9 1 0\n", 1), ("memcg 1 /\n node x\n", 2), ("memcg 1 /\n node 0\n 4 9 1\n", 3)] {
            let error = listed(text).unwrap_err().to_string();
            assert!(error.contains(&format!("lru_gen, line {line}: expected a generation")), "{error}");
        }
        assert!(listed("").unwrap().is_empty());
    }
}
