//! A VM's group for CPU time: weight and quota.

use super::child;
use super::find::{Place, find};
use super::note::Note;
use super::setting::Setting;
use super::{Controller, Error, Version};
use std::path::{Path, PathBuf};

/// The kernel's default, which every group has.
const PERIOD_US: u64 = 100_000;
/// The kernel takes no shorter quota.
const LEAST_QUOTA_US: u64 = 1_000;

/// The group of one VM; dropped without [`Group::restore`], what was set stays.
#[derive(Debug)]
pub struct Group {
    version: Version,
    directory: PathBuf,
    folder: PathBuf,
    note: Note,
    weight: Setting,
    quota: Setting,
}

impl Group {
    /// The group of process `pid` below `root`, as the note in `folder` knows it or as it is now. Where it is not alone in its
    /// group it gets one below that, if nobody has to move but `vms`, which are the processes of this bridge's VMs.
    ///
    /// # Errors
    /// [`Error`]: there is no controller, or the group is not the VM's alone and none can be made.
    pub fn find(root: &Path, pid: i32, vms: &[i32], folder: &Path) -> Result<Self, Error> {
        let found = find(root, pid, Controller::Cpu).or_else(|refused| child::make(root, folder, pid, vms, refused));
        let Place { version, directory } = found?;
        let note = Note::of(folder, &directory);
        let (weight, quota) = match version {
            Version::V1 => ("cpu.shares", "cpu.cfs_quota_us"),
            Version::V2 => ("cpu.weight", "cpu.max"),
        };
        let setting = |name: &str| Setting::find(&directory, name, None, &note);
        Ok(Self {
            version,
            weight: setting(weight)?,
            quota: setting(quota)?,
            directory,
            folder: folder.to_owned(),
            note,
        })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Gives the group this weight, 1000 shares being what a group has by default.
    ///
    /// # Errors
    /// [`Error`] with the file; [`Error::Taken`] once, when somebody else set another value.
    pub fn set_weight(&mut self, shares: u32) -> Result<(), Error> {
        let shares = u64::from(shares);
        let weight = match self.version {
            Version::V1 => (shares * 1024 / 1000).clamp(2, 262_144),
            Version::V2 => (shares / 10).clamp(1, 10_000),
        };
        self.weight.set(&self.note, Some(&weight.to_string()))
    }

    /// Lets the group use so much at most, thousandths of a CPU; `None`: no more than was set before vmtide.
    ///
    /// # Errors
    /// As [`Self::set_weight`].
    pub fn set_quota(&mut self, millicpus: Option<u64>) -> Result<(), Error> {
        let original_us = original_quota_us(self.quota.original());
        let quota_us = millicpus.map(|millicpus| millicpus.saturating_mul(PERIOD_US / 1000).max(LEAST_QUOTA_US));
        // One that was there before and is tighter stays.
        let quota_us = quota_us.filter(|quota_us| original_us.is_none_or(|original_us| *quota_us < original_us));
        let value = quota_us.map(|quota_us| match self.version {
            Version::V1 => quota_us.to_string(),
            Version::V2 => format!("{quota_us} {PERIOD_US}"),
        });
        self.quota.set(&self.note, value.as_deref())
    }

    /// Puts back what was there before and nobody else changed, the process too where it was moved; all that can be is.
    ///
    /// # Errors
    /// The first that could not be.
    pub fn restore(&mut self) -> Result<(), Error> {
        let weight = self.weight.set(&self.note, None);
        let quota = self.quota.set(&self.note, None);
        let own = if child::is_own(&self.directory) { child::release(&self.folder, &self.directory) } else { Ok(()) };
        quota.and(weight).and(own)
    }

    /// Drops the notes about a group that is gone, as it is with its VM.
    pub fn forget(&self) {
        for setting in [&self.weight, &self.quota] {
            setting.forget(&self.note);
        }
    }
}

/// In microseconds of the default period; `None` for no quota. v1 has its period in another file: a quota with another
/// than the default counts as if it had that.
fn original_quota_us(text: &str) -> Option<u64> {
    let mut fields = text.split(' ');
    let quota: u64 = fields.next()?.parse().ok()?;
    let period = fields.next().and_then(|period| period.parse().ok()).unwrap_or(PERIOD_US).max(1);
    Some(u64::try_from(u128::from(quota) * u128::from(PERIOD_US) / u128::from(period)).unwrap_or(u64::MAX))
}
