//! The recorded inputs again: the planner of today must answer what the one of then did, to the byte.

use crate::plan::{Plan, Planning};
use crate::record::{Header, Tick};
use serde::Serialize;

/// How many differences are kept.
const SHOWN: usize = 8;

/// Whether the planner is still the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Plans that were made again.
    pub plans: u64,
    /// Of these, plans that came out otherwise.
    pub differing_plans: u64,
    /// The first of the differences.
    pub differences: Vec<Difference>,
}

/// Something that the planner of today says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// When, milliseconds since 1970.
    pub unix_ms: u64,
    /// About which VM; `None`: the host.
    pub vm: Option<String>,
    /// What was recorded, as JSON.
    pub recorded: String,
    /// What it says now, as JSON.
    pub now: String,
}

#[derive(Default)]
pub(super) struct Verify {
    found: Verification,
    /// When the run began, and its planner.
    run: Option<(u64, Planning)>,
}

impl Verify {
    pub fn tick(&mut self, header: &Header, tick: &Tick) {
        let run = self.run.take().filter(|(run, _)| *run == header.run_unix_ms);
        let (_, planner) = self.run.insert(run.unwrap_or_else(|| (header.run_unix_ms, header.planner.start())));
        let now = planner.plan(tick.ms, &tick.host, &tick.views, &header.policy);
        self.found.plans += 1;
        if now == tick.plan {
            return;
        }
        self.found.differing_plans += 1;
        let (was_host, is_host) = (without_verdicts(&tick.plan), without_verdicts(&now));
        if was_host != is_host {
            self.differ(tick.unix_ms, None, &was_host, &is_host);
        }
        for ((number, was), is) in tick.numbers.iter().zip(&tick.plan.verdicts).zip(&now.verdicts) {
            if was != is {
                self.differ(tick.unix_ms, header.vms.get(*number).cloned(), was, is);
            }
        }
    }

    fn differ(&mut self, unix_ms: u64, vm: Option<String>, was: &impl Serialize, is: &impl Serialize) {
        if self.found.differences.len() < SHOWN {
            let (recorded, now) = (json(was), json(is));
            self.found.differences.push(Difference { unix_ms, vm, recorded, now });
        }
    }

    pub fn close(self) -> Verification {
        self.found
    }
}

fn without_verdicts(plan: &Plan) -> Plan {
    Plan { verdicts: Vec::new(), ..plan.clone() }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string())
}
