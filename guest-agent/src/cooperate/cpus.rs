//! The guest's CPUs: which there are, which run, who needs which, and which vmtide took offline.
//!
//! CPU 0 stays. So does a CPU that the guest's own administrator took offline, and one without which a task or a cpuset
//! would have none left: the kernel would let it run elsewhere, against what somebody wanted.
//!
//! What is taken offline is written down first, in a note beside the tuning's journal, so that it comes back after a
//! crash as well.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Where the CPUs are.
pub const FOLDER: &str = "/sys/devices/system/cpu";
/// Beside the journal.
const NOTE: &str = "offline-cpus";
/// More cgroups than this are not looked through.
const MOST_GROUPS: usize = 4096;

/// Why CPUs cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// A file of the kernel or of our own.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a list such as `0-3,5`.
    #[error("{}: {found:?} is no list of CPUs", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: String,
    },
}

/// Somebody who runs on some CPUs only.
#[derive(Debug)]
struct Claim {
    cpus: BTreeSet<u32>,
    who: String,
}

/// The CPUs, and what was done to them.
#[derive(Debug)]
pub struct Cpus {
    root: PathBuf,
    note: PathBuf,
    boot_id: String,
    /// Taken offline by vmtide.
    ours: BTreeSet<u32>,
    /// Those whose state was somebody's choice: online once, or offline before the agent came.
    known: BTreeSet<u32>,
    claims: Vec<Claim>,
}

