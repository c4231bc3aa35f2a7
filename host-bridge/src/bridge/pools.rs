//! The shell around the pools: looks where images are on a thread of its own, for a file system may not answer.

use crate::host::pools::{Image, look};
use crate::plan::Millis;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

/// How often they are looked at.
const EACH_MS: Millis = 5_000;

/// One look at a time.
#[derive(Debug, Default)]
pub(super) struct Pools {
    began_ms: Option<Millis>,
    open: Option<Receiver<Vec<Image>>>,
}

impl Pools {
    /// What came of the last look, with when it began; begins another when it is time.
    pub(super) fn tend(
        &mut self,
        now_ms: Millis,
        images: impl FnOnce() -> Vec<(usize, PathBuf)>,
    ) -> Option<(Millis, Vec<Image>)> {
        let found = match self.open.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => return None,
            Some(Ok(found)) => Some((self.began_ms.unwrap_or(now_ms), found)),
            Some(Err(TryRecvError::Disconnected)) | None => None,
        };
        self.open = None;
        if self.began_ms.is_none_or(|began_ms| now_ms.saturating_sub(began_ms) >= EACH_MS) {
            self.began_ms = Some(now_ms);
            let (done, open) = mpsc::channel();
            let images = images();
            // Nobody waits for it when the bridge stops.
            let look = move || done.send(look(images)).unwrap_or_default();
            match thread::Builder::new().name("pools".into()).spawn(look) {
                Ok(_) => self.open = Some(open),
                Err(error) => tracing::warn!(%error, "the images' pools cannot be looked at"),
            }
        }
        found
    }
}
