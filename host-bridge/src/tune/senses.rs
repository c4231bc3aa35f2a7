//! What the host's facts come from, over time: what it is short of, and whether merging pages pays.

use super::facts::{self, Lasting};
use super::ksm::{Counts, Judge};
use crate::host::{Host, HostError};
use crate::init;
use crate::plan::{Millis, Policy, Shortage};
use std::path::{Path, PathBuf};
use vmtide_tuning::Facts;

/// CPUs are to spare when they are idle for so much of the time …
const SPARE_PERMILLE: u32 = 400;
/// … until it is less than this.
const NOT_SPARE_PERMILLE: u32 = 200;
/// Memory is short when less is available …
const SHORT_PERMILLE: u32 = 200;
/// … until it is more than this.
const NOT_SHORT_PERMILLE: u32 = 300;
/// How often the host's processes are looked through for VMs.
const VMS_EACH_MS: Millis = 60_000;
/// How far back the average of idle CPUs looks.
const AVERAGE_MS: u64 = 5_000;

/// The host, looked at again and again.
#[derive(Debug)]
pub struct Senses {
    root: PathBuf,
    policy: Policy,
    host: Host,
    shortage: Shortage,
    judge: Judge,
    looked_ms: Option<Millis>,
    vms_ms: Option<Millis>,
    idle_permille: u32,
    lasting: Lasting,
}

impl Senses {
    /// Of the host below `root`; `policy` has the lines from which it is short of something.
    ///
    /// # Errors
    /// [`HostError`] when its memory cannot be read.
    pub fn open(root: &Path, policy: Policy) -> Result<Self, HostError> {
        Ok(Self {
            root: root.into(),
            policy,
            host: Host::new(root, None, None)?,
            shortage: Shortage::default(),
            judge: Judge::default(),
            looked_ms: None,
            vms_ms: None,
            idle_permille: 0,
            lasting: Lasting::default(),
        })
    }

    /// Looks at the host; returns whether something that lasts has changed.
    ///
    /// # Errors
    /// [`HostError`] when its memory cannot be read.
    pub fn look(&mut self, now_ms: Millis) -> Result<bool, HostError> {
        let reading = self.host.read(now_ms)?;
        self.shortage.update(now_ms, &reading.load(), &self.policy);
        // The first reading has nothing to be the share of.
        if let Some(looked_ms) = self.looked_ms.replace(now_ms) {
            let idle = 1000_u32.saturating_sub(reading.cpu_used_permille);
            self.idle_permille = nearer(self.idle_permille, idle, now_ms.saturating_sub(looked_ms));
        }
        let before = self.lasting;
        let mut vms = before.vms;
        if self.vms_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= VMS_EACH_MS) {
            self.vms_ms = Some(now_ms);
            let found = init::look(&self.root);
            vms = (found.vms.len() + found.others.len()) as u64;
        }
        let available = reading.available_bytes.map(|bytes| permille(bytes, reading.total_bytes));
        self.lasting = Lasting {
            memory_total_bytes: reading.total_bytes,
            vms,
            cpu_short: self.shortage.cpu().is_short(),
            cpu_spare: self.idle_permille >= if before.cpu_spare { NOT_SPARE_PERMILLE } else { SPARE_PERMILLE },
            memory_short: available
                .is_some_and(|share| share < if before.memory_short { NOT_SHORT_PERMILLE } else { SHORT_PERMILLE }),
            io_short: self.shortage.io().is_short(),
            ksm_pays: self.judge.update(
                now_ms,
                Counts::read(&self.root, procfs::page_size()),
                reading.total_bytes,
                vms,
            ),
        };
        Ok(self.lasting != before)
    }

    /// All facts as they are now.
    pub fn facts(&self) -> Facts {
        facts::read(&self.root, &self.lasting)
    }
}

/// An average that is what was `window_ms` ago, by less than half, and what is now.
fn nearer(average: u32, now: u32, window_ms: u64) -> u32 {
    let (window, span) = (u128::from(window_ms), u128::from(window_ms) + u128::from(AVERAGE_MS));
    let kept = u128::from(average) * (span - window);
    // Between two numbers of 32 bits.
    u32::try_from((kept + u128::from(now) * window) / span).unwrap_or(now)
}

fn permille(part: u64, of: u64) -> u32 {
    let share = u128::from(part) * 1000 / u128::from(of.max(1));
    u32::try_from(share).map_or(1000, |share| share.min(1000))
}