impl Cpus {
    /// The CPUs below `root`, whose note is in `folder`. What an agent before took offline comes back.
    pub fn open(root: &Path, folder: &Path) -> Self {
        let boot_id = fs::read_to_string(root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default();
        let note = folder.join(NOTE);
        let text = fs::read_to_string(&note).unwrap_or_default();
        let ours = match text.split_once('\n') {
            Some((boot, list)) if boot == boot_id.trim() => parse(list).unwrap_or_default(),
            _ => BTreeSet::new(),
        };
        let mut cpus = Self {
            root: root.to_owned(),
            note,
            boot_id: boot_id.trim().to_owned(),
            ours,
            known: BTreeSet::new(),
            claims: Vec::new(),
        };
        cpus.restore();
        cpus.known = cpus.list("present").unwrap_or_default();
        cpus
    }

    /// Whether any CPU can be taken offline.
    pub fn can_change(&self) -> bool {
        let present = self.list("present").unwrap_or_default();
        // One that is plugged in later may.
        present.iter().any(|&cpu| self.switch(cpu).exists())
            || self.list("possible").is_ok_and(|all| all.len() > present.len())
    }

    /// How many are online.
    ///
    /// # Errors
    /// [`CpuError`] with the file.
    pub fn online(&self) -> Result<u32, CpuError> {
        Ok(u32::try_from(self.list("online")?.len()).unwrap_or(u32::MAX))
    }

    /// Looks anew at who is here and who needs which: once a request.
    ///
    /// # Errors
    /// [`CpuError`] with the file.
    pub fn look(&mut self) -> Result<(), CpuError> {
        let (present, online) = (self.list("present")?, self.list("online")?);
        // Brought back by somebody else, or unplugged: not ours any more.
        self.ours.retain(|cpu| present.contains(cpu) && !online.contains(cpu));
        self.known.retain(|cpu| present.contains(cpu));
        self.known.extend(&online);
        self.claims = pinned_tasks(&self.root).chain(cpusets(&self.root)).collect();
        Ok(())
    }

    /// Brings one more online; `Ok(Err(why))` when there is none.
    ///
    /// # Errors
    /// [`CpuError`] with the file that cannot be written.
    pub fn add_one(&mut self) -> Result<Result<(), String>, CpuError> {
        let (present, online) = (self.list("present")?, self.list("online")?);
        let may = |cpu: &&u32| self.ours.contains(*cpu) || !self.known.contains(*cpu);
        let Some(&cpu) = present.difference(&online).find(may) else {
            let foreign = present.len() - online.len();
            return Ok(Err(match foreign {
                0 => format!("there are {} CPUs", present.len()),
                _ => format!("{foreign} of {} CPUs were taken offline by somebody else", present.len()),
            }));
        };
        self.write(cpu, true)?;
        self.known.insert(cpu);
        self.ours.remove(&cpu);
        self.remember()?;
        Ok(Ok(()))
    }

    /// Takes one offline, the highest that nobody needs; `Ok(Err(why))` when there is none.
    ///
    /// # Errors
    /// [`CpuError`] with the file that cannot be written.
    pub fn take_one(&mut self) -> Result<Result<(), String>, CpuError> {
        let online = self.list("online")?;
        let mut why = "CPU 0 stays, and no other can be taken offline".to_owned();
        for &cpu in online.iter().rev().filter(|&&cpu| cpu != 0 && self.switch(cpu).exists()) {
            let needs = |claim: &&Claim| claim.cpus.intersection(&online).eq([&cpu]);
            if let Some(claim) = self.claims.iter().find(needs) {
                why = format!("{} needs CPU {cpu}", claim.who);
                continue;
            }
            // Written down first: killed between the two, the next agent brings it back.
            self.ours.insert(cpu);
            let taken = self.remember().and_then(|()| self.write(cpu, false));
            if taken.is_err() {
                self.ours.remove(&cpu);
                self.remember()?;
            }
            return taken.map(Ok);
        }
        Ok(Err(why))
    }

    /// Brings back what vmtide took offline.
    pub fn restore(&mut self) {
        let present = self.list("present").unwrap_or_default();
        let online = self.list("online").unwrap_or_default();
        for cpu in std::mem::take(&mut self.ours) {
            let is_offline = present.contains(&cpu) && !online.contains(&cpu);
            if is_offline && let Err(error) = self.write(cpu, true) {
                tracing::warn!("cannot bring CPU {cpu} back online: {error}");
                self.ours.insert(cpu);
            }
        }
        if let Err(error) = self.remember() {
            tracing::warn!("{error}");
        }
    }

    fn remember(&self) -> Result<(), CpuError> {
        let failed = |source| CpuError::File { path: self.note.clone(), source };
        if self.ours.is_empty() {
            return match fs::remove_file(&self.note) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let list: Vec<String> = self.ours.iter().map(u32::to_string).collect();
        let new = self.note.with_extension("new");
        fs::write(&new, format!("{}\n{}\n", self.boot_id, list.join(",")))
            .and_then(|()| fs::rename(&new, &self.note))
            .map_err(failed)
    }

    fn write(&self, cpu: u32, online: bool) -> Result<(), CpuError> {
        let path = self.switch(cpu);
        let file = fs::OpenOptions::new().write(true).open(&path);
        file.and_then(|mut file| io::Write::write_all(&mut file, if online { b"1" } else { b"0" }))
            .map_err(|source| CpuError::File { path, source })
    }

    fn switch(&self, cpu: u32) -> PathBuf {
        self.folder().join(format!("cpu{cpu}/online"))
    }

    fn folder(&self) -> PathBuf {
        self.root.join(FOLDER.trim_start_matches('/'))
    }

    fn list(&self, name: &str) -> Result<BTreeSet<u32>, CpuError> {
        let path = self.folder().join(name);
        let text = fs::read_to_string(&path).map_err(|source| CpuError::File { path: path.clone(), source })?;
        parse(&text).ok_or_else(|| CpuError::List { path, found: text.trim().chars().take(80).collect() })
    }
}

/// `0-3,5`, or nothing.
fn parse(text: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // No kernel has more, and a range without end would fill the memory.
        if last > 65_536 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The guest's programs that may not run on every CPU. Kernel threads are the kernel's to move.
fn pinned_tasks(root: &Path) -> impl Iterator<Item = Claim> {
    let folders = |path: PathBuf| {
        let numbers = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter(move |entry| numbers(&entry.file_name())).map(|entry| entry.path())
    };
    let tasks = folders(root.join("proc")).flat_map(move |process| folders(process.join("task")));
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.join("status")).ok());
    statuses.filter_map(|status| {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // Kernel threads and zombies have no memory.
        field("VmSize:")?;
        let cpus = parse(field("Cpus_allowed_list:")?)?;
        let who = format!("task {} ({})", field("Pid:").unwrap_or("?"), field("Name:").unwrap_or("?"));
        Some(Claim { cpus, who })
    })
}

/// The cpusets that name CPUs, with or without tasks in them.
fn cpusets(root: &Path) -> impl Iterator<Item = Claim> {
    let mut claims = Vec::new();
    let mut groups = vec![root.join("sys/fs/cgroup"), root.join("sys/fs/cgroup/cpuset")];
    let mut looked = 0;
    while let Some(group) = groups.pop().filter(|_| looked < MOST_GROUPS) {
        looked += 1;
        for child in fs::read_dir(&group).into_iter().flatten().flatten().map(|entry| entry.path()) {
            // A group without the controller has no child with it.
            let Ok(text) = fs::read_to_string(child.join("cpuset.cpus")) else { continue };
            if let Some(cpus) = parse(&text).filter(|cpus| !cpus.is_empty()) {
                claims.push(Claim { cpus, who: format!("cpuset {}", child.display()) });
            }
            groups.push(child);
        }
    }
    claims.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::write;
    use tempfile::TempDir;

    /// A guest of four CPUs, of which `online` run. Its files do not follow what is written: a kernel does that.
    fn guest(online: &str) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/sys/kernel/random/boot_id", "one\n");
        write(root.path(), "run/x", "");
        let file = |name: &str, text: &str| write(root.path(), &format!("sys/devices/system/cpu/{name}"), text);
        file("present", "0-3\n");
        file("possible", "0-7\n");
        file("online", online);
        for cpu in 1..4 {
            file(&format!("cpu{cpu}/online"), "?");
        }
        root
    }

