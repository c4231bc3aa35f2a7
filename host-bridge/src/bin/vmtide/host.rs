//! `vmtide host`: no bridge is asked.

use crate::{Failure, print};
use clap::Args;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vmtide_bridge::config::Bytes;
use vmtide_bridge::host::monitor::{Report, Snapshot, Wait};

/// Between the two looks.
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Host {
    /// Also tell of the file system of this file or folder; may be given again.
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Host {
    /// Looks twice and prints.
    pub async fn run(&self, out: &mut impl Write, json: bool) -> Result<(), Failure> {
        let started = Instant::now();
        let look = || {
            let at_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            Snapshot::read(Path::new("/"), at_ms, &self.paths)
        };
        let before = look();
        tokio::time::sleep(WINDOW).await;
        let report = Report::between(&before, &look());
        print(out, json, &report, || text(&report))
    }
}

fn percent(permille: u64) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

fn text(report: &Report) -> String {
    const NOT_KNOWN: &str = "not known";
    let wait = |wait: Option<Wait>| {
        wait.map_or(NOT_KNOWN.to_owned(), |Wait { some_permille, full_permille }| {
            format!("some {}, all {}", percent(some_permille.into()), percent(full_permille.into()))
        })
    };
    let cpu = report.cpu.map_or(NOT_KNOWN.to_owned(), |cpu| {
        let (used, steal) = (percent(cpu.used_permille.into()), percent(cpu.steal_permille.into()));
        format!("{} online, used {used}, stolen {steal}", cpu.cpus)
    });
    let memory = report.memory.map_or(NOT_KNOWN.to_owned(), |memory| {
        let available = memory.available_bytes.map_or(NOT_KNOWN.to_owned(), |bytes| Bytes(bytes).to_string());
        let (used, swap) = (Bytes(memory.swap_used_bytes), Bytes(memory.swap_total_bytes));
        format!("{available} of {} available; swap {used} of {swap} used", Bytes(memory.total_bytes))
    });
    let ksm = report.ksm.map_or(NOT_KNOWN.to_owned(), |ksm| {
        let run = ["off", "on", "off, all unshared"].get(usize::try_from(ksm.run).unwrap_or(9)).unwrap_or(&"unknown");
        let (shared, sharing, volatile) = (ksm.pages_shared, ksm.pages_sharing, ksm.pages_volatile);
        let saved = Bytes(ksm.saved_bytes);
        format!("{run}; {shared} pages shared, {sharing} sharing, {volatile} volatile, saves {saved}")
    });
    let waits = &report.pressure;
    let mut text = format!(
        "CPU         {cpu}; tasks waited: {}\nmemory      {memory}; tasks waited: {}\nI/O         tasks waited: {}\nKSM         {ksm}\n",
        wait(waits.cpu),
        wait(waits.memory),
        wait(waits.io)
    );
    for pages in &report.huge_pages {
        // Writing to a String does not fail.
        _ = writeln!(text, "huge pages  {} free of {}, {} each", pages.free, pages.total, Bytes(pages.size_bytes));
    }
    for disk in &report.disks {
        let us = |us: Option<u64>| us.map_or("-".to_owned(), |us| format!("{us} us"));
        let (read, write) = (Bytes(disk.read_bytes_per_s), Bytes(disk.write_bytes_per_s));
        let (ops, read_us, write_us) = (disk.ops_per_s, us(disk.latency.read_us), us(disk.latency.write_us));
        let (queue, busy) = (disk.queue_permille, percent(disk.busy_permille));
        _ = writeln!(
            text,
            "disk {:6} reads {read}/s in {read_us}, writes {write}/s in {write_us}, {ops} op/s, queue {}.{:03}, busy {busy}",
            disk.name,
            queue / 1000,
            queue % 1000
        );
    }
    for storage in &report.storage {
        let on = storage.device_mapper.as_ref().map(|name| format!(" on {name}")).unwrap_or_default();
        let (free, total) = (Bytes(storage.available_bytes), Bytes(storage.total_bytes));
        let first = storage.paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        let more = storage.paths.len().saturating_sub(1);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        _ = writeln!(text, "storage     {free} of {total} free{on}: {first}{more}");
    }
    for absent in &report.absent {
        _ = writeln!(text, "absent      {absent}");
    }
    text
}
