//! CPU time as it is written: a number of CPUs, or thousandths of one with an `m`.

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;

/// No host has more than ten thousand CPUs.
const MOST_MILLICPUS: u64 = 10_000_000;

/// CPU time in thousandths of a CPU: `2`, `1.5` or `"1500m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millicpus(pub u64);

impl Millicpus {
    /// The amount that is written so.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no amount of CPU time; allowed is a number of CPUs or \"1500m\", up to 10000");
        let millicpus = match text.strip_suffix('m') {
            Some(number) => number.parse().ok(),
            None => thousandths(text),
        };
        millicpus.filter(|&millicpus| millicpus <= MOST_MILLICPUS).map(Self).ok_or_else(wrong)
    }
}

/// A decimal number with three digits behind the point at most.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 3 {
        return None;
    }
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(format!("{part:0<3}").parse().ok()?)
}

impl fmt::Display for Millicpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 1000, self.0 % 1000) {
            (whole, 0) => write!(f, "{whole}"),
            (whole, part) => write!(f, "{whole}.{}", format!("{part:03}").trim_end_matches('0')),
        }
    }
}

impl<'de> Deserialize<'de> for Millicpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Amount;
        impl Visitor<'_> for Amount {
            type Value = Millicpus;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of CPUs or \"1500m\"")
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Millicpus, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Millicpus, E> {
                self.visit_str(&value.to_string())
            }
            // As it was written, for the shortest text of a float is what a person would write.
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Millicpus, E> {
                self.visit_str(&value.to_string())
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Millicpus, E> {
                Millicpus::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_thousandths_mean_the_same_and_the_rest_is_refused() {
        for (text, millicpus, shown) in
            [("2", 2000, "2"), ("1.5", 1500, "1.5"), ("1500m", 1500, "1.5"), ("0.05", 50, "0.05"), ("0", 0, "0")]
        {
            let parsed = Millicpus::parse(text).unwrap();
            assert_eq!((parsed.0, parsed.to_string().as_str()), (millicpus, shown), "{text}");
        }
        for odd in ["", "-1", "1.", ".5", "1.2345", "1e3", "NaN", "inf", "m", "1,5", "10001", "99999999999999999999"] {
            let error = Millicpus::parse(odd).unwrap_err();
            assert!(error.contains("allowed is a number of CPUs"), "{odd}: {error}");
        }
    }
}
