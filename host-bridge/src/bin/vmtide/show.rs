//! Answers of the control API for a person's eyes.

mod io;

use super::trim;
use std::fmt::Write;
use std::time::{Duration, SystemTime};
use vmtide_bridge::api::trims::Pool;
use vmtide_bridge::api::types::{Contradictions, Cpu, Reload, Status, Vm, VmState};
use vmtide_bridge::config::{Bytes, Millicpus};
use vmtide_bridge::guests::GuestSummary;
use vmtide_bridge::hypervisor::Makeup;
use vmtide_bridge::performance::{Index, Indices, PPM, Resource};
use vmtide_bridge::plan::asking::Yields;
use vmtide_bridge::plan::progress::Rates;
use vmtide_bridge::plan::{Demand, HostState};
use vmtide_bridge::record::{Decision, Event, Health, LeverChange, sentence};

pub(crate) fn status(status: &Status) -> String {
    let Status { version, committed_bytes, capacity_bytes, reserve_bytes, free_bytes, spike_pool_bytes, .. } = status;
    let state = match (status.paused, status.state) {
        (true, _) => "paused: no memory is moved",
        (_, None) => "starting: not every hypervisor was heard yet",
        (_, Some(HostState::Calm)) => "calm: every need fits",
        (_, Some(HostState::Tight)) => "tight: every need fits, and little is left for bursts",
        (_, Some(HostState::Short)) => "short: needs do not fit, shares decide",
        (_, Some(HostState::Emergency)) => "emergency: all shrink to what fits",
    };
    let short = [
        ("CPU", status.short_of.cpu_short),
        ("memory", status.short_of.memory_short),
        ("I/O", status.short_of.io_short),
    ];
    let short: Vec<&str> = short.iter().filter(|(_, is_short)| *is_short).map(|(what, _)| *what).collect();
    let short_of = format!(
        "{} (time lost for want of CPU: {}, of I/O: {})",
        if short.is_empty() { "nothing".to_owned() } else { short.join(", ") },
        percent(status.cpu_stall_permille),
        percent(status.io_stall_permille),
    );
    let reaction = match status.reaction_ms.count {
        0 => "none yet".to_owned(),
        count => format!("{} ms median, {} ms p95, {count} in all", status.reaction_ms.p50, status.reaction_ms.p95),
    };
    format!(
        "vmtide-bridge {version}, up {}\n\
         memory     {state}\n\
         short of   {short_of}\n\
         capacity   {} of which {} are reserve\n\
         committed  {}, free {} (spike pool {})\n\
         VMs        {} configured, {} reachable, {} with an agent\n\
         decisions  {}\n\
         reactions  {reaction}\n\
         P = R / T  {}\n\
         recording  {}\n",
        duration(status.uptime_ms),
        Bytes(*capacity_bytes),
        Bytes(*reserve_bytes),
        Bytes(*committed_bytes),
        Bytes(*free_bytes),
        Bytes(*spike_pool_bytes),
        status.vms,
        status.vms_reachable,
        status.agents,
        status.decisions,
        performance(&status.performance),
        status.recording.as_ref().map_or_else(|| "off".to_owned(), recording),
    ) + &status.pools.iter().map(pool).collect::<String>()
        + &status.reload.as_ref().map(configuration).unwrap_or_default()
}

/// How much room is left on a file system that images are on.
fn pool(pool: &Pool) -> String {
    let low = if pool.is_low { ", LOW: quiet guests are asked for unused blocks" } else { "" };
    let (free, total) = (Bytes(pool.space.available_bytes), Bytes(pool.space.total_bytes));
    format!("images     {free} of {total} free where {} is, for {}{low}\n", pool.path, pool.vms.join(", "))
}

/// What is recorded, or why nothing is.
fn recording(health: &Health) -> String {
    let lost = match health.lost_records {
        0 => String::new(),
        lost => format!("; {lost} records of this run are lost"),
    };
    let folder = health.folder.display();
    match (&health.failure, health.written_unix_ms) {
        (Some(failure), _) => {
            let error = failure.error.split_whitespace().collect::<Vec<_>>().join(" ");
            format!("FAILS since {}, tried again each minute: {error}{lost}", time(failure.since_unix_ms))
        }
        (None, None) => format!("nothing yet, in {folder}{lost}"),
        (None, Some(at)) => {
            let (bytes, cap) = (Bytes(health.bytes), Bytes(health.cap_bytes));
            format!("{bytes} of at most {cap} in {folder}, last written {}{lost}", time(at))
        }
    }
}

