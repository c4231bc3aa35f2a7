//! `vmtide optimize`: asks the bridge to plan for some VMs for a while, and tells what came of it.

use crate::{Failure, print, show};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use vmtide_bridge::api::client::Client;
use vmtide_bridge::api::optimize::{DURATION_MS, Progress, Taken, Wish};
use vmtide_bridge::config::DEFAULT_RECORD_DIRECTORY;
use vmtide_bridge::performance::{Indices, Resource};
use vmtide_bridge::record::ReadError;
use vmtide_bridge::sizing::sizes;

/// How often the bridge is asked how it goes.
const ASK_EACH: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Optimize {
    /// Their names; with --static all that were recorded when there is none.
    #[arg(long = "vm", required_unless_present = "fixed", value_name = "NAME", value_delimiter = ',')]
    vms: Vec<String>,
    /// For how long, 1s to 24h; an interrupt ends it early.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration, conflicts_with = "dry_run")]
    duration: u64,
    /// What may be moved and is measured: memory, cpu, io.
    #[arg(long = "resource", value_name = "NAME", value_delimiter = ',', default_value = "memory,cpu,io", value_parser = str::parse::<Resource>)]
    resources: Vec<Resource>,
    /// Only say what would be done now.
    #[arg(long)]
    dry_run: bool,
    /// Needs no bridge: say which fixed sizes of memory, vCPUs and disks' rates their recorded needs recommend.
    #[arg(long = "static", conflicts_with_all = ["duration", "resources", "dry_run"])]
    fixed: bool,
    /// With --static: so much of the time a size is to be enough, percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 95, requires = "fixed", value_parser = clap::value_parser!(u32).range(50..=100))]
    percentile: u32,
    /// With --static: the recording, a folder of segments.
    #[arg(long, value_name = "DIRECTORY", default_value = DEFAULT_RECORD_DIRECTORY, requires = "fixed")]
    recording: PathBuf,
}

/// Milliseconds.
fn duration(text: &str) -> Result<u64, String> {
    let ms = humantime::parse_duration(text).map(|time| time.as_millis()).map_err(|error| error.to_string())?;
    let allowed = u64::try_from(ms).ok().filter(|ms| DURATION_MS.contains(ms));
    allowed.ok_or_else(|| format!("{text} cannot be; allowed is 1s to 24h"))
}

/// What came of it.
#[derive(Serialize)]
struct Summary {
    vms: Vec<SummaryVm>,
    /// How long it went on.
    seconds: u64,
    dry_run: bool,
    ended: String,
    resources: Vec<Resource>,
    measured_only: Vec<Resource>,
}

#[derive(Serialize)]
struct SummaryVm {
    name: String,
    /// P of the resources that were asked for, 0 to 1; `None` where it is not known.
    p_before: Option<f64>,
    p_after: Option<f64>,
    was_paused: bool,
    before: Indices,
    after: Indices,
    changes: Vec<Taken>,
}

impl Optimize {
    /// Optimizes until the time is up or an interrupt comes.
    pub async fn run(&self, client: &Client, out: &mut impl Write, json: bool) -> Result<(), Failure> {
        if self.fixed {
            return self.sizes(out, json);
        }
        let wish = Wish {
            vms: self.vms.clone(),
            resources: self.resources.clone(),
            duration_ms: self.duration,
            dry_run: self.dry_run,
        };
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut progress = client.optimize(&wish).await?;
        let mut changes = Changes::default();
        let id = progress.id;
        // However this ends, the bridge is not left to find out by itself.
        let followed: Result<(), Failure> = async {
            loop {
                let news = changes.take(&progress);
                if !json && !self.dry_run {
                    out.write_all(news.as_bytes())?;
                    out.flush()?;
                }
                if progress.over.is_some() {
                    return Ok(());
                }
                tokio::select! {
                    _ = interrupt.recv() => return Ok(()),
                    _ = terminate.recv() => return Ok(()),
                    () = sleep(ASK_EACH) => progress = client.optimizing(id).await?,
                }
            }
        }
        .await;
        if progress.over.is_none() {
            match client.end_optimizing(id).await {
                Ok(ended) => progress = ended,
                Err(error) => return Err(followed.err().unwrap_or(error.into())),
            }
            changes.take(&progress);
        }
        followed?;
        let summary = self.summary(progress, changes);
        print(out, json, &summary, || summary.text())
    }

