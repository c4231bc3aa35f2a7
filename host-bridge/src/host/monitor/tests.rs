use super::*;
use std::fs;
use tempfile::TempDir;

struct Tree(TempDir);

impl Tree {
    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn look(&self, at_ms: u64) -> Snapshot {
        Snapshot::read(self.0.path(), at_ms, &[self.0.path().to_owned()])
    }
}

/// A host of two CPUs and one disk, with everything.
fn host() -> Tree {
    let tree = Tree(tempfile::tempdir().unwrap());
    let meminfo = include_str!("../fixtures/meminfo").replace("@AVAILABLE@", "1024");
    tree.write("proc/meminfo", &meminfo).write("sys/block/sda/size", "1\n");
    for (file, value) in [("run", "1"), ("pages_shared", "10"), ("pages_sharing", "90"), ("pages_volatile", "5")] {
        tree.write(&format!("sys/kernel/mm/ksm/{file}"), &format!("{value}\n"));
    }
    for (file, value) in [("nr_hugepages", "8"), ("free_hugepages", "3")] {
        tree.write(&format!("sys/kernel/mm/hugepages/hugepages-2048kB/{file}"), &format!("{value}\n"));
    }
    tree.write("proc/77/comm", "qemu-system-x86\n").write("images/a.qcow2", "image");
    fs::create_dir_all(tree.0.path().join("proc/77/fd")).unwrap();
    std::os::unix::fs::symlink(tree.0.path().join("images/a.qcow2"), tree.0.path().join("proc/77/fd/9")).unwrap();
    std::os::unix::fs::symlink("socket:[12]", tree.0.path().join("proc/77/fd/10")).unwrap();
    used(&tree, 0);
    tree
}

/// What the counters say after so many rounds of the same.
fn used(tree: &Tree, rounds: u64) {
    let (user, idle, steal) = (100 * rounds, 80 * rounds, 20 * rounds);
    tree.write("proc/stat", &format!("cpu  {user} 0 0 {idle} 0 0 0 {steal}\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nctxt 1\n"));
    for resource in ["memory", "cpu", "io"] {
        let line = |kind, us| format!("{kind} avg10=0.00 avg60=0.00 avg300=0.00 total={us}\n");
        let text = line("some", 300_000 * rounds) + &line("full", 100_000 * rounds);
        tree.write(&format!("proc/pressure/{resource}"), &text);
    }
    let (reads, sectors, ms, queue_ms) = (1 + 10 * rounds, 2048 * rounds, 50 * rounds, 2_500 * rounds);
    let disk = format!("8 0 sda {reads} 0 {sectors} {ms} 0 0 0 0 3 {} {queue_ms} 0 0 0 0", 400 * rounds);
    tree.write(
        "proc/diskstats",
        &format!(" {disk}\n 8 1 sda1 9 9 9 9 9 9 9 9 9 9 9\n 7 0 loop0 9 9 9 9 9 9 9 9 9 9 9\n"),
    );
}

#[test]
fn shares_and_rates_are_those_of_the_time_between_two_looks() {
    let tree = host();
    let before = tree.look(1_000);
    used(&tree, 1);
    let report = Report::between(&before, &tree.look(2_000));
    assert_eq!(report.cpu, Some(Cpu { cpus: 2, used_permille: 600, steal_permille: 100 }));
    assert_eq!(report.pressure.io, Some(Wait { some_permille: 300, full_permille: 100 }));
    let latency = Latency { read_us: Some(5_000), write_us: None };
    let disk = Disk {
        name: "sda".to_owned(),
        read_bytes_per_s: 1 << 20,
        write_bytes_per_s: 0,
        ops_per_s: 10,
        latency,
        queue_permille: 2_500,
        busy_permille: 400,
    };
    assert_eq!(report.disks, [disk], "partitions and loops are in it already");
    let ksm = report.ksm.unwrap();
    assert_eq!((ksm.pages_sharing, ksm.saved_bytes), (90, 90 * procfs::page_size()));
    assert_eq!(report.huge_pages, [HugePages { size_bytes: 2 << 20, total: 8, free: 3 }]);
    assert_eq!(report.memory.unwrap().available_bytes, Some(1 << 20));
}

#[test]
fn the_storage_of_running_vms_is_found_by_what_they_have_open() {
    let tree = host();
    let report = Report::between(&tree.look(0), &tree.look(1_000));
    let [storage] = report.storage.as_slice() else { panic!("one file system: {report:?}") };
    assert!(storage.paths.iter().any(|path| path.ends_with("images/a.qcow2")), "{storage:?}");
    assert!(storage.available_bytes <= storage.total_bytes && storage.total_bytes > 0, "{storage:?}");
    assert_eq!(report.absent, [""; 0]);
}

#[test]
fn what_is_not_there_is_named_and_not_guessed() {
    let tree = Tree(tempfile::tempdir().unwrap());
    let look = |at_ms| Snapshot::read(tree.0.path(), at_ms, &[PathBuf::from("/no/such/folder")]);
    let report = Report::between(&look(0), &look(1_000));
    assert_eq!((report.cpu, report.memory, report.ksm, report.pressure.cpu), (None, None, None, None));
    for source in [
        "proc/stat",
        "proc/pressure/io",
        "proc/meminfo",
        "proc/diskstats",
        "sys/kernel/mm/ksm/run",
        "sys/kernel/mm/hugepages",
        "/no/such/folder",
        "storage: no QEMU process",
    ] {
        let said = report.absent.iter().filter(|absent| absent.starts_with(source)).count();
        assert_eq!(said, 1, "{source}: {:?}", report.absent);
    }
}

#[test]
fn odd_content_is_absent_and_counters_that_went_back_are_no_rates() {
    let tree = host();
    used(&tree, 5);
    let before = tree.look(0);
    used(&tree, 1);
    tree.write("sys/kernel/mm/ksm/run", "maybe\n").write("proc/pressure/io", "none\n");
    let report = Report::between(&before, &tree.look(0));
    assert_eq!((report.ksm, report.pressure.io, report.cpu), (None, None, None), "{report:?}");
    assert!(report.absent.iter().any(|said| said == "sys/kernel/mm/ksm/run: \"maybe\" is no number"), "{report:?}");
    assert_eq!((report.disks[0].ops_per_s, report.disks[0].busy_permille), (0, 0));
}
