//! Made-up hosts: a folder with the files that are looked at.

use super::*;
use crate::config::{Address, Config};
use std::path::PathBuf;
use tempfile::TempDir;

struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.write("proc/meminfo", "MemTotal:  8388608 kB\nSwapTotal:  1048576 kB\n");
        host
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn process(&self, pid: u32, arguments: &[&str]) {
        self.write(&format!("proc/{pid}/cmdline"), &(arguments.join("\0") + "\0"));
    }

    fn look(&self) -> Found {
        look(self.0.path())
    }

    /// What would be written is a configuration that can be used.
    fn config(&self) -> Config {
        let path: PathBuf = self.0.path().join("bridge.toml");
        let text = self.look().text();
        fs::write(&path, &text).unwrap();
        Config::load(&path).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }
}

const QEMU: &str = "/usr/bin/qemu-system-x86_64";

#[test]
fn a_vm_with_all_that_is_needed_can_be_used_at_once() {
    let host = Host::new();
    host.process(
        7,
        &[
            QEMU,
            "-name",
            "guest=web,debug-threads=on",
            "-m",
            "4G",
            "-qmp",
            "unix:/run/web.qmp,server=on,wait=off",
            "-device",
            "vhost-vsock-pci,guest-cid=5",
            "-device",
            "virtio-balloon-pci,deflate-on-oom=on",
        ],
    );
    host.process(
        8,
        &[
            "qemu-kvm",
            "-name",
            "db",
            "-m",
            "size=2048,slots=4",
            "-chardev",
            "socket,id=m,path=/run/db.qmp,server=on",
            "-mon",
            "chardev=m,mode=control",
            "-chardev",
            "socket,id=v,path=/run/db.vhost",
            "-device",
            "{\"driver\":\"vhost-user-vsock-pci\",\"chardev\":\"v\"}",
        ],
    );
    host.process(9, &["/opt/vhost-device-vsock", "--vm", "guest-cid=4,socket=/run/db.vhost,uds-path=/run/db.vsock"]);
    host.process(10, &["/bin/sh", "-c", "qemu-system-x86_64 -m 1G"]);
    let config = host.config();
    let [web, db] = &config.vms[..] else { panic!("{:?}", config.vms) };
    assert_eq!((web.name.as_str(), &web.address), ("web", &Address::Cid(5)));
    assert_eq!((web.limits.maximum_bytes, web.limits.minimum_bytes), (4 << 30, 2 << 30));
    assert_eq!((db.qmp.as_path(), &db.address), (Path::new("/run/db.qmp"), &Address::Hybrid("/run/db.vsock".into())));
    let text = host.look().text();
    assert!(text.contains("# This host: 8192 MiB memory, swap 1024 MiB, 2 VMs of QEMU."), "{text}");
    assert!(text.contains("# Process 8, db\n# It has no balloon"), "{text}");
}

#[test]
fn a_vm_that_lacks_something_is_a_comment_with_the_one_thing_to_do() {
    let host = Host::new();
    host.process(1, &[QEMU, "-name", "web", "-m", "1024"]);
    host.process(2, &[QEMU, "-m", "1024", "-qmp", "unix:/q,server=on"]);
    host.process(
        3,
        &[QEMU, "-m", "1024", "-chardev", "socket,id=charmonitor,fd=31", "-mon", "chardev=charmonitor,mode=control"],
    );
    assert_eq!(host.config().vms, []);
    let text = host.look().text();
    for line in [
        "# Process 1, web\n",
        "# To do: it has no QMP socket: add -qmp unix:/run/vm-1.qmp,server=on,wait=off\n# [[vm]]\n# name = \"web\"\n",
        "# To do: its agent has no way to the bridge: add -device vhost-vsock-pci,guest-cid=3",
        "# To do: its monitor is libvirt's own: add to its <qemu:commandline>",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
}

#[test]
fn a_command_line_cannot_write_more_than_its_own_values() {
    let host = Host::new();
    let name = "guest=evil\"\n[control]\nsocket = '/etc/x'\n\u{7f}".to_owned() + &"y".repeat(100_000);
    host.process(
        1,
        &[
            QEMU,
            "-m",
            "1G",
            "-qmp",
            "unix:/run/a\"b\\c.qmp,server=on",
            "-device",
            "vhost-vsock-pci,guest-cid=9",
            "-name",
            &name,
        ],
    );
    host.process(2, &[QEMU, "-m", "1G", "-qmp", "unix:/run/a\nb.qmp,server=on", "-name", "x\n[host]\ncapacity = 1\n"]);
    host.process(3, &[QEMU, "-m", "99999999999999999999G", "-device", "vhost-vsock-pci,guest-cid=2", "-qmp"]);
    let config = host.config();
    assert_eq!(config.vms.len(), 1);
    assert_eq!(config.vms[0].qmp, Path::new("/run/a\"b\\c.qmp"));
    assert!(config.vms[0].name.starts_with("evil---control--socket"), "{}", config.vms[0].name);
    assert_eq!((config.control_socket, config.capacity_bytes), (Config::default().control_socket, None));
    assert!(host.look().text().lines().all(|line| line.len() < 400));
}

#[test]
fn two_vms_of_one_name_get_two_and_what_is_missing_on_the_host_is_said() {
    let host = Host::new();
    for (pid, cid) in [(1, "guest-cid=3"), (2, "guest-cid=4")] {
        let (qmp, vsock) = (format!("unix:/run/{pid}.qmp"), format!("vhost-vsock-pci,{cid}"));
        host.process(pid, &[QEMU, "-name", "web", "-m", "1G", "-qmp", &qmp, "-device", &vsock]);
    }
    host.process(3, &["firecracker", "--api-sock", "/run/fc.sock"]);
    host.process(4, &["cloud-hypervisor", "--api-socket=path=/run/ch.sock"]);
    host.process(5, &["/firecracker", "--no-api", "--config-file", "vm.json"]);
    host.process(6, &["/usr/bin/firecracker", "--id", "six"]);
    host.process(7, &["cloud-hypervisor", "--kernel", "vmlinux"]);
    host.write("run/libvirt/libvirt-sock", "");
    let names: Vec<String> = host.config().vms.into_iter().map(|vm| vm.name).collect();
    assert_eq!(names, ["web", "web-2"]);
    let notes = host.look().notes().join("\n");
    for part in [
        "(PSI): boot with psi=1",
        "version 2",
        "`modprobe vhost_vsock`",
        "libvirt is there",
        "firecracker was seen (process 3, /run/fc.sock)",
        "cloud-hypervisor was seen (process 4, /run/ch.sock)",
        "firecracker was seen (process 5, without an API socket)",
        "firecracker was seen (process 6, /run/firecracker.socket)",
        "cloud-hypervisor was seen (process 7, without an API socket)",
    ] {
        assert!(notes.contains(part), "{part:?} is not in:\n{notes}");
    }
    host.write("dev/vhost-vsock", "");
    host.write("proc/pressure/memory", "");
    host.write("sys/fs/cgroup/cgroup.controllers", "memory");
    assert!(!host.look().notes().join("\n").contains("boot with"));
}
