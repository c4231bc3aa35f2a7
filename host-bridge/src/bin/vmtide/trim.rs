//! `vmtide trim`: has one guest give unused blocks back, and waits for what came of it.

use super::{Failure, print};
use std::io::Write;
use std::time::Duration;
use vmtide_bridge::api::client::Client;
use vmtide_bridge::api::trims::{Trim, TrimState};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);

/// Asks, and waits until nothing more comes; whoever interrupts that leaves the guest at it.
pub(crate) async fn run(client: &Client, vm: &str, out: &mut impl Write, json: bool) -> Result<(), Failure> {
    let mut trim = client.trim(vm).await?;
    while !trim.is_over {
        tokio::time::sleep(LOOK).await;
        let found = client.vm(vm).await?.trim.filter(|found| found.id == trim.id);
        trim =
            found.ok_or_else(|| Failure::Local(format!("{vm}: the bridge does not know of the request any more")))?;
    }
    print(out, json, &trim, || format!("{vm}: {}\n", words(&trim)))?;
    match trim.state {
        TrimState::Done | TrimState::Partial | TrimState::Asked => Ok(()),
        TrimState::Refused | TrimState::Unsupported | TrimState::Unanswered => Err(Failure::Told),
    }
}

/// What the guest said, and what came of it on the host.
pub(crate) fn words(trim: &Trim) -> String {
    [Some(trim.said()), trim.room()].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
