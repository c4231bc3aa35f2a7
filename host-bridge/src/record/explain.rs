//! Decisions and standings in sentences with figures.

use super::{Asked, Decision, Outcome};
use crate::config::Bytes;
use crate::plan::actuator::{Rate, Split, Why, description_bytes};
use crate::plan::{Demand, IdleTax, Pace, Rule, Urgency, Verdict};

/// A decision in one paragraph: what was asked, what was seen, which rule, what came of it.
pub fn sentence(decision: &Decision) -> String {
    let Decision { step, demand, wanted_bytes, entitled_bytes, outcome, .. } = decision;
    let direction = if step.to_bytes > step.from_bytes { "Grow" } else { "Shrink" };
    let pace = match step.pace {
        Pace::Urgent => "at once",
        Pace::Calm => "calmly",
        Pace::GiveBack => "for relief",
    };
    let (from, to) = (Bytes(step.from_bytes), Bytes(step.to_bytes));
    let saw = saw(demand, decision.idle_tax.as_ref());
    let why = why(&decision.rule, *wanted_bytes, *entitled_bytes);
    let how = decision.split.as_ref().map(how).unwrap_or_default();
    let came = match outcome {
        Outcome::Moving => "Under way.".to_owned(),
        Outcome::Confirmed { after_ms } => format!("Confirmed after {after_ms} ms."),
        Outcome::Superseded { reached_bytes } => {
            format!("A later decision took its place when {} were reached.", Bytes(*reached_bytes))
        }
        Outcome::Refused { message } => format!("The hypervisor refused: {message}."),
        Outcome::Lost { reached_bytes } => format!("The VM went away at {}.", Bytes(*reached_bytes)),
    };
    let agreed = decision.asked.as_ref().map(agreed).unwrap_or_default();
    format!("{direction} {pace} from {from} to {to}. {saw} {why}{how} {agreed}{came}")
}

/// What the guest said to it, with a space behind.
fn agreed(asked: &Asked) -> String {
    match asked {
        Asked::Answered { bytes, spare_bytes, after_ms } => {
            format!("Asked for {}, the guest had {} spare after {after_ms} ms. ", Bytes(*bytes), Bytes(*spare_bytes))
        }
        Asked::Silent { bytes, after_ms } => {
            format!("Asked for {}, the guest did not answer within {after_ms} ms: a slice. ", Bytes(*bytes))
        }
        Asked::Unable => "The guest cannot be asked: a slice. ".to_owned(),
        Asked::Untrusted => "The guest did not keep its word before and was not asked. ".to_owned(),
    }
}

/// Which actuator moves how much, and why; nothing where there is but a balloon.
fn how(split: &Split) -> String {
    let (plug, balloon) = (split.plug_moves_bytes(), split.balloon_moves_bytes());
    let moved = |who: &str, bytes: u64| (bytes > 0).then(|| format!("{who} {}", Bytes(bytes)));
    let parts: Vec<String> = [moved("Virtio-mem", plug), moved("the balloon", balloon)].into_iter().flatten().collect();
    if parts.is_empty() || (split.why == Why::NothingToPlug && plug == 0) {
        return String::new();
    }
    let rates = |fast: &Rate, slow: &Rate| {
        let times = fast.bytes_per_s.saturating_mul(10) / slow.bytes_per_s.max(1);
        let known = |rate: &Rate| if rate.is_measured { "measured here" } else { "by others' figures" };
        let figures = format!(
            "{}/s, {}, against {}/s, {}",
            Bytes(fast.bytes_per_s),
            known(fast),
            Bytes(slow.bytes_per_s),
            known(slow)
        );
        format!("{}.{} times as fast ({figures})", times / 10, times % 10)
    };
    let why = match split.why {
        Why::PlugFaster => format!("virtio-mem is {}", rates(&split.plug, &split.balloon)),
        Why::BalloonFaster => format!("the balloon is {}", rates(&split.balloon, &split.plug)),
        Why::Trimming => "too little for virtio-mem".to_owned(),
        Why::NothingToPlug => "virtio-mem has no more to move".to_owned(),
        Why::UnplugStuck => "unplugging got stuck at memory that cannot move".to_owned(),
        Why::NoBalloon => "the balloon has no more to move".to_owned(),
    };
    let grown = split.to.plugged_bytes.saturating_sub(split.from.plugged_bytes);
    let cost = if grown > 0 {
        format!("; {} of it describe the new memory", Bytes(description_bytes(grown)))
    } else {
        String::new()
    };
    let text = parts.join(", ");
    format!(" {}: {why}{cost}.", text.replacen("the balloon", if plug > 0 { "the balloon" } else { "The balloon" }, 1))
}