/// Whether the configuration holds that is in the files.
fn configuration(reload: &Reload) -> String {
    let at = time(reload.at_unix_ms);
    match &reload.error {
        // Its lines are one here.
        Some(error) => {
            let error = error.split_whitespace().collect::<Vec<_>>().join(" ");
            format!("config     NOT taken in at {at}, the one from before holds: {error}\n")
        }
        None if reload.at_next_start.is_empty() => format!("config     taken in anew at {at}\n"),
        None => {
            format!("config     taken in anew at {at}, by the next start only: {}\n", reload.at_next_start.join(", "))
        }
    }
}

pub(crate) fn list(vms: &[Vm]) -> String {
    let width = vms.iter().map(|vm| vm.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!(
        "{:width$}  {:11}  {:>10}  {:>10}  {:>10}  {:>10}  {:>10}  {:>7}  {:>5}  {:>5}  {:>6}  {:>11}  DEMAND\n",
        "NAME",
        "STATE",
        "ALLOCATION",
        "TARGET",
        "NEED",
        "MINIMUM",
        "MAXIMUM",
        "SHARES",
        "P",
        "VCPUS",
        "CPU",
        "DISKS TO"
    );
    for vm in vms {
        let (need, demand) = match vm.demand {
            Demand::Fresh(demand) => (Bytes(demand.need_bytes).to_string(), format!("{:?}", demand.urgency)),
            Demand::Stale { .. } => ("-".to_owned(), "stale".to_owned()),
            Demand::Unknown { .. } => ("-".to_owned(), "none yet".to_owned()),
        };
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{:width$}  {:11}  {:>10}  {:>10}  {need:>10}  {:>10}  {:>10}  {:>7}  {:>5}  {:>5}  {:>6}  {:>11}  {}",
            vm.name,
            state(vm),
            Bytes(vm.allocation_bytes).to_string(),
            Bytes(vm.target_bytes).to_string(),
            Bytes(vm.minimum_bytes).to_string(),
            Bytes(vm.maximum_bytes).to_string(),
            vm.shares,
            part(vm.performance.overall.map(|index| index.p_ppm)),
            vcpus(&vm.cpu),
            vm.cpu.need_millicpus.map_or("-".to_owned(), |need| Millicpus(need).to_string()),
            io::cell(vm.io),
            demand.to_lowercase(),
        );
    }
    text
}

pub(crate) fn explain(vm: &Vm, decisions: &[Decision], levers: &[LeverChange], events: &[Event]) -> String {
    let mut text = format!(
        "{} is {}, has {} (asked for: {}), limits {}.\n{}{}\n{}\n{}\nP = R / T over the last minute: {}.\n{}{}{}{}{}",
        vm.name,
        state(vm),
        Bytes(vm.allocation_bytes),
        Bytes(vm.target_bytes),
        limit_words(vm),
        vm.memory.map(|memory| made_of(&memory, vm.resident_bytes)).unwrap_or_default(),
        vm.detail.as_ref().unwrap_or(&vm.standing),
        agent(&vm.agent),
        cpu(&vm.cpu),
        performance(&vm.performance),
        io::line(vm),
        yields(&vm.yields),
        contradictions(&vm.contradictions),
        rates(&vm.rates),
        vm.trim
            .as_ref()
            .map(|trim| format!("Asked for unused blocks {}: {}.\n", time(trim.at_unix_ms), trim::words(trim)))
            .unwrap_or_default(),
    );
    if decisions.is_empty() {
        text.push_str("\nNo decision about it so far.\n");
    }
    let decided = decisions.iter().map(|decision| {
        let told = format!("\n{}  #{}\n  {}\n", time(decision.at_unix_ms), decision.id, sentence(decision));
        (decision.at_unix_ms, told)
    });
    let changed = levers.iter().map(|change| {
        let told = format!("\n{}  {}\n  {}\n", time(change.at_unix_ms), change.title(), change.sentence());
        (change.at_unix_ms, told)
    });
    // What is told of a change here is not told as an event once more.
    let is_told = |event: &&Event| {
        levers.iter().any(|change| (change.at_unix_ms, &change.reason) == (event.at_unix_ms, &event.message))
    };
    let happened = events
        .iter()
        .filter(|event| !is_told(event))
        .map(|happened| (happened.at_unix_ms, format!("\n{}", event(happened))));
    // An event before a decision of the same millisecond: it may be what the decision came of.
    let mut story: Vec<(u64, String)> = happened.chain(decided).chain(changed).collect();
    story.sort_by_key(|(at_unix_ms, _)| *at_unix_ms);
    text.extend(story.into_iter().map(|(_, told)| told));
    text
}

