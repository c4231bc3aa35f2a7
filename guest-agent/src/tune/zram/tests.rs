//! Compressed swap on a tree of files, which takes every step but the last: nothing here swaps to it.

use super::device::Device;
use super::*;
use crate::sense::MemorySample;
use crate::sense::fixture::write;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use vmtide_protocol::bridge::Host;
use vmtide_tuning::Row;
use vmtide_tuning::assess::Standing;
use vmtide_tuning::journal::Journal;
use vmtide_tuning::value::Value;

const UUID: &str = "999eac47-dbbf-4379-b399-3cad1d9b2a4b";
const SWAPS: &str = "Filename Type Size Used Priority\n";
const MIB: u64 = 1 << 20;

/// A guest with the module loaded, whose next device is zram1.
struct Guest {
    dir: TempDir,
    hand: Hand,
}

fn guest() -> Guest {
    let dir = tempfile::tempdir().unwrap();
    for (path, holds) in [
        ("proc/sys/kernel/random/uuid", "999eac47-dbbf-4379-b399-3cad1d9b2a4b\n"),
        ("proc/self/status", "Name:\tvmtide-agent\nCapEff:\t0000000000200000\n"),
        ("proc/swaps", SWAPS),
        ("proc/meminfo", "MemTotal: 737280 kB\nMemAvailable: 409600 kB\n"),
        ("sys/class/zram-control/hot_add", "1\n"),
        ("sys/class/zram-control/hot_remove", ""),
        ("sys/block/zram0/disksize", "0\n"),
    ] {
        write(dir.path(), path, holds);
    }
    let hand = hand(dir.path());
    Guest { dir, hand }
}

fn hand(root: &Path) -> Hand {
    Hand::new(&crate::tune::DOMAIN, root, Journal::open(&root.join("run/tuning.journal"), "boot").unwrap())
}

