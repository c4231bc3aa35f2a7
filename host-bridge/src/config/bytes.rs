//! Amounts of memory as a person writes them.

use serde::{Deserialize, Deserializer, de};
use std::fmt;

const UNITS: [(&str, u64); 5] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// A number of bytes, written as an integer or as `"768MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Bytes {
    /// Reads `"768MiB"`, `"1.5 GiB"` or `"4096"`.
    ///
    /// # Errors
    /// A sentence with what was found and what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed =
            || format!("{text:?} is not an amount of memory; allowed is a number with B, KiB, MiB, GiB or TiB");
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let unit = unit.trim();
        let factor = if unit.is_empty() {
            1
        } else {
            UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(allowed)?.1
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = whole.parse().map_err(|_| allowed())?;
        let mut bytes = whole.checked_mul(factor).ok_or_else(allowed)?;
        if number.contains('.') {
            let digits = u32::try_from(fraction.len()).ok().filter(|d| (1..=9).contains(d)).ok_or_else(allowed)?;
            let fraction: u64 = fraction.parse().map_err(|_| allowed())?;
            let part = u128::from(factor) * u128::from(fraction) / u128::from(10u64.pow(digits));
            bytes = u64::try_from(part).ok().and_then(|part| bytes.checked_add(part)).ok_or_else(allowed)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Bytes {
    /// Whole mebibytes from 1 MiB on, which is how the tables show memory; bytes below.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1 << 20 {
            write!(f, "{} B", self.0)
        } else {
            write!(f, "{} MiB", self.0.saturating_add(1 << 19) >> 20)
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of memory such as \"768MiB\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                Bytes::parse(text).map_err(E::custom)
            }
            fn visit_u64<E>(self, bytes: u64) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Bytes, E> {
                u64::try_from(bytes).map(Bytes).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_person_writes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("768MiB", 768 << 20),
            ("1.5 GiB", 1536 << 20),
            ("2gib", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(Bytes::parse(text), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn shows_whole_mebibytes() {
        for (bytes, text) in [(4096, "4096 B"), (3 << 19, "2 MiB"), (u64::MAX, "17592186044415 MiB")] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn says_what_is_allowed() {
        for text in ["", "MiB", "1.GiB", "-1MiB", "7 MB", "1.2.3GiB", "99999999999TiB", "0x10"] {
            let error = Bytes::parse(text).unwrap_err();
            assert!(error.contains("allowed is a number with"), "{text}: {error}");
        }
    }
}
