//! Changes of CPU time and of the disks: what was decided, by which rule, and what came of it. Bounded like decisions.

use super::DECISIONS_KEPT;
use crate::config::{Millicpus, Rate};
use crate::performance::Resource;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;

/// What was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lever {
    /// The weight of its cgroup for CPU time, shares.
    CpuWeight,
    /// The most CPU time that its cgroup may use, thousandths of a CPU; 0: no quota.
    CpuQuota,
    /// vCPUs that its guest runs on.
    CpusOnline,
    /// vCPUs that it has.
    Vcpus,
    /// The weight of its cgroup for block I/O, shares; 0: as it was before vmtide.
    IoWeight,
    /// The most that its disks may do, bytes per second; 0: nothing holds them.
    IoRate,
}

impl Lever {
    /// What it moves.
    pub fn resource(self) -> Resource {
        match self {
            Self::CpuWeight | Self::CpuQuota | Self::CpusOnline | Self::Vcpus => Resource::Cpu,
            Self::IoWeight | Self::IoRate => Resource::Io,
        }
    }

    /// The unit of its amounts.
    pub fn unit(self) -> &'static str {
        match self {
            Self::CpuWeight | Self::IoWeight => "shares",
            Self::CpuQuota => "millicpus",
            Self::CpusOnline => "vcpus_online",
            Self::Vcpus => "vcpus",
            Self::IoRate => "bytes_per_s",
        }
    }

    /// Its name for a person.
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuWeight => "CPU weight",
            Self::CpuQuota => "CPU quota",
            Self::CpusOnline => "online vCPUs",
            Self::Vcpus => "vCPUs",
            Self::IoWeight => "weight of the disks",
            Self::IoRate => "rate of the disks",
        }
    }

    fn amount(self, amount: u64) -> String {
        match self {
            Self::CpuQuota | Self::IoWeight | Self::IoRate if amount == 0 => "none".to_owned(),
            Self::CpuQuota => Millicpus(amount).to_string(),
            Self::IoRate => Rate(amount).to_string(),
            _ => amount.to_string(),
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeverChange {
    /// Counts all of them in this run of the bridge, from 1.
    pub id: u64,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Of which VM.
    pub vm: String,
    /// What was changed.
    pub lever: Lever,
    /// What it was, in the lever's unit.
    pub from: u64,
    /// What was asked for.
    pub to: u64,
    /// The rule that decided, as the API names it.
    pub rule: String,
    /// What was seen, in a sentence with figures.
    pub reason: String,
    /// What came of it.
    pub outcome: LeverOutcome,
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeverOutcome {
    /// Nobody has answered yet.
    Asked,
    /// It was done.
    Done {
        /// How long that took.
        after_ms: u64,
    },
    /// A later change took its place before anybody answered.
    Superseded,
    /// It was not done.
    Refused {
        /// Why.
        message: String,
    },
    /// Whoever was asked went away.
    Lost,
}

/// What is recorded of changes, in the order of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeverEntry {
    /// One was decided.
    Decided(LeverChange),
    /// An earlier one ended.
    Ended {
        /// Its number.
        id: u64,
        /// What came of it.
        outcome: LeverOutcome,
    },
}

impl LeverChange {
    /// What was changed, in a few words.
    pub fn title(&self) -> String {
        let Self { lever, from, to, .. } = self;
        format!("{} {} to {}", lever.name(), lever.amount(*from), lever.amount(*to))
    }

    /// Why, by which rule, and what came of it.
    pub fn sentence(&self) -> String {
        let came = match &self.outcome {
            LeverOutcome::Asked => "Not answered yet.".to_owned(),
            LeverOutcome::Done { after_ms } => format!("Done after {after_ms} ms."),
            LeverOutcome::Superseded => "A later change took its place.".to_owned(),
            LeverOutcome::Refused { message } => format!("Not done: {message}."),
            LeverOutcome::Lost => "Whoever was asked went away.".to_owned(),
        };
        format!("{} (rule: {}). {came}", self.reason, self.rule)
    }
}

/// A rule as JSON names it.
pub(crate) fn rule_name(rule: &impl Serialize) -> String {
    match serde_json::to_value(rule) {
        Ok(Value::String(name)) => name,
        Ok(Value::Object(rule)) => rule.get("rule").and_then(Value::as_str).unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}

/// The last changes of one VM.
#[derive(Debug, Default)]
pub struct LeverChanges(VecDeque<LeverChange>);

impl LeverChanges {
    /// Adds the newest; the oldest goes when there are [`DECISIONS_KEPT`]. Returns the one whose place it takes.
    pub fn push(&mut self, change: LeverChange) -> Option<u64> {
        let replaced = self.settle(change.lever, LeverOutcome::Superseded);
        if self.0.len() == DECISIONS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(change);
        replaced
    }

    /// The newest change of this lever that nobody has answered yet.
    pub fn open(&self, lever: Lever) -> Option<&LeverChange> {
        self.0.iter().rev().find(|change| change.lever == lever).filter(|last| last.outcome == LeverOutcome::Asked)
    }

    /// Says what came of that one, and returns its number; `None` where there is none.
    pub fn settle(&mut self, lever: Lever, outcome: LeverOutcome) -> Option<u64> {
        let last = self.0.iter_mut().rev().find(|change| change.lever == lever);
        let last = last.filter(|last| last.outcome == LeverOutcome::Asked)?;
        last.outcome = outcome;
        Some(last.id)
    }

    /// The last `count`, oldest first.
    pub fn last(&self, count: usize) -> Vec<LeverChange> {
        self.0.iter().skip(self.0.len().saturating_sub(count)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cpu::CpuRule;
    use crate::plan::storage::IoRule;

    fn change(id: u64, lever: Lever) -> LeverChange {
        let (rule, reason) = (rule_name(&CpuRule::Trim), "it is entitled to 1".to_owned());
        LeverChange {
            id,
            at_unix_ms: 0,
            vm: "a".into(),
            lever,
            from: 4,
            to: 2,
            rule,
            reason,
            outcome: LeverOutcome::Asked,
        }
    }

    #[test]
    fn rules_have_the_names_that_the_api_gives_them() {
        assert_eq!(rule_name(&CpuRule::ShortByShares { short_millicpus: 1 }), "short_by_shares");
        assert_eq!(rule_name(&IoRule::OverShare), "over_share");
    }

    #[test]
    fn the_newest_of_a_lever_is_what_an_answer_is_about_and_few_are_kept() {
        let mut kept = LeverChanges::default();
        assert_eq!(kept.push(change(1, Lever::CpusOnline)), None);
        assert_eq!(kept.push(change(2, Lever::IoRate)), None);
        assert_eq!(kept.push(change(3, Lever::CpusOnline)), Some(1));
        assert_eq!(kept.settle(Lever::CpusOnline, LeverOutcome::Done { after_ms: 7 }), Some(3));
        assert_eq!(kept.settle(Lever::CpusOnline, LeverOutcome::Lost), None, "it has ended");
        let told: Vec<_> = kept.last(2).into_iter().map(|change| (change.id, change.outcome)).collect();
        assert_eq!(told, [(2, LeverOutcome::Asked), (3, LeverOutcome::Done { after_ms: 7 })]);
        for id in 4..200 {
            kept.push(change(id, Lever::IoRate));
        }
        assert_eq!((kept.last(1000).len(), kept.open(Lever::IoRate).map(|open| open.id)), (DECISIONS_KEPT, Some(199)));
    }

    #[test]
    fn a_person_reads_what_why_and_what_came_of_it() {
        let quota = LeverChange { from: 0, to: 1750, ..change(1, Lever::CpuQuota) };
        assert_eq!(quota.title(), "CPU quota none to 1.75");
        let rate = LeverChange {
            from: 8 << 20,
            to: 0,
            outcome: LeverOutcome::Done { after_ms: 3 },
            ..change(1, Lever::IoRate)
        };
        assert_eq!(rate.title(), "rate of the disks 8 MiB/s to none");
        assert_eq!(rate.sentence(), "it is entitled to 1 (rule: trim). Done after 3 ms.");
    }
}
