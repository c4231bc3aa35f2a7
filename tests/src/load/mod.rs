//! A small real workload (`vmtide-load`): phases of anonymous and file working sets.
//!
//! In: phases such as `idle:30s,anon=400M:40s,file=200M:30s`. Out: one JSON line ([`Progress`]) each second, or as often
//! as asked, and a last one, with the operations done and the time the guest's tasks stalled on memory meanwhile. A phase
//! ends when it would if none before it had been late.
//!
//! An operation touches [`TOUCHES`] random pages of the working set. Anonymous pages are written, so they hold
//! real content; file pages are read from a block device through the page cache, so evicting them costs refaults. A phase
//! that writes also puts [`WRITES`] whole pages at random places behind those, and flushes each [`FLUSH_OPS`] operations.
//!
//! With a rate an operation touches one page, and operations wait until the phase has its anonymous memory: a program
//! that loads its data before it works.

mod pace;
mod phase;
mod spin;
mod working_set;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::vm::vmstat_value;
use pace::Pacer;
pub use pace::{Pace, TOUCHES};
pub use phase::{Phase, parse_phases};
use working_set::WorkingSet;

/// Random pages written by one operation of a phase that writes.
pub const WRITES: usize = 4;

/// As a database does with its log.
pub const FLUSH_OPS: u64 = 256;

/// What the workload has done so far; all counters run from its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Time since the start.
    pub t_ms: u64,
    /// The phase, as it was written on the command line.
    pub phase: String,
    /// Anonymous memory held now.
    pub anon_bytes: u64,
    /// Operations done.
    pub ops: u64,
    /// Time in which some task stalled on memory (`/proc/pressure/memory`, `some`).
    pub stall_us: u64,
    /// File pages that came back soon after their eviction.
    pub refaults: u64,
    /// Tasks the guest's kernel killed for lack of memory.
    pub oom_kills: u64,
    /// Whether all phases have ended.
    pub done: bool,
}

/// How the workload runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What to do, in order.
    pub phases: Vec<Phase>,
    /// The block device of the file working sets.
    pub device: PathBuf,
    /// Seed of the page choice.
    pub seed: u64,
    /// When operations are done.
    pub pace: Pace,
    /// How fast anonymous memory grows at the start of a phase.
    pub fill_bytes_per_s: u64,
    /// How often progress is reported.
    pub report: Duration,
}

/// Runs all phases, writing [`Progress`] lines and one at the end.
///
/// # Errors
/// When the device or `/proc` cannot be read, or nobody reads the lines.
pub fn run(settings: &Settings, out: &mut impl Write) -> io::Result<()> {
    let mut random = fastrand::Rng::with_seed(settings.seed);
    let begin = Counters::read(Path::new("/proc"))?;
    let started = Instant::now();
    let mut ops = 0;
    let mut report = |ops: u64, phase: &str, anon_bytes: u64, done: bool| {
        let now = Counters::read(Path::new("/proc"))?;
        let progress = Progress {
            t_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            phase: phase.to_owned(),
            anon_bytes,
            ops,
            stall_us: now.stall_us.saturating_sub(begin.stall_us),
            refaults: now.refaults.saturating_sub(begin.refaults),
            oom_kills: now.oom_kills.saturating_sub(begin.oom_kills),
            done,
        };
        serde_json::to_writer(&mut *out, &progress)?;
        out.write_all(b"\n")?;
        out.flush()
    };

    let writes = settings.phases.iter().any(|phase| phase.write_bytes > 0);
    let needs_device = writes || settings.phases.iter().any(|phase| phase.file_bytes > 0);
    let open = || fs::File::options().read(true).write(writes).open(&settings.device);
    let device = needs_device.then(open).transpose()?;
    let mut ends = Duration::ZERO;
    for phase in &settings.phases {
        // Made anew for each phase: the last one's anonymous memory goes back to the guest here.
        let mut set = WorkingSet::new(phase, device.as_ref());
        ends += phase.duration;
        if phase.cpu_threads > 0 {
            let earlier = ops;
            let report = |done| report(earlier + done, &phase.text, 0, false);
            ops += spin::spin(phase.cpu_threads, started + ends, settings.report, report)?;
            continue;
        }
        let phase_started = Instant::now();
        let mut pacer = Pacer::new(settings.pace);
        let mut next_report = Duration::ZERO;
        while started.elapsed() < ends {
            let elapsed = phase_started.elapsed();
            if elapsed >= next_report {
                report(ops, &phase.text, set.anon_bytes(), false)?;
                next_report = elapsed + settings.report;
            }
            if phase.is_idle() {
                thread::sleep(Duration::from_millis(100));
                continue;
            }
            set.grow_to(grown(elapsed, settings.fill_bytes_per_s), &mut random);
            let due = pacer.due(elapsed);
            let due = if set.is_complete() || !pacer.fills_first() { due } else { 0 };
            for _ in 0..due {
                (0..pacer.touches()).try_for_each(|_| set.touch(&mut random))?;
                if let Some(device) = device.as_ref().filter(|_| phase.write_bytes > 0) {
                    (0..WRITES).try_for_each(|_| set.write(&mut random))?;
                    if ops % FLUSH_OPS == 0 {
                        device.sync_data()?;
                    }
                }
                ops += 1;
            }
            thread::sleep(pacer.pause(phase_started.elapsed()));
        }
    }
    report(ops, "", 0, true)
}

