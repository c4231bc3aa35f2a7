//! The shell around the VMs' cgroups: which process is which VM, what it used, and what its group was given.

use super::cpu::CpuUse;
use crate::cgroup::{Controller, Error, Group, IoCount, IoGroup, sweep};
use crate::hypervisor::Process;
use crate::hypervisor::driver::Sighting;
use crate::plan::Millis;
use crate::plan::storage::Throttle;
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
    /// For its disks, which may be another one.
    io: Option<IoGroup>,
    tried_ms: Option<Millis>,
    /// When its CPU time was read last, and what it was.
    last: Option<(Millis, CpuTime)>,
}

impl Groups {
    /// On the host below `root`, without VMs yet, with notes about what was changed in `folder`.
    pub(super) fn new(root: &Path, folder: &Path) -> Self {
        sweep(folder);
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
    pub(super) fn find(&mut self, now_ms: Millis) -> Vec<(usize, Controller, Result<String, String>)> {
        let (root, folder) = (&self.root, &self.folder);
        let vms: Vec<i32> = self.seats.iter().filter_map(|seat| Some(seat.process?.pid())).collect();
        let mut looked = Vec::new();
        for (vm, seat) in self.seats.iter_mut().enumerate() {
            let is_rested = seat.tried_ms.is_none_or(|tried_ms| now_ms.saturating_sub(tried_ms) >= RETRY_MS);
            let (Some(process), true) = (seat.process, is_rested) else { continue };
            seat.tried_ms = Some(now_ms);
            if seat.group.is_none() {
                let found = Group::find(root, process.pid(), &vms, folder);
                looked.push((vm, Controller::Cpu, told(&found, Group::directory)));
                seat.group = found.ok();
            }
            if seat.io.is_none() {
                // What an earlier bridge held is let go here.
                let found = IoGroup::find(root, process.pid(), folder);
                let found = found.and_then(|mut group| group.restore().map(|()| group));
                looked.push((vm, Controller::Io, told(&found, IoGroup::directory)));
                seat.io = found.ok();
            }
        }
        looked
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
            let used_millicpus = millicpus(now.used, last.used);
            Some(CpuUse { used_millicpus, total_ms: now.used, waited_millicpus })
        };
        self.seats.iter_mut().map(used).collect()
    }

    /// Gives a VM's group its weight and its quota; all that can be is.
    pub(super) fn set(&mut self, vm: usize, shares: u32, quota_millicpus: Option<u64>) -> Result<(), Error> {
        let Some(group) = &mut self.seats[vm].group else { return Ok(()) };
        let weight = group.set_weight(shares);
        group.set_quota(quota_millicpus).and(weight)
    }

    /// Holds a VM's group to a rate at its block devices and gives it a weight for them, or gives back what was there; all
    /// that can be is.
    pub(super) fn set_io(&mut self, vm: usize, throttle: Option<Throttle>, shares: Option<u32>) -> Result<(), Error> {
        let Some(group) = &mut self.seats[vm].io else { return Ok(()) };
        let weight = group.set_weight(shares);
        group.hold(throttle).map(drop).and(weight)
    }

    /// What the groups of those VMs did on their block devices.
    pub(super) fn count_io(&self, is_asked: impl Fn(usize) -> bool) -> Vec<(usize, IoCount)> {
        let count = |(vm, seat): (usize, &Seat)| Some((vm, seat.io.as_ref().filter(|_| is_asked(vm))?.count().ok()?));
        self.seats.iter().enumerate().filter_map(count).collect()
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
        if let Some(mut group) = self.io.take()
            && let Err(error) = group.restore()
        {
            tracing::info!(%error, "a cgroup's disks cannot be put back");
            group.forget();
        }
    }
}

fn told<G>(found: &Result<G, Error>, directory: impl Fn(&G) -> &Path) -> Result<String, String> {
    found.as_ref().map(|group| directory(group).display().to_string()).map_err(Error::to_string)
}
