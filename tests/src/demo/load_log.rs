//! What a guest's workload has written so far, read piece by piece.

use std::time::Duration;

use tokio::time::timeout;

use crate::{Vm, load::Progress};

/// A guest that has no time to answer is asked again at the next tick.
const PATIENCE: Duration = Duration::from_secs(1);

/// The log of one `vmtide-load`.
#[derive(Debug, Clone, Default)]
pub(super) struct LoadLog {
    read_bytes: u64,
    previous: Progress,
    last: Progress,
}

impl LoadLog {
    /// Reads what is new.
    pub(super) async fn follow(&mut self, vm: &Vm) {
        if let Ok(Ok(text)) = timeout(PATIENCE, vm.read("/tmp/load.log", self.read_bytes)).await {
            self.take(&text);
        }
    }

    /// The last line.
    pub(super) fn last(&self) -> &Progress {
        &self.last
    }

    /// Operations a second between the last two lines.
    pub(super) fn ops_per_s(&self) -> u64 {
        self.rate(|progress| progress.ops)
    }

    /// Stalled milliseconds a second between the last two lines.
    pub(super) fn stall_ms_per_s(&self) -> u64 {
        self.rate(|progress| progress.stall_us) / 1000
    }

    fn rate(&self, counter: impl Fn(&Progress) -> u64) -> u64 {
        let ms = self.last.t_ms.saturating_sub(self.previous.t_ms).max(1);
        counter(&self.last).saturating_sub(counter(&self.previous)) * 1000 / ms
    }

    /// Lines that are not whole yet come again with the next piece.
    fn take(&mut self, text: &str) {
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            self.read_bytes += line.len() as u64;
            if let Ok(progress) = serde_json::from_str(line) {
                self.previous = std::mem::replace(&mut self.last, progress);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_the_last_two_whole_lines() {
        let line = |t_ms, ops, stall_us| {
            let progress = Progress { t_ms, ops, stall_us, ..Progress::default() };
            serde_json::to_string(&progress).unwrap() + "\n"
        };
        let text = line(1000, 10, 0) + &line(3000, 50, 500_000) + &line(4000, 99, 0)[..20];
        let mut log = LoadLog::default();
        log.take(&text);
        assert_eq!((log.ops_per_s(), log.stall_ms_per_s()), (20, 250));
        assert_eq!(log.read_bytes, text.len() as u64 - 20);
    }
}
