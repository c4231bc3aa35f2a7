//! What came of the runs: the contract of `--json`, and a table for a person.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    curve::{Curve, percentile},
    scenario::{Name, Scenario},
};
use crate::vm::MIB;

/// What one run left behind.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) curves: Vec<Curve>,
    pub(super) stall_ms: u64,
    pub(super) oom_kills: u64,
    pub(super) violation_seconds: f64,
    pub(super) bytes_moved: u64,
    pub(super) cpus: f64,
}

/// A whole comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    scenario: &'static str,
    accelerator: String,
    kernel: String,
    /// By how much the guests' working sets change together, up and down.
    working_set_change_bytes: u64,
    unlimited: Unlimited,
    policies: BTreeMap<String, PolicyReport>,
}

/// The run in which every guest has all its memory.
#[derive(Debug, Clone, Serialize)]
struct Unlimited {
    onset_to_90pct_ms: Percentiles,
    work_ops: u64,
    growth_work_ops: u64,
    stall_ms: u64,
    oom_kills: u64,
    /// What all QEMUs used on average: where this comes near the host's number, CPU decides and not memory.
    cpus: f64,
}

/// One policy's run.
#[derive(Debug, Clone, Serialize)]
struct PolicyReport {
    work_vs_unlimited: f64,
    growth_work_vs_unlimited: f64,
    stall_ms: u64,
    oom_kills: u64,
    violation_seconds: f64,
    onset_to_90pct_ms: Percentiles,
    bytes_moved: u64,
    cpus: f64,
}

/// From the onset of a growth to nine tenths of the rate that the unlimited run settles at; none where one never got
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Percentiles {
    p50: Option<u64>,
    p95: Option<u64>,
}

/// What the policies are held against.
#[derive(Debug)]
pub(super) struct Measure<'a> {
    scenario: &'a Scenario,
    unlimited: &'a Run,
}

impl<'a> Measure<'a> {
    pub(super) fn new(scenario: &'a Scenario, unlimited: &'a Run) -> Self {
        Self { scenario, unlimited }
    }

    fn work(&self, run: &Run) -> u64 {
        let end_ms = u64::try_from(self.scenario.duration().as_millis()).unwrap_or(u64::MAX);
        run.curves.iter().map(|curve| curve.ops_at(end_ms)).sum()
    }

    fn growth_work(&self, run: &Run) -> u64 {
        let growths = self.scenario.growths();
        growths.iter().map(|growth| run.curves[growth.guest].ops(growth.begin_ms, growth.end_ms)).sum()
    }

    fn onsets(&self, run: &Run) -> Percentiles {
        let onset = |growth: &super::scenario::Growth| {
            let (begin, end) = (growth.begin_ms, growth.end_ms);
            let rate = self.unlimited.curves[growth.guest].plateau(begin, end);
            run.curves[growth.guest].reached_after(begin, end, rate, 900)
        };
        let times: Vec<_> = self.scenario.growths().iter().map(onset).collect();
        Percentiles { p50: percentile(&times, 50), p95: percentile(&times, 95) }
    }

    fn policy(&self, run: &Run) -> PolicyReport {
        PolicyReport {
            work_vs_unlimited: ratio(self.work(run), self.work(self.unlimited)),
            growth_work_vs_unlimited: ratio(self.growth_work(run), self.growth_work(self.unlimited)),
            stall_ms: run.stall_ms,
            oom_kills: run.oom_kills,
            violation_seconds: run.violation_seconds,
            onset_to_90pct_ms: self.onsets(run),
            bytes_moved: run.bytes_moved,
            cpus: run.cpus,
        }
    }

    pub(super) fn report(&self, name: Name, accelerator: &str, kernel: &str, runs: &[(String, Run)]) -> Report {
        Report {
            scenario: name.as_str(),
            accelerator: accelerator.to_owned(),
            kernel: kernel.to_owned(),
            working_set_change_bytes: self.scenario.need_change_bytes(),
            unlimited: Unlimited {
                onset_to_90pct_ms: self.onsets(self.unlimited),
                work_ops: self.work(self.unlimited),
                growth_work_ops: self.growth_work(self.unlimited),
                stall_ms: self.unlimited.stall_ms,
                oom_kills: self.unlimited.oom_kills,
                cpus: self.unlimited.cpus,
            },
            policies: runs.iter().map(|(policy, run)| (policy.clone(), self.policy(run))).collect(),
        }
    }
}

