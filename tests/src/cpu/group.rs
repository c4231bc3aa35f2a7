//! A cgroup of the lab's own for each VM: what a host's service manager would make.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Where the cpu controller is, v1 first: it is in one hierarchy only.
const V1: &str = "/sys/fs/cgroup/cpu";
const V2: &str = "/sys/fs/cgroup";

/// A folder of groups, one for each VM; removed when dropped, after the VMs.
#[derive(Debug)]
pub struct Groups {
    folder: PathBuf,
    members: Vec<PathBuf>,
}

impl Groups {
    /// An empty folder.
    ///
    /// # Errors
    /// When no hierarchy has a cpu controller, or groups cannot be made there.
    pub fn new() -> Result<Self> {
        let is_v1 = Path::new(V1).join("cpu.shares").exists();
        let mount = Path::new(if is_v1 { V1 } else { V2 });
        let folder = mount.join(format!("vmtide-lab-{}", std::process::id()));
        let groups = Self { folder, members: Vec::new() };
        fs::create_dir(&groups.folder).with_context(|| format!("{}: cannot make a cgroup", groups.folder.display()))?;
        if !is_v1 {
            for parent in [mount, &groups.folder] {
                let path = parent.join("cgroup.subtree_control");
                fs::write(&path, "+cpu").with_context(|| format!("{}: no cpu controller", path.display()))?;
            }
        }
        Ok(groups)
    }

    /// Puts a process with all its threads into a group of its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn place(&mut self, name: &str, pid: u32) -> Result<()> {
        let group = self.folder.join(name);
        fs::create_dir(&group).with_context(|| format!("{}: cannot make a cgroup", group.display()))?;
        self.members.push(group.clone());
        let procs = group.join("cgroup.procs");
        fs::write(&procs, pid.to_string()).with_context(|| format!("{}: cannot move {pid} there", procs.display()))
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in self.members.iter().chain([&self.folder]) {
            match fs::remove_dir(group) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    eprintln!("lab: {}: cannot remove: {error}", group.display());
                }
                _ => {}
            }
        }
    }
}
