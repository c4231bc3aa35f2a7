//! What is tuned: a guest by its agent, or a host by its tuner.

use crate::catalogue::Mode;
use crate::journal::{Outcome, Owned};
use std::io;
use std::path::Path;

/// How undoing a record ended, with what its file holds, or why it did not.
pub type Undo = io::Result<(Outcome, String)>;

/// All in which a guest and a host differ: data, and how to undo what is no knob.
#[derive(Debug)]
pub struct Domain {
    /// `guest` or `host`: what the knobs belong to, for people.
    pub machine: &'static str,
    /// Who sets them, for people.
    pub daemon: &'static str,
    /// The command that lists the knobs.
    pub list: &'static str,
    /// The catalogue's files and what they say, in the order in which their knobs are applied.
    pub files: &'static [(&'static str, &'static str)],
    /// The facts that expressions may name beside [`crate::facts::COMMON`], and what each says.
    pub facts: &'static [(&'static str, &'static str)],
    /// Names in the journal that are no knobs, and what an operator reads who makes one of them.
    pub reserved: &'static [(&'static str, &'static str)],
    /// Undoes a record with a reserved name below a root; `None` for a knob's.
    pub undo: fn(&Path, &Owned) -> Option<Undo>,
}

impl Domain {
    /// Every fact that an expression may name, and what it says.
    pub fn all_facts(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.facts.iter().chain(crate::facts::COMMON).copied()
    }

    /// Whether an expression may name it.
    pub fn knows(&self, fact: &str) -> bool {
        self.all_facts().any(|(name, _)| name == fact)
    }

    /// Whether records with that name are undone in a way of their own.
    pub fn reserves(&self, id: &str) -> bool {
        self.reserved.iter().any(|(name, _)| *name == id)
    }
}

/// What an operator set.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// No knob does more than this.
    pub mode: Mode,
    /// The folder of files that change or add knobs.
    pub catalogue: &'a Path,
    /// Where it is written down what was changed; in a file system that a reboot empties.
    pub journal: &'a Path,
}