/// vCPUs that it runs on, of those that it has.
fn vcpus(cpu: &Cpu) -> String {
    let number = |number: Option<u32>| number.map_or("-".to_owned(), |number| number.to_string());
    format!("{}/{}", number(cpu.online), number(cpu.vcpus.map(|vcpus| vcpus.plugged)))
}

fn cpu(cpu: &Cpu) -> String {
    let mut text = format!("CPU: {} vCPUs", vcpus(cpu));
    if let Some(most) = cpu.vcpus {
        _ = write!(text, " of at most {}", most.possible);
        if most.is_removing {
            text.push_str(" (one is on its way out)");
        }
    }
    text = text + ", " + &cpu_limit_words(cpu);
    match cpu.verdict.and_then(|verdict| verdict.quota_millicpus) {
        Some(quota) if cpu.group.is_some() => _ = write!(text, ", quota {}", Millicpus(quota)),
        _ if cpu.group.is_none() => text.push_str(", no cgroup of its own"),
        _ => {}
    }
    text + ". " + &cpu.standing
}

fn cpu_limit_words(cpu: &Cpu) -> String {
    let mut text = format!("{} shares", cpu.shares);
    if cpu.minimum_millicpus > 0 {
        _ = write!(text, ", at least {}", Millicpus(cpu.minimum_millicpus));
    }
    if let Some(maximum) = cpu.maximum_millicpus {
        _ = write!(text, ", at most {}", Millicpus(maximum));
    }
    text
}

/// What its agent is and how it behaves. What a guest wrote is printable since its session took it in.
fn agent(agent: &GuestSummary) -> String {
    let Some(hello) = &agent.hello else { return "No agent has connected so far.".to_owned() };
    let mut text = format!("Agent {} on Linux {}", hello.agent, hello.kernel);
    if agent.connected_for_ms.is_none() {
        text.push_str(", not connected");
    }
    match agent.demand_age_ms {
        Some(ms) => _ = write!(text, "; last report {} ago", duration(ms)),
        None => text.push_str("; no report yet"),
    }
    let clamps = &agent.tally.clamps;
    if clamps.count > 0 {
        let field = clamps.last_field.as_deref().unwrap_or("unknown");
        _ = write!(text, "; {} of its numbers could not be, {field} the last", clamps.count);
    }
    if agent.violations > 0 {
        let end = agent.last_end.as_deref().unwrap_or("unknown");
        _ = write!(text, "; broke the protocol {} times, its last connection ended: {end}", agent.violations);
    }
    text + "."
}

/// How its agent and its kernel disagree; nothing where they never did.
fn contradictions(told: &Contradictions) -> String {
    let Contradictions { count, said_bytes, shown_bytes, is_open } = *told;
    if count == 0 {
        return String::new();
    }
    let (said, shown) = (Bytes(said_bytes), Bytes(shown_bytes));
    let held = if is_open { ", which hold" } else { "" };
    format!(
        "Its agent contradicted the balloon's statistics {count} times: last it said that {said} are in use where these show {shown}{held}.\n"
    )
}

/// What it was asked for, and how it kept its word; nothing for one that never was.
fn yields(yields: &Yields) -> String {
    let Yields { asked, answered, unanswered, kept, broken, .. } = yields;
    if *asked == 0 {
        return String::new();
    }
    let mut text =
        format!("Asked for memory {asked} times: answered {answered}, silent {unanswered}, word kept {kept}");
    if *broken > 0 {
        _ = write!(text, ", broken {broken}");
    }
    if let Some(ms) = yields.untrusted_for_ms {
        _ = write!(text, "; not asked for another {}", duration(ms));
    }
    if let Some(bytes) = yields.open_bytes {
        _ = write!(text, "; now asked for {}", Bytes(bytes));
    }
    text + ".\n"
}

