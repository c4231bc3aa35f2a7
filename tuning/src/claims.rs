//! Who else owns a sysctl: files in which an operator wrote what it should be.
//!
//! A distribution's defaults in `/usr/lib/sysctl.d` are no such claim.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// An operator's, and what the running system was told.
const FOLDERS: [&str; 2] = ["etc/sysctl.d", "run/sysctl.d"];
const FILE: &str = "etc/sysctl.conf";

/// Paths below `/proc/sys`, and the file that claims each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<String, String>);

impl Claims {
    /// Reads the files below `root`; what cannot be read claims nothing.
    pub fn read(root: &Path) -> Self {
        let mut claims = Self::default();
        claims.add(root, Path::new(FILE));
        for folder in FOLDERS {
            let Ok(entries) = fs::read_dir(root.join(folder)) else { continue };
            let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            for name in names.iter().filter(|name| Path::new(name).extension().is_some_and(|end| end == "conf")) {
                claims.add(root, &Path::new(folder).join(name));
            }
        }
        claims
    }

    /// The file that claims `path`.
    pub fn of(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    fn add(&mut self, root: &Path, file: &Path) {
        let Ok(text) = fs::read_to_string(root.join(file)) else { return };
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            let Some((key, _)) = line.split_once('=') else { continue };
            let key = key.trim().trim_start_matches('-').replace('.', "/");
            self.0.insert(format!("/proc/sys/{key}"), format!("/{}", file.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::write;

    #[test]
    fn an_operator_s_files_claim_and_comments_do_not() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "etc/sysctl.conf", "# vm.swappiness = 1\n;vm.swappiness=2\nvm.dirty_ratio = 5\n");
        write(dir.path(), "etc/sysctl.d/99-own.conf", " -vm/page-cluster=0\nnonsense\n");
        write(dir.path(), "etc/sysctl.d/README", "vm.swappiness=3\n");
        write(dir.path(), "usr/lib/sysctl.d/50-default.conf", "vm.swappiness=4\n");
        let claims = Claims::read(dir.path());
        assert_eq!(claims.of("/proc/sys/vm/swappiness"), None);
        assert_eq!(claims.of("/proc/sys/vm/dirty_ratio"), Some("/etc/sysctl.conf"));
        assert_eq!(claims.of("/proc/sys/vm/page-cluster"), Some("/etc/sysctl.d/99-own.conf"));
        assert_eq!(Claims::read(Path::new("/no/such/root")), Claims::default());
    }
}
