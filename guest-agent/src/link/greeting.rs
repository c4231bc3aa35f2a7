//! A session that ends as soon as it began: how `vmtide-agent doctor` learns what a bridge says to this VM.

use super::Address;
use super::session::{Session, SessionError};
use crate::said::Said;
use std::io;
use std::time::Duration;
use tokio::time::timeout;
use vmtide_protocol::agent::Hello;
use vmtide_protocol::bridge::RejectReason;

/// For each of connecting and greeting.
const PATIENCE: Duration = Duration::from_secs(3);

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The bridge welcomed the VM.
    Welcome {
        /// By this name.
        vm: String,
        /// The version that both would speak.
        protocol: u32,
    },
    /// It did not want it.
    Rejected {
        /// Why.
        reason: RejectReason,
        /// In its words.
        message: String,
    },
    /// It wants a version that this agent does not speak.
    Version(u32),
    /// There was no connection.
    Unreachable {
        /// Nobody listens, no device, …
        kind: io::ErrorKind,
        /// In words.
        text: String,
    },
    /// It took the connection, and did not answer.
    Silent(String),
    /// It answered with what is no welcome.
    Broken(String),
}

/// Says hello to the bridge at `address` and hangs up. A bridge takes it for the VM's agent: only where no agent runs.
pub async fn greet(address: &Address, hello: &Hello) -> Greeting {
    let mut session = match timeout(PATIENCE, Session::connect(address)).await {
        Err(_) => {
            let text = format!("no connection within {PATIENCE:?}");
            return Greeting::Unreachable { kind: io::ErrorKind::TimedOut, text };
        }
        Ok(Err(SessionError::Connect(error))) => {
            return Greeting::Unreachable { kind: error.kind(), text: error.to_string() };
        }
        Ok(Err(error)) => return Greeting::Broken(crate::full_text(&error)),
        Ok(Ok(session)) => session,
    };
    match timeout(PATIENCE, session.greet(hello, &mut Said::default())).await {
        Err(_) => Greeting::Silent(SessionError::Silent { waited: PATIENCE }.to_string()),
        Ok(Ok(welcome)) => Greeting::Welcome { vm: welcome.vm, protocol: welcome.protocol },
        Ok(Err(SessionError::Rejected { reason, message })) => Greeting::Rejected { reason, message },
        Ok(Err(SessionError::Version { chosen })) => Greeting::Version(chosen),
        Ok(Err(error)) => Greeting::Broken(crate::full_text(&error)),
    }
}
