//! The VMs.

use super::text::Number;
use super::{Metric, Samples, each, indices, one, one_of};
use crate::api::types::{Vm, VmState};
use crate::plan::cpu::CpuVerdict;
use crate::plan::storage::{IoVerdict, Throttle};
use crate::plan::{Demand, MemoryDemand, Urgency, Verdict};

const STATES: [(VmState, &str); 5] = [
    (VmState::Starting, "starting"),
    (VmState::Running, "running"),
    (VmState::Stopped, "stopped"),
    (VmState::Unreachable, "unreachable"),
    (VmState::Off, "off"),
];

const URGENCIES: [(Urgency, &str); 4] = [
    (Urgency::Idle, "idle"),
    (Urgency::Normal, "normal"),
    (Urgency::Pressed, "pressed"),
    (Urgency::Critical, "critical"),
];

pub(super) const METRICS: &[Metric<Vm>] = &[
    Metric::gauge("vmtide_vm_state", "", "How its hypervisor stands: 1 for the state that it is in.", |vm: &Vm| {
        one_of(&STATES, Some(&vm.state))
    })
    .by("state"),
    Metric::gauge("vmtide_vm_paused", "", "Whether an operator paused its planning.", |vm| {
        one(Number::flag(vm.paused))
    }),
    // Memory.
    Metric::gauge("vmtide_vm_allocation_bytes", "bytes", "Memory that it has; 0 where there is no VM.", |vm| {
        one(Number::whole(vm.allocation_bytes))
    }),
    Metric::gauge("vmtide_vm_target_bytes", "bytes", "Memory that was asked for.", |vm| {
        one(Number::whole(vm.target_bytes))
    }),
    Metric::gauge("vmtide_vm_resident_bytes", "bytes", "What it takes of the host now, about.", |vm| {
        one(vm.resident_bytes.map(Number::whole))
    }),
    Metric::gauge(
        "vmtide_vm_need_bytes",
        "bytes",
        "What its guest would use without stalling, as it says; none without a report that holds.",
        |vm| fresh(vm, |demand| demand.need_bytes),
    ),
    Metric::gauge("vmtide_vm_floor_bytes", "bytes", "Down to here it can be shrunk safely, as it says.", |vm| {
        one(match vm.demand {
            Demand::Fresh(MemoryDemand { floor_bytes, .. }) | Demand::Stale { floor_bytes, .. } => {
                Some(Number::whole(floor_bytes))
            }
            Demand::Unknown { .. } => None,
        })
    }),
    Metric::gauge("vmtide_vm_wanted_bytes", "bytes", "Need and headroom, within the limits.", |vm| {
        memory(vm, |verdict| verdict.wanted_bytes)
    }),
    Metric::gauge("vmtide_vm_entitled_bytes", "bytes", "What the shares of all leave it.", |vm| {
        memory(vm, |verdict| verdict.entitled_bytes)
    }),
    Metric::gauge("vmtide_vm_minimum_bytes", "bytes", "The least that it is left with.", |vm| {
        one(Number::whole(vm.minimum_bytes))
    }),
    Metric::gauge("vmtide_vm_reservation_bytes", "bytes", "What it gets back whenever it needs it.", |vm| {
        one(Number::whole(vm.reservation_bytes))
    }),
    Metric::gauge("vmtide_vm_maximum_bytes", "bytes", "The most that it gets.", |vm| {
        one(Number::whole(vm.maximum_bytes))
    }),
    Metric::gauge("vmtide_vm_shares", "", "Its weight when memory is short.", |vm| {
        one(Number::whole(vm.shares.into()))
    }),
    Metric::gauge("vmtide_vm_urgency", "", "How much its need for memory matters: 1 for what it says.", |vm: &Vm| {
        match vm.demand {
            Demand::Fresh(demand) => one_of(&URGENCIES, Some(&demand.urgency)),
            Demand::Stale { .. } | Demand::Unknown { .. } => Samples::new(),
        }
    })
    .by("urgency"),
    Metric::counter("vmtide_vm_decisions", "", "Changes of its memory that ended, by what came of them.", |vm: &Vm| {
        let counts = vm.counts;
        let ends = [
            ("confirmed", counts.confirmed),
            ("superseded", counts.superseded),
            ("refused", counts.refused),
            ("lost", counts.lost),
        ];
        each(ends.map(|(outcome, count)| (outcome, Number::whole(count))))
    })
    .by("outcome"),
    Metric::counter("vmtide_vm_balloon_stalls", "", "Inflations that were too slow: some was given back.", |vm| {
        one(Number::whole(vm.counts.balloon_stalls))
    }),
    Metric::counter(
        "vmtide_vm_balloon_rescues",
        "",
        "How often its balloon gave memory back unasked: its guest ran out, or began anew.",
        |vm| one(Number::whole(vm.counts.balloon_rescues)),
    ),
    Metric::counter(
        "vmtide_vm_oom_kills",
        "",
        "Processes that its kernel killed, since it booted, as it says.",
        |vm| {
            let demand = vm.agent.demand.as_ref().and_then(|demand| demand.memory.as_ref());
            one(demand.map(|memory| Number::whole(memory.signals.oom_kills)))
        },
    ),
    Metric::counter(
        "vmtide_vm_yield_requests",
        "",
        "How often it was asked for memory, by what it answered.",
        |vm: &Vm| {
            let answers = [("answered", vm.yields.answered), ("unanswered", vm.yields.unanswered)];
            each(answers.map(|(answer, count)| (answer, Number::whole(count))))
        },
    )
    .by("answer"),
    Metric::counter(
        "vmtide_vm_yield_promises",
        "",
        "How often it kept its word about that, and broke it.",
        |vm: &Vm| {
            let words = [("kept", vm.yields.kept), ("broken", vm.yields.broken)];
            each(words.map(|(word, count)| (word, Number::whole(count))))
        },
    )
    .by("word"),
    Metric::counter(
        "vmtide_vm_contradictions",
        "",
        "How often its agent said for long what the balloon's statistics do not show.",
        |vm| one(Number::whole(vm.contradictions.count)),
    ),
    // CPU time.
    Metric::counter("vmtide_vm_cpu_seconds", "seconds", "CPU time that its process used, the VMM's included.", |vm| {
        one(vm.counts.cpu_ms.map(Number::thousandths))
    }),
    Metric::gauge("vmtide_vm_need_cpus", "cpus", "CPUs that its guest would use without waiting, as it says.", |vm| {
        one(vm.cpu.need_millicpus.map(Number::thousandths))
    }),
    Metric::gauge("vmtide_vm_entitled_cpus", "cpus", "CPUs that the shares of all leave it.", |vm| {
        cpu(vm, |verdict| Some(Number::thousandths(verdict.entitled_millicpus)))
    }),
    Metric::gauge("vmtide_vm_quota_cpus", "cpus", "The most that its group may use; none without a quota.", |vm| {
        cpu(vm, |verdict| verdict.quota_millicpus.map(Number::thousandths))
    }),
    Metric::gauge("vmtide_vm_minimum_cpus", "cpus", "CPUs that it can have whenever it wants them.", |vm| {
        one(Number::thousandths(vm.cpu.minimum_millicpus))
    }),
    Metric::gauge("vmtide_vm_maximum_cpus", "cpus", "CPUs that it never gets more than; none without a limit.", |vm| {
        one(vm.cpu.maximum_millicpus.map(Number::thousandths))
    }),
    Metric::gauge("vmtide_vm_cpu_shares", "", "Its weight for CPU time.", |vm| {
        one(Number::whole(vm.cpu.shares.into()))
    }),
    Metric::gauge("vmtide_vm_cpu_weight_shares", "", "The same, corrected by what it got while VMs contend.", |vm| {
        cpu(vm, |verdict| Some(Number::whole(verdict.weight_shares.into())))
    }),
    Metric::gauge(
        "vmtide_vm_vcpus",
        "",
        "Its vCPUs: online in the guest, plugged in, and the most there can be.",
        |vm: &Vm| {
            let vcpus = vm.cpu.vcpus;
            let known = [
                ("online", vm.cpu.online),
                ("plugged", vcpus.map(|vcpus| vcpus.plugged)),
                ("possible", vcpus.map(|vcpus| vcpus.possible)),
            ];
            known
                .into_iter()
                .filter_map(|(which, count)| Some((which.to_owned(), Number::whole(count?.into()))))
                .collect()
        },
    )
    .by("vcpus"),
    // Disks.
    Metric::counter("vmtide_vm_disk_bytes", "bytes", "What its disks read and wrote, as QEMU counts it.", |vm| {
        one(vm.counts.disk_bytes.map(Number::whole))
    }),
    Metric::counter("vmtide_vm_disk_operations", "", "Their reads and writes.", |vm| {
        one(vm.counts.disk_operations.map(Number::whole))
    }),
    Metric::gauge(
        "vmtide_vm_disk_rate_bytes_per_second",
        "bytes_per_second",
        "What they take now, an operation counted as 16 KiB and its bytes.",
        |vm| disks(vm, |verdict| verdict.rate),
    ),
    Metric::gauge(
        "vmtide_vm_disk_share_bytes_per_second",
        "bytes_per_second",
        "What they may take while disks are short, likewise.",
        |vm| disks(vm, |verdict| verdict.share),
    ),
    Metric::gauge(
        "vmtide_vm_disk_limit_bytes_per_second",
        "bytes_per_second",
        "What they are held to; none while they are free, as the next.",
        |vm| held(vm, |throttle| throttle.bytes_per_s),
    ),
    Metric::gauge(
        "vmtide_vm_disk_limit_operations_per_second",
        "operations_per_second",
        "The same in operations.",
        |vm| held(vm, |throttle| throttle.ops_per_s),
    ),
    // The performance index.
    Metric::gauge("vmtide_vm_performance_p_ratio", "ratio", "P over the last minute.", |vm: &Vm| {
        indices(&vm.performance, |index| Some(Number::millionths(index.p_ppm)))
    })
    .by("resource"),
    Metric::gauge("vmtide_vm_performance_r_ratio", "ratio", "R over the last minute.", |vm: &Vm| {
        indices(&vm.performance, |index| Some(Number::millionths(index.r_ppm)))
    })
    .by("resource"),
    Metric::gauge(
        "vmtide_vm_performance_t_ratio",
        "ratio",
        "T over the last minute, 1 or more; none where nothing got done.",
        |vm: &Vm| indices(&vm.performance, |index| index.t_permille.map(Number::thousandths)),
    )
    .by("resource"),
    Metric::gauge("vmtide_vm_performance_e_ratio", "ratio", "E over the last minute.", |vm: &Vm| {
        indices(&vm.performance, |index| Some(Number::millionths(index.e_ppm)))
    })
    .by("resource"),
    // Its agent.
    Metric::gauge("vmtide_vm_agent_connected", "", "Whether its agent has a session.", |vm| {
        one(Number::flag(vm.agent.connected_for_ms.is_some()))
    }),
    Metric::gauge(
        "vmtide_vm_report_age_seconds",
        "seconds",
        "How old its last report is; none before the first.",
        |vm| one(vm.agent.demand_age_ms.map(Number::thousandths)),
    ),
    Metric::counter("vmtide_vm_sessions", "", "Sessions of its agent.", |vm| one(Number::whole(vm.agent.sessions))),
    Metric::counter(
        "vmtide_vm_protocol_violations",
        "",
        "Connections that ended as its agent broke the protocol, with a malformed line for one.",
        |vm| one(Number::whole(vm.agent.violations)),
    ),
    Metric::counter("vmtide_vm_messages", "", "Messages of its agent that were taken in.", |vm: &Vm| {
        let tally = &vm.agent.tally;
        let kinds = [("report", tally.reports), ("urgent", tally.urgents)];
        each(kinds.map(|(kind, count)| (kind, Number::whole(count))))
    })
    .by("kind"),
    Metric::counter(
        "vmtide_vm_dropped_messages",
        "",
        "Messages of its agent that were dropped: too many.",
        |vm: &Vm| {
            let tally = &vm.agent.tally;
            let kinds =
                [("urgent", tally.dropped_urgents), ("line", tally.dropped_lines), ("event", tally.dropped_events)];
            each(kinds.map(|(kind, count)| (kind, Number::whole(count))))
        },
    )
    .by("kind"),
    Metric::counter("vmtide_vm_clamped_numbers", "", "Numbers in its reports that cannot be.", |vm| {
        one(Number::whole(vm.agent.tally.clamps.count))
    }),
];

fn fresh(vm: &Vm, read: fn(&MemoryDemand) -> u64) -> Samples {
    one(match &vm.demand {
        Demand::Fresh(demand) => Some(Number::whole(read(demand))),
        Demand::Stale { .. } | Demand::Unknown { .. } => None,
    })
}

fn memory(vm: &Vm, read: fn(&Verdict) -> u64) -> Samples {
    one(vm.verdict.as_ref().map(|verdict| Number::whole(read(verdict))))
}

fn cpu(vm: &Vm, read: fn(&CpuVerdict) -> Option<Number>) -> Samples {
    one(vm.cpu.verdict.as_ref().and_then(read))
}

fn disks(vm: &Vm, read: fn(&IoVerdict) -> u64) -> Samples {
    one(vm.io.as_ref().map(|verdict| Number::whole(read(verdict))))
}

fn held(vm: &Vm, read: fn(&Throttle) -> u64) -> Samples {
    one(vm.io.and_then(|verdict| verdict.throttle).map(|throttle| Number::whole(read(&throttle))))
}