impl Guest {
    fn root(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn set(&self, path: &str, holds: &str) {
        write(self.dir.path(), path, holds);
    }

    fn holds(&self, path: &str) -> String {
        fs::read_to_string(self.dir.path().join(path)).unwrap()
    }

    /// What the kernel does when it is asked for a device.
    fn has_device(&self, number: u32, size: u64, stored: u64) {
        let folder = format!("sys/block/zram{number}");
        self.set(&format!("{folder}/comp_algorithm"), "lzo [lz4] zstd\n");
        self.set(&format!("{folder}/disksize"), &format!("{size}\n"));
        self.set(&format!("{folder}/mm_stat"), &format!("       {stored}        0        0\n"));
        self.set(&format!("dev/zram{number}"), "");
    }

    /// A device that was set up, with a record, and `used_mib` in it.
    fn swaps(&mut self, used_mib: u64) {
        self.has_device(1, 64 * MIB, 4096);
        fs::write(self.root().join("dev/zram1"), header::page(64 * MIB, procfs::page_size(), UUID).unwrap()).unwrap();
        self.set("proc/swaps", &format!("{SWAPS}/dev/zram1 partition 65532 {} 100\n", used_mib * 1024));
        self.record();
    }

    fn record(&mut self) {
        let (facts, why) = (BTreeMap::new(), String::new());
        let (knob, path, original) = (ID.into(), "/dev/zram1".into(), "none".into());
        let owned =
            Owned { at_ms: 0, knob, path, original, written: UUID.into(), replaced: None, twin: None, why, facts };
        self.hand.note(&Record::Write(owned)).unwrap();
    }

    /// The device that was taken away.
    fn removed(&self) -> String {
        self.holds("sys/class/zram-control/hot_remove")
    }

    fn owned(&self) -> Option<&Owned> {
        self.hand.journal().ledger().owned.first()
    }

    fn row(&self, mode: Mode) -> Row {
        let settings = Zram { size_percent: 50, algorithm: None };
        let memory = MemorySample { total_bytes: 768 * MIB, ..MemorySample::default() };
        let facts = crate::tune::facts::read(self.dir.path(), &memory, None, Host::default());
        let view = View {
            root: self.dir.path(),
            settings: Some(&settings),
            mode,
            facts: &facts,
            ledger: self.hand.journal().ledger(),
            held: false,
            may_swap: may_swap(self.dir.path(), "self"),
        };
        view.row()
    }
}

#[test]
fn each_step_is_taken_and_a_failure_at_the_last_leaves_no_device() {
    for (algorithm, chosen) in [(None, "zstd"), (Some("lz4"), "lz4")] {
        let guest = guest();
        guest.has_device(1, 0, 0);
        let (step, error) = device::create(&guest.root(), 1, 64 * MIB, algorithm, UUID).unwrap_err();
        assert_eq!((step.as_str(), error.kind()), ("swapon", io::ErrorKind::Unsupported));
        assert_eq!(guest.holds("sys/block/zram1/comp_algorithm"), chosen);
        assert_eq!(guest.holds("sys/block/zram1/disksize"), (64 * MIB).to_string());
        let header = fs::read(guest.root().join("dev/zram1")).unwrap();
        assert_eq!(header::uuid_of(&header).as_deref(), Some(UUID));
        assert_eq!(guest.removed(), "1");
    }
}

#[test]
fn what_the_kernel_does_not_have_is_named_and_nothing_stays() {
    let guest = guest();
    guest.has_device(1, 0, 0);
    let (step, error) = device::create(&guest.root(), 1, 64 * MIB, Some("lz5"), UUID).unwrap_err();
    assert_eq!(format!("{step}: {error}"), "algorithm \"lz5\": this kernel has lzo, lz4, zstd");
    assert_eq!(guest.removed(), "1");

    // The kernel made another device than was written down.
    guest.set("sys/class/zram-control/hot_add", "2\n");
    guest.has_device(2, 0, 0);
    let (_, error) = device::create(&guest.root(), 1, 64 * MIB, None, UUID).unwrap_err();
    assert!(error.to_string().contains("the kernel made zram2"), "{error}");
    assert_eq!(guest.removed(), "2");
    assert_eq!(guest.holds("sys/block/zram2/disksize"), "0\n");
}

#[test]
fn it_is_written_down_before_and_closed_when_it_fails() {
    let mut guest = guest();
    let root = guest.root();
    let error = set_up(&root, &mut guest.hand, 64 * MIB, None, 7).unwrap_err();
    assert!(crate::full_text(&error).starts_with("cannot swap to /dev/zram1: "), "{error}");
    assert!(guest.owned().is_none());
    let records = vmtide_tuning::journal::read(&root.join("run/tuning.journal"), "boot").unwrap();
    let [Record::Write(owned), Record::Closed { outcome, .. }] = &records[..] else { panic!("{records:?}") };
    assert_eq!((owned.written.as_str(), *outcome), (UUID, Outcome::Refused));

    let mut full = Hand::new(&crate::tune::DOMAIN, &root, Journal::full());
    assert!(matches!(set_up(&root, &mut full, 64 * MIB, None, 7), Err(ZramError::Journal(_))));
    assert_eq!(guest.removed(), "1", "the first one's, and no other");
}

#[test]
fn stands_as_the_guest_is() {
    let mut guest = guest();
    let row = guest.row(Mode::Adaptive);
    assert_eq!((row.standing, row.mode, row.wanted), (Standing::Pending, Mode::Static, Some(Value::from(384 * MIB))));
    assert_eq!((row.current, row.owner.as_str()), (Some("none".into()), "kernel"));
    assert_eq!(guest.row(Mode::Observe).standing, Standing::WouldApply);
    guest.set("proc/self/status", "CapEff:\t0000000001000000\n");
    assert_eq!(guest.row(Mode::Static).standing, Standing::NotPermitted);
    guest.set("proc/swaps", &format!("{SWAPS}/dev/vda2 partition 1 0 -2\n"));
    let row = guest.row(Mode::Static);
    assert_eq!((row.standing, row.owner.as_str()), (Standing::NotApplicable, "someone else"));

    guest.swaps(3);
    let row = guest.row(Mode::Static);
    assert_eq!((row.standing, row.path.as_str(), row.owner.as_str()), (Standing::Applied, "/dev/zram1", "vmtide"));
    assert_eq!((row.current, row.detail.as_str()), (Some(Value::from(64 * MIB)), "3 MiB are in it"));
    fs::remove_dir_all(guest.root().join("sys/class")).unwrap();
    guest.set("proc/swaps", SWAPS);
    assert_eq!(guest.row(Mode::Static).standing, Standing::TakenBySomeoneElse);
}

#[test]
fn what_does_not_fit_into_memory_stays_and_says_so() {
    let mut guest = guest();
    // Three quarters of 400 MiB are 300.
    guest.swaps(301);
    let undone = guest.hand.restore_all(|_| true, 9);
    assert_eq!(undone[0].outcome, None);
    assert_eq!(undone[0].detail, "the 301 MiB in it do not fit into 300 MiB of memory");
    assert!(guest.owned().is_some(), "it is tried again");
    // What fits is taken away, but for the last step, which a tree of files does not have.
    guest.swaps(300);
    assert!(guest.hand.restore_all(|_| true, 9)[0].detail.contains("unsupported"));
    assert_eq!(guest.removed(), "", "nothing is freed that is swapped to");
}

#[test]
fn what_a_killed_agent_left_is_taken_away_whatever_it_had_done() {
    for stored in [0, 4096] {
        let mut guest = guest();
        guest.swaps(0);
        guest.set("proc/swaps", SWAPS);
        if stored == 0 {
            // Killed before the header.
            guest.has_device(1, 64 * MIB, 0);
        }
        guest.hand = hand(&guest.root());
        let undone = guest.hand.restore_all(|_| true, 9);
        assert_eq!(undone[0].outcome, Some(Outcome::Restored), "{stored}: {undone:?}");
        assert_eq!(guest.removed(), "1");
    }
    // Killed before there was a device.
    let mut guest = guest();
    guest.record();
    assert_eq!(guest.hand.restore_all(|_| true, 9)[0].outcome, Some(Outcome::Gone));
    assert!(guest.owned().is_none());
}

#[test]
fn a_device_that_somebody_else_made_is_left_alone() {
    let other = "00000000-0000-0000-0000-000000000001";
    for swaps in [SWAPS.to_owned(), format!("{SWAPS}/dev/zram1 partition 65532 0 5\n")] {
        for header in [Some(other), None] {
            let mut guest = guest();
            guest.swaps(0);
            guest.set("proc/swaps", &swaps);
            let page = header.map(|uuid| header::page(64 * MIB, procfs::page_size(), uuid).unwrap());
            fs::write(guest.root().join("dev/zram1"), page.unwrap_or_default()).unwrap();
            assert_eq!(Device::seen(&guest.root(), guest.owned().unwrap()), Device::Theirs);
            let undone = guest.hand.restore_all(|_| true, 9);
            assert_eq!(undone[0].outcome, Some(Outcome::Taken), "{swaps} {header:?}");
            assert_eq!(guest.removed(), "");
        }
    }
}
