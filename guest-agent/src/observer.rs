//! Looks at the guest: takes the samples that are due and estimates the demand.

use crate::demand::{CpuEstimator, IoEstimator, MemoryEstimator, Outlook};
use crate::said::Said;
use crate::sense::working_set::{Leisure, Sampler};
use crate::sense::{CpuReader, CpuSample, MemoryReader, MemorySample, SenseError, Stall, StorageReader, StorageSample};
use serde::Serialize;
use std::path::Path;
use tracing::warn;
use vmtide_protocol::demand::{Answer, CpuDemand, Demand, IoDemand};
use vmtide_protocol::stalls::{CpuTotals, StallTotals, Stalls};

/// What is due shortly is read now, or a timer that is late by a little would let it slip to the next look.
const EARLY_MS: u64 = 50;

/// The latest samples.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Samples {
    /// `None` when it could not be read.
    pub memory: Option<MemorySample>,
    /// `None` when it could not be read.
    pub cpu: Option<CpuSample>,
    /// `None` when it could not be read.
    pub storage: Option<StorageSample>,
    /// When CPU and disks were read.
    #[serde(skip)]
    pub rest_at_ms: Option<u64>,
}

impl Samples {
    /// How long tasks waited so far, memory read at `now_ms`; `None` where the kernel counts none of it.
    fn stalls(&self, now_ms: u64) -> Option<Stalls> {
        let totals = |at_ms: u64, stall: Stall| StallTotals {
            at_ms: at_ms.into(),
            some_us: stall.some_us.into(),
            full_us: stall.full_us.into(),
        };
        let rest_at_ms = self.rest_at_ms.unwrap_or(now_ms);
        let cpu_totals = |cpu: CpuSample| {
            let us = |ms: u64| ms.saturating_mul(1000).into();
            let (used_us, steal_us) = (us(cpu.used_ms), us(cpu.steal_ms));
            Some(CpuTotals { at_ms: rest_at_ms.into(), some_us: cpu.stall?.some_us.into(), used_us, steal_us })
        };
        let stalls = Stalls {
            memory: self.memory.and_then(|memory| memory.stall).map(|stall| totals(now_ms, stall)),
            cpu: self.cpu.and_then(cpu_totals),
            io: self.storage.and_then(|storage| storage.stall).map(|stall| totals(rest_at_ms, stall)),
        };
        (stalls != Stalls::default()).then_some(stalls)
    }
}

/// What one look found.
#[derive(Clone, Debug)]
pub struct Observation {
    /// For the bridge.
    pub demand: Demand,
    /// `None` while the demand for memory is not known.
    pub outlook: Option<Outlook>,
}

/// The readers and the estimators.
#[derive(Debug)]
pub struct Observer {
    memory: MemoryReader,
    cpu: Option<CpuReader>,
    storage: Option<StorageReader>,
    memory_demand: MemoryEstimator,
    cpu_demand: CpuEstimator,
    io_demand: IoEstimator,
    cpu_answer: Answer<CpuDemand>,
    io_answer: Answer<IoDemand>,
    working_set: Option<Sampler>,
    samples: Samples,
    said: Said,
}

impl Observer {
    /// Opens what there is to read below `root`; a grant takes `grant_ms`.
    ///
    /// # Errors
    /// [`SenseError`] when memory cannot be read. CPU or disks that cannot are logged and never known.
    pub fn open(root: &Path, grant_ms: u64) -> Result<Self, SenseError> {
        let memory = MemoryReader::open(root)?;
        let mut said = Said::default();
        if !memory.has_pressure() {
            warn!("this kernel has no PSI for memory: stalls cannot be seen, demand rests on use alone");
        }
        Ok(Self {
            memory,
            cpu: said_if_not(&mut said, CpuReader::open(root)),
            storage: said_if_not(&mut said, StorageReader::open(root)),
            memory_demand: MemoryEstimator::new(grant_ms),
            cpu_demand: CpuEstimator::default(),
            io_demand: IoEstimator::default(),
            cpu_answer: Answer::NotYet,
            io_answer: Answer::NotYet,
            working_set: None,
            samples: Samples::default(),
            said,
        })
    }

    /// From now on also looks at the working set; the last look ends with [`Self::stop`].
    pub fn sense_working_set(&mut self, sampler: Sampler) {
        self.working_set = Some(sampler);
    }

    /// Takes the sample of the working set that is due; the next look's demand rests on it. Returns when the next is due.
    pub fn tend_working_set(&mut self, now_ms: u64, leisure: Leisure) -> u64 {
        let (Some(sampler), Some(memory)) = (&mut self.working_set, &self.samples.memory) else { return u64::MAX };
        self.memory_demand.know(sampler.tend(now_ms, leisure, memory));
        sampler.next_ms()
    }

    /// Takes in that memory is freed for the bridge.
    pub fn yields(&mut self, now_ms: u64) {
        self.memory_demand.yields(now_ms);
    }

    /// Ends what looking began in the kernel.
    pub fn stop(&mut self) {
        if let Some(sampler) = &mut self.working_set {
            sampler.stop();
        }
    }

