//! A number that somebody else wrote.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// An integer as it arrived, in the unit its field names: possibly negative, possibly absurd.
///
/// A guest is not trusted, and even honest ones send −1 as 2^64−1 for "no value". There is no way to the number
/// but [`Amount::within`], so that a check cannot be forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount(i128);

impl Amount {
    /// The amount held to `0..=most`, and whether it had to be.
    pub fn within(self, most: u64) -> (u64, bool) {
        match u64::try_from(self.0.max(0)) {
            Ok(value) if value <= most => (value, self.0 < 0),
            Ok(_) | Err(_) => (most, true),
        }
    }
}

impl From<u64> for Amount {
    fn from(value: u64) -> Self {
        Self(value.into())
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match u64::try_from(self.0) {
            Ok(value) => serializer.serialize_u64(value),
            Err(_) => serializer.serialize_i128(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }
            fn visit_u64<E>(self, value: u64) -> Result<Amount, E> {
                Ok(Amount(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Amount, E> {
                Ok(Amount(value.into()))
            }
            // serde_json hands an integer beyond 64 bits over as a float: absurd, yet an integer.
            #[allow(clippy::cast_possible_truncation)] // `as` saturates, and out of range is all that matters
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Amount, E> {
                if value.fract() == 0.0 {
                    Ok(Amount(value as i128))
                } else {
                    Err(E::invalid_type(de::Unexpected::Float(value), &self))
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "minimum": 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Amount, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn keeps_what_is_possible_and_clamps_the_rest() {
        for (text, expected) in [
            ("0", (0, false)),
            ("100", (100, false)),
            ("101", (100, true)),
            ("-1", (0, true)),
            ("18446744073709551615", (100, true)),
            ("18446744073709551616", (100, true)),
            ("-99999999999999999999999", (0, true)),
        ] {
            assert_eq!(parsed(text).unwrap().within(100), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_an_integer() {
        for text in ["0.5", "\"7\"", "null", "[]"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
