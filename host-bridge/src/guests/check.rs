//! What a guest claims, held to what is possible. Pure.
//!
//! Every number of the wire comes in as an `Amount` and leaves as a plain integer within its bound; each one
//! that had to be moved is counted, so that an operator sees a guest that lies or has a broken driver. A floor
//! above the need contradicts itself: the need is what a guest can ask for, so it bounds the floor.

use super::text::printable;
use crate::performance::{Each, Totals};
use crate::plan;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use vmtide_protocol::agent::ReplyStatus;
use vmtide_protocol::demand::{self as wire, CpuReason, IoReason, MemoryReason, Urgency, WorkingSetSource};
use vmtide_protocol::stalls::{StallTotals, Stalls};
use vmtide_protocol::{Amount, agent};

/// No VM has a pebibyte, moves one in a second, or counts anything that far.
const MOST: u64 = 1 << 50;
/// A thousand virtual CPUs are more than any guest has.
const MOST_MILLICPUS: u64 = 1_024_000;
const MOST_CPUS: u64 = 1_024;
const MOST_TASKS: u64 = 1 << 32;
const PERMILLE: u64 = 1_000;
/// Nobody waits longer than this for a grant and still means it.
const MOST_WAITING_MS: u64 = 600_000;
/// What was sampled a day ago says nothing.
const MOST_AGE_MS: u64 = 86_400_000;
/// A sample that takes a CPU for an hour is none.
const MOST_COST_US: u64 = 3_600_000_000;

/// Numbers that a guest sent and that cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clamps {
    /// How many were moved to their bound.
    pub count: u64,
    /// The field of the last one.
    pub last_field: Option<Cow<'static, str>>,
}

impl Clamps {
    /// Both together.
    #[must_use]
    pub fn plus(&self, later: &Self) -> Self {
        Self {
            count: self.count + later.count,
            last_field: later.last_field.clone().or_else(|| self.last_field.clone()),
        }
    }

    fn hold(&mut self, field: &'static str, amount: Amount, most: u64) -> u64 {
        let (value, clamped) = amount.within(most);
        if clamped {
            self.count += 1;
            self.last_field = Some(field.into());
        }
        value
    }
}

/// A guest's demand for every resource; `None` is the guest's "not yet".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// Memory.
    pub memory: Option<Memory>,
    /// CPU.
    pub cpu: Option<Cpu>,
    /// Block I/O.
    pub io: Option<Io>,
    /// How long its tasks waited so far; `None` where its kernel or its agent does not tell.
    #[serde(default)]
    pub stalls: Each<Option<Totals>>,
}

/// Demand for memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// What the planner goes by.
    #[serde(flatten)]
    pub demand: plan::MemoryDemand,
    /// What the need rests on.
    pub reason: MemoryReason,
    /// How long ago, when it was sent, the stall began or was predicted; 0 when there is none.
    pub waiting_ms: u64,
    /// What was measured.
    pub signals: MemorySignals,
    /// What was used lately; `None` while the guest does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_set: Option<WorkingSet>,
}

impl Memory {
    /// What of the guest's memory lies idle; `None` where its working set is not known by age: counters, and sources of
    /// newer agents that nobody here knows, tell no ages.
    pub fn idle(&self) -> Option<plan::IdleAges> {
        let knows_ages = |set: &&WorkingSet| matches!(set.source, WorkingSetSource::Mglru | WorkingSetSource::Damon);
        let set = self.working_set.as_ref().filter(knows_ages)?;
        let signals = &self.signals;
        Some(plan::IdleAges {
            in_use_bytes: signals.total_bytes.saturating_sub(signals.balloon_bytes).saturating_sub(signals.free_bytes),
            over_10_s_bytes: set.total_bytes - set.used_10_s_bytes,
            over_60_s_bytes: set.total_bytes - set.used_60_s_bytes,
            over_300_s_bytes: set.total_bytes - set.used_300_s_bytes,
        })
    }
}

/// How much of the anonymous and file memory was used lately. Each amount holds those before it, and none is more
/// than the VM can have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingSet {
    /// Where it comes from.
    pub source: WorkingSetSource,
    /// Used within the last 10 seconds.
    pub used_10_s_bytes: u64,
    /// Used within the last minute.
    pub used_60_s_bytes: u64,
    /// Used within the last five minutes, or not known to be unused for so long.
    pub used_300_s_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// How old it was when it was sent.
    pub age_ms: u64,
    /// CPU time that it took the guest to find out.
    pub cost_us: u64,
}

