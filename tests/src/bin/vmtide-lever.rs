//! The bridge's cgroup lever, by itself: for a lab guest that plays the host.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use rustix::fs::{XattrFlags, setxattr};
use vmtide_bridge::cgroup::{Error, Group, IoGroup, sweep};
use vmtide_bridge::plan::storage::Throttle;

/// Where notes are kept in the guest.
const FOLDER: &str = "/run";

/// Sets weight and quota, or weight and rate of the disks, of a process' own cgroup; without them puts back what was there before.
#[derive(Debug, Parser)]
struct Args {
    /// The process
    #[arg(required_unless_present = "delegate")]
    pid: Option<i32>,
    /// Processes of other VMs
    #[arg(long, value_delimiter = ',')]
    vms: Vec<i32>,
    /// Leave this group to others, as systemd does for Delegate=yes
    #[arg(long, conflicts_with = "pid")]
    delegate: Option<PathBuf>,
    /// Its weight
    #[arg(long)]
    shares: Option<u32>,
    /// The most that it may use, thousandths of a CPU
    #[arg(long, requires = "shares")]
    quota: Option<u64>,
    /// Not its CPU time, but its disks
    #[arg(long, conflicts_with = "quota")]
    disks: bool,
    /// The most that its disks may do, bytes per second
    #[arg(long, requires = "disks")]
    rate: Option<u64>,
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
    if let Some(path) = &args.delegate {
        let delegated = setxattr(path, "trusted.delegate", b"1", XattrFlags::empty());
        return delegated.map_err(|source| Error::File { path: path.clone(), source: source.into() });
    }
    let pid = args.pid.unwrap_or_default();
    if args.disks {
        let mut group = IoGroup::find(Path::new("/"), pid, Path::new(FOLDER))?;
        group.set_weight(args.shares)?;
        let throttle = args.rate.map(|bytes_per_s| Throttle { bytes_per_s, ops_per_s: bytes_per_s / 4096 });
        return group.hold(throttle).map(drop);
    }
    sweep(Path::new(FOLDER));
    let mut group = Group::find(Path::new("/"), pid, &args.vms, Path::new(FOLDER))?;
    match args.shares {
        Some(shares) => {
            group.set_weight(shares)?;
            group.set_quota(args.quota)
        }
        None => group.restore(),
    }
}
