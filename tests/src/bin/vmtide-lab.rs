//! `cargo lab`: the demo, the scenarios and the whole check.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use vmtide_bridge::plan::Planner;
use vmtide_lab::{Kernel, Lab, compare, cpu, demo, footprint, install, io, moves, package, picture, suite, tuning};

/// Boots real microVMs and lets vmtide work on them
#[derive(Debug, Parser)]
#[command(name = "cargo lab", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every check: formatting, lints, documentation, tests, real VMs
    Test,
    /// Show memory moving between VMs that take turns in being busy
    Demo {
        /// Number of VMs
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=26))]
        vms: u8,
        /// How long the loads run
        #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(20..))]
        seconds: u64,
        /// Write what was measured
        #[arg(long)]
        json: Option<PathBuf>,
        /// What the guests boot
        #[arg(long, default_value = "6.12")]
        kernel: Kernel,
    },
    /// Build the packages of this commit into target/packages
    Package {
        /// Have lintian and shellcheck look at them; both have to be installed
        #[arg(long)]
        check: bool,
        /// Build them a second time, from a clone elsewhere, and compare the bytes; takes as long again
        #[arg(long)]
        twice: bool,
    },
    /// Draw a demo's allocations over time
    Picture {
        /// What `demo --json` wrote
        report: PathBuf,
        /// The SVG
        #[arg(long)]
        out: PathBuf,
    },
    /// Measure vmtide against the rules of others, and all against guests that have all their memory
    Compare {
        /// What the guests do
        #[arg(long)]
        scenario: compare::Name,
        /// Who plans, in this order; a run without limits always comes first
        #[arg(long, value_delimiter = ',', default_values_t = Planner::ALL)]
        policies: Vec<Planner>,
        /// Write the figures
        #[arg(long)]
        json: Option<PathBuf>,
        /// Write the course of each run: allocations, needs, work, decisions
        #[arg(long)]
        timeline: Option<PathBuf>,
        /// What the guests boot
        #[arg(long, default_value = "6.12")]
        kernel: Kernel,
    },
    /// Measure one thing
    Scenario {
        /// What to measure
        scenario: Scenario,
        /// Write the figures
        #[arg(long)]
        json: Option<PathBuf>,
        /// What the guest boots [default: 6.12; 6.1 for cpu, as 6.12 takes no vCPU of an emulated machine later on]
        #[arg(long)]
        kernel: Option<Kernel>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scenario {
    /// What a quiet agent costs its guest in a minute
    Footprint,
    /// What tuning gains on two workloads, and whether it leaves anything behind
    Tuning,
    /// The same guest under the values of TuneD's virtual-guest profile and under vmtide
    Tuned,
    /// What a guest needs beyond its working set, with tuning and without
    Overhead,
    /// CPU time by shares, idle vCPUs given back, hotplug
    Cpu,
    /// Whether packages and cloud-init's examples work on a Debian 12 that boots, and leave nothing behind
    Install,
    /// What a guest waits for its reads while another floods the store that both are on
    Io,
    /// How fast virtio-mem and the balloon move memory
    Moves,
}

fn main() -> ExitCode {
    match dispatch(Args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Test => Ok(success_if(suite::run()?.failed == 0)),
        Command::Demo { vms, seconds, json, kernel } => {
            let lab = Lab::ready()?;
            let report = until_interrupted(demo::run(lab, demo::Settings { vms, seconds, kernel }))?;
            println!("\n{report}");
            write_json(json, &report)?;
            Ok(success_if(report.kept_its_promises()))
        }
        Command::Package { check, twice } => {
            let packages = package::Tree::own().build()?;
            if check {
                package::check(&packages)?;
            }
            if twice {
                package::again(&packages)?;
            }
            for package in packages {
                println!("{}", package.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Picture { report, out } => {
            let text = fs::read(&report).with_context(|| format!("{}: cannot read", report.display()))?;
            let report =
                serde_json::from_slice(&text).with_context(|| format!("{}: no demo report", report.display()))?;
            fs::write(&out, picture::draw(&report)?).with_context(|| format!("{}: cannot write", out.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Compare { scenario, policies, json, timeline, kernel } => {
            let lab = Lab::ready()?;
            let settings = compare::Settings { scenario, policies, kernel, with_timelines: timeline.is_some() };
            let (report, timelines) = until_interrupted(compare::run(lab, &settings))?;
            println!("{report}");
            write_json(json, &report)?;
            write_json(timeline, &timelines)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Scenario { scenario, json, kernel } => {
            let lab = Lab::ready()?;
            let kernel = kernel.unwrap_or(if let Scenario::Cpu = scenario { Kernel::V6_1 } else { Kernel::V6_12 });
            match scenario {
                Scenario::Footprint => show(json, &until_interrupted(footprint::measure(lab, kernel))?)?,
                Scenario::Tuned => show(json, &until_interrupted(tuning::tuned::measure(lab, kernel))?)?,
                Scenario::Overhead => show(json, &until_interrupted(tuning::overhead::measure(lab, kernel))?)?,
                Scenario::Cpu => show(json, &until_interrupted(cpu::measure(lab, kernel))?)?,
                Scenario::Install => {
                    let measured = until_interrupted(install::measure(lab))?;
                    show(json, &measured)?;
                    return Ok(success_if(measured.works()));
                }
                Scenario::Moves => show(json, &until_interrupted(moves::measure(lab, kernel))?)?,
                Scenario::Io => show(json, &until_interrupted(io::measure(lab, kernel))?)?,
                Scenario::Tuning => {
                    let measured = until_interrupted(tuning::measure(lab, kernel))?;
                    show(json, &measured)?;
                    return Ok(success_if(measured.left_nothing_behind()));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs to the end or to SIGINT or SIGTERM; either way everything the future owns is dropped, and with it all VMs.
/// One thread only: the VMs live as long as the thread that started them.
fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; all VMs have been ended"),
            _ = terminate.recv() => anyhow::bail!("terminated; all VMs have been ended"),
        }
    })
}

/// Prints figures in one line, and writes them to a file where one is named.
fn show(json: Option<PathBuf>, figures: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(figures)?);
    write_json(json, figures)
}

fn write_json(path: Option<PathBuf>, value: &impl Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(value)? + "\n";
    fs::write(&path, text).with_context(|| format!("{}: cannot write", path.display()))
}

fn success_if(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
