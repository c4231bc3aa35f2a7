//! A line to a message, and what in it nobody here knows.

use serde::Deserialize;
use std::borrow::Cow;

/// Why a line is not a message. Either ends the session.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not a JSON object with a string `kind`.
    #[error("not a JSON object with a kind: {0}")]
    NotAMessage(#[source] serde_json::Error),
    /// The kind is known, what it carries is not of its shape.
    #[error("malformed {kind}: {source}")]
    Malformed {
        /// The message's kind.
        kind: String,
        /// Where and why.
        source: serde_json::Error,
    },
}

/// What a line held.
#[derive(Debug)]
pub struct Decoded<M> {
    /// The message; `None` when its kind is not known here, which is no error: a newer peer may send it.
    pub message: Option<M>,
    /// The unknown kind or the paths of the unknown fields, for one line in the log.
    pub unknown: Vec<String>,
}

/// A set of messages that one side sends.
pub trait Wire: Sized {
    /// Reads the message of `kind`; `None` when the kind is not known.
    fn read<'de, D: serde::Deserializer<'de>>(kind: &str, from: D) -> Option<Result<Self, D::Error>>;
}

/// Turns one line (without its newline) into a message of the set `M`.
///
/// # Errors
/// [`DecodeError`] for what cannot be read at all; unknown kinds and fields are no errors.
pub fn decode<M: Wire>(line: &[u8]) -> Result<Decoded<M>, DecodeError> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        kind: Cow<'a, str>,
    }
    let Envelope { kind } = serde_json::from_slice(line).map_err(DecodeError::NotAMessage)?;
    let mut unknown = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| {
        let path = path.to_string();
        if path != "kind" {
            unknown.push(path);
        }
    };
    let mut json = serde_json::Deserializer::from_slice(line);
    match M::read(&kind, serde_ignored::Deserializer::new(&mut json, &mut note)) {
        None => Ok(Decoded { message: None, unknown: vec![format!("kind {kind:?}")] }),
        Some(Ok(message)) => Ok(Decoded { message: Some(message), unknown }),
        Some(Err(source)) => Err(DecodeError::Malformed { kind: kind.into_owned(), source }),
    }
}

/// Implements [`Wire`] for an enum whose variants each hold one struct, by the kind on the wire.
macro_rules! wire {
    ($set:ident { $($kind:literal => $variant:ident),+ $(,)? }) => {
        impl $crate::Wire for $set {
            fn read<'de, D: serde::Deserializer<'de>>(kind: &str, from: D) -> Option<Result<Self, D::Error>> {
                match kind {
                    $($kind => Some(serde::Deserialize::deserialize(from).map(Self::$variant)),)+
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use wire;
