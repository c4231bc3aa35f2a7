//! Pressure stall information: how long tasks waited for a resource.

use super::{SenseError, source::Source};
use serde::Serialize;
use std::io;
use std::path::Path;

/// Time lost to waiting since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stall {
    /// In which at least one task waited, microseconds.
    pub some_us: u64,
    /// In which every task that could have run waited, microseconds; 0 where the kernel does not say.
    pub full_us: u64,
}

/// One file of `/proc/pressure`.
#[derive(Debug)]
pub(crate) struct PressureReader(Option<Source>);

impl PressureReader {
    /// Opens the pressure file of `resource`; a kernel without PSI is no error, only no answer.
    pub(crate) fn open(root: &Path, resource: &str) -> Result<Self, SenseError> {
        Self::open_file(root, &format!("proc/pressure/{resource}"))
    }

    /// Opens a pressure file by its path, as that of a cgroup.
    pub(crate) fn open_file(root: &Path, path: &str) -> Result<Self, SenseError> {
        let opened = Source::open_one_record(root, path);
        // With `psi=0` the file is there and only reading it tells.
        match opened.and_then(|mut source| source.read().map(|_| ()).map(|()| source)) {
            Ok(source) => Ok(Self(Some(source))),
            Err(SenseError::Read { source, .. }) if is_absence(&source) => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }

    /// Whether the kernel has PSI.
    pub(crate) fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// What was lost until now; `None` without PSI.
    pub(crate) fn sample(&mut self) -> Result<Option<Stall>, SenseError> {
        let Some(source) = &mut self.0 else { return Ok(None) };
        let text = source.read()?;
        let (mut some_us, mut full_us) = (None, 0);
        for (kind, line) in text.lines() {
            match kind {
                "some" => some_us = Some(line.named("total", "expected total=microseconds")?),
                "full" => full_us = line.named("total", "expected total=microseconds")?,
                _ => {}
            }
        }
        let some_us = some_us.ok_or_else(|| text.missing("some"))?;
        Ok(Some(Stall { some_us, full_us }))
    }
}

/// Whether an error means that the kernel has no PSI.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(nix::errno::Errno::EOPNOTSUPP as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::write;

    fn sampled(text: &str) -> Result<Option<Stall>, SenseError> {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "proc/pressure/memory", text);
        PressureReader::open(dir.path(), "memory")?.sample()
    }

    #[test]
    fn reads_the_totals() {
        let text = "some avg10=4.50 avg60=0.91 avg300=0.00 total=681245\nfull avg10=2.10 avg60=0.12 avg300=0.00 total=391926\n";
        assert_eq!(sampled(text).unwrap(), Some(Stall { some_us: 681_245, full_us: 391_926 }));
    }

    #[test]
    fn kernels_before_5_13_have_no_full_for_cpu() {
        let stall = sampled("some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n").unwrap();
        assert_eq!(stall, Some(Stall { some_us: 7, full_us: 0 }));
    }

    #[test]
    fn no_psi_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(PressureReader::open(dir.path(), "io").unwrap().sample().unwrap(), None);
    }

    #[test]
    fn odd_content_is_an_error_with_its_line() {
        for (text, expected) in [
            ("some\n", "has no some"),
            ("", "has no some"),
            ("some avg10=0.00 total=\n", "line 1: expected total=microseconds"),
            ("garbage here\nsome total=99999999999999999999999\n", "line 2: expected total=microseconds"),
            ("some total=5\nfull total=-1\n", "line 2"),
        ] {
            let error = sampled(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
