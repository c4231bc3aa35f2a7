//! The process that holds a VM's memory.

use procfs::ProcError;

/// A process, told apart from a later one that has the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: i32,
    /// Clock ticks since boot.
    started: u64,
}

impl Process {
    /// The live process with this pid; `None` when there is none, and when the kernel does not tell.
    pub fn find(pid: i32) -> Option<Self> {
        Self::read(pid).ok().flatten()
    }

    /// Whether it still exists, and with it the memory it holds. What cannot be found out counts as alive.
    pub fn is_alive(self) -> bool {
        Self::read(self.pid).map_or(true, |found| found == Some(self))
    }

    /// What it holds of its guest's memory, at most about: pages of shared memory where the guest's is shared, else all
    /// of its own. `None` when the kernel does not tell.
    pub fn resident_bytes(self) -> Option<u64> {
        let status = procfs::process::Process::new(self.pid).and_then(|process| process.status()).ok()?;
        status.rssshmem.max(status.rssanon).map(|kib| kib.saturating_mul(1024))
    }

    /// Its number.
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// CPU time that it used since it began, the VMM's threads and its vCPUs' together, milliseconds; `None` when the kernel
    /// does not tell, or another process has its number.
    pub fn cpu_ms(self) -> Option<u64> {
        let stat = procfs::process::Process::new(self.pid).and_then(|process| process.stat()).ok()?;
        let ticks = stat.utime.saturating_add(stat.stime);
        (stat.starttime == self.started).then(|| ticks.saturating_mul(1000) / procfs::ticks_per_second())
    }

    /// How long its threads were ready to run and waited for a CPU since they began, milliseconds
    /// (`/proc/PID/task/TID/schedstat`, Documentation/scheduler/sched-stats.rst); `None` when the kernel does not tell. A thread
    /// that ended takes its time along.
    pub fn waited_ms(self) -> Option<u64> {
        let tasks = procfs::process::Process::new(self.pid).and_then(|process| process.tasks()).ok()?;
        let mut waited = tasks.flatten().map(|task| Some(task.schedstat().ok()?.run_delay / 1_000_000));
        waited.try_fold(0, |sum: u64, waited| Some(sum.saturating_add(waited?)))
    }

    fn read(pid: i32) -> Result<Option<Self>, ProcError> {
        match procfs::process::Process::new(pid).and_then(|process| process.stat()) {
            // A zombie holds no memory.
            Ok(stat) => Ok((!matches!(stat.state, 'Z' | 'X')).then_some(Self { pid, started: stat.starttime })),
            Err(ProcError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_is_alive_until_it_is_not() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::find(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.is_alive());
        assert!(process.resident_bytes().is_some_and(|bytes| bytes < 1 << 30));
        assert!(process.cpu_ms().is_some_and(|ms| ms < 10_000));
        let another = Process { started: process.started + 1, ..process };
        assert!(!another.is_alive() && another.cpu_ms().is_none(), "another one with its pid");
        child.kill().unwrap();
        // Not reaped yet: a zombie.
        while process.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!process.is_alive());
        assert_eq!(process.resident_bytes(), None);
    }
}
