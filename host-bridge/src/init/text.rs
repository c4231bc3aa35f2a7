//! What was found as a `bridge.toml`.

use super::{Found, FoundVm, OtherVm};
use crate::config::Bytes;
use std::collections::HashSet;

const MIB: u64 = 1 << 20;

impl Found {
    /// A configuration with the VMs that can be steered, those that cannot as comments, each with the one thing to do.
    pub fn text(&self) -> String {
        let mut text = "# Written by `vmtide init`, which changed nothing else. Look at each minimum: it is a guess.\n\
                        # `vmtide-bridge config check` reads this and touches nothing; docs/bridge.md has every key.\n"
            .to_owned();
        for note in self.notes() {
            text += &format!("# {note}\n");
        }
        let mut names = HashSet::new();
        for vm in &self.vms {
            text += &section(vm, &mut names);
        }
        text
    }

    /// What an operator should know and do, a line each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let memory = self.memory_bytes.map_or("an unknown amount of".to_owned(), |bytes| Bytes(bytes).to_string());
        let swap = self.swap_bytes.map_or("unknown".to_owned(), |bytes| Bytes(bytes).to_string());
        notes.push(format!("This host: {memory} memory, swap {swap}, {} VMs of QEMU.", self.vms.len()));
        let mut tell = |wrong: bool, note: &str| notes.extend(wrong.then(|| note.to_owned()));
        tell(!self.has_psi, "The kernel does not tell how long tasks wait (PSI): boot with psi=1.");
        tell(!self.has_cgroup_v2, "cgroups are not those of version 2: boot with systemd.unified_cgroup_hierarchy=1.");
        tell(
            !self.has_vhost_vsock,
            "There is no /dev/vhost-vsock: `modprobe vhost_vsock`, or give the VMs hybrid vsock.",
        );
        if self.hidden > 0 {
            let hidden = self.hidden;
            notes.push(format!(
                "{hidden} processes hide their command lines: run `vmtide init` as root to see their VMs."
            ));
        }
        if let Some(socket) = &self.libvirt {
            notes.push(format!("libvirt is there ({socket}): only its domains that run were seen."));
        }
        for OtherVm { pid, hypervisor, api_socket } in &self.others {
            let socket = api_socket.as_deref().unwrap_or("without an API socket");
            notes.push(format!(
                "A VM of {hypervisor} was seen (process {pid}, {socket}): this version does not steer it."
            ));
        }
        notes
    }
}

/// The one thing to do before this VM can be steered; `None` for one that can be.
pub(super) fn to_do(vm: &FoundVm) -> Option<String> {
    let id = vm.pid;
    if vm.qmp.is_none() && vm.is_libvirt_s {
        let add = format!("<qemu:arg value='-qmp'/><qemu:arg value='unix:/run/vmtide-{id}.qmp,server=on,wait=off'/>");
        return Some(format!("its monitor is libvirt's own: add to its <qemu:commandline> {add}"));
    }
    if vm.qmp.is_none() {
        return Some(format!("it has no QMP socket: add -qmp unix:/run/vm-{id}.qmp,server=on,wait=off"));
    }
    if vm.cid.is_none() && vm.vsock.is_none() {
        return Some(
            "its agent has no way to the bridge: add -device vhost-vsock-pci,guest-cid=3 (a number of its own)"
                .to_owned(),
        );
    }
    if vm.memory_bytes.is_none_or(|bytes| bytes < 64 * MIB) {
        return Some("its memory was not understood: give minimum and maximum".to_owned());
    }
    None
}

fn section(vm: &FoundVm, names: &mut HashSet<String>) -> String {
    let name = unique(vm, names);
    let to_do = to_do(vm);
    let shown = vm.name.as_deref().unwrap_or("without a name");
    let mut text = format!("\n# Process {}, {shown}\n", vm.pid);
    match (vm.has_balloon, vm.deflates_on_oom) {
        (false, _) => {
            text += "# It has no balloon, so its memory cannot be moved: add -device virtio-balloon-pci,deflate-on-oom=on\n";
        }
        (true, false) => {
            text += "# Its balloon takes memory although its guest would kill: add deflate-on-oom=on to the device\n";
        }
        (true, true) => {}
    }
    if let Some(to_do) = &to_do {
        text += &format!("# To do: {to_do}\n");
    }
    let maximum = vm.memory_bytes.unwrap_or(1024 * MIB) / MIB;
    let address = match (vm.cid, &vm.vsock) {
        (Some(cid), _) => format!("cid = {cid}\n"),
        (None, Some(path)) => format!("vsock = {}\n", quoted(path)),
        (None, None) => "cid = 3\n".to_owned(),
    };
    let qmp = vm.qmp.clone().unwrap_or_else(|| format!("/run/vm-{}.qmp", vm.pid));
    let lines = format!(
        "[[vm]]\nname = {}\nminimum = \"{}MiB\"\nmaximum = \"{maximum}MiB\"\nqmp = {}\n{address}",
        quoted(&name),
        (maximum / 2).max(32),
        quoted(&qmp),
    );
    // One that cannot be steered yet would be an error.
    let mark = if to_do.is_some() { "# " } else { "" };
    for line in lines.lines() {
        text += &format!("{mark}{line}\n");
    }
    text
}

/// A name that the configuration allows and no other VM has.
fn unique(vm: &FoundVm, names: &mut HashSet<String>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let given: String =
        vm.name.iter().flat_map(|name| name.chars()).take(48).map(|c| if plain(c) { c } else { '-' }).collect();
    let mut name = if given.is_empty() { format!("vm-{}", vm.pid) } else { given };
    if !names.insert(name.clone()) {
        name = format!("{name}-{}", vm.pid);
        names.insert(name.clone());
    }
    name
}

/// What is printable in JSON's quotes is so in TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