    fn sizes(&self, out: &mut impl Write, json: bool) -> Result<(), Failure> {
        let local = |error: ReadError| Failure::Local(error.to_string());
        let sizing = sizes(&self.recording, &self.vms, self.percentile).map_err(local)?;
        let known: Vec<&str> = sizing.vms.iter().map(|vm| vm.name.as_str()).collect();
        if let Some(missing) = self.vms.iter().find(|name| !known.contains(&name.as_str())) {
            let recording = self.recording.display();
            return Err(Failure::Local(format!("{missing}: {recording} has no record of such a VM")));
        }
        print(out, json, &sizing, || sizing.text())
    }

    fn summary(&self, progress: Progress, mut changes: Changes) -> Summary {
        let vm = |vm: vmtide_bridge::api::optimize::Optimized| SummaryVm {
            p_before: vm.before.overall.map(|index| index.p()),
            p_after: vm.after.overall.map(|index| index.p()),
            was_paused: vm.was_paused,
            before: vm.before,
            after: vm.after,
            changes: if self.dry_run { vm.changes } else { changes.of(&vm.name) },
            name: vm.name,
        };
        Summary {
            vms: progress.vms.into_iter().map(vm).collect(),
            seconds: (progress.elapsed_ms + 500) / 1000,
            dry_run: self.dry_run,
            ended: progress.over.unwrap_or_default(),
            resources: self.resources.clone(),
            measured_only: progress.measured_only,
        }
    }
}

/// All changes so far: the bridge keeps the last of each VM only.
#[derive(Default)]
struct Changes(BTreeMap<String, BTreeMap<u64, Taken>>);

impl Changes {
    /// Takes in what the bridge says now; returns a line for each change that is new.
    fn take(&mut self, progress: &Progress) -> String {
        let mut news = String::new();
        for vm in &progress.vms {
            let known = self.0.entry(vm.name.clone()).or_default();
            for change in &vm.changes {
                if known.insert(change.id, change.clone()).is_none() {
                    let p = show::part(vm.after.overall.map(|index| index.p_ppm));
                    // Writing to a String does not fail.
                    _ = writeln!(news, "{:>4} s  {}  P {p}  {}", progress.elapsed_ms / 1000, vm.name, change.reason);
                }
            }
        }
        news
    }

    fn of(&mut self, vm: &str) -> Vec<Taken> {
        let mut changes: Vec<Taken> = self.0.remove(vm).unwrap_or_default().into_values().collect();
        changes.sort_by_key(|change| change.at_unix_ms);
        changes
    }
}

impl Summary {
    fn text(&self) -> String {
        let mut text = if self.dry_run {
            "Nothing was asked; this is what would be now:\n".to_owned()
        } else {
            format!("\n{} s; {}.\n", self.seconds, self.ended)
        };
        for vm in &self.vms {
            let p = |indices: &Indices| show::part(indices.overall.map(|index| index.p_ppm));
            let paused = if vm.was_paused { " (paused before, and again)" } else { "" };
            if self.dry_run {
                _ = writeln!(text, "\n{}: {}", vm.name, show::performance(&vm.before));
            } else {
                _ = writeln!(text, "\n{}{paused}: P {} before, {} after", vm.name, p(&vm.before), p(&vm.after));
                _ = writeln!(text, "  before  {}", show::performance(&vm.before));
                _ = writeln!(text, "  after   {}", show::performance(&vm.after));
            }
            if vm.changes.is_empty() {
                text.push_str("  nothing to change\n");
            }
            for change in &vm.changes {
                let (resource, Taken { from, to, unit, reason, .. }) = (change.resource.name(), change);
                _ = if self.dry_run {
                    writeln!(text, "  {resource} from {from} to {to} {unit}: {reason}")
                } else {
                    writeln!(text, "  {resource}: {reason}")
                };
            }
        }
        if !self.measured_only.is_empty() {
            let names: Vec<&str> = self.measured_only.iter().map(|resource| resource.name()).collect();
            _ = writeln!(text, "\nOnly measured, for this bridge has nothing to move them with: {}.", names.join(", "));
        }
        text
    }
}
