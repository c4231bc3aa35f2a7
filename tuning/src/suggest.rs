//! What somebody meant who wrote a key or a value that there is not, in a catalogue or in the configuration of either daemon.

/// As far as a slip of the fingers goes: one letter too many, too few, wrong or two swapped, and one more in a long word.
const MOST_EDITS: usize = 2;

/// What the parser says, and the word that was probably meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Explained(String);

impl From<toml::de::Error> for Explained {
    fn from(error: toml::de::Error) -> Self {
        let text = error.to_string().trim_end().to_owned();
        Self(match meant(error.message()) {
            Some(word) => format!("{text}\ndid you mean `{word}`?"),
            None => text,
        })
    }
}

/// The one of `words` that `found` is a slip of.
pub fn nearest<'a>(found: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (edits, word) = words.into_iter().map(|word| (edits(found, word), word)).min()?;
    // A short word resembles every other.
    (edits <= MOST_EDITS && edits * 2 < found.len()).then_some(word)
}

/// The parser lists what is allowed in its message, between back-ticks: "unknown field `brigde`, expected one of `bridge`, …".
fn meant(message: &str) -> Option<&str> {
    let mut words = message.strip_prefix("unknown ")?.split('`').skip(1).step_by(2);
    let found = words.next()?;
    nearest(found, words)
}

/// Letters to insert, remove, replace or swap with their neighbour to come from one word to the other.
fn edits(from: &str, to: &str) -> usize {
    let (from, to): (Vec<_>, Vec<_>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<_>>()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(a != b);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        for (message, expected) in [
            ("unknown field `brigde`, expected one of `bridge`, `grant_ms`", Some("bridge")),
            ("unknown field `grantms`, expected one of `bridge`, `grant_ms`", Some("grant_ms")),
            ("unknown variant `adaptiv`, expected one of `off`, `adaptive`", Some("adaptive")),
            ("unknown field `sourc`, expected `source`", Some("source")),
            ("unknown field `quietms`, expected `busy_ms` or `quiet_ms`", Some("quiet_ms")),
            ("unknown variant `on`, expected one of `off`, `observe`", None),
            ("unknown field `colour`, expected one of `bridge`, `grant_ms`", None),
            ("unknown field ``, expected one of `a`", None),
            ("missing field `size_percent`", None),
            ("unknown", None),
        ] {
            assert_eq!(meant(message), expected, "{message}");
        }
    }

    #[test]
    fn edits_are_counted_both_ways() {
        for (from, to, expected) in [("", "abc", 3), ("abc", "abc", 0), ("acb", "abc", 1), ("ab", "axxb", 2)] {
            assert_eq!((edits(from, to), edits(to, from)), (expected, expected), "{from} {to}");
        }
    }
}
