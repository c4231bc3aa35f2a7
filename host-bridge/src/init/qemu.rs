//! QEMU's command line, as far as it tells what the bridge needs.

use super::{FoundVm, printable, value};
use serde_json::Value;
use std::collections::HashMap;

/// libvirt calls its own monitor so.
const LIBVIRT_MONITOR: &str = "charmonitor";

/// A device, a character device or another option with its properties.
type Properties = HashMap<String, String>;

pub(super) fn parse(pid: u32, arguments: &[String]) -> FoundVm {
    let mut vm = FoundVm { pid, ..FoundVm::default() };
    let mut sockets: HashMap<String, String> = HashMap::new();
    let mut monitors = Vec::new();
    let mut vhost_user = None;
    for pair in arguments.windows(2) {
        let option = pair[0].trim_start_matches('-');
        let given = pair[1].as_str();
        if !pair[0].starts_with('-') {
            continue;
        }
        match option {
            "name" => {
                let given = properties(given, "guest");
                vm.name = given.get("guest").map(|name| printable(name));
            }
            "m" => vm.memory_bytes = properties(given, "size").get("size").and_then(|size| memory(size)),
            "qmp" => vm.monitors.extend(unix_path(given)),
            "chardev" => {
                let mut given = properties(given, "backend");
                if let (Some(id), Some(path)) = (given.remove("id"), given.remove("path")) {
                    sockets.insert(id, path);
                }
            }
            "mon" => {
                let mut given = properties(given, "chardev");
                if given.get("mode").is_some_and(|mode| mode == "control") {
                    monitors.extend(given.remove("chardev"));
                }
            }
            "device" => {
                let mut given = properties(given, "driver");
                let driver = given.remove("driver").unwrap_or_default();
                if driver.starts_with("vhost-vsock") {
                    vm.cid = given.get("guest-cid").and_then(|cid| cid.parse().ok()).filter(|cid| *cid >= 3);
                } else if driver.starts_with("vhost-user-vsock") {
                    vhost_user = given.remove("chardev");
                } else if driver.starts_with("virtio-balloon") {
                    vm.has_balloon = true;
                    vm.deflates_on_oom = given.get("deflate-on-oom").is_some_and(|on| on == "on" || on == "true");
                } else if driver.starts_with("virtio-mem") {
                    vm.has_virtio_mem = true;
                }
            }
            _ => {}
        }
    }
    vm.is_libvirt_s = monitors.iter().any(|monitor| monitor == LIBVIRT_MONITOR);
    let others = monitors.iter().filter(|monitor| *monitor != LIBVIRT_MONITOR);
    vm.monitors.extend(others.filter_map(|id| sockets.get(id)).filter(|path| is_plain(path)).cloned());
    vm.qmp = vm.monitors.first().cloned();
    // The socket to vhost-device-vsock for now: who looks at all processes knows where that leads.
    vm.vsock = vhost_user.and_then(|id| sockets.remove(&id));
    vm
}

/// The vhost-user socket and the `uds-path` of a vhost-device-vsock, of each of its VMs.
pub(super) fn hybrid(arguments: &[String]) -> Vec<(String, String)> {
    let pair =
        |socket: Option<&str>, path: Option<&str>| Some((socket?.to_owned(), path.filter(|p| is_plain(p))?.to_owned()));
    let mut found: Vec<_> = pair(value(arguments, "--socket"), value(arguments, "--uds-path")).into_iter().collect();
    for given in arguments.windows(2).filter(|pair| pair[0] == "--vm") {
        let given = properties(&given[1], "");
        found.extend(pair(given.get("socket").map(String::as_str), given.get("uds-path").map(String::as_str)));
    }
    found
}

/// `a,b=c,d` or JSON; the first without `=` is that of `implied`. A doubled comma is one in a value.
fn properties(text: &str, implied: &str) -> Properties {
    if let Ok(Value::Object(object)) = serde_json::from_str(text) {
        let plain = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return object.into_iter().map(|(key, value)| (key, plain(value))).collect();
    }
    let text = text.replace(",,", "\0");
    let each = text.split(',').enumerate().map(|(at, property)| match property.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.replace('\0', ",")),
        None if at == 0 => (implied.to_owned(), property.replace('\0', ",")),
        None => (property.to_owned(), "on".to_owned()),
    });
    each.collect()
}

/// `unix:PATH,server=on`.
fn unix_path(text: &str) -> Option<String> {
    let rest = text.strip_prefix("unix:")?;
    properties(rest, "path").remove("path").filter(|path| is_plain(path))
}

/// A path that can be written to the configuration.
fn is_plain(path: &str) -> bool {
    path.starts_with('/') && path.len() < 108 && printable(path) == path
}

/// QEMU's sizes: mebibytes without a unit.
fn memory(text: &str) -> Option<u64> {
    let (digits, factor) = match text.char_indices().last()? {
        (at, unit) if unit.is_ascii_alphabetic() => {
            let shift = match unit.to_ascii_lowercase() {
                'b' => 0,
                'k' => 10,
                'm' => 20,
                'g' => 30,
                't' => 40,
                _ => return None,
            };
            (&text[..at], 1 << shift)
        }
        _ => (text, 1 << 20),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}