/// To four digits after the point, as far as they mean something.
#[expect(clippy::cast_precision_loss, reason = "operations are far below 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    (part as f64 / whole.max(1) as f64 * 10_000.0).round() / 10_000.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ms: Option<u64>| ms.map_or("never".to_owned(), |ms| ms.to_string());
        writeln!(
            f,
            "{:<14} {:>6} {:>6}  to 90 % (ms)  stall   over the  OOM    moved",
            self.scenario, "work", "growth"
        )?;
        writeln!(f, "{:<14} {:>6} {:>6}   p50    p95     ms    budget   kills  MiB", "", "", "")?;
        let Percentiles { p50, p95 } = self.unlimited.onset_to_90pct_ms;
        let Unlimited { stall_ms, oom_kills, .. } = self.unlimited;
        let (p50, p95) = (ms(p50), ms(p95));
        write!(
            f,
            "{:<14} {:>6} {:>6} {p50:>6} {p95:>6} {stall_ms:>6} {:>9} {oom_kills:>5}",
            "unlimited", "1", "1", ""
        )?;
        for (name, policy) in &self.policies {
            let (p50, p95) = (ms(policy.onset_to_90pct_ms.p50), ms(policy.onset_to_90pct_ms.p95));
            write!(
                f,
                "\n{name:<14} {:>6.3} {:>6.3} {p50:>6} {p95:>6} {:>6} {:>7.1} s {:>5} {:>7}",
                policy.work_vs_unlimited,
                policy.growth_work_vs_unlimited,
                policy.stall_ms,
                policy.violation_seconds,
                policy.oom_kills,
                policy.bytes_moved / MIB
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Progress;
    use serde_json::{Value, json};

    /// A spike in which `a` does `low` operations a second while small and nothing for `late_s` of each growth, then
    /// `high`; `b` does `low` throughout.
    fn run(low: u64, high: u64, late_s: u64) -> Run {
        let growths = [(30, 60), (90, 120)];
        let rate = |t_s| match growths.iter().find(|(begin, end)| (*begin..*end).contains(&t_s)) {
            Some((begin, _)) if t_s < begin + late_s => 0,
            Some(_) => high,
            None => low,
        };
        let curve = |rate: &dyn Fn(u64) -> u64| {
            let line = |t_s: u64| {
                let progress = Progress { t_ms: t_s * 1000, ops: (0..t_s).map(rate).sum(), ..Progress::default() };
                serde_json::to_string(&progress).unwrap() + "\n"
            };
            Curve::read(&(0..=130).map(line).collect::<String>())
        };
        let curves = vec![curve(&rate), curve(&|_| low)];
        Run { curves, stall_ms: 5, oom_kills: 1, violation_seconds: 0.5, bytes_moved: 7, cpus: 0.25 }
    }

    fn report(runs: &[(&str, Run)]) -> Value {
        let (scenario, unlimited) = (Name::Spike.scenario(), run(100, 100, 3));
        let runs: Vec<_> = runs.iter().map(|(name, run)| ((*name).to_owned(), run.clone())).collect();
        let report = Measure::new(&scenario, &unlimited).report(Name::Spike, "tcg", "6.12", &runs);
        assert_eq!(report.to_string().lines().count(), 3 + runs.len());
        serde_json::to_value(report).unwrap()
    }

    #[test]
    fn a_policy_is_held_against_the_unlimited_run() {
        let report = report(&[("same", run(100, 100, 3)), ("late", run(100, 100, 12)), ("slow", run(100, 50, 3))]);
        assert_eq!(report["unlimited"]["onset_to_90pct_ms"], json!({"p50": 2900, "p95": 2900}));
        let policy = |name: &str| &report["policies"][name];
        let figures =
            |name| (policy(name)["work_vs_unlimited"].clone(), policy(name)["growth_work_vs_unlimited"].clone());
        assert_eq!(figures("same"), (json!(1.0), json!(1.0)));
        // Of 26 000 - 600 operations 1800 are lost, all of them of the 5400 of the growths.
        assert_eq!(figures("late"), (json!(0.9291), json!(0.6667)));
        assert_eq!(figures("slow").1, json!(0.5));
        assert_eq!(policy("late")["onset_to_90pct_ms"], json!({"p50": 11_900, "p95": 11_900}));
        assert_eq!(policy("slow")["onset_to_90pct_ms"], json!({"p50": null, "p95": null}));
    }

    #[test]
    fn a_report_has_what_readers_of_it_rely_on() {
        let report = report(&[("static", run(100, 100, 3))]);
        assert_eq!(report["scenario"], "spike");
        let policy = report["policies"]["static"].as_object().unwrap();
        for key in ["work_vs_unlimited", "growth_work_vs_unlimited", "onset_to_90pct_ms"] {
            assert!(policy.contains_key(key), "{key}");
        }
        let counts = ["stall_ms", "oom_kills", "violation_seconds", "bytes_moved"].map(|key| policy[key].clone());
        assert_eq!(counts, [json!(5), json!(1), json!(0.5), json!(7)]);
    }
}
