//! Whose stalls are counted: those of the command's own cgroup where it has one, else those of the whole guest.

use crate::sense::{PressureReader, SenseError, Stall};
use std::fs;
use std::path::Path;

/// Stalls so far; `None` where the kernel does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    pub(super) memory: Option<Stall>,
    pub(super) cpu: Option<Stall>,
    pub(super) io: Option<Stall>,
}

/// Where stalls are read.
#[derive(Debug)]
pub struct Scope {
    /// The cgroup; `None`: the whole guest.
    pub(super) cgroup: Option<String>,
    memory: PressureReader,
    cpu: PressureReader,
    io: PressureReader,
}

impl Scope {
    /// The scope of what this process starts. Its cgroup tells of the command alone if nobody else is in it, as under
    /// `systemd-run --scope`; making one would change the guest.
    pub(super) fn of_this_process(root: &Path) -> Result<Self, SenseError> {
        let own = own_cgroup(root, std::process::id());
        let scope = |cgroup: Option<String>| {
            let open = |resource: &str| match &cgroup {
                Some(path) => PressureReader::open_file(root, &format!("sys/fs/cgroup{path}/{resource}.pressure")),
                None => PressureReader::open(root, resource),
            };
            let (memory, cpu, io) = (open("memory")?, open("cpu")?, open("io")?);
            Ok(Self { cgroup: cgroup.clone(), memory, cpu, io })
        };
        let of_cgroup: Option<Result<Self, SenseError>> = own.map(|path| scope(Some(path)));
        match of_cgroup {
            Some(Ok(scope)) if [&scope.memory, &scope.cpu, &scope.io].into_iter().all(PressureReader::is_present) => {
                Ok(scope)
            }
            _ => scope(None),
        }
    }

    pub(super) fn sample(&mut self) -> Result<Stalls, SenseError> {
        Ok(Stalls { memory: self.memory.sample()?, cpu: self.cpu.sample()?, io: self.io.sample()? })
    }
}

/// The cgroup (version 2) in which `pid` is alone; not the root's, which is everybody's.
fn own_cgroup(root: &Path, pid: u32) -> Option<String> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end();
    let members = fs::read_to_string(root.join(format!("sys/fs/cgroup{path}/cgroup.procs"))).ok()?;
    (path != "/" && members.trim() == pid.to_string()).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{guest, write};

    const LINE: &str = "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";

    fn scope_with(cgroup: &str, members: &str, resources: &[&str]) -> Scope {
        let dir = guest();
        write(dir.path(), "proc/self/cgroup", &format!("1:cpu:/x\n0::{cgroup}\n"));
        write(dir.path(), &format!("sys/fs/cgroup{cgroup}/cgroup.procs"), members);
        for resource in resources {
            write(dir.path(), &format!("sys/fs/cgroup{cgroup}/{resource}.pressure"), LINE);
        }
        Scope::of_this_process(dir.path()).unwrap()
    }

    #[test]
    fn a_cgroup_of_its_own_is_the_scope_and_one_that_is_shared_is_not() {
        let all = ["memory", "cpu", "io"];
        let pid = format!("{}\n", std::process::id());
        let mut own = scope_with("/run.scope", &pid, &all);
        assert_eq!(own.cgroup.as_deref(), Some("/run.scope"));
        assert_eq!(own.sample().unwrap().io, Some(Stall { some_us: 5, full_us: 0 }));
        for (cgroup, members, resources) in [
            ("/user.slice", format!("1\n{pid}"), &all[..]),
            ("/run.scope", pid.clone(), &all[..2]),
            ("/run.scope", String::new(), &all[..]),
        ] {
            let mut shared = scope_with(cgroup, &members, resources);
            assert_eq!(shared.cgroup, None, "{cgroup} {members:?}");
            assert_eq!(shared.sample().unwrap().memory.unwrap().some_us, 681_245, "the whole guest's");
        }
    }
}
