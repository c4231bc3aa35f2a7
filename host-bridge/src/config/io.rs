//! What an operator sets for a VM's disks: rates as they are written, and their way to an [`IoConfig`].

use super::{Bytes, IoConfig, MAXIMUM_SHARES};
use serde::Deserialize;
use serde::de::{self, Deserializer};
use std::fmt;

/// A disk of less serves no guest: four operations a second.
const LEAST_MAXIMUM_BYTES_PER_S: u64 = 64 << 10;
/// No store does more.
const MOST_BYTES_PER_S: u64 = 1 << 40;

/// Bytes per second, written as an integer or as `"50MiB/s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

impl Rate {
    /// Reads `"50MiB/s"`, `"1.5 GiB/s"` or `"4096"`.
    ///
    /// # Errors
    /// A sentence with what was found and what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let amount = text.trim().strip_suffix("/s").unwrap_or(text);
        let allowed = |_| format!("{text:?} is no rate; allowed is \"50MiB/s\", with B, KiB, MiB, GiB or TiB");
        Bytes::parse(amount).map(|Bytes(bytes)| Self(bytes)).map_err(allowed)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Bytes(self.0))
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Rate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate such as \"50MiB/s\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Rate, E> {
                Rate::parse(text).map_err(E::custom)
            }
            fn visit_u64<E>(self, bytes_per_s: u64) -> Result<Rate, E> {
                Ok(Rate(bytes_per_s))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Rate, E> {
                u64::try_from(number).map(Rate).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// `vm.io` of a file.
#[derive(Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(super) struct Io {
    /// Its weight for the disks; that for memory without it.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    shares: Option<u32>,
    /// Its disks are never held to less.
    minimum: Option<Rate>,
    /// Its disks never do more, at least 64KiB/s; as much as they can without it.
    maximum: Option<Rate>,
}

impl Io {
    pub(super) fn check(&self) -> Result<IoConfig, (&'static str, String)> {
        let config = IoConfig {
            shares: self.shares,
            minimum_bytes_per_s: self.minimum.map_or(0, |minimum| minimum.0),
            maximum_bytes_per_s: self.maximum.map(|maximum| maximum.0),
        };
        check_io_limits(&config).map(|()| config)
    }
}

/// What may be set for a VM's disks; else the key, and what is allowed.
pub(crate) fn check_io_limits(io: &IoConfig) -> Result<(), (&'static str, String)> {
    let minimum = Rate(io.minimum_bytes_per_s);
    if minimum.0 > MOST_BYTES_PER_S {
        return Err(("io.minimum", format!("{minimum} is too much; allowed is up to 1TiB/s")));
    }
    if let Some(maximum) = io.maximum_bytes_per_s {
        if !(LEAST_MAXIMUM_BYTES_PER_S..=MOST_BYTES_PER_S).contains(&maximum) {
            return Err(("io.maximum", format!("{} cannot be; allowed is 64KiB/s to 1TiB/s", Rate(maximum))));
        }
        if maximum < minimum.0 {
            return Err(("io.maximum", format!("{} is less than the minimum of {minimum}", Rate(maximum))));
        }
    }
    if let Some(shares) = io.shares.filter(|shares| !(1..=MAXIMUM_SHARES).contains(shares)) {
        return Err(("io.shares", format!("{shares} is out of range; allowed is 1 to {MAXIMUM_SHARES}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_unit_and_a_second_or_are_bytes() {
        for (text, bytes_per_s) in [
            ("50MiB/s", 50 << 20),
            ("1.5 GiB/s", 1536 << 20),
            ("64 KiB/s ", 64 << 10),
            ("2MiB", 2 << 20),
            ("4096", 4096),
            ("0", 0),
        ] {
            assert_eq!(Rate::parse(text), Ok(Rate(bytes_per_s)), "{text}");
        }
        for odd in ["", "/s", "MiB/s", "50MiB/m", "50MB/s", "-1", "1e9", "50MiB/s/s", "99999999999TiB/s"] {
            let error = Rate::parse(odd).unwrap_err();
            assert!(error.contains("allowed is \"50MiB/s\""), "{odd}: {error}");
        }
        assert_eq!(Rate(50 << 20).to_string(), "50 MiB/s");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_is_allowed() {
        let limits = |minimum: u64, maximum: Option<u64>, shares: Option<u32>| IoConfig {
            shares,
            minimum_bytes_per_s: minimum,
            maximum_bytes_per_s: maximum,
        };
        assert_eq!(check_io_limits(&limits(1 << 40, Some(1 << 40), Some(1))), Ok(()));
        assert_eq!(check_io_limits(&limits(0, Some(64 << 10), None)), Ok(()));
        for (wrong, key, part) in [
            (limits(0, Some(0), None), "io.maximum", "0 B/s cannot be; allowed is 64KiB/s to 1TiB/s"),
            (limits(0, Some(u64::MAX), None), "io.maximum", "allowed is 64KiB/s to 1TiB/s"),
            (limits(u64::MAX, None, None), "io.minimum", "allowed is up to 1TiB/s"),
            (limits(2 << 20, Some(1 << 20), None), "io.maximum", "1 MiB/s is less than the minimum of 2 MiB/s"),
            (limits(0, None, Some(0)), "io.shares", "allowed is 1 to 1000000"),
            (limits(0, None, Some(u32::MAX)), "io.shares", "allowed is 1 to 1000000"),
        ] {
            let (named, message) = check_io_limits(&wrong).unwrap_err();
            assert!(named == key && message.contains(part), "{named}: {message}");
        }
    }
}
