//! Where a bridge listens.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::{fmt, str::FromStr};
use vmtide_protocol::PORT;

/// A bridge's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// `vsock://CID:PORT`.
    Vsock {
        /// The context id; 2 is the host.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// `unix:/absolute/path`.
    Unix(PathBuf),
}

/// The host, on the protocol's port.
impl Default for Address {
    fn default() -> Self {
        Self::Vsock { cid: vsock::VMADDR_CID_HOST, port: PORT }
    }
}

/// A text that is no address.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no address, expected \"vsock://CID:PORT\" or \"unix:/absolute/path\"")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let vsock = || {
            let (cid, port) = text.strip_prefix("vsock://")?.split_once(':')?;
            Some(Self::Vsock { cid: cid.parse().ok()?, port: port.parse().ok()? })
        };
        let unix = || {
            let path = text.strip_prefix("unix:").filter(|path| path.starts_with('/'))?;
            Some(Self::Unix(path.into()))
        };
        vsock().or_else(unix).ok_or_else(|| AddressError(text.to_owned()))
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read() {
        for text in ["vsock://2:7670", "vsock://4294967295:0", "unix:/run/b.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!(Address::default().to_string(), "vsock://2:7670");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "2:7670", "vsock://2", "vsock://host:1", "vsock://2:-1", "unix:relative", "unix:", "tcp://1:2"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
