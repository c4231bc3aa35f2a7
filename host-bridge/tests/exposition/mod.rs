//! Reads metrics as strictly as their formats say: OpenMetrics 1.0, and the older text format of Prometheus.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use vmtide_bridge::api::metrics::Format;

/// What a page says.
#[derive(Debug, Default)]
pub struct Exposition {
    /// The families without the suffix of counters, in their order.
    pub families: Vec<String>,
    /// Each sample's value, by its name and its labels: `name label=value …`, labels in the order of their names.
    pub samples: BTreeMap<String, String>,
}

/// The family that is being read.
#[derive(Default)]
struct Open {
    /// As the metadata name it.
    name: String,
    kind: Option<String>,
    has_help: bool,
    has_unit: bool,
    has_samples: bool,
}

impl Exposition {
    pub fn read(format: Format, page: &str) -> Result<Self, String> {
        let body = match format {
            Format::OpenMetrics => page.strip_suffix("# EOF\n").ok_or("it does not end with # EOF")?,
            Format::Prometheus => page,
        };
        if !body.ends_with('\n') {
            return Err("the last line has no end".into());
        }
        let (mut all, mut open) = (Self::default(), Open::default());
        for line in body.lines() {
            all.line(format, &mut open, line).map_err(|why| format!("{line}: {why}"))?;
        }
        let names: BTreeSet<&String> = all.families.iter().collect();
        if names.len() != all.families.len() {
            return Err("a family is there twice".into());
        }
        Ok(all)
    }

    fn line(&mut self, format: Format, open: &mut Open, line: &str) -> Result<(), String> {
        let Some(meta) = line.strip_prefix("# ") else { return self.sample(format, open, line) };
        let mut words = meta.splitn(3, ' ');
        let (what, name, value) = (words.next(), words.next(), words.next());
        let (what, name, value) = (what.unwrap(), name.ok_or("no name")?, value.ok_or("no value")?);
        is_name(name)?;
        if open.name != name || open.has_samples {
            if !open.name.is_empty() && !open.has_samples {
                return Err(format!("{} has no samples", open.name));
            }
            *open = Open { name: name.to_owned(), ..Open::default() };
        }
        let is_again = match what {
            "HELP" => {
                unescaped(value, format == Format::OpenMetrics)?;
                std::mem::replace(&mut open.has_help, true)
            }
            "TYPE" => {
                if !["gauge", "counter"].contains(&value) {
                    return Err("unknown type".into());
                }
                if format == Format::OpenMetrics && name.ends_with("_total") {
                    return Err("a family is named without its suffix".into());
                }
                let base = if value == "counter" { name.trim_end_matches("_total") } else { name };
                self.families.push(base.to_owned());
                open.kind.replace(value.to_owned()).is_some()
            }
            "UNIT" if format == Format::OpenMetrics => {
                if !name.ends_with(&format!("_{value}")) {
                    return Err("the name does not end with the unit".into());
                }
                std::mem::replace(&mut open.has_unit, true)
            }
            _ => return Err("an unknown comment".into()),
        };
        if is_again { Err("said twice".into()) } else { Ok(()) }
    }

    fn sample(&mut self, format: Format, open: &mut Open, line: &str) -> Result<(), String> {
        let end = line.find(['{', ' ']).ok_or("no value")?;
        let (name, mut rest) = line.split_at(end);
        is_name(name)?;
        let kind = open.kind.as_deref().ok_or("a sample before its type")?;
        let suffix = if kind == "counter" && format == Format::OpenMetrics { "_total" } else { "" };
        if name != format!("{}{suffix}", open.name) || (kind == "counter" && !name.ends_with("_total")) {
            return Err(format!("is no sample of {}", open.name));
        }
        let base = name.trim_end_matches("_total");
        let units = ["bytes", "seconds", "ratio", "cpus", "per_second"];
        let needs_unit = units.iter().any(|unit| base.ends_with(&format!("_{unit}")));
        if !open.has_help || (format == Format::OpenMetrics && needs_unit != open.has_unit) {
            return Err("a help or a unit is missing".into());
        }
        open.has_samples = true;
        let mut labels = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            loop {
                let (label, value) = rest.split_once("=\"").ok_or("a label without a value")?;
                is_name(label)?;
                let end = closing_quote(value).ok_or("a quote is open")?;
                let is_new = labels.insert(label.to_owned(), unescaped(&value[..end], true)?).is_none();
                if !is_new {
                    return Err("a label is there twice".into());
                }
                rest = &value[end + 1..];
                match rest.strip_prefix(',') {
                    Some(next) => rest = next,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}').ok_or("the labels do not end")?;
        }
        let value = rest.strip_prefix(' ').ok_or("no value")?;
        if !value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') || value.parse::<f64>().is_err() {
            return Err("no number".into());
        }
        let key = labels.iter().fold(name.to_owned(), |key, (label, value)| format!("{key} {label}={value}"));
        match self.samples.insert(key, value.to_owned()) {
            Some(_) => Err("the sample is there twice".into()),
            None => Ok(()),
        }
    }
}

fn is_name(name: &str) -> Result<(), String> {
    let is_first = name.starts_with(|letter: char| letter.is_ascii_lowercase());
    let is_rest = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if is_first && is_rest { Ok(()) } else { Err(format!("{name:?} is no name")) }
}

/// Where the quote is that no backslash precedes.
fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(at, letter)| {
        let ends = letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        ends.then_some(at)
    })
}

fn unescaped(text: &str, quotes_are_escaped: bool) -> Result<String, String> {
    let mut letters = text.chars();
    let mut plain = String::new();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => match letters.next() {
                Some('n') => '\n',
                Some('\\') => '\\',
                Some('"') if quotes_are_escaped => '"',
                other => return Err(format!("\\{other:?} is no escape")),
            },
            '"' if quotes_are_escaped => return Err("a quote is not escaped".into()),
            other => other,
        });
    }
    Ok(plain)
}
