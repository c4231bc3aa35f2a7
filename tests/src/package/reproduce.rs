//! Whether the packages are the same bytes when somebody else builds them.
//!
//! In: the packages of this commit. Out: nothing, or which of them differ from those that a clone of the commit gives: at another
//! path, later, and with files that only their owner may read.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use nix::sys::stat::{Mode, umask};

use super::Tree;
use crate::prepare::{run, say, workspace_dir};

/// Builds the packages of this commit once more, elsewhere, and compares; takes as long as the first time.
///
/// # Errors
/// When the work tree is not its commit's, a package cannot be built, or one differs.
pub fn again(packages: &[PathBuf]) -> Result<()> {
    let git = |args: &[&str]| run(Command::new("git").args(args).current_dir(workspace_dir()));
    let changed = git(&["status", "--porcelain"])?;
    ensure!(changed.is_empty(), "only a commit can be built twice; not in it:\n{changed}");
    let elsewhere = tempfile::Builder::new().prefix("vmtide-built-elsewhere-").tempdir()?;
    let clone = elsewhere.path().join("clone");
    // All that is made from here on, by cargo and its tools as well.
    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let rebuilt = git(&["clone", "--quiet", ".", &clone.display().to_string()]).and_then(|_| {
        say("building all of it again, elsewhere");
        Tree::at(clone).build()
    });
    umask(before);
    let differing = packages.iter().zip(rebuilt?).map(|(one, other)| {
        let read = |path: &PathBuf| fs::read(path).with_context(|| format!("{}: cannot read", path.display()));
        if read(one)? == read(&other)? {
            return Ok(None);
        }
        // To look at.
        let kept = format!("{}.elsewhere", one.display());
        fs::copy(&other, &kept).with_context(|| format!("{kept}: cannot write"))?;
        Ok(Some(kept))
    });
    let differing: Vec<String> = differing.filter_map(Result::transpose).collect::<Result<_>>()?;
    ensure!(differing.is_empty(), "not the same bytes when built elsewhere: {}", differing.join(", "));
    Ok(())
}
