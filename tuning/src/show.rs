//! Tuning as text for people.

use crate::assess::{Action, Standing};
use crate::catalogue::Knob;
use crate::hand::Undone;
use crate::journal::{Record, Tried};
use crate::trial::Finding;
use crate::value::Value;
use crate::{Mode, Row};
use serde::Serialize;

/// A line for each row: what it holds, should hold and held, whose it is and how it stands.
pub fn list(rows: &[Row]) -> String {
    let head = ["KNOB", "CURRENT", "WANTED", "ORIGINAL", "OWNER", "MODE", "STANDING", "WHY"].map(Into::into);
    let lines = rows.iter().map(|row| {
        [
            name(row),
            shown(row.current.as_ref()),
            shown(row.wanted.as_ref()),
            shown(row.original.as_ref()),
            row.owner.clone(),
            word(&row.mode),
            word(&row.standing),
            row.detail.clone(),
        ]
    });
    columns(std::iter::once(head).chain(lines))
}

/// What vmtide changed or would change, and nothing else.
pub fn diff(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| differs(row)) {
        let before = row.original.as_ref().or(row.current.as_ref());
        let after = if row.original.is_some() { row.current.as_ref() } else { row.wanted.as_ref() };
        text += &format!("{}\n- {}\n+ {}    {}\n", row.path, shown(before), shown(after), word(&row.standing));
    }
    if text.is_empty() { "nothing differs\n".into() } else { text }
}

/// Whether vmtide changed it, or would.
pub fn differs(row: &Row) -> bool {
    row.original.is_some() || matches!(row.standing, Standing::Pending | Standing::WouldApply)
}

/// What an agent would do now, knob by knob, and why not where it would do nothing.
pub fn plan(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let what = match &row.action {
            Action::Write(value) => format!("write {value}"),
            Action::Restore => format!("put {} back", shown(row.original.as_ref())),
            Action::Close(_) => "let go".into(),
            Action::Leave => "leave".into(),
        };
        let (current, standing) = (shown(row.current.as_ref()), word(&row.standing));
        text += &format!("{what:<24} {} (now {current}): {standing}, {}\n", row.path, row.detail);
    }
    text
}

/// All that is known of a knob.
pub fn explain(knob: &Knob, rows: &[Row]) -> String {
    let mut text = format!("{}\n  {}\n\n", knob.id, knob.why);
    let optional = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    for (what, value) in [
        ("value", optional(knob.value.as_ref().map(ToString::to_string))),
        ("when", optional(knob.when.as_ref().map(ToString::to_string))),
        ("mode", word(&knob.mode)),
        ("risk", word(&knob.risk)),
        ("signal", optional(knob.signal.as_ref().map(word))),
        ("group", optional(knob.group.clone())),
        ("source", knob.source.clone()),
    ] {
        text += &format!("  {what:<8} {}\n", value.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    for row in rows {
        text += &format!("\n  {}\n", row.path);
        for (what, value) in [
            ("current", shown(row.current.as_ref())),
            ("wanted", shown(row.wanted.as_ref())),
            ("original", shown(row.original.as_ref())),
            ("owner", row.owner.clone()),
            ("standing", format!("{}: {}", word(&row.standing), row.detail)),
            ("trial", row.trial.as_ref().map_or("-".into(), trial)),
        ] {
            text += &format!("    {what:<9} {value}\n");
        }
    }
    text
}

/// What was done in this boot, oldest first.
pub fn history(records: &[Record]) -> String {
    let lines = records.iter().filter_map(|record| {
        let (at_ms, what) = match record {
            Record::Began { .. } => return None,
            Record::Write(write) => (
                write.at_ms,
                format!(
                    "{}: wrote {} to {} (originally {}): {}",
                    write.knob, write.written, write.path, write.original, write.why
                ),
            ),
            Record::Closed { at_ms, knob, path, outcome, found } => {
                (*at_ms, format!("{knob}: {} {path}, which holds {found:?}", word(outcome)))
            }
            Record::Tried(tried) => (tried.at_ms, format!("{}: {}", tried.unit, trial(tried))),
        };
        Some(format!("{:>10}.{:03} s  {what}\n", at_ms / 1000, at_ms % 1000))
    });
    let text: String = lines.collect();
    if text.is_empty() { "nothing was done in this boot\n".into() } else { text }
}

/// What was put back, and what was not.
pub fn undone(files: &[Undone]) -> String {
    if files.is_empty() {
        return "nothing holds a value of vmtide's\n".into();
    }
    let mut text = String::new();
    for file in files {
        let outcome = file.outcome.map_or_else(|| "not put back".into(), |outcome| word(&outcome));
        text += &format!("{outcome:<14} {} ({})\n", file.path, file.detail);
    }
    text
}

/// A trial's figures.
pub fn trial(tried: &Tried) -> String {
    let verdict = &tried.verdict;
    let finding = match verdict.finding {
        Finding::Better => "better",
        Finding::Worse => "worse",
        Finding::Inconclusive => "inconclusive",
    };
    format!(
        "{finding}, {}: {} {} before, {} after, noise {}, {} windows each",
        if verdict.keep { "kept" } else { "reverted" },
        word(&verdict.signal),
        verdict.before,
        verdict.after,
        verdict.bound,
        verdict.windows
    )
}

/// How many knobs there are, and how many of them do what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// In the catalogue.
    pub catalogued: usize,
    /// With a file in this guest, and a condition that holds.
    pub applicable: usize,
    /// That hold vmtide's value.
    pub applied: usize,
    /// Whose last trial was reverted.
    pub reverted: usize,
    /// That somebody else has set or taken.
    pub foreign: usize,
}

/// Counts knobs, not files.
pub fn tally(rows: &[Row]) -> Tally {
    let count = |fits: &dyn Fn(&Row) -> bool| {
        let mut knobs: Vec<_> = rows.iter().filter(|row| fits(row)).map(|row| &row.knob).collect();
        knobs.dedup();
        knobs.len()
    };
    let foreign = |row: &Row| matches!(row.standing, Standing::OtherOwner | Standing::TakenBySomeoneElse);
    Tally {
        catalogued: count(&|_| true),
        applicable: count(&|row| row.wanted.is_some() && row.mode != Mode::Off && row.current.is_some()),
        applied: count(&|row| row.original.is_some() && !foreign(row)),
        reverted: count(&|row| row.trial.as_ref().is_some_and(|tried| !tried.verdict.keep)),
        foreign: count(&foreign),
    }
}

/// The knob, with the device where there are several.
fn name(row: &Row) -> String {
    let device = row.path.strip_prefix("/sys/block/").and_then(|rest| rest.split('/').next());
    device.map_or_else(|| row.knob.clone(), |device| format!("{} {device}", row.knob))
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "-".into(), ToString::to_string)
}

/// As in JSON, with spaces.
fn word(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default().trim_matches('"').replace('_', " ")
}

/// Each column as wide as its widest cell; the last as it comes.
fn columns<const N: usize>(lines: impl Iterator<Item = [String; N]>) -> String {
    let lines: Vec<_> = lines.collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let row = |line: &[String; N]| {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  "));
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    lines.iter().map(row).collect()
}
