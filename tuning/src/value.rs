//! What a knob holds, a fact says and an expression gives.

use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// A number, a word, or yes and no.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Bytes, counts, shares.
    Number(i64),
    /// A word that the kernel knows.
    Word(String),
    /// The outcome of a comparison.
    Truth(bool),
}

impl Value {
    /// What a file of one value says. The kernel marks a choice among several with brackets, as in
    /// `always [madvise] never`, and writes some numbers in hexadecimal.
    pub fn read(text: &str) -> Self {
        let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(chosen, _)| chosen);
        let word = chosen.unwrap_or(text).trim();
        let number = match word.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16),
            None => word.parse(),
        };
        number.map_or_else(|_| Self::Word(word.to_owned()), Self::Number)
    }

    /// What it is, for an error.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Number(_) => "a number",
            Self::Word(_) => "a word",
            Self::Truth(_) => "a yes or no",
        }
    }
}

/// As the kernel takes it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Word(word) => word.fmt(f),
            Self::Truth(truth) => truth.fmt(f),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_i64(*number),
            Self::Word(word) => serializer.serialize_str(word),
            Self::Truth(truth) => serializer.serialize_bool(*truth),
        }
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Truth(truth)
    }
}

impl From<&str> for Value {
    fn from(word: &str) -> Self {
        Self::Word(word.to_owned())
    }
}

/// A count that no machine has is the most that can be said.
impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        for (text, expected) in [
            ("60\n", Value::Number(60)),
            ("-1\n", Value::Number(-1)),
            ("0x0007\n", Value::Number(7)),
            ("always [madvise] never\n", "madvise".into()),
            ("[none] mq-deadline\n", "none".into()),
            ("N\n", "N".into()),
            ("\n", "".into()),
            ("99999999999999999999\n", "99999999999999999999".into()),
            ("[\n", "[".into()),
        ] {
            assert_eq!(Value::read(text), expected, "{text:?}");
        }
    }
}