/// How fast its memory moves; nothing before it did.
fn rates(rates: &Rates) -> String {
    let way = |verb: &str, bytes_per_s: Option<u64>| bytes_per_s.map(|bytes| format!("{verb} at {}/s", Bytes(bytes)));
    let ways = [way("leaves", rates.shrink_bytes_per_s), way("comes", rates.grow_bytes_per_s)];
    let ways: Vec<String> = ways.into_iter().flatten().collect();
    if ways.is_empty() { String::new() } else { format!("Its memory {}, as its moves showed.\n", ways.join(" and ")) }
}

/// Boot memory, what is plugged in, what the balloon holds; nothing for a VM that is not known in parts.
fn made_of(memory: &Makeup, resident_bytes: Option<u64>) -> String {
    let parts = &memory.parts;
    if parts.boot_bytes == 0 {
        return String::new();
    }
    let plugged = if parts.pluggable_bytes > 0 || memory.is_plug_dead {
        let dead = if memory.is_plug_dead { ", nobody in the guest answers virtio-mem" } else { "" };
        let (plugged, most) = (Bytes(parts.plugged_bytes), Bytes(parts.pluggable_bytes));
        format!(" + {plugged} plugged in (of {most}{dead})")
    } else {
        String::new()
    };
    let balloon = match parts.balloon_bytes {
        Some(bytes) => format!(" − {} in the balloon", Bytes(bytes)),
        None => ", no balloon".to_owned(),
    };
    let resident = match resident_bytes {
        Some(bytes) => format!("; {} of it are taken from the host now", Bytes(bytes)),
        None => String::new(),
    };
    let reports = if memory.free_page_reporting { ", free pages are reported" } else { "" };
    format!("It is made of {} at boot{plugged}{balloon}{resident}{reports}.\n", Bytes(parts.boot_bytes))
}

pub(crate) fn paused(vm: Option<&str>, paused: bool) -> String {
    let who = vm.unwrap_or("all VMs");
    let what = if paused { "paused: no memory is moved until resumed" } else { "resumed: memory is moved again" };
    format!("{who}: {what}\n")
}

pub(crate) fn limits(vm: &Vm) -> String {
    let (cpu, disks) = (cpu_limit_words(&vm.cpu), io::limit_words(&vm.disks));
    format!("{}: {}; of CPU time {cpu}; of the disks {disks}; until the bridge restarts\n", vm.name, limit_words(vm))
}

pub(crate) fn event(event: &Event) -> String {
    format!("{}  {}  {}\n", time(event.at_unix_ms), event.vm.as_deref().unwrap_or("host"), event.message)
}

/// P of each resource, and what it is made of: `memory 0.61 (R 0.78, T 1.280), …`.
pub(crate) fn performance(indices: &Indices) -> String {
    let each = Resource::ALL.map(|resource| match indices.each.of(resource) {
        None => format!("{} not known", resource.name()),
        Some(Index { r_ppm, t_permille, p_ppm, .. }) => {
            let t = t_permille.map_or("without end".to_owned(), |t| format!("{}.{:03}", t / 1000, t % 1000));
            format!("{} {} (R {}, T {t})", resource.name(), part(Some(*p_ppm)), part(Some(*r_ppm)))
        }
    });
    each.join(", ")
}

/// A part of the whole, with two decimals, rounded; nothing is rounded up to the whole.
pub(crate) fn part(ppm: Option<u64>) -> String {
    let Some(ppm) = ppm else { return "-".to_owned() };
    let hundredths = if ppm < PPM { ((ppm + 5_000) / 10_000).min(99) } else { 100 };
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn limit_words(vm: &Vm) -> String {
    let reserved = match vm.reservation_bytes {
        0 => String::new(),
        bytes => format!(", {} reserved", Bytes(bytes)),
    };
    format!("{} to {}{reserved}, {} shares", Bytes(vm.minimum_bytes), Bytes(vm.maximum_bytes), vm.shares)
}

fn state(vm: &Vm) -> &'static str {
    match vm.state {
        VmState::Starting => "starting",
        VmState::Running if vm.paused => "paused",
        VmState::Running => "running",
        VmState::Stopped => "stopped",
        VmState::Unreachable => "unreachable",
        VmState::Off => "off",
    }
}

fn percent(permille: u32) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// RFC 3339, UTC, to the second.
fn time(unix_ms: u64) -> String {
    // The format ends with the year 9999.
    let since_1970 = Duration::from_millis(unix_ms.min(253_402_300_799_000));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_1970).to_string()
}
