//! A report as a person reads it.

use super::{Column, LeverCounts, LeverFigures, Report, Verification};
use crate::config::Bytes;
use crate::model::{Figures, VmFigures};
use crate::record::{Lever, LeverChange};
use std::time::{Duration, UNIX_EPOCH};

impl Report {
    /// The report in sentences and a table.
    pub fn text(&self) -> String {
        let mut text = self.about();
        text += &self.damage();
        text += &verified(&self.verification, &self.written_by_others());
        text += &levers(&self.levers);
        text += &table(&self.columns);
        text
    }

    fn about(&self) -> String {
        let (span, time) = (&self.span, self.columns.first().map(|column| column.time).unwrap_or_default());
        let bridges: Vec<&str> = span.bridges.iter().map(String::as_str).collect();
        let mut text = format!(
            "{} to {}: {} VMs, {} plans over {} s, {} of vmtide-bridge {}.\n",
            utc(span.from_unix_ms),
            utc(span.to_unix_ms),
            span.vms,
            time.ticks,
            seconds(time.ms),
            count(span.runs, "run"),
            bridges.join(", ")
        );
        if time.gaps > 0 {
            text += &format!(
                "{} without plans, {} s together, do not count.\n",
                count(time.gaps, "time"),
                seconds(time.gap_ms)
            );
        }
        if span.wall_clock_back + time.clock_back > 0 {
            let (wall, own) = (count(span.wall_clock_back, "time"), count(time.clock_back, "time"));
            text += &format!("The wall clock went back {wall}, the planner's {own}: no time passed then.\n");
        }
        text
    }

    fn damage(&self) -> String {
        let losses = self.losses;
        if losses.damaged_stretches + losses.unusable_records == 0 {
            return String::new();
        }
        format!(
            "Damaged: {} of {} bytes together; {} cannot be used for want of an earlier one; {} s are lost.\n",
            count(losses.damaged_stretches, "stretch"),
            losses.damaged_bytes,
            count(losses.unusable_records, "record"),
            seconds(losses.lost_ms)
        )
    }

    /// The versions that wrote, other than this one.
    fn written_by_others(&self) -> Vec<&str> {
        let other = |bridge: &&str| *bridge != env!("CARGO_PKG_VERSION");
        self.span.bridges.iter().map(String::as_str).filter(other).collect()
    }
}

fn verified(verification: &Verification, others: &[&str]) -> String {
    let Verification { plans, differing_plans, differences } = verification;
    if *differing_plans == 0 {
        return format!("Verified: the planner decides the same in all {plans} plans, to the byte.\n");
    }
    let mut text = format!("Not verified: the planner decides otherwise in {differing_plans} of {plans} plans.\n");
    if !others.is_empty() {
        text += &format!("{} wrote, this is {}.\n", others.join(", "), env!("CARGO_PKG_VERSION"));
    }
    for difference in differences {
        let vm = difference.vm.as_deref().unwrap_or("the host");
        let (recorded, now) = (&difference.recorded, &difference.now);
        text += &format!("  {} {vm}\n    recorded {recorded}\n    now      {now}\n", utc(difference.unix_ms));
    }
    text
}

/// Each change of CPU time and disks in two lines.
pub fn lever_text(changes: &[LeverChange]) -> String {
    let told = |change: &LeverChange| {
        format!("{}  {}  {}\n  {}\n", utc(change.at_unix_ms), change.vm, change.title(), change.sentence())
    };
    if changes.is_empty() {
        return "The recording tells of no change of CPU time or disks.\n".to_owned();
    }
    changes.iter().map(told).collect()
}

/// What was changed of CPU time and disks; nothing where nothing was.
fn levers(counts: &LeverCounts) -> String {
    let mut text = String::new();
    for (vm, levers) in counts {
        let figure = |(lever, LeverFigures { changes, refused }): (&Lever, &LeverFigures)| match refused {
            0 => format!("{} {changes}", lever.name()),
            refused => format!("{} {changes}, {refused} of them not done", lever.name()),
        };
        text += &format!("  {vm}  {}\n", levers.iter().map(figure).collect::<Vec<_>>().join("; "));
    }
    if text.is_empty() { text } else { "Changes of CPU time and disks (--levers tells each):\n".to_owned() + &text }
}

/// Figures by column; then what each VM stalled and moved.
fn table(columns: &[Column]) -> String {
    type Figure = (&'static str, fn(&Figures) -> String);
    const FIGURES: [Figure; 7] = [
        ("bytes moved", |figures| Bytes(figures.vms.moved_bytes).to_string()),
        ("steps", |figures| figures.vms.steps.to_string()),
        ("predicted stall", |figures| stall(&figures.vms)),
        ("over the limit", |figures| format!("{} s", seconds(figures.over_limit_ms))),
        ("outside its limits", |figures| format!("{} s", seconds(figures.vms.outside_limits_ms))),
        ("below its floor", |figures| format!("{} s", seconds(figures.vms.below_floor_ms))),
        ("steps below a floor", |figures| figures.vms.steps_below_floor.to_string()),
    ];
    let mut rows = vec![row(String::new(), columns.iter().map(|column| column.name.clone()))];
    for (name, figure) in FIGURES {
        rows.push(row(name.to_owned(), columns.iter().map(|column| figure(&column.total))));
    }
    let names = columns.first().map(|column| column.vms.keys()).into_iter().flatten();
    for name in names {
        let cell = |column: &Column| {
            let figures = column.vms.get(name).copied().unwrap_or_default();
            format!("{} stall, {} moved", stall(&figures), Bytes(figures.moved_bytes))
        };
        rows.push(row(name.clone(), columns.iter().map(cell)));
    }
    align(&rows)
}

fn row(first: String, rest: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(first).chain(rest).collect()
}

/// Columns as wide as their widest cell, the first to the left, the others to the right.
fn align(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let mut text = "\n".to_owned();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            text += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn stall(figures: &VmFigures) -> String {
    format!("{} ms", figures.stall_us / 1000)
}

/// Seconds with one decimal, rounded down.
fn seconds(ms: u64) -> String {
    format!("{}.{}", ms / 1000, ms % 1000 / 100)
}

fn count(number: u64, what: &str) -> String {
    let ending = if what.ends_with("ch") { "es" } else { "s" };
    format!("{number} {what}{}", if number == 1 { "" } else { ending })
}

/// A moment in UTC; as a number where it is beyond what a calendar has.
fn utc(unix_ms: u64) -> String {
    let moment = UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms)).filter(|_| unix_ms < 253_402_300_800_000);
    moment.map_or_else(|| format!("{unix_ms} ms"), |moment| humantime::format_rfc3339_millis(moment).to_string())
}
