//! Writing and putting back on a fixture tree, and on files that refuse.

use super::*;
use crate::example::{DOMAIN, write as fixture};
use crate::{Catalogue, journal};
use std::fs;
use tempfile::TempDir;

const SWAPPINESS: &str = "/proc/sys/vm/swappiness";

struct Machine {
    dir: TempDir,
    hand: Hand,
}

fn machine() -> Machine {
    let dir = tempfile::tempdir().unwrap();
    for (path, holds) in [
        ("proc/sys/vm/swappiness", "60\n"),
        ("proc/sys/vm/page-cluster", "3\n"),
        ("proc/sys/vm/dirty_bytes", "0\n"),
        ("proc/sys/vm/dirty_ratio", "20\n"),
    ] {
        fixture(dir.path(), path, holds);
    }
    let hand = hand(dir.path());
    Machine { dir, hand }
}

fn hand(root: &Path) -> Hand {
    Hand::new(&DOMAIN, root, Journal::open(&root.join("run/tuning.journal"), "boot").unwrap())
}

impl Machine {
    fn write(&mut self, id: &str, path: &str, value: i64) -> Result<(), HandError> {
        let (catalogue, _) = Catalogue::load(&DOMAIN, Path::new("/no/such/folder"));
        let knob = catalogue.knobs.iter().find(|knob| knob.id == id).unwrap();
        self.hand.write(knob, path, &Value::Number(value), &Facts::default(), 7)
    }

    fn holds(&self, path: &str) -> String {
        place::value(self.dir.path(), path).unwrap().to_string()
    }

    fn set(&self, path: &str, holds: &str) {
        fixture(self.dir.path(), path.trim_start_matches('/'), holds);
    }

    /// As after SIGKILL: what is on disk is all there is.
    fn killed(&mut self) {
        self.hand = hand(self.dir.path());
    }

    fn outcomes(&mut self) -> Vec<(String, Option<Outcome>)> {
        let undone = self.hand.restore_all(|_| true, 9);
        undone.into_iter().map(|undone| (undone.knob, undone.outcome)).collect()
    }
}

#[test]
fn all_goes_back_in_reverse_order_and_also_after_a_kill() {
    for kill in [false, true] {
        let mut machine = machine();
        machine.write("swappiness", SWAPPINESS, 140).unwrap();
        machine.write("page_cluster", "/proc/sys/vm/page-cluster", 0).unwrap();
        machine.write("swappiness", SWAPPINESS, 180).unwrap();
        assert_eq!(machine.holds(SWAPPINESS), "180");
        if kill {
            machine.killed();
        }
        let restored = Some(Outcome::Restored);
        assert_eq!(machine.outcomes(), [("page_cluster".into(), restored), ("swappiness".into(), restored)]);
        assert_eq!((machine.holds(SWAPPINESS), machine.holds("/proc/sys/vm/page-cluster")), ("60".into(), "3".into()));
        machine.killed();
        assert!(machine.outcomes().is_empty(), "nothing is left to do");
    }
}

#[test]
fn a_kill_between_record_and_write_loses_nothing() {
    let mut machine = machine();
    machine.write("swappiness", SWAPPINESS, 140).unwrap();
    // Killed before the file was written: it holds the original, or vmtide's earlier value.
    machine.set(SWAPPINESS, "60\n");
    machine.killed();
    assert_eq!(machine.outcomes(), [("swappiness".into(), Some(Outcome::Restored))]);

    machine.write("swappiness", SWAPPINESS, 140).unwrap();
    machine.write("swappiness", SWAPPINESS, 180).unwrap();
    machine.set(SWAPPINESS, "140\n");
    machine.killed();
    assert_eq!(machine.outcomes(), [("swappiness".into(), Some(Outcome::Restored))]);
    assert_eq!(machine.holds(SWAPPINESS), "60");
}

#[test]
fn what_somebody_else_wrote_stays() {
    let mut machine = machine();
    machine.write("swappiness", SWAPPINESS, 140).unwrap();
    machine.set(SWAPPINESS, "77\n");
    machine.killed();
    assert_eq!(machine.outcomes(), [("swappiness".into(), Some(Outcome::Taken))]);
    assert_eq!(machine.holds(SWAPPINESS), "77");
    assert_eq!(machine.hand.journal().ledger().taken[SWAPPINESS], Outcome::Taken);
}

#[test]
fn a_limit_with_two_files_goes_back_through_the_one_that_counted() {
    let mut machine = machine();
    machine.write("dirty_bytes", "/proc/sys/vm/dirty_bytes", 64 << 20).unwrap();
    let owned = machine.hand.journal().ledger().owned[0].clone();
    assert_eq!(owned.restore(), ("/proc/sys/vm/dirty_ratio", Value::Number(20)));
    // What the kernel does when the other one is written, which a tree of plain files does not.
    machine.set("/proc/sys/vm/dirty_ratio", "0\n");
    machine.hand.restore_all(|_| true, 9);
    assert_eq!(machine.holds("/proc/sys/vm/dirty_ratio"), "20");
}

