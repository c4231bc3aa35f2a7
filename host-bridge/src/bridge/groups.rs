//! The shell around the VMs' cgroups: which process is which VM, what it used, and what its group was given.

use super::cpu::CpuUse;
use crate::cgroup::{Error, Group};
use crate::hypervisor::Process;
use crate::hypervisor::driver::Sighting;
use crate::plan::Millis;
use std::path::{Path, PathBuf};

/// How often a group is looked for that is not there, or not the VM's alone: it may be made after the VM.
const RETRY_MS: Millis = 5_000;

/// What a process used of the host's CPUs, and how long it waited for them, milliseconds.
#[derive(Clone, Copy, Debug)]
struct CpuTime {
    used: u64,
    waited: Option<u64>,
}

/// All VMs' groups.
#[derive(Debug)]
pub(super) struct Groups {
    root: PathBuf,
    folder: PathBuf,
    seats: Vec<Seat>,
}

#[derive(Debug, Default)]
struct Seat {
    process: Option<Process>,
    group: Option<Group>,
    tried_ms: Option<Millis>,
    /// When its CPU time was read last, and what it was.
    last: Option<(Millis, CpuTime)>,
}

impl Groups {
    /// On the host below `root`, without VMs yet, with notes about what was changed in `folder`.
    pub(super) fn new(root: &Path, folder: &Path) -> Self {
        Self { root: root.to_owned(), folder: folder.to_owned(), seats: Vec::new() }
    }

    /// Takes in another VM.
    pub(super) fn add(&mut self) {
        self.seats.push(Seat::default());
    }

    /// Puts back what the group of a VM had that is steered no longer.
    pub(super) fn remove(&mut self, vm: usize) {
        self.seats[vm].let_go();
        self.seats[vm] = Seat::default();
    }

    /// Takes in who runs a VM.
    pub(super) fn on_sighting(&mut self, vm: usize, sighting: &Sighting) {
        let seat = &mut self.seats[vm];
        match sighting {
            Sighting::Process(process) if seat.process != *process => {
                seat.let_go();
                *seat = Seat { process: *process, ..Seat::default() };
            }
            Sighting::Absent(_) => {
                seat.let_go();
                *seat = Seat::default();
            }
            _ => {}
        }
    }

    /// Looks for groups that are not known yet: what was found, or why not.
    pub(super) fn find(&mut self, now_ms: Millis) -> Vec<(usize, Result<String, String>)> {
        let (root, folder) = (&self.root, &self.folder);
        let look = |(vm, seat): (usize, &mut Seat)| {
            let process = seat.process.filter(|_| seat.group.is_none())?;
            if seat.tried_ms.is_some_and(|tried_ms| now_ms.saturating_sub(tried_ms) < RETRY_MS) {
                return None;
            }
            seat.tried_ms = Some(now_ms);
            let found = Group::find(root, process.pid(), folder);
            let told = found.as_ref().map(|group| group.directory().display().to_string());
            let told = told.map_err(Error::to_string);
            seat.group = found.ok();
            Some((vm, told))
        };
        self.seats.iter_mut().enumerate().filter_map(look).collect()
    }

    /// What each VM's process used since the last call, and, if that is asked for, how long its threads waited, which each of them
    /// has to be looked at for; `None` until there are two readings.
    pub(super) fn used(&mut self, now_ms: Millis, with_waits: bool) -> Vec<Option<CpuUse>> {
        let used = |seat: &mut Seat| {
            let process = seat.process?;
            let now = CpuTime { used: process.cpu_ms()?, waited: if with_waits { process.waited_ms() } else { None } };
            let (last_ms, last) = seat.last.replace((now_ms, now))?;
            let elapsed_ms = now_ms.saturating_sub(last_ms).max(1);
            let millicpus = |now: u64, last: u64| now.saturating_sub(last).saturating_mul(1000) / elapsed_ms;
            let waited_millicpus = now.waited.zip(last.waited).map(|(now, last)| millicpus(now, last));
            Some(CpuUse { used_millicpus: millicpus(now.used, last.used), waited_millicpus })
        };
        self.seats.iter_mut().map(used).collect()
    }

    /// Gives a VM's group its weight and its quota; all that can be is.
    pub(super) fn set(&mut self, vm: usize, shares: u32, quota_millicpus: Option<u64>) -> Result<(), Error> {
        let Some(group) = &mut self.seats[vm].group else { return Ok(()) };
        let weight = group.set_weight(shares);
        group.set_quota(quota_millicpus).and(weight)
    }

    /// Puts back what every group had before.
    pub(super) fn restore(&mut self) {
        self.seats.iter_mut().for_each(Seat::let_go);
    }
}

impl Seat {
    fn let_go(&mut self) {
        if let Some(mut group) = self.group.take()
            && let Err(error) = group.restore()
        {
            tracing::info!(%error, "a cgroup cannot be put back");
            group.forget();
        }
    }
}
