//! `cargo lab compare`: the bridge by several planners, on the same real VMs and workloads in one go.
//!
//! In: a scenario and the policies. Out: a [`Report`], each policy's work held against a run in which every guest has all
//! its memory. docs/compare.md says what each figure means.
//!
//! ```text
//! for unlimited and then each policy:
//!   boot -> swap on -> the budget is split evenly -> bridge and agents -> [counting begins] loads -> curves
//! ```

mod curve;
mod report;
mod run;
mod scenario;

use std::collections::BTreeMap;

use anyhow::Result;
use vmtide_bridge::plan::Planner;

use report::Measure;
pub use report::Report;
pub use run::Timeline;
pub use scenario::Name;

use crate::{Kernel, Lab};

/// What is compared.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The scenario.
    pub scenario: Name,
    /// The policies, in the order in which they run.
    pub policies: Vec<Planner>,
    /// What the guests boot.
    pub kernel: Kernel,
    /// Whether to record the course of each run, which costs a little CPU.
    pub with_timelines: bool,
}

/// Runs everything; the second part has a timeline for each run, empty unless asked for.
///
/// # Errors
/// When the lab, a VM, the bridge or an agent does not come up, or a guest stops answering.
pub async fn run(lab: &Lab, settings: &Settings) -> Result<(Report, BTreeMap<String, Timeline>)> {
    let scenario = settings.scenario.scenario();
    let mut runs = Vec::new();
    let mut timelines = BTreeMap::new();
    let mut planners: Vec<Option<Planner>> = vec![None];
    for planner in &settings.policies {
        if !planners.contains(&Some(*planner)) {
            planners.push(Some(*planner));
        }
    }
    for (at, planner) in planners.iter().enumerate() {
        let name = planner.map_or("unlimited", Planner::name);
        let (number, of, seconds) = (at + 1, planners.len(), scenario.duration().as_secs());
        eprintln!("lab: {}, {number} of {of}: {name} ({seconds} s)", settings.scenario.as_str());
        let (run, timeline) = run::run(lab, settings.kernel, &scenario, *planner, settings.with_timelines).await?;
        runs.push((name.to_owned(), run));
        timelines.insert(name.to_owned(), timeline);
    }
    let (_, unlimited) = runs.remove(0);
    let measure = Measure::new(&scenario, &unlimited);
    let report = measure.report(settings.scenario, lab.accelerator(), &settings.kernel.to_string(), &runs);
    Ok((report, timelines))
}