    /// Looks at memory, and at CPU and disks each `rest_ms`: nothing about them is urgent, and their files are long.
    pub fn look(&mut self, now_ms: u64, rest_ms: u64, maximum_bytes: Option<u64>) -> Observation {
        self.samples.memory = said_if_not(&mut self.said, self.memory.sample());
        if self.samples.rest_at_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= rest_ms.saturating_sub(EARLY_MS))
        {
            self.samples.rest_at_ms = Some(now_ms);
            self.look_at_the_rest(now_ms);
        }
        let sample = self.samples.memory.as_ref();
        let estimate = sample.and_then(|sample| self.memory_demand.update(now_ms, sample, maximum_bytes));
        let (memory, outlook) = match estimate {
            Some(estimate) => (Answer::Known(estimate.demand), Some(estimate.outlook)),
            None => (Answer::NotYet, None),
        };
        let (cpu, io) = (self.cpu_answer.clone(), self.io_answer.clone());
        let demand = Demand { memory, cpu, io, stalls: self.samples.stalls(now_ms) };
        Observation { demand, outlook }
    }

    fn look_at_the_rest(&mut self, now_ms: u64) {
        let said = &mut self.said;
        self.samples.cpu = self.cpu.as_mut().and_then(|cpu| said_if_not(said, cpu.sample()));
        self.samples.storage = self.storage.as_mut().and_then(|storage| said_if_not(said, storage.sample()));
        let cpu = self.samples.cpu.as_ref().and_then(|sample| self.cpu_demand.update(now_ms, sample));
        let io = self.samples.storage.as_ref().and_then(|sample| self.io_demand.update(now_ms, sample));
        self.cpu_answer = cpu.map_or(Answer::NotYet, Answer::Known);
        self.io_answer = io.map_or(Answer::NotYet, Answer::Known);
    }

    /// Whether the guest's CPUs are worth a look as often as those of a busy guest.
    pub fn has_busy_cpus(&self) -> bool {
        self.cpu_demand.is_busy()
    }

    /// The latest samples.
    pub fn samples(&self) -> &Samples {
        &self.samples
    }
}

/// What was read; an error is logged the first time.
fn said_if_not<T>(said: &mut Said, read: Result<T, SenseError>) -> Option<T> {
    read.inspect_err(|error| {
        let text = crate::full_text(error);
        if said.is_new(&text) {
            warn!("{text}");
        }
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{guest, write};

    #[test]
    fn one_look_is_not_yet_an_answer_and_two_are() {
        let dir = guest();
        let mut observer = Observer::open(dir.path(), 2_000).unwrap();
        let first = observer.look(0, 1_000, None);
        let Demand { memory, cpu, io, stalls } = first.demand;
        assert_eq!((memory, cpu, io), (Answer::NotYet, Answer::NotYet, Answer::NotYet));
        assert!(stalls.is_some(), "totals need no second look");
        let second = observer.look(1_000, 1_000, None).demand;
        assert!(second.memory.known().is_some() && second.cpu.known().is_some() && second.io.known().is_some());
    }

    #[test]
    fn a_file_that_breaks_costs_its_own_answer_and_comes_back() {
        let dir = guest();
        let stat = std::fs::read_to_string(dir.path().join("proc/stat")).unwrap();
        let mut observer = Observer::open(dir.path(), 2_000).unwrap();
        observer.look(0, 1_000, None);
        write(dir.path(), "proc/stat", "garbage\n");
        let broken = observer.look(1_000, 1_000, None).demand;
        assert!(broken.memory.known().is_some() && broken.cpu.known().is_none());
        write(dir.path(), "proc/stat", &stat);
        assert!(observer.look(2_000, 1_000, None).demand.cpu.known().is_some());
    }

    #[test]
    fn what_was_waited_so_far_is_told_with_the_time_of_its_reading() {
        let dir = guest();
        let mut observer = Observer::open(dir.path(), 2_000).unwrap();
        observer.look(0, 1_000, None);
        let stalls = observer.look(500, 1_000, None).demand.stalls.unwrap();
        let (memory, cpu) = (stalls.memory.unwrap(), stalls.cpu.unwrap());
        assert_eq!((memory.at_ms, memory.full_us), (500.into(), 391_926.into()));
        assert_eq!((cpu.at_ms, cpu.some_us), (0.into(), 681_245.into()), "CPUs are not looked at as often");
        std::fs::remove_dir_all(dir.path().join("proc/pressure")).unwrap();
        let mut observer = Observer::open(dir.path(), 2_000).unwrap();
        assert_eq!(observer.look(0, 1_000, None).demand.stalls, None, "a kernel without PSI counts nothing");
    }

    #[test]
    fn a_guest_without_disks_has_memory_and_cpu() {
        let dir = guest();
        std::fs::remove_file(dir.path().join("proc/diskstats")).unwrap();
        let mut observer = Observer::open(dir.path(), 2_000).unwrap();
        observer.look(0, 1_000, None);
        let demand = observer.look(1_000, 1_000, None).demand;
        assert!(demand.memory.known().is_some() && demand.io == Answer::NotYet);
    }
}