/// Demand for CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// What the guest would use if it never waited.
    pub need_millicpus: u64,
    /// What it cannot do without; at most the need.
    pub floor_millicpus: u64,
    /// How much the need matters.
    pub urgency: Urgency,
    /// What the need rests on.
    pub reason: CpuReason,
    /// What was measured.
    pub signals: CpuSignals,
}

/// Demand for block I/O.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Io {
    /// Throughput without waiting, bytes per second.
    pub need_bytes_per_s: u64,
    /// Operations without waiting, per second.
    pub need_ops_per_s: u64,
    /// Throughput that it cannot do without; at most the need.
    pub floor_bytes_per_s: u64,
    /// How much the need matters.
    pub urgency: Urgency,
    /// What the need rests on.
    pub reason: IoReason,
    /// What was measured.
    pub signals: IoSignals,
}

/// Defines the plain twin of a struct of wire signals: each field and its bound, once.
macro_rules! signals {
    ($name:ident, $(#[$doc:meta])* { $($field:ident: $most:expr),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name {
            $(#[doc = concat!("As [`wire::", stringify!($name), "::", stringify!($field), "`].")] pub $field: u64,)+
        }

        impl $name {
            fn check(wire: &wire::$name, clamps: &mut Clamps) -> Self {
                Self { $($field: clamps.hold(stringify!($field), wire.$field, $most),)+ }
            }
        }
    };
}

signals!(MemorySignals, /// The measurements behind a demand for memory.
{
    total_bytes: MOST,
    available_bytes: MOST,
    free_bytes: MOST,
    anon_bytes: MOST,
    active_file_bytes: MOST,
    inactive_file_bytes: MOST,
    balloon_bytes: MOST,
    swap_used_bytes: MOST,
    refault_bytes_per_s: MOST,
    swap_in_bytes_per_s: MOST,
    fall_bytes_per_s: MOST,
    stall_some_permille: PERMILLE,
    stall_full_permille: PERMILLE,
    oom_kills: MOST,
});

signals!(CpuSignals, /// The measurements behind a demand for CPU.
{
    online_cpus: MOST_CPUS,
    used_millicpus: MOST_MILLICPUS,
    steal_millicpus: MOST_MILLICPUS,
    waiting_millicpus: MOST_MILLICPUS,
    imbalance_permille: PERMILLE,
    running_tasks: MOST_TASKS,
    stall_some_permille: PERMILLE,
});

signals!(IoSignals, /// The measurements behind a demand for block I/O.
{
    read_bytes_per_s: MOST,
    write_bytes_per_s: MOST,
    ops_per_s: MOST,
    in_flight: MOST,
    stall_some_permille: PERMILLE,
    stall_full_permille: PERMILLE,
});

/// The demand of a VM of at most `maximum_bytes`, and what in it could not be.
pub fn demand(wire: &wire::Demand, maximum_bytes: u64) -> (Demand, Clamps) {
    let mut clamps = Clamps::default();
    let checked = Demand {
        memory: wire.memory.known().map(|wire| memory(wire, maximum_bytes.min(MOST), &mut clamps)),
        cpu: wire.cpu.known().map(|wire| cpu(wire, &mut clamps)),
        io: wire.io.known().map(|wire| io(wire, &mut clamps)),
        stalls: wire.stalls.as_ref().map(|wire| stalls(wire, &mut clamps)).unwrap_or_default(),
    };
    (checked, clamps)
}

fn memory(wire: &wire::MemoryDemand, most: u64, clamps: &mut Clamps) -> Memory {
    let need_bytes = clamps.hold("need_bytes", wire.need_bytes, most);
    let floor_bytes = clamps.hold("floor_bytes", wire.floor_bytes, need_bytes);
    Memory {
        demand: plan::MemoryDemand { need_bytes, floor_bytes, urgency: wire.urgency },
        reason: wire.reason,
        waiting_ms: clamps.hold("waiting_ms", wire.waiting_ms, MOST_WAITING_MS),
        signals: MemorySignals::check(&wire.signals, clamps),
        working_set: wire.signals.working_set.as_ref().map(|wire| working_set(wire, most, clamps)),
    }
}

fn working_set(wire: &wire::WorkingSet, most: u64, clamps: &mut Clamps) -> WorkingSet {
    let total_bytes = clamps.hold("working_set.total_bytes", wire.total_bytes, most);
    let used_300_s_bytes = clamps.hold("working_set.used_300_s_bytes", wire.used_300_s_bytes, total_bytes);
    let used_60_s_bytes = clamps.hold("working_set.used_60_s_bytes", wire.used_60_s_bytes, used_300_s_bytes);
    WorkingSet {
        source: wire.source,
        used_10_s_bytes: clamps.hold("working_set.used_10_s_bytes", wire.used_10_s_bytes, used_60_s_bytes),
        used_60_s_bytes,
        used_300_s_bytes,
        total_bytes,
        age_ms: clamps.hold("working_set.age_ms", wire.age_ms, MOST_AGE_MS),
        cost_us: clamps.hold("working_set.cost_us", wire.cost_us, MOST_COST_US),
    }
}

fn cpu(wire: &wire::CpuDemand, clamps: &mut Clamps) -> Cpu {
    let need_millicpus = clamps.hold("need_millicpus", wire.need_millicpus, MOST_MILLICPUS);
    Cpu {
        need_millicpus,
        floor_millicpus: clamps.hold("floor_millicpus", wire.floor_millicpus, need_millicpus),
        urgency: wire.urgency,
        reason: wire.reason,
        signals: CpuSignals::check(&wire.signals, clamps),
    }
}

fn io(wire: &wire::IoDemand, clamps: &mut Clamps) -> Io {
    let need_bytes_per_s = clamps.hold("need_bytes_per_s", wire.need_bytes_per_s, MOST);
    Io {
        need_bytes_per_s,
        need_ops_per_s: clamps.hold("need_ops_per_s", wire.need_ops_per_s, MOST),
        floor_bytes_per_s: clamps.hold("floor_bytes_per_s", wire.floor_bytes_per_s, need_bytes_per_s),
        urgency: wire.urgency,
        reason: wire.reason,
        signals: IoSignals::check(&wire.signals, clamps),
    }
}

fn stalls(wire: &Stalls, clamps: &mut Clamps) -> Each<Option<Totals>> {
    let mut totals = |wire: &StallTotals| Totals {
        at_ms: clamps.hold("stalls.at_ms", wire.at_ms, MOST),
        some_us: clamps.hold("stalls.some_us", wire.some_us, MOST),
        full_us: clamps.hold("stalls.full_us", wire.full_us, MOST),
        ..Totals::default()
    };
    let (memory, io) = (wire.memory.as_ref().map(&mut totals), wire.io.as_ref().map(&mut totals));
    let cpu = wire.cpu.as_ref().map(|wire| Totals {
        at_ms: clamps.hold("stalls.at_ms", wire.at_ms, MOST),
        some_us: clamps.hold("stalls.some_us", wire.some_us, MOST),
        used_us: clamps.hold("stalls.used_us", wire.used_us, MOST),
        steal_us: clamps.hold("stalls.steal_us", wire.steal_us, MOST),
        ..Totals::default()
    });
    Each { memory, cpu, io }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id, as the guest says: it may name none that was sent.
    pub id: u64,
    /// How it ended.
    pub status: ReplyStatus,
    /// How much was done, as the guest says; the hypervisor confirms it or not.
    pub amount: u64,
    /// Why it is not all of it, printable.
    pub detail: Option<String>,
}

/// The reply, and what in it could not be.
pub(super) fn reply(wire: &agent::Reply) -> (Reply, Clamps) {
    let mut clamps = Clamps::default();
    let amount = clamps.hold("amount", wire.amount, MOST);
    let detail = wire.detail.as_deref().map(printable);
    (Reply { id: wire.id, status: wire.status, amount, detail }, clamps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vmtide_protocol::{AgentMessage, decode};

    const MAXIMUM: u64 = 1 << 30;

    fn checked(memory: &str) -> (Memory, Clamps) {
        let line = format!(
            r#"{{"kind":"report","sequence":1,"demand":{{"memory":{{"known":{memory}}},"cpu":"not_yet","io":"not_yet"}}}}"#
        );
        let Some(AgentMessage::Report(report)) = decode(line.as_bytes()).unwrap().message else { panic!("{line}") };
        let (demand, clamps) = demand(&report.demand, MAXIMUM);
        assert_eq!((demand.cpu, demand.io), (None, None));
        (demand.memory.unwrap(), clamps)
    }

    fn claim(need: &str, floor: &str) -> (u64, u64, Clamps) {
        let (memory, clamps) = checked(&format!(
            r#"{{"need_bytes":{need},"floor_bytes":{floor},"urgency":"normal","reason":"steady","waiting_ms":0,"signals":{{}}}}"#
        ));
        (memory.demand.need_bytes, memory.demand.floor_bytes, clamps)
    }

    fn clamped(count: u64, last_field: &'static str) -> Clamps {
        Clamps { count, last_field: Some(last_field.into()) }
    }

    #[test]
    fn what_is_possible_passes() {
        assert_eq!(claim("500", "100"), (500, 100, Clamps::default()));
        assert_eq!(claim("1073741824", "1073741824"), (MAXIMUM, MAXIMUM, Clamps::default()));
    }

    #[test]
    fn what_is_not_is_clamped_and_counted() {
        assert_eq!(claim("1073741825", "0"), (MAXIMUM, 0, clamped(1, "need_bytes")));
        assert_eq!(claim("18446744073709551615", "0"), (MAXIMUM, 0, clamped(1, "need_bytes")));
        assert_eq!(claim("5", "-1"), (5, 0, clamped(1, "floor_bytes")));
        assert_eq!(claim("-5", "-1"), (0, 0, clamped(2, "floor_bytes")));
        assert_eq!(claim("5", "6"), (5, 5, clamped(1, "floor_bytes")));
        assert_eq!(claim("5", "18446744073709551615"), (5, 5, clamped(1, "floor_bytes")));
    }

    #[test]
    fn signals_are_held_to_their_own_bounds() {
        let (memory, clamps) = checked(
            r#"{"need_bytes":1,"floor_bytes":1,"urgency":"critical","reason":"brand_new","waiting_ms":99999999,
                "signals":{"free_bytes":18446744073709551615,"stall_full_permille":1001,"oom_kills":-1}}"#
                .replace('\n', "")
                .as_str(),
        );
        assert_eq!((memory.waiting_ms, memory.reason), (MOST_WAITING_MS, MemoryReason::Other));
        assert_eq!((memory.signals.free_bytes, memory.signals.stall_full_permille), (MOST, 1000));
        assert_eq!(clamps, clamped(4, "oom_kills"));
    }

    #[test]
    fn a_working_set_is_no_larger_than_the_vm_and_its_parts_no_larger_than_the_whole() {
        let with = |working_set: &str| {
            checked(&format!(
                r#"{{"need_bytes":1,"floor_bytes":1,"urgency":"idle","reason":"idle","waiting_ms":0,"signals":{{{working_set}}}}}"#
            ))
        };
        assert_eq!(with("").0.working_set, None);
        let (memory, clamps) = with(
            r#""working_set":{"source":"tea_leaves","used_10_s_bytes":-1,"used_60_s_bytes":9000,"used_300_s_bytes":800,
                "total_bytes":18446744073709551615,"age_ms":5,"cost_us":-1}"#
                .replace('\n', "")
                .as_str(),
        );
        let expected = WorkingSet {
            source: WorkingSetSource::Other,
            used_10_s_bytes: 0,
            used_60_s_bytes: 800,
            used_300_s_bytes: 800,
            total_bytes: MAXIMUM,
            age_ms: 5,
            cost_us: 0,
        };
        assert_eq!(memory.working_set, Some(expected));
        assert_eq!(clamps, clamped(4, "working_set.cost_us"));
    }

    #[test]
    fn only_a_source_that_knows_ages_tells_what_is_idle() {
        let idle = |source: &str| {
            let (memory, _) = checked(&format!(
                r#"{{"need_bytes":1,"floor_bytes":1,"urgency":"idle","reason":"idle","waiting_ms":0,"signals":{{{}"working_set":{{"source":"{source}",{}}}}}}}"#,
                r#""total_bytes":900,"balloon_bytes":100,"free_bytes":50,"#,
                r#""used_10_s_bytes":100,"used_60_s_bytes":250,"used_300_s_bytes":300,"total_bytes":600"#,
            ));
            memory.idle()
        };
        let expected =
            plan::IdleAges { in_use_bytes: 750, over_10_s_bytes: 500, over_60_s_bytes: 350, over_300_s_bytes: 300 };
        assert_eq!(["mglru", "damon"].map(idle), [Some(expected); 2]);
        assert_eq!(["counters", "tea_leaves"].map(idle), [None; 2]);
    }

    proptest! {
        #[test]
        fn whatever_is_claimed_stays_within_the_limits(need: i128, floor: i128) {
            let (need, floor, _) = claim(&need.to_string(), &floor.to_string());
            prop_assert!(floor <= need && need <= MAXIMUM);
        }
    }
}
