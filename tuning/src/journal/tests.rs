//! Journals on disk: whole, cut, full, long, of another boot.

use super::*;
use std::collections::BTreeMap;
use tempfile::TempDir;

fn write_of(path: &str, original: &str, written: &str) -> Record {
    Record::Write(Owned {
        at_ms: 1,
        knob: "k".into(),
        path: path.into(),
        original: original.into(),
        written: written.into(),
        replaced: None,
        twin: None,
        why: "because".into(),
        facts: BTreeMap::new(),
    })
}

fn closed(path: &str, outcome: Outcome) -> Record {
    Record::Closed { at_ms: 2, knob: "k".into(), path: path.into(), outcome, found: String::new() }
}

fn journal() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/tuning.journal");
    (dir, path)
}

#[test]
fn what_was_appended_is_there_after_a_crash() {
    let (_dir, path) = journal();
    let mut first = Journal::open(&path, "boot").unwrap();
    for record in
        [write_of("/a", "1", "2"), write_of("/b", "3", "4"), write_of("/a", "1", "5"), closed("/b", Outcome::Taken)]
    {
        first.append(&record).unwrap();
    }
    let again = Journal::open(&path, "boot").unwrap();
    assert_eq!(again.ledger(), first.ledger());
    assert_eq!(again.ledger().of("/a").unwrap().written, "5");
    assert_eq!(again.ledger().taken["/b"], Outcome::Taken);
    assert_eq!(read(&path, "boot").unwrap().len(), 4, "the history stays");
}

#[test]
fn a_line_that_was_cut_costs_itself_only() {
    let (_dir, path) = journal();
    let mut whole = Journal::open(&path, "boot").unwrap();
    whole.append(&write_of("/a", "1", "2")).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    whole.append(&write_of("/b", "3", "4")).unwrap();
    let full = fs::read(&path).unwrap();
    for cut in length..full.len() as u64 - 1 {
        fs::write(&path, &full[..usize::try_from(cut).unwrap()]).unwrap();
        let mut journal = Journal::open(&path, "boot").unwrap();
        assert_eq!(journal.ledger().owned.len(), 1, "cut at {cut}");
        journal.append(&write_of("/c", "5", "6")).unwrap();
        assert_eq!(Journal::open(&path, "boot").unwrap().ledger().owned.len(), 2, "cut at {cut}");
    }
    fs::write(&path, b"\xff\xfe\n").unwrap();
    assert!(Journal::open(&path, "boot").unwrap().ledger().owned.is_empty());
}

#[test]
fn another_boot_s_journal_says_nothing_and_another_version_s_stays() {
    let (_dir, path) = journal();
    Journal::open(&path, "one").unwrap().append(&write_of("/a", "1", "2")).unwrap();
    assert!(Journal::open(&path, "two").unwrap().ledger().owned.is_empty());
    fs::write(&path, "{\"record\":\"began\",\"version\":9,\"boot_id\":\"two\"}\n").unwrap();
    let error = Journal::open(&path, "two").unwrap_err().to_string();
    assert!(error.ends_with("has version 9, this agent knows 1"), "{error}");
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_owned() {
    let mut journal = Journal::full();
    let error = crate::full_text(&journal.append(&write_of("/a", "1", "2")).unwrap_err());
    assert!(error.contains("No space left"), "{error}");
    assert!(journal.ledger().owned.is_empty());
}

#[test]
fn a_long_journal_is_written_anew_with_what_counts() {
    let (_dir, path) = journal();
    let mut journal = Journal::open(&path, "boot").unwrap();
    journal.append(&closed("/taken", Outcome::PutBack)).unwrap();
    let mut longest = 0;
    for written in 0..3_000 {
        journal.append(&write_of("/a", "1", &written.to_string())).unwrap();
        longest = longest.max(fs::metadata(&path).unwrap().len());
    }
    assert!(longest < MOST_BYTES + 1024, "{longest}");
    let again = Journal::open(&path, "boot").unwrap();
    assert_eq!(again.ledger(), journal.ledger());
    assert_eq!(again.ledger().of("/a").unwrap().written, "2999");
    assert!(again.ledger().taken.contains_key("/taken"));
}
