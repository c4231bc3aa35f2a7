//! The last decisions and events, in memory: old entries go when new ones come, so that nothing here grows with time.

use crate::plan::actuator::Split;
use crate::plan::asking::Asked;
use crate::plan::{Demand, IdleTax, Rule, Step};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Decisions kept for each VM.
pub const DECISIONS_KEPT: usize = 64;
/// Events kept for each VM, and for the host.
pub const EVENTS_KEPT: usize = 128;

/// One change of a VM's target: what was seen, which rule, what was asked, what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Counts all decisions of this run of the bridge, from 1.
    pub id: u64,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Which VM.
    pub vm: String,
    /// What it had.
    pub allocation_bytes: u64,
    /// What it said it wants, and how fresh that was.
    pub demand: Demand,
    /// Need plus headroom, within the limits.
    pub wanted_bytes: u64,
    /// What the shares of all left it.
    pub entitled_bytes: u64,
    /// The rule that decided.
    #[serde(flatten)]
    pub rule: Rule,
    /// What its idle bytes were taxed; `None` where they were not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_tax: Option<IdleTax>,
    /// What was asked of the hypervisor.
    pub step: Step,
    /// Whether the guest agreed to a shrink; `None` where that was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// Which actuators move how much of it; `None` before the hypervisor's driver has said so.
    #[serde(default)]
    pub split: Option<Split>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The hypervisor has not confirmed it yet.
    Moving,
    /// The hypervisor confirmed the target.
    Confirmed {
        /// How long that took.
        after_ms: u64,
    },
    /// A later decision took its place.
    Superseded {
        /// How far it had come.
        reached_bytes: u64,
    },
    /// The hypervisor would not.
    Refused {
        /// Its words.
        message: String,
    },
    /// The VM or its hypervisor went away.
    Lost {
        /// How far it had come.
        reached_bytes: u64,
    },
}

/// Something that happened, for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts all events of this run of the bridge, from 1.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Which VM, unless it is about the host.
    pub vm: Option<String>,
    /// What happened, in a sentence.
    pub message: String,
}

/// The last decisions of one VM.
#[derive(Debug, Default)]
pub struct Decisions(VecDeque<Decision>);

impl Decisions {
    /// Adds the newest; the oldest goes when there are [`DECISIONS_KEPT`].
    pub fn push(&mut self, decision: Decision) {
        if self.0.len() == DECISIONS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(decision);
    }

    /// Says what came of the newest decision, if it is still under way, and returns it then.
    pub fn settle(&mut self, outcome: Outcome) -> Option<&Decision> {
        let newest = self.0.back_mut().filter(|newest| newest.outcome == Outcome::Moving)?;
        newest.outcome = outcome;
        Some(newest)
    }

    /// Takes in how the newest decision is carried out, if that is the one.
    pub fn reached_by(&mut self, split: &Split) {
        if let Some(newest) = self.0.back_mut().filter(|newest| newest.step.to_bytes == split.target_bytes) {
            newest.split = Some(*split);
        }
    }

    /// The last `count`, oldest first.
    pub fn last(&self, count: usize) -> Vec<Decision> {
        self.0.iter().skip(self.0.len().saturating_sub(count)).cloned().collect()
    }
}

/// The last events, of each VM and of the host apart: a VM that causes many pushes out its own only.
#[derive(Debug, Default)]
pub struct Events {
    kept: BTreeMap<Option<String>, VecDeque<Event>>,
    count: u64,
}

impl Events {
    /// Adds the newest; the oldest of the same VM goes when there are [`EVENTS_KEPT`].
    pub fn push(&mut self, at_unix_ms: u64, vm: Option<&str>, message: String) {
        self.count += 1;
        let vm = vm.map(str::to_owned);
        let kept = self.kept.entry(vm.clone()).or_default();
        if kept.len() == EVENTS_KEPT {
            kept.pop_front();
        }
        kept.push_back(Event { sequence: self.count, at_unix_ms, vm, message });
    }

    /// Those with a sequence greater than `sequence`, oldest first.
    pub fn after(&self, sequence: u64) -> Vec<Event> {
        sorted(self.kept.values().flatten().filter(|event| event.sequence > sequence))
    }

    /// The last `count` of a VM and the last `count` of the host, which is every VM's concern, oldest first.
    pub fn about(&self, vm: &str, count: usize) -> Vec<Event> {
        let of = |key: Option<&str>| {
            let kept = self.kept.get(&key.map(str::to_owned));
            kept.into_iter().flat_map(move |kept| kept.iter().skip(kept.len().saturating_sub(count)))
        };
        sorted(of(Some(vm)).chain(of(None)))
    }
}

fn sorted<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<Event> {
    let mut events: Vec<Event> = events.cloned().collect();
    events.sort_unstable_by_key(|event| event.sequence);
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noisy_vm_pushes_out_its_own_events_only() {
        let mut events = Events::default();
        events.push(0, Some("quiet"), "first".to_owned());
        for _ in 0..EVENTS_KEPT + 10 {
            events.push(0, Some("noisy"), "again".to_owned());
        }
        let kept = events.after(0);
        assert_eq!(kept.len(), 1 + EVENTS_KEPT);
        assert_eq!((kept[0].sequence, kept[1].sequence), (1, 12));
        assert_eq!(events.after(12).len(), EVENTS_KEPT - 1);
    }

    #[test]
    fn what_is_about_a_vm_is_its_own_and_the_hosts_and_no_other_vms() {
        let mut events = Events::default();
        for (vm, message) in [
            (None, "host 1"),
            (Some("a"), "a 1"),
            (Some("b"), "b 1"),
            (None, "host 2"),
            (Some("a"), "a 2"),
            (Some("a"), "a 3"),
        ] {
            events.push(0, vm, message.to_owned());
        }
        let about = |vm, count| events.about(vm, count).into_iter().map(|event| event.message).collect::<Vec<_>>();
        assert_eq!(about("a", 2), ["host 1", "host 2", "a 2", "a 3"]);
        assert_eq!(about("b", 1), ["b 1", "host 2"]);
        assert_eq!(about("a", 0), [""; 0]);
    }
}
