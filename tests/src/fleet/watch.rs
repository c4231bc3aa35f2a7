//! What the VMs really have, sampled from QEMU.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::vm::Qmp;

const INTERVAL: Duration = Duration::from_millis(200);

/// A QEMU that does not answer keeps its last figure and must not hold up the others'.
const PATIENCE: Duration = Duration::from_millis(300);

/// A sampler that runs until it is dropped.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// What was sampled so far. Peak, minima, maxima, violations and moves count from the moment the VMs first fitted the
/// budget: they boot with all their memory, which is more, and the bridge then shrinks them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What the VMs may have together.
    pub budget_bytes: u64,
    /// The last sample of each VM; 0 once its QEMU is gone.
    pub now_bytes: Vec<u64>,
    /// When the VMs first fitted the budget, each VM's figure.
    pub start_bytes: Option<Vec<u64>>,
    /// The least each VM had.
    pub min_bytes: Vec<u64>,
    /// The most each VM had.
    pub max_bytes: Vec<u64>,
    /// The most that all had together.
    pub peak_bytes: u64,
    /// Time in which they had more than the budget.
    pub violation: Duration,
    /// What was moved, into VMs and out of them.
    pub moved_bytes: u64,
}

impl Watch {
    pub(super) fn start(qmps: Vec<Arc<Qmp>>, budget_bytes: u64) -> Self {
        let seen = Arc::new(Mutex::new(Seen::new(qmps.len(), budget_bytes)));
        let sampled = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut last = Instant::now();
            loop {
                let mut now = lock(&sampled).now_bytes.clone();
                for (qmp, bytes) in qmps.iter().zip(&mut now) {
                    match timeout(PATIENCE, qmp.allocation_bytes()).await {
                        Ok(Ok(allocation)) => *bytes = allocation,
                        Ok(Err(_)) => *bytes = 0,
                        Err(_) => {}
                    }
                }
                lock(&sampled).take(now, last.elapsed());
                last = Instant::now();
                sleep(INTERVAL).await;
            }
        });
        Self { seen, task }
    }

    /// What was sampled so far.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    fn new(vms: usize, budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            now_bytes: vec![0; vms],
            start_bytes: None,
            min_bytes: vec![u64::MAX; vms],
            max_bytes: vec![0; vms],
            peak_bytes: 0,
            violation: Duration::ZERO,
            moved_bytes: 0,
        }
    }

    /// What the VMs have together.
    pub fn committed_bytes(&self) -> u64 {
        self.now_bytes.iter().sum()
    }

    fn take(&mut self, now: Vec<u64>, since_last: Duration) {
        let moved: u64 = self.now_bytes.iter().zip(&now).map(|(before, after)| before.abs_diff(*after)).sum();
        self.now_bytes = now;
        let committed = self.committed_bytes();
        if self.start_bytes.is_none() {
            if committed > self.budget_bytes || committed == 0 {
                return;
            }
            self.start_bytes = Some(self.now_bytes.clone());
        } else {
            self.moved_bytes += moved;
        }
        self.peak_bytes = self.peak_bytes.max(committed);
        if committed > self.budget_bytes {
            self.violation += since_last;
        }
        for (at, bytes) in self.now_bytes.iter().enumerate() {
            self.min_bytes[at] = self.min_bytes[at].min(*bytes);
            self.max_bytes[at] = self.max_bytes[at].max(*bytes);
        }
    }
}

/// A figure is whole even when a thread that held it panicked.
fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_begins_when_the_vms_first_fit() {
        let mut seen = Seen::new(2, 100);
        seen.take(vec![80, 80], INTERVAL);
        assert_eq!((seen.peak_bytes, seen.violation, &seen.start_bytes), (0, Duration::ZERO, &None));
        seen.take(vec![60, 40], INTERVAL);
        seen.take(vec![30, 71], INTERVAL);
        seen.take(vec![30, 50], INTERVAL);
        assert_eq!(seen.start_bytes, Some(vec![60, 40]));
        assert_eq!((seen.peak_bytes, seen.violation, seen.moved_bytes), (101, INTERVAL, 61 + 21));
        assert_eq!((&*seen.min_bytes, &*seen.max_bytes), (&[30, 40][..], &[60, 71][..]));
    }
}
