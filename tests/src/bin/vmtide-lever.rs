//! The bridge's cgroup lever, by itself: for a lab guest that plays the host.

use std::{path::Path, process::ExitCode};

use clap::Parser;
use vmtide_bridge::cgroup::{Error, Group};

/// Where notes are kept in the guest.
const FOLDER: &str = "/run";

/// Sets weight and quota of a process' own cgroup; without them puts back what was there before.
#[derive(Debug, Parser)]
struct Args {
    /// The process
    pid: i32,
    /// Its weight
    #[arg(long)]
    shares: Option<u32>,
    /// The most that it may use, thousandths of a CPU
    #[arg(long, requires = "shares")]
    quota: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmtide-lever: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Error> {
    let mut group = Group::find(Path::new("/"), args.pid, Path::new(FOLDER))?;
    match args.shares {
        Some(shares) => {
            group.set_weight(shares)?;
            group.set_quota(args.quota)
        }
        None => group.restore(),
    }
}
