//! Takes from a daemon the right to write anything but what it has to: its own files, and the catalogue's.
//!
//! In: folders and files. Out: a Landlock domain that the process cannot leave; on kernels without Landlock, a warning. A
//! fault in it, or a message that makes it misbehave, then cannot reach other files, root or not.

use crate::{Catalogue, Knob, place};
use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus,
};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Truncating is a right of its own since this one; older kernels go without.
const NEWEST: ABI = ABI::V3;

/// Why it could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The folder of its own files cannot be made.
    #[error("cannot make {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not take the rules.
    #[error("the kernel does not take the Landlock rules")]
    Rules(#[from] RulesetError),
    /// The kernel has no Landlock.
    #[error("this kernel has no Landlock")]
    Absent,
}

/// What keeps the rules valid: the kernel makes another inode for a file of `/proc/sys` when it has forgotten the old one,
/// and the rule is the old one's. A file that is open is not forgotten.
#[derive(Debug)]
pub struct Confined(#[expect(dead_code, reason = "held, not read")] Vec<PathFd>);

/// Confines this thread, and those that it starts, to everything below the folders `own`, which are made, and to the `files`
/// that there are now. A disk that is plugged in later is not tuned until the daemon starts again.
///
/// # Errors
/// [`ConfineError`]; then it is as free as before.
pub fn confine(own: &[&Path], files: &[String]) -> Result<Confined, ConfineError> {
    let writes = AccessFs::from_write(NEWEST);
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(writes)?.create()?;
    for path in own {
        fs::create_dir_all(path).map_err(|source| ConfineError::Folder { path: path.to_path_buf(), source })?;
    }
    let mut open = Vec::new();
    let mut rules = Vec::new();
    let own = own.iter().map(|path| (*path, writes));
    let files = files.iter().map(|path| (Path::new(path), AccessFs::WriteFile | AccessFs::Truncate));
    for (path, access) in own.chain(files) {
        // What is not there cannot be written.
        if let (Ok(rule), Ok(kept)) = (PathFd::new(path), PathFd::new(path)) {
            rules.push(PathBeneath::new(rule, access));
            open.push(kept);
        }
    }
    let status = ruleset.add_rules(rules.into_iter().map(Ok::<_, RulesetError>))?.restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced { Err(ConfineError::Absent) } else { Ok(Confined(open)) }
}

/// Every file that there is now of the knobs in `catalogue`.
pub fn files_of(catalogue: &Catalogue) -> Vec<String> {
    let files = |knob: &Knob| place::places(Path::new("/"), &knob.path).into_iter().chain(knob.twin.clone());
    catalogue.knobs.iter().flat_map(files).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confined_thread_writes_its_own_files_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("run");
        let (others, also) = (dir.path().join("others"), dir.path().join("also"));
        fs::write(&also, "").unwrap();
        // A thread of its own: it cannot get its rights back.
        let confined = std::thread::spawn(move || {
            let confined = match confine(&[&own], &[also.display().to_string()]) {
                Err(ConfineError::Absent) => return,
                confined => confined.unwrap(),
            };
            fs::write(own.join("tuning.new"), "x").unwrap();
            fs::rename(own.join("tuning.new"), own.join("tuning.journal")).unwrap();
            fs::remove_file(own.join("tuning.journal")).unwrap();
            fs::write(&also, "x").unwrap();
            let error = fs::write(&others, "x").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(fs::read_to_string("/proc/self/stat").is_ok(), "reading is free");
            drop(confined);
        });
        confined.join().unwrap();
    }
}