/// Why a VM stands where it does now, decision or not.
pub fn standing(demand: &Demand, verdict: &Verdict) -> String {
    format!(
        "{} {}",
        saw(demand, verdict.idle_tax.as_ref()),
        why(&verdict.rule, verdict.wanted_bytes, verdict.entitled_bytes)
    )
}

/// How much of its need is active, and what the rest costs it.
fn taxed(tax: &IdleTax) -> String {
    let IdleTax { active_bytes, active_permille, tax_percent } = tax;
    let (whole, tenth) = (active_permille / 10, active_permille % 10);
    let times = 1_000 / u64::from(100 - tax_percent.min(&99));
    format!(
        " Of that {} are active, {whole}.{tenth} % of what it has; an idle byte weighs {}.{} times (tax: {tax_percent} %).",
        Bytes(*active_bytes),
        times / 10,
        times % 10
    )
}

fn saw(demand: &Demand, tax: Option<&IdleTax>) -> String {
    let shown = |bytes: &Option<u64>| match bytes {
        Some(bytes) => format!("its balloon shows {} in use", Bytes(*bytes)),
        None => "its balloon shows nothing".to_owned(),
    };
    match demand {
        Demand::Fresh(demand) => {
            let urgency = match demand.urgency {
                Urgency::Idle => "idle",
                Urgency::Normal => "at ease",
                Urgency::Pressed => "pressed",
                Urgency::Critical => "in a critical state",
            };
            let (need, floor) = (Bytes(demand.need_bytes), Bytes(demand.floor_bytes));
            let taxed = tax.filter(|tax| tax.active_bytes < demand.need_bytes).map(taxed).unwrap_or_default();
            format!("The guest is {urgency}, needs {need} and says {floor} is safe.{taxed}")
        }
        Demand::Stale { floor_bytes, shown_use_bytes } => {
            format!("The last report expired (its floor: {}); {}.", Bytes(*floor_bytes), shown(shown_use_bytes))
        }
        Demand::Unknown { shown_use_bytes } => format!("No report so far; {}.", shown(shown_use_bytes)),
    }
}

/// The rule in a sentence; also used where it led to no step.
fn why(rule: &Rule, wanted_bytes: u64, entitled_bytes: u64) -> String {
    let (wanted, entitled) = (Bytes(wanted_bytes), Bytes(entitled_bytes));
    match rule {
        Rule::Satisfied => format!("It has the {wanted} that this makes with headroom, within the dead band."),
        Rule::Grant => format!("With headroom that makes {wanted}, and there is room for it."),
        Rule::SpikeGrant => format!("With headroom that makes {wanted}; the spike pool gives at once."),
        Rule::ReturnSurplus => format!("With headroom that makes {wanted}; the rest refills the spike pool."),
        Rule::Revoke => format!("Others are short of their shares; its own entitle it to {entitled}."),
        Rule::EmergencyRevoke => format!("The host is in trouble: all shrink to what fits, for it {entitled}."),
        Rule::ShortByShares { short_bytes } => {
            format!("It wants {wanted}; its shares entitle it to {entitled}, {} short.", Bytes(*short_bytes))
        }
        Rule::AwaitBytes { short_bytes, expected_ms } => {
            let about =
                expected_ms.map(|ms| format!(", in about {ms} ms as fast as they have been")).unwrap_or_default();
            format!("It wants {wanted}; {} come once others have given them up{about}.", Bytes(*short_bytes))
        }
        Rule::DirectionBlocked { .. } => format!("It wants {wanted}, but it just moved the other way; wait."),
        Rule::StalledBalloon => "Its balloon inflates too slowly: some is given back.".to_owned(),
        Rule::StalledRest { .. } => "Its balloon stalled a moment ago: left alone for now.".to_owned(),
        Rule::NotYet => "Not shrunk before the guest has reported.".to_owned(),
        Rule::Stale => "Not shrunk below its last floor before the guest reports again.".to_owned(),
        Rule::Unreachable => "Its hypervisor does not answer: what it has counts, nothing is asked.".to_owned(),
        Rule::Fixed => {
            "Its balloon cannot move (there is none, or the guest does not run): what it has counts.".to_owned()
        }
        Rule::Paused => "Paused by the operator: what it has counts, nothing is asked.".to_owned(),
        Rule::Peer => "The rules of the peer that plans here say so.".to_owned(),
    }
}
