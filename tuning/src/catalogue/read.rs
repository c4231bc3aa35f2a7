//! TOML to knobs, entry by entry: what is wrong with one costs that one, and the error says where it stands.

use super::CatalogueError;
use super::knob::Knob;
use crate::domain::Domain;
use crate::{expression::Expression, suggest::nearest, value::Value};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use toml::Spanned;

/// What a knob has.
const KEYS: [&str; 14] = [
    "default",
    "group",
    "id",
    "kernel_resets_on",
    "mode",
    "path",
    "risk",
    "signal",
    "source",
    "twin",
    "twin_default",
    "value",
    "when",
    "why",
];

/// Where knobs are; a path with `..` could lead out of it.
const PLACES: [&str; 2] = ["/proc/sys/", "/sys/"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    knob: Vec<Spanned<BTreeMap<String, Spanned<toml::Value>>>>,
}

/// Adds the knobs in `text` to `knobs`, or changes those that are there; returns what is wrong with the rest.
pub(super) fn add(domain: &'static Domain, knobs: &mut Vec<Knob>, file: &str, text: &str) -> Vec<CatalogueError> {
    let entries = match toml::from_str::<File>(text) {
        Ok(file) => file.knob,
        Err(source) => return vec![CatalogueError::Toml { file: file.into(), source: source.into() }],
    };
    let mut errors = Vec::new();
    for entry in entries {
        let mut entry =
            Entry { domain, file, text, start: entry.span().start, id: String::new(), fields: entry.into_inner() };
        if let Err(error) = entry.add_to(knobs) {
            errors.push(error);
        }
    }
    errors
}

/// One `[[knob]]`.
struct Entry<'a> {
    domain: &'static Domain,
    file: &'a str,
    text: &'a str,
    start: usize,
    id: String,
    fields: BTreeMap<String, Spanned<toml::Value>>,
}

impl Entry<'_> {
    fn add_to(&mut self, knobs: &mut Vec<Knob>) -> Result<(), CatalogueError> {
        self.id = self.needed("id")?;
        // Its records are undone in another way than a knob's.
        if let Some((_, why)) = self.domain.reserved.iter().find(|(id, _)| *id == self.id) {
            return Err(self.wrong(self.start, why));
        }
        let index = knobs.iter().position(|knob| knob.id == self.id);
        let knob = self.knob(index.and_then(|index| knobs.get(index)).cloned())?;
        match index.and_then(|index| knobs.get_mut(index)) {
            Some(known) => *known = knob,
            None => knobs.push(knob),
        }
        Ok(())
    }

    /// The knob that the entry describes, or the `known` one with what the entry changes.
    fn knob(&mut self, known: Option<Knob>) -> Result<Knob, CatalogueError> {
        let is_new = known.is_none();
        let mut knob = match known {
            Some(knob) => knob,
            None => self.new_knob()?,
        };
        if let Some(value) = self.expression("value")? {
            if !is_new && knob.value.is_none() {
                return Err(self.wrong(self.start, "this knob is only told and has no value"));
            }
            knob.value = Some(value);
        }
        knob.when = self.expression("when")?.or(knob.when);
        if let Some(default) = self.take::<Vec<toml::Value>>("default")? {
            knob.default = default.iter().filter_map(plain).collect();
        }
        knob.twin_default = self.take::<toml::Value>("twin_default")?.as_ref().and_then(plain).or(knob.twin_default);
        if let Some(risk) = self.take("risk")? {
            knob.risk = risk;
            knob.mode = knob.risk.default_mode();
        }
        knob.mode = self.take("mode")?.unwrap_or(knob.mode);
        knob.signal = self.take("signal")?.or(knob.signal);
        knob.why = self.take("why")?.unwrap_or(knob.why);
        knob.source = self.take("source")?.unwrap_or(knob.source);
        match self.fields.pop_first() {
            None => Ok(knob),
            Some((key, value)) => Err(self.wrong(value.span().start, &left_over(&key))),
        }
    }

    /// What cannot be changed afterwards: a journal may hold its path already.
    fn new_knob(&mut self) -> Result<Knob, CatalogueError> {
        let risk = self.needed("risk")?;
        let knob = Knob {
            id: self.id.clone(),
            path: self.path("path")?.ok_or_else(|| self.wrong(self.start, "path is missing"))?,
            twin: self.path("twin")?,
            default: Vec::new(),
            twin_default: None,
            group: self.take("group")?,
            value: None,
            when: None,
            mode: super::Risk::default_mode(risk),
            risk,
            signal: None,
            kernel_resets_on: self.take("kernel_resets_on")?.unwrap_or_default(),
            why: self.needed("why")?,
            source: self.needed("source")?,
        };
        match knob.kernel_resets_on.iter().find(|name| !self.domain.knows(name)) {
            None => Ok(knob),
            Some(name) => Err(self.wrong(self.start, &format!("unknown fact {name:?}"))),
        }
    }

    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, CatalogueError> {
        let Some(field) = self.fields.remove(key) else { return Ok(None) };
        let start = field.span().start;
        let value = field.into_inner().try_into();
        value.map(Some).map_err(|error: toml::de::Error| self.wrong(start, &format!("{key}: {}", error.message())))
    }

    fn needed<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, CatalogueError> {
        self.take(key)?.ok_or_else(|| self.wrong(self.start, &format!("{key} is missing")))
    }

    fn expression(&mut self, key: &str) -> Result<Option<Expression>, CatalogueError> {
        let start = self.fields.get(key).map_or(self.start, |field| field.span().start);
        let Some(text) = self.take::<String>(key)? else { return Ok(None) };
        let expression: Expression =
            text.trim().parse().map_err(|error| self.wrong(start, &format!("{key}: {error}")))?;
        match expression.facts().into_iter().find(|name| !self.domain.knows(name)) {
            None => Ok(Some(expression)),
            Some(name) => Err(self.wrong(start, &format!("{key}: unknown fact {name:?}"))),
        }
    }

    fn path(&mut self, key: &str) -> Result<Option<String>, CatalogueError> {
        let start = self.fields.get(key).map_or(self.start, |field| field.span().start);
        let Some(path) = self.take::<String>(key)? else { return Ok(None) };
        if PLACES.iter().any(|place| path.starts_with(place)) && path.split('/').all(|part| part != "..") {
            return Ok(Some(path));
        }
        Err(self.wrong(start, &format!("{key}: expected a path below /proc/sys/ or /sys/, found {path:?}")))
    }

    fn wrong(&self, start: usize, what: &str) -> CatalogueError {
        let line = self.text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
        CatalogueError::Knob { file: self.file.into(), line, id: self.id.clone(), what: what.to_owned() }
    }
}

/// What is wrong with a key that no knob took.
fn left_over(key: &str) -> String {
    if KEYS.contains(&key) {
        return format!("{key} of a knob that is there cannot be changed");
    }
    let meant = nearest(key, KEYS).map(|word| format!("; did you mean {word}?")).unwrap_or_default();
    format!("unknown key {key:?}{meant}")
}

/// A number or a word of TOML.
fn plain(value: &toml::Value) -> Option<Value> {
    match value {
        toml::Value::Integer(number) => Some(Value::Number(*number)),
        toml::Value::String(word) => Some(Value::read(word)),
        _ => None,
    }
}
