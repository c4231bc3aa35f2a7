//! The lines of a journal, and what they add up to.

use crate::trial::Verdict;
use crate::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line. Times are milliseconds since boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The first line.
    Began {
        /// Of the journal's format.
        version: u32,
        /// A journal of another boot says nothing about this one.
        boot_id: String,
    },
    /// A write that is about to be tried.
    Write(Owned),
    /// An earlier write does not count any more.
    Closed {
        /// When.
        at_ms: u64,
        /// The knob.
        knob: String,
        /// Its file.
        path: String,
        /// How it ended.
        outcome: Outcome,
        /// What the file holds; empty when it is gone.
        found: String,
    },
    /// The end of a trial.
    Tried(Tried),
}

/// A file that vmtide changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Owned {
    /// When.
    pub at_ms: u64,
    /// The knob.
    pub knob: String,
    /// Its file.
    pub path: String,
    /// What it held before the first write.
    pub original: String,
    /// What it should hold now.
    pub written: String,
    /// vmtide's own earlier value, which it holds until this write is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
    /// The file that brings the original back, when it is the twin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin: Option<Twin>,
    /// For a person.
    pub why: String,
    /// Facts on which the kernel computes the knob anew, at the time of the write.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

/// The other file of a limit that has two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Twin {
    /// The file.
    pub path: String,
    /// What it held.
    pub original: String,
}

impl Owned {
    /// Whether `found` is vmtide's own value.
    pub fn is_ours(&self, found: &Value) -> bool {
        *found == Value::read(&self.written) || self.replaced.as_deref().is_some_and(|old| *found == Value::read(old))
    }

    /// Whether `found` is what was there before.
    pub fn is_original(&self, found: &Value) -> bool {
        *found == Value::read(&self.original)
    }

    /// The file and the value that bring the original back.
    pub fn restore(&self) -> (&str, Value) {
        match &self.twin {
            Some(twin) => (&twin.path, Value::read(&twin.original)),
            None => (&self.path, Value::read(&self.original)),
        }
    }
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The original is back.
    Restored,
    /// The kernel did not take the value; the original is still there.
    Refused,
    /// Somebody else wrote another value.
    Taken,
    /// Somebody else wrote the original back.
    PutBack,
    /// The file is gone, with its CPU or disk.
    Gone,
    /// The kernel computed its value anew.
    KernelReset,
}

/// The end of a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// When.
    pub at_ms: u64,
    /// The knob, or its group.
    pub unit: String,
    /// What came of it.
    pub verdict: Verdict,
    /// The values that were tried.
    pub written: Vec<String>,
    /// Not before this time again; `None` when it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at_ms: Option<u64>,
    /// How many trials of this unit were reverted.
    pub reverts: u32,
}

/// What the records of one boot add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// Files that hold vmtide's values, in the order of their first write.
    pub owned: Vec<Owned>,
    /// Files that somebody else has taken.
    pub taken: BTreeMap<String, Outcome>,
    /// The last trial of each unit.
    pub tried: BTreeMap<String, Tried>,
}

impl Ledger {
    /// What `records` add up to.
    pub fn of_records(records: &[Record]) -> Self {
        let mut ledger = Self::default();
        for record in records {
            ledger.add(record);
        }
        ledger
    }

    /// Adds a record.
    pub fn add(&mut self, record: &Record) {
        match record {
            Record::Began { .. } => {}
            Record::Write(write) => match self.owned.iter_mut().find(|owned| owned.path == write.path) {
                Some(owned) => *owned = write.clone(),
                None => self.owned.push(write.clone()),
            },
            Record::Closed { path, outcome, .. } => {
                self.owned.retain(|owned| owned.path != *path);
                if matches!(outcome, Outcome::Taken | Outcome::PutBack) {
                    self.taken.insert(path.clone(), *outcome);
                }
            }
            Record::Tried(tried) => {
                self.tried.insert(tried.unit.clone(), tried.clone());
            }
        }
    }

    /// What is known of the file at `path`.
    pub fn of(&self, path: &str) -> Option<&Owned> {
        self.owned.iter().find(|owned| owned.path == path)
    }

    /// The fewest records that add up to the same, in order.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let closed = self.taken.iter().map(|(path, outcome)| Record::Closed {
            at_ms: 0,
            knob: String::new(),
            path: path.clone(),
            outcome: *outcome,
            found: String::new(),
        });
        let tried = self.tried.values().cloned().map(Record::Tried);
        closed.chain(tried).chain(self.owned.iter().cloned().map(Record::Write))
    }
}