    fn open(root: &TempDir) -> Cpus {
        let mut cpus = Cpus::open(root.path(), &root.path().join("run"));
        cpus.look().unwrap();
        cpus
    }

    fn written(root: &TempDir, cpu: u32) -> String {
        fs::read_to_string(root.path().join(format!("sys/devices/system/cpu/cpu{cpu}/online"))).unwrap()
    }

    fn is_online(root: &TempDir, cpus: &str) {
        write(root.path(), "sys/devices/system/cpu/online", cpus);
    }

    fn task(root: &TempDir, pid: u32, name: &str, cpus: &str, more: &str) {
        let status = format!("Name:\t{name}\nPid:\t{pid}\n{more}Cpus_allowed_list:\t{cpus}\n");
        write(root.path(), &format!("proc/{pid}/task/{pid}/status"), &status);
    }

    #[test]
    fn the_highest_goes_first_and_comes_back_after_a_crash_and_on_stop() {
        let root = guest("0-3\n");
        let mut cpus = open(&root);
        assert_eq!(cpus.take_one().unwrap(), Ok(()));
        assert_eq!(written(&root, 3), "0");
        is_online(&root, "0-2\n");
        // Killed here: the next agent finds the note.
        drop(cpus);
        let mut cpus = open(&root);
        assert_eq!(written(&root, 3), "1");
        is_online(&root, "0-3\n");
        cpus.look().unwrap();
        assert_eq!(cpus.take_one().unwrap(), Ok(()));
        is_online(&root, "0-2\n");
        assert_eq!(written(&root, 3), "0");
        cpus.restore();
        assert_eq!(written(&root, 3), "1");
        assert!(!root.path().join("run").join(NOTE).exists());
    }

    #[test]
    fn another_boots_note_means_nothing() {
        let root = guest("0-2\n");
        write(root.path(), &format!("run/{NOTE}"), "another\n3\n");
        let mut cpus = open(&root);
        assert_eq!(written(&root, 3), "?");
        let why = cpus.add_one().unwrap().unwrap_err();
        assert_eq!(why, "1 of 4 CPUs were taken offline by somebody else");
    }

    #[test]
    fn what_a_task_or_a_cpuset_needs_stays_and_kernel_threads_do_not_count() {
        let root = guest("0-3\n");
        task(&root, 7, "kworker/3:1", "3", "");
        task(&root, 8, "db", "3", "VmSize:\t1 kB\n");
        task(&root, 9, "web", "1-2", "VmSize:\t1 kB\n");
        write(root.path(), "sys/fs/cgroup/a/cpuset.cpus", "\n");
        write(root.path(), "sys/fs/cgroup/a/b/cpuset.cpus", "1\n");
        let mut cpus = open(&root);
        assert_eq!(cpus.take_one().unwrap(), Ok(()));
        assert_eq!((written(&root, 3), written(&root, 2)), ("?".to_owned(), "0".to_owned()));
        is_online(&root, "0-1,3\n");
        let why = cpus.take_one().unwrap().unwrap_err();
        assert!(why.ends_with("needs CPU 1"), "{why}");
        assert_eq!(written(&root, 1), "?");
    }

    #[test]
    fn a_cpu_that_was_plugged_in_comes_online_and_one_that_somebody_took_does_not() {
        let root = guest("0-2\n");
        let mut cpus = open(&root);
        assert!(cpus.add_one().unwrap().is_err(), "3 was offline before us");
        write(root.path(), "sys/devices/system/cpu/present", "0-4\n");
        write(root.path(), "sys/devices/system/cpu/cpu4/online", "0");
        cpus.look().unwrap();
        assert_eq!(cpus.add_one().unwrap(), Ok(()));
        assert_eq!((written(&root, 4), written(&root, 3)), ("1".to_owned(), "?".to_owned()));
    }

    #[test]
    fn without_a_note_nothing_is_taken() {
        let root = guest("0-3\n");
        let mut cpus = Cpus::open(root.path(), Path::new("/nowhere"));
        cpus.look().unwrap();
        assert!(cpus.take_one().unwrap_err().to_string().starts_with("/nowhere/offline-cpus"));
        assert_eq!(written(&root, 3), "?");
    }

    #[test]
    fn lists_are_read_and_odd_ones_refused() {
        assert_eq!(parse("0-2,5\n"), Some([0, 1, 2, 5].into()));
        assert_eq!(parse("\n"), Some([].into()));
        for odd in ["a", "1-", "-1", "0-99999999", "1-2-3"] {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
        let root = guest("all\n");
        let error = Cpus::open(root.path(), root.path()).online().unwrap_err().to_string();
        assert!(error.ends_with("online: \"all\" is no list of CPUs"), "{error}");
    }
}
