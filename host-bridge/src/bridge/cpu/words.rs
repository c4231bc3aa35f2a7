//! CPU decisions in sentences.

use crate::config::Millicpus;
use crate::plan::cpu::{CpuRule, CpuVerdict, CpuView};
use std::cmp::Ordering;

/// What a group was given.
pub(super) fn cpu_time((weight, quota): (u32, Option<u64>), shares: u32, before: Option<(u32, Option<u64>)>) -> String {
    let quota = match (quota, before.and_then(|(_, quota)| quota)) {
        (Some(quota), _) => format!("a quota of {} CPUs, room for the VMM's threads included", Millicpus(quota)),
        (None, Some(_)) => "no quota any more".to_owned(),
        (None, None) => "no quota".to_owned(),
    };
    let corrected = match weight.cmp(&shares) {
        Ordering::Equal => String::new(),
        Ordering::Less => format!(" in place of its {shares}, and following, as it gets more than they say"),
        Ordering::Greater => format!(" in place of its {shares}, and following, as it gets less than they say"),
    };
    format!("CPU: weight of {weight} shares{corrected}, {quota}")
}

/// Why vCPUs change.
pub(super) fn why(verdict: &CpuVerdict, online: Option<u32>, view: &CpuView) -> String {
    let need = view.demand.map_or(0, |demand| demand.need_millicpus);
    let (need, entitled) = (Millicpus(need), Millicpus(verdict.entitled_millicpus));
    let online = online.unwrap_or(0);
    match verdict.rule {
        CpuRule::GiveBack => format!("it needs {need} CPUs of {online}, and the host is short"),
        CpuRule::Trim => {
            format!("it is entitled to {entitled} CPUs and needs {need}; more vCPUs would wait for each other")
        }
        CpuRule::Grow => format!("it needs {need} CPUs and runs on {online}"),
        CpuRule::Plug => format!("it needs {need} CPUs, and all {online} are online"),
        CpuRule::Unplug => format!("it needs {need} CPUs, and one was offline for long"),
        _ => standing(view, Some(verdict), false),
    }
}

/// Where a VM stands.
pub(super) fn standing(view: &CpuView, verdict: Option<&CpuVerdict>, is_contended: bool) -> String {
    let Some(verdict) = verdict else { return "Its CPU time was not planned yet.".to_owned() };
    let need = match (view.demand, view.used_millicpus) {
        (Some(demand), _) => format!("needs {} CPUs", Millicpus(demand.need_millicpus)),
        (None, Some(used)) => format!("uses {} CPUs, as its host sees it", Millicpus(used)),
        (None, None) => "has told nothing of its need for CPU".to_owned(),
    };
    let entitled = Millicpus(verdict.entitled_millicpus);
    let part =
        if is_contended { format!("; on a host that is short it is entitled to {entitled}") } else { String::new() };
    let rule = match verdict.rule {
        CpuRule::Satisfied => "it has what it wants".to_owned(),
        CpuRule::NotYet => "without a fresh report only its weight and its maximum are set".to_owned(),
        CpuRule::ShortByShares { short_millicpus } => {
            format!("others' shares come first: {} short", Millicpus(short_millicpus))
        }
        CpuRule::Held => "it got more than its part while another lacked: held by a quota".to_owned(),
        CpuRule::GiveBack => "vCPUs that it does not use go back".to_owned(),
        CpuRule::Trim => "it is left as many vCPUs as it can run, and one more".to_owned(),
        CpuRule::Grow => "more of its vCPUs come online".to_owned(),
        CpuRule::Plug => "it gets another vCPU".to_owned(),
        CpuRule::Unplug => "a vCPU that it does not use goes".to_owned(),
        CpuRule::DirectionBlocked { .. } => "its vCPUs changed the other way too recently".to_owned(),
        CpuRule::NotNow => "its vCPUs cannot be changed now".to_owned(),
    };
    format!("It {need}{part}; {rule}.")
}
