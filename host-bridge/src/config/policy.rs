//! `[policy]`: who plans, and the planner's numbers, key by key.
//!
//! The keys are those of [`Policy`]; what a value may be follows from the unit that ends its key. So a number that
//! the planner gains can be set, and is checked, without a word here.

use super::{Bytes, MAXIMUM_BYTES};
use crate::plan::{Planner, Policy, UnknownPlanner};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use vmtide_tuning::suggest::nearest;

/// The longest time in the policy: an hour.
const LONGEST_MS: u64 = 3_600_000;
/// The same where it is told in hours: four weeks.
const LONGEST_HOURS: u64 = 672;
/// The most CPU time in the policy: that of a thousand CPUs.
const MOST_MILLICPUS: u64 = 1_000_000;

/// A `[policy]` as it is written.
pub(super) type Section = BTreeMap<String, Value>;

/// Takes `planner` out of `section`, which then has numbers only.
///
/// # Errors
/// The key, with what was found and what is allowed.
pub(super) fn take_planner(section: &mut Section) -> Result<Option<Planner>, (String, String)> {
    let planner = |found: Value| match found.as_str() {
        Some(name) => name.parse().map_err(|error: UnknownPlanner| error.to_string()),
        None => Err(format!("{found} is no planner's name; allowed is a text such as \"{}\"", Planner::default())),
    };
    section.remove("planner").map(planner).transpose().map_err(|message| ("policy.planner".to_owned(), message))
}

/// `policy` with the keys of `section` in place of its own.
///
/// # Errors
/// The key that is wrong, with what was found and what is allowed.
pub(super) fn overlay(policy: &Policy, section: Section) -> Result<Policy, (String, String)> {
    let wrong = |key: &str, message: String| (format!("policy.{key}"), message);
    let not_numbers = |error: serde_json::Error| ("policy".to_owned(), error.to_string());
    let mut numbers: Section = serde_json::to_value(policy).and_then(Section::deserialize).map_err(not_numbers)?;
    for (key, found) in section {
        if !numbers.contains_key(&key) {
            let known: Vec<&str> = numbers.keys().map(String::as_str).chain(["planner"]).collect();
            let meant = nearest(&key, known.iter().copied()).map(|word| format!("; did you mean {word}?"));
            return Err(wrong(
                &key,
                format!("is unknown; allowed are {}{}", known.join(", "), meant.unwrap_or_default()),
            ));
        }
        let number = number(&key, &found).map_err(|message| wrong(&key, message))?;
        numbers.insert(key, number.into());
    }
    serde_json::to_value(numbers).and_then(Policy::deserialize).map_err(not_numbers)
}

/// Checks what several numbers mean together.
///
/// # Errors
/// The key that is wrong, with what was found and what is allowed.
pub(super) fn agree(policy: &Policy) -> Result<(), (&'static str, String)> {
    for (key, found, upper, most) in [
        ("policy.cpu_clear_permille", policy.cpu_clear_permille, "cpu_short_permille", policy.cpu_short_permille),
        ("policy.io_clear_permille", policy.io_clear_permille, "io_short_permille", policy.io_short_permille),
        // The other way round: room is short when there is less of it.
        ("policy.trim_low_permille", policy.trim_low_permille, "trim_clear_permille", policy.trim_clear_permille),
    ] {
        if found > most {
            return Err((key, format!("{found} is more than {upper} ({most}); allowed is up to that")));
        }
    }
    Ok(())
}

/// `policy` with these keys set, each value as it would be written in `[policy]`, without quotes.
///
/// # Errors
/// The key that is wrong, with what was found and what is allowed.
pub fn assign(policy: &Policy, assignments: &[(String, String)]) -> Result<Policy, String> {
    let value = |text: &String| text.parse::<u64>().map_or_else(|_| text.clone().into(), Value::from);
    let section = assignments.iter().map(|(key, text)| (key.clone(), value(text))).collect();
    let policy = overlay(policy, section).map_err(|(key, message)| format!("{key}: {message}"))?;
    agree(&policy).map_err(|(key, message)| format!("{key}: {message}"))?;
    Ok(policy)
}

/// Whether the number of this key is an amount of memory.
pub(super) fn is_bytes(key: &str) -> bool {
    key.ends_with("_bytes") || key.ends_with("_bytes_per_s")
}