fn grown(elapsed: Duration, bytes_per_s: u64) -> u64 {
    let bytes = elapsed.as_millis() * u128::from(bytes_per_s) / 1000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[derive(Debug, PartialEq, Eq)]
struct Counters {
    stall_us: u64,
    refaults: u64,
    oom_kills: u64,
}

impl Counters {
    fn read(proc: &Path) -> io::Result<Self> {
        let pressure = fs::read_to_string(proc.join("pressure/memory"))?;
        let vmstat = fs::read_to_string(proc.join("vmstat"))?;
        let missing = |what| io::Error::new(io::ErrorKind::InvalidData, format!("{}: no {what}", proc.display()));
        let some = pressure.lines().find_map(|line| line.strip_prefix("some ")?.rsplit_once("total=")?.1.parse().ok());
        Ok(Self {
            stall_us: some.ok_or_else(|| missing("`some` memory pressure"))?,
            refaults: vmstat_value(&vmstat, "workingset_refault_file").ok_or_else(|| missing("refaults"))?,
            oom_kills: vmstat_value(&vmstat, "oom_kill").ok_or_else(|| missing("oom_kill"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_come_from_pressure_and_vmstat() {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir(proc.path().join("pressure")).unwrap();
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 total=7\n";
        fs::write(proc.path().join("pressure/memory"), pressure).unwrap();
        let vmstat = "workingset_refault_anon 9\nworkingset_refault_file 5\noom_kill 2\n";
        fs::write(proc.path().join("vmstat"), vmstat).unwrap();
        let expected = Counters { stall_us: 1234, refaults: 5, oom_kills: 2 };
        assert_eq!(Counters::read(proc.path()).unwrap(), expected);
    }

    #[test]
    fn a_workload_with_a_rate_fills_then_keeps_it_and_reports_as_often_as_asked() {
        let settings = Settings {
            phases: parse_phases("anon=1M:400ms,anon=64M:400ms").unwrap(),
            device: "/dev/null".into(),
            seed: 1,
            pace: Pace::Rate(1000),
            // The second phase never has what it wants.
            fill_bytes_per_s: 64 << 20,
            report: Duration::from_millis(50),
        };
        let mut out = Vec::new();
        run(&settings, &mut out).unwrap();
        let lines: Vec<Progress> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let first_of_second = lines.iter().find(|line| line.phase.starts_with("anon=64M")).unwrap();
        let last = lines.last().unwrap();
        assert!(lines.len() >= 8, "{} lines", lines.len());
        // 400 less what filling 1 MiB takes and what a busy machine loses; never more.
        assert!((200..=400).contains(&last.ops), "{last:?}");
        assert_eq!(first_of_second.ops, last.ops, "no operation before the data is there");
        assert!((800..1200).contains(&last.t_ms), "{last:?}");
    }

    #[test]
    fn threads_that_only_take_cpu_time_count_their_work_until_the_phase_ends() {
        let settings = Settings {
            phases: parse_phases("cpu=2:300ms,idle:200ms").unwrap(),
            device: "/dev/null".into(),
            seed: 1,
            pace: Pace::Think(Duration::ZERO),
            fill_bytes_per_s: 1,
            report: Duration::from_millis(50),
        };
        let mut out = Vec::new();
        run(&settings, &mut out).unwrap();
        let lines: Vec<Progress> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let busy = lines.iter().filter(|line| line.phase == "cpu=2:300ms");
        let idle = lines.iter().find(|line| line.phase == "idle:200ms").unwrap();
        let counts: Vec<u64> = busy.map(|line| line.ops).collect();
        assert!(counts.len() >= 3 && counts.is_sorted() && counts[0] < idle.ops, "{counts:?} {idle:?}");
        assert_eq!(lines.last().unwrap().ops, idle.ops, "nothing is done after the end");
    }

    #[test]
    fn a_workload_reports_its_operations_and_an_end() {
        let settings = Settings {
            phases: parse_phases("anon=1M:300ms").unwrap(),
            device: "/dev/null".into(),
            seed: 1,
            pace: Pace::Think(Duration::from_millis(1)),
            fill_bytes_per_s: 64 << 20,
            report: Duration::from_secs(1),
        };
        let mut out = Vec::new();
        run(&settings, &mut out).unwrap();
        let lines: Vec<Progress> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = lines.last().unwrap();
        assert!(last.done && last.ops > 0 && last.t_ms >= 300, "{last:?}");
        assert!(lines[..lines.len() - 1].iter().all(|line| !line.done && line.phase == "anon=1M:300ms"));
    }
}
