//! `vmtide trim`: has one guest give unused blocks back, and waits for what came of it.

use super::{Failure, print};
use std::io::Write;
use std::time::Duration;
use vmtide_bridge::api::client::Client;
use vmtide_bridge::api::trims::{Trim, TrimState};
use vmtide_bridge::config::Bytes;

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

/// What came of a request, as in `gave 1200 MiB back (/: 1258291200 bytes); there is 1100 MiB more room on the host`.
pub(crate) fn words(trim: &Trim) -> String {
    let given = Bytes(trim.given_bytes);
    let mut text = match trim.state {
        TrimState::Asked => "gives unused blocks back now".to_owned(),
        TrimState::Done => format!("gave {given} back"),
        TrimState::Partial => format!("gave {given} back, not all"),
        TrimState::Refused => "gave nothing back".to_owned(),
        TrimState::Unsupported => "its agent does not know how to give blocks back".to_owned(),
        TrimState::Unanswered => "it is not known whether it gave blocks back".to_owned(),
    };
    if let Some(detail) = &trim.detail {
        text += &format!(" ({detail})");
    }
    if let Some(bytes) = trim.pool_bytes {
        let which = if bytes < 0 { "less" } else { "more" };
        text += &format!("; there is {} {which} room on the host than before", Bytes(bytes.unsigned_abs()));
    }
    text
}
