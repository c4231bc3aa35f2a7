//! The work of one guest over time, and what is read off it. Pure.

use crate::load::Progress;

/// A rate counts when it holds this long.
const WINDOW_MS: u64 = 1000;

/// How finely the beginning of such a window is looked for.
const STEP_MS: u64 = 50;

/// Operations done at points in time since the load began, rising in both.
#[derive(Debug, Clone, Default)]
pub(super) struct Curve(Vec<(u64, u64)>);

impl Curve {
    /// The curve of a load's log; a last line that is not whole is left out.
    pub(super) fn read(log: &str) -> Self {
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Progress>(line).ok());
        Self(lines.map(|progress| (progress.t_ms, progress.ops)).collect())
    }

    /// Operations done up to `t_ms`, interpolated; none before the first point, no more after the last.
    pub(super) fn ops_at(&self, t_ms: u64) -> u64 {
        let after = self.0.partition_point(|(at, _)| *at <= t_ms);
        match (after.checked_sub(1).map(|before| self.0[before]), self.0.get(after)) {
            (None, _) => 0,
            (Some((_, ops)), None) => ops,
            (Some((start, from)), Some((end, to))) => from + (to - from) * (t_ms - start) / (end - start),
        }
    }

    /// Operations done in `[from_ms, to_ms]`.
    pub(super) fn ops(&self, from_ms: u64, to_ms: u64) -> u64 {
        self.ops_at(to_ms).saturating_sub(self.ops_at(from_ms))
    }

    /// Operations a second in the second half of `[from_ms, to_ms]`: what it settled at.
    pub(super) fn plateau(&self, from_ms: u64, to_ms: u64) -> u64 {
        let middle = from_ms.midpoint(to_ms);
        self.ops(middle, to_ms) * 1000 / (to_ms - middle).max(1)
    }

    /// How long after `from_ms` the first second began in which it did `permille` thousandths of `rate`; `None` when
    /// there was none until `to_ms`.
    pub(super) fn reached_after(&self, from_ms: u64, to_ms: u64, rate: u64, permille: u64) -> Option<u64> {
        let mut starts = (from_ms..=to_ms.saturating_sub(WINDOW_MS)).step_by(usize::try_from(STEP_MS).ok()?);
        let enough = rate * permille * WINDOW_MS / 1_000_000;
        starts.find(|start| self.ops(*start, start + WINDOW_MS) >= enough).map(|start| start - from_ms)
    }
}

/// The nearest-rank percentile of times, where `None` is a time that never came; `None` when the rank falls on one.
pub(super) fn percentile(times: &[Option<u64>], percent: usize) -> Option<u64> {
    let mut sorted: Vec<u64> = times.iter().map(|time| time.unwrap_or(u64::MAX)).collect();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().filter(|time| *time < u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100/s for 2 s, nothing for 1 s, 80/s for 1 s, 95/s for 2 s.
    fn curve() -> Curve {
        Curve(vec![(0, 0), (2000, 200), (3000, 200), (4000, 280), (6000, 470)])
    }

    #[test]
    fn work_is_interpolated_and_ends_with_the_log() {
        let curve = curve();
        assert_eq!((curve.ops_at(0), curve.ops_at(500), curve.ops_at(3500), curve.ops_at(9000)), (0, 50, 240, 470));
        assert_eq!((curve.ops(1000, 3000), curve.ops(5000, 9000)), (100, 95));
        assert_eq!(Curve::default().ops(0, 1000), 0);
        assert_eq!(curve.plateau(2000, 6000), 95);
    }

    #[test]
    fn a_rate_is_reached_where_a_whole_second_holds_it() {
        let curve = curve();
        // 90 of 100: never while idle or at 80; the second from 3.65 s on has 28 of the 80 and 62 of the 95.
        assert_eq!(curve.reached_after(2000, 6000, 100, 900), Some(1700));
        assert_eq!(curve.reached_after(2000, 4500, 100, 900), None, "that second would end after the phase");
        assert_eq!(curve.reached_after(0, 2000, 100, 900), Some(0));
        assert_eq!(curve.reached_after(2000, 6000, 200, 900), None);
    }

    #[test]
    fn a_percentile_that_falls_on_a_phase_that_never_got_there_is_none() {
        let times = [Some(300), None, Some(100)];
        assert_eq!((percentile(&times, 50), percentile(&times, 95)), (Some(300), None));
        assert_eq!(percentile(&[Some(5), Some(7)], 95), Some(7));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_log_is_read_up_to_its_last_whole_line() {
        let line = |t_ms, ops| serde_json::to_string(&Progress { t_ms, ops, ..Progress::default() }).unwrap() + "\n";
        let log = line(0, 0) + &line(1000, 10) + &line(2000, 30)[..12];
        assert_eq!(Curve::read(&log).ops_at(5000), 10);
    }
}
