//! What the agent has to write: its own files, the catalogue's, and those by which the kernel is asked to look at memory and
//! to reclaim it. All else is taken from it ([`vmtide_tuning::confine`]).

use crate::config::Config;
use crate::cooperate::{CPUS, RECLAIM};
use std::path::Path;
use vmtide_tuning::Catalogue;
use vmtide_tuning::confine::{self, ConfineError, Confined, files_of};

/// The stall triggers are written there.
const PRESSURE: [&str; 2] = ["/proc/pressure/memory", "/proc/pressure/cpu"];

/// Confines the agent to what `config` has it write, the files of `catalogue`, and `also`.
///
/// # Errors
/// [`ConfineError`]; then the agent is as free as before.
pub fn confine(config: &Config, catalogue: &Catalogue, also: &[String]) -> Result<Confined, ConfineError> {
    let mut own: Vec<_> =
        [&config.tuning.journal, &config.status_socket].map(|path| path.parent().unwrap_or(Path::new("/"))).into();
    own.dedup();
    let mut files: Vec<_> = PRESSURE.into_iter().chain([RECLAIM]).map(str::to_owned).collect();
    files.extend(config.working_set.source.written().iter().map(|path| (*path).to_owned()));
    files.extend(files_of(catalogue));
    files.extend_from_slice(also);
    // The folder and not each CPU's switch: those that are plugged in later have theirs below it.
    files.push(CPUS.to_owned());
    confine::confine(&own, &files)
}