#[test]
fn without_a_record_there_is_no_write() {
    let mut machine = machine();
    machine.hand.journal = Journal::full();
    let error = crate::full_text(&machine.write("swappiness", SWAPPINESS, 140).unwrap_err());
    assert!(error.starts_with("/proc/sys/vm/swappiness stays as it is") && error.contains("No space left"), "{error}");
    assert_eq!(machine.holds(SWAPPINESS), "60");
}

#[test]
fn a_full_journal_does_not_keep_what_is_ours_from_going_back() {
    let mut machine = machine();
    machine.write("swappiness", SWAPPINESS, 140).unwrap();
    let mut full = Journal::full();
    for record in machine.hand.journal().ledger().records() {
        full.forget(&record);
    }
    machine.hand.journal = full;
    assert_eq!(machine.outcomes(), [("swappiness".into(), Some(Outcome::Restored))]);
    assert_eq!(machine.holds(SWAPPINESS), "60");
}

#[test]
fn what_the_kernel_refuses_is_not_ours() {
    let mut machine = machine();
    // A folder cannot be written, /dev/full refuses each write, /dev/null takes and forgets it.
    fs::create_dir_all(machine.dir.path().join("sys/folder")).unwrap();
    assert!(matches!(machine.write("page_cluster", "/sys/folder", 0), Err(HandError::Refused { .. })));
    for (device, name) in [("/dev/full", "sys/full"), ("/dev/null", "sys/null")] {
        std::os::unix::fs::symlink(device, machine.dir.path().join(name)).unwrap();
    }
    assert!(machine.write("page_cluster", "/sys/absent", 0).is_err());
    // Files of the kernel's own: one takes no such value, one takes none.
    for (file, expected) in [("oom_score_adj", "Invalid argument"), ("stat", "")] {
        let name = format!("sys/{file}");
        std::os::unix::fs::symlink(format!("/proc/self/{file}"), machine.dir.path().join(&name)).unwrap();
        let error = machine.write("page_cluster", &format!("/{name}"), 99_999).unwrap_err();
        assert!(matches!(error, HandError::Refused { .. }), "{error}");
        assert!(crate::full_text(&error).contains(expected), "{error}");
    }
    let error = machine.write("page_cluster", "/sys/null", 0).unwrap_err().to_string();
    assert_eq!(error, "/sys/null still holds  after 0 was written");
    assert!(machine.hand.journal().ledger().owned.is_empty());
    let records = journal::read(&machine.dir.path().join("run/tuning.journal"), "boot").unwrap();
    assert!(records.iter().any(|record| matches!(record, Record::Closed { outcome: Outcome::Refused, .. })));
}

#[test]
fn a_refused_change_leaves_the_earlier_value_ours() {
    let mut machine = machine();
    machine.write("swappiness", SWAPPINESS, 140).unwrap();
    let file = machine.dir.path().join("proc/sys/vm/swappiness");
    // Stands for EINVAL and EBUSY: reading works, writing does not, even for root.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(machine.write("swappiness", SWAPPINESS, 180).is_err());
    fs::remove_dir(&file).unwrap();
    fs::write(&file, "140\n").unwrap();
    assert_eq!(machine.outcomes(), [("swappiness".into(), Some(Outcome::Restored))]);
}

#[test]
fn a_file_that_is_gone_is_let_go_and_one_that_cannot_be_put_back_is_kept() {
    let mut machine = machine();
    machine.write("swappiness", SWAPPINESS, 140).unwrap();
    machine.write("page_cluster", "/proc/sys/vm/page-cluster", 0).unwrap();
    fs::remove_file(machine.dir.path().join("proc/sys/vm/swappiness")).unwrap();
    let cluster = machine.dir.path().join("proc/sys/vm/page-cluster");
    fs::remove_file(&cluster).unwrap();
    fs::create_dir(&cluster).unwrap();
    assert_eq!(machine.outcomes(), [("page_cluster".into(), None), ("swappiness".into(), Some(Outcome::Gone))]);
    assert_eq!(machine.hand.journal().ledger().owned.len(), 1, "what could not be put back is tried again");
}

#[test]
fn what_is_busy_or_unplugged_is_tried_again_soon_and_what_makes_no_sense_is_not() {
    use nix::errno::Errno;
    let refused = |errno: Errno| HandError::Refused {
        path: "/sys/x".into(),
        value: "1".into(),
        source: io::Error::from_raw_os_error(errno as i32),
    };
    for (errno, passes) in [
        (Errno::EBUSY, true),
        (Errno::ENOENT, true),
        (Errno::ENODEV, true),
        (Errno::EINVAL, false),
        (Errno::EROFS, false),
        (Errno::EACCES, false),
    ] {
        assert_eq!(refused(errno).passes(), passes, "{errno}");
    }
}
