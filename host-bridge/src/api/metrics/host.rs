//! The host and the bridge.

use super::text::Number;
use super::{Metric, Samples, each, indices, one, one_of};
use crate::api::trims::Pool;
use crate::api::types::Status;
use crate::plan::HostState;
use crate::record::Health;

const STATES: [(HostState, &str); 4] = [
    (HostState::Calm, "calm"),
    (HostState::Tight, "tight"),
    (HostState::Short, "short"),
    (HostState::Emergency, "emergency"),
];

pub(super) const METRICS: &[Metric<Status>] = &[
    Metric::gauge("vmtide_build_info", "", "The version of the bridge; always 1.", |status: &Status| {
        vec![(status.version.clone(), Number::whole(1))]
    })
    .by("version"),
    Metric::gauge("vmtide_uptime_seconds", "seconds", "How long this bridge runs.", |status| {
        one(Number::thousandths(status.uptime_ms))
    }),
    Metric::gauge("vmtide_paused", "", "Whether an operator paused all planning.", |status| {
        one(Number::flag(status.paused))
    }),
    Metric::gauge("vmtide_capacity_bytes", "bytes", "What the VMs may have together, reserve included.", |status| {
        one(Number::whole(status.capacity_bytes))
    }),
    Metric::gauge("vmtide_reserve_bytes", "bytes", "What is never given out.", |status| {
        one(Number::whole(status.reserve_bytes))
    }),
    Metric::gauge("vmtide_committed_bytes", "bytes", "What the VMs have or were promised.", |status| {
        one(Number::whole(status.committed_bytes))
    }),
    Metric::gauge("vmtide_free_bytes", "bytes", "What is free within capacity less reserve.", |status| {
        one(Number::whole(status.free_bytes))
    }),
    Metric::gauge("vmtide_spike_pool_bytes", "bytes", "What the planner wants to keep for urgent grants.", |status| {
        one(Number::whole(status.spike_pool_bytes))
    }),
    Metric::gauge(
        "vmtide_memory_state",
        "",
        "How the host's memory stands: 1 for the state that it is in.",
        |status: &Status| one_of(&STATES, status.state.as_ref()),
    )
    .by("state"),
    Metric::gauge("vmtide_short", "", "Whether the host is short of it, as its guests are told.", |status: &Status| {
        let short = status.short_of;
        let pairs = [("memory", short.memory_short), ("cpu", short.cpu_short), ("io", short.io_short)];
        each(pairs.map(|(resource, is_short)| (resource, Number::flag(is_short))))
    })
    .by("resource"),
    Metric::gauge(
        "vmtide_stall_ratio",
        "ratio",
        "The part of the time that the host's tasks wait for it (PSI: memory and io full, cpu some, with steal).",
        |status: &Status| {
            let stalls = [
                ("memory", status.memory_stall_permille),
                ("cpu", status.cpu_stall_permille),
                ("io", status.io_stall_permille),
            ];
            each(stalls.map(|(resource, permille)| (resource, Number::thousandths(permille.into()))))
        },
    )
    .by("resource"),
    Metric::gauge("vmtide_vms", "", "VMs in the configuration.", |status| one(Number::count(status.vms))),
    Metric::gauge("vmtide_vms_reachable", "", "VMs whose hypervisor answers.", |status| {
        one(Number::count(status.vms_reachable))
    }),
    Metric::gauge("vmtide_agents", "", "VMs whose agent has a session.", |status| one(Number::count(status.agents))),
    Metric::counter("vmtide_decisions", "", "Changes of VMs' memory that were asked for.", |status| {
        one(Number::whole(status.decisions))
    }),
    Metric::counter("vmtide_reactions", "", "Waits of guests that ended with more memory confirmed.", |status| {
        one(Number::whole(status.reaction_ms.count))
    }),
    Metric::gauge(
        "vmtide_reaction_seconds",
        "seconds",
        "How long these took, from the first stalled or predicted moment on; of the last 1024.",
        |status: &Status| {
            let reaction = status.reaction_ms;
            let known = [("50", reaction.p50), ("95", reaction.p95)];
            if reaction.count == 0 {
                Samples::new()
            } else {
                each(known.map(|(rank, ms)| (rank, Number::thousandths(ms))))
            }
        },
    )
    .by("percentile"),
    Metric::counter(
        "vmtide_refused_connections",
        "",
        "Connections of strangers, of VMs that dial too often, and without a proper hello.",
        |status| one(Number::whole(status.refused)),
    ),
    Metric::gauge("vmtide_performance_p_ratio", "ratio", "P of all VMs over the last minute.", |status: &Status| {
        indices(&status.performance, |index| Some(Number::millionths(index.p_ppm)))
    })
    .by("resource"),
    Metric::gauge("vmtide_performance_r_ratio", "ratio", "R of all VMs over the last minute.", |status: &Status| {
        indices(&status.performance, |index| Some(Number::millionths(index.r_ppm)))
    })
    .by("resource"),
    Metric::gauge(
        "vmtide_performance_t_ratio",
        "ratio",
        "T of all VMs over the last minute, 1 or more; none where nothing got done.",
        |status: &Status| indices(&status.performance, |index| index.t_permille.map(Number::thousandths)),
    )
    .by("resource"),
    Metric::gauge("vmtide_performance_e_ratio", "ratio", "E of all VMs over the last minute.", |status: &Status| {
        indices(&status.performance, |index| Some(Number::millionths(index.e_ppm)))
    })
    .by("resource"),
    Metric::gauge(
        "vmtide_reload_failed",
        "",
        "Whether the configuration could not be taken in anew, the last time that it was to be.",
        |status| one(status.reload.as_ref().map(|reload| Number::flag(reload.error.is_some()))),
    ),
    Metric::gauge(
        "vmtide_recording_failing",
        "",
        "Whether the history is not recorded although it is to be.",
        |status| recording(status, |health| Some(Number::flag(health.failure.is_some()))),
    ),
    Metric::gauge("vmtide_recording_bytes", "bytes", "What the recording has.", |status| {
        recording(status, |health| Some(Number::whole(health.bytes)))
    }),
    Metric::gauge("vmtide_recording_limit_bytes", "bytes", "The most that it may have.", |status| {
        recording(status, |health| Some(Number::whole(health.cap_bytes)))
    }),
    Metric::gauge(
        "vmtide_recording_written_timestamp_seconds",
        "seconds",
        "When the disk took a record last, since 1970.",
        |status| recording(status, |health| health.written_unix_ms.map(Number::thousandths)),
    ),
    Metric::counter("vmtide_recording_lost_records", "", "Records that the disk did not take.", |status| {
        recording(status, |health| Some(Number::whole(health.lost_records)))
    }),
    Metric::gauge(
        "vmtide_image_pool_size_bytes",
        "bytes",
        "A file system that images are on: its size.",
        |status: &Status| pools(status, |pool| Number::whole(pool.space.total_bytes)),
    )
    .by("path"),
    Metric::gauge("vmtide_image_pool_available_bytes", "bytes", "What may still be taken of it.", |status: &Status| {
        pools(status, |pool| Number::whole(pool.space.available_bytes))
    })
    .by("path"),
    Metric::gauge(
        "vmtide_image_pool_low",
        "",
        "Whether quiet guests are asked for unused blocks.",
        |status: &Status| pools(status, |pool| Number::flag(pool.is_low)),
    )
    .by("path"),
];

fn recording(status: &Status, read: fn(&Health) -> Option<Number>) -> Samples {
    one(status.recording.as_ref().and_then(read))
}

fn pools(status: &Status, read: fn(&Pool) -> Number) -> Samples {
    status.pools.iter().map(|pool| (pool.path.clone(), read(pool))).collect()
}
