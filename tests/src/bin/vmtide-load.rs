//! A small memory workload with phases; prints JSON lines. See [`vmtide_lab::load`].

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use vmtide_lab::load::{self, Pace, Settings};

/// Works on phases of anonymous memory, file memory and writes, and counts operations and stall.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Phases in order, such as idle:30s,anon=400M:40s,anon=400M/100M+file=200M:30s,write=200M:9s
    #[arg(long)]
    phases: String,
    /// Block device of the files that are read and written
    #[arg(long, default_value = "/dev/vda")]
    device: PathBuf,
    /// Seed of the page choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Pause after each operation, in milliseconds
    #[arg(long, default_value_t = 2)]
    think_ms: u64,
    /// Operations a second instead of pauses; each touches one page
    #[arg(long, conflicts_with = "think_ms", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How often to print a line, in milliseconds
    #[arg(long, default_value_t = 1000)]
    report_ms: u64,
    /// Growth of anonymous memory at the start of a phase, in MiB per second
    #[arg(long, default_value_t = 64)]
    fill_mib: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let phases = match load::parse_phases(&args.phases) {
        Ok(phases) => phases,
        Err(error) => {
            eprintln!("vmtide-load: {error}");
            return ExitCode::from(2);
        }
    };
    let settings = Settings {
        phases,
        device: args.device,
        seed: args.seed,
        pace: args.rate.map_or(Pace::Think(Duration::from_millis(args.think_ms)), Pace::Rate),
        fill_bytes_per_s: args.fill_mib << 20,
        report: Duration::from_millis(args.report_ms),
    };
    match load::run(&settings, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmtide-load: {error}");
            ExitCode::FAILURE
        }
    }
}