fn number(key: &str, found: &Value) -> Result<u64, String> {
    let (number, most, allowed) = if is_bytes(key) {
        let bytes = Bytes::deserialize(found).map_err(|error| error.to_string())?;
        (Some(bytes.0), MAXIMUM_BYTES, "at most \"64TiB\", as \"64MiB\" or a number of bytes".to_owned())
    } else {
        let (most, unit) = match key.rsplit('_').next() {
            Some("permille") => (1000, "thousandths"),
            // At 100 an idle byte would cost without bound.
            Some("percent") => (99, "percent"),
            Some("hours") => (LONGEST_HOURS, "hours"),
            Some("millicpus") => (MOST_MILLICPUS, "thousandths of a CPU"),
            _ => (LONGEST_MS, "milliseconds"),
        };
        (found.as_u64(), most, format!("a whole number of 0 to {most} {unit}"))
    };
    number.filter(|number| *number <= most).ok_or_else(|| format!("{found} cannot be; allowed is {allowed}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::MIB;

    fn section(text: &str) -> Section {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn single_keys_are_set_in_their_units() {
        let set = "dead_band_bytes = '32MiB'\nstall_bytes_per_s = 1048576\nidle_tax_percent = 0\ncalm_block_ms = 5000";
        let policy = overlay(&Policy::default(), section(set)).unwrap();
        let expected = Policy {
            dead_band_bytes: 32 * MIB,
            stall_bytes_per_s: MIB,
            idle_tax_percent: 0,
            calm_block_ms: 5_000,
            ..Policy::default()
        };
        assert_eq!(policy, expected);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_its_unit() {
        for (text, key, part) in [
            ("headroom = 1", "policy.headroom", "is unknown; allowed are below_floor_permille, "),
            ("headroom_permille = 1001", "policy.headroom_permille", "allowed is a whole number of 0 to 1000 thous"),
            ("headroom_permille = -1", "policy.headroom_permille", "-1 cannot be"),
            ("headroom_permille = '10'", "policy.headroom_permille", "\"10\" cannot be"),
            ("idle_tax_percent = 100", "policy.idle_tax_percent", "allowed is a whole number of 0 to 99 percent"),
            ("calm_block_ms = 3600001", "policy.calm_block_ms", "0 to 3600000 milliseconds"),
            ("dead_band_bytes = '7 apples'", "policy.dead_band_bytes", "not an amount of memory"),
            ("dead_band_bytes = '65TiB'", "policy.dead_band_bytes", "at most \"64TiB\""),
            ("dead_band_bytes = 1.5", "policy.dead_band_bytes", "expected an amount of memory"),
        ] {
            let (at, message) = overlay(&Policy::default(), section(text)).unwrap_err();
            assert!(at == key && message.contains(part), "{text}: {at}: {message}");
        }
    }

    #[test]
    fn a_key_is_set_from_the_command_line_as_from_a_file() {
        let set = |key: &str, value: &str| assign(&Policy::default(), &[(key.to_owned(), value.to_owned())]);
        assert_eq!(set("dead_band_bytes", "1MiB").map(|policy| policy.dead_band_bytes), Ok(MIB));
        assert_eq!(set("headroom_permille", "250").map(|policy| policy.headroom_permille), Ok(250));
        let error = set("headroom_permille", "a lot").unwrap_err();
        assert!(error.starts_with("policy.headroom_permille: \"a lot\" cannot be; allowed is"), "{error}");
        assert!(set("cpu_clear_permille", "500").unwrap_err().contains("500 is more than cpu_short_permille (400)"));
        assert!(set("headroom", "1").unwrap_err().starts_with("policy.headroom: is unknown; allowed are"));
    }

    /// What a number may be is read off its key, so every key has to say.
    #[test]
    fn every_key_ends_in_a_unit() {
        let numbers = serde_json::to_value(Policy::default()).unwrap();
        for key in numbers.as_object().unwrap().keys() {
            let units = ["_permille", "_percent", "_ms", "_bytes", "_bytes_per_s", "_millicpus", "_hours"];
            let has_unit = units.iter().any(|u| key.ends_with(u));
            assert!(has_unit, "{key}");
        }
    }
}
