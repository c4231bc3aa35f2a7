//! The files as they are written, and their way to a checked [`Config`].

use super::io::Io;
use super::policy::{self, overlay, take_planner};
use super::{
    Address, Bytes, Config, CpuConfig, DEFAULT_SHARES, Error, MAXIMUM_BYTES, MAXIMUM_SHARES, Millicpus, VmConfig, trust,
};
use crate::plan::{Limits, MIB};
use serde::Deserialize;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use vmtide_protocol::bridge::Intervals;
use vmtide_tuning::Mode;
use vmtide_tuning::suggest::Explained;

/// The least minimum: no Linux guest of today lives in less.
const LEAST_MINIMUM_BYTES: u64 = 32 * MIB;

/// With less CPU time than this no guest answers.
const LEAST_MAXIMUM_MILLICPUS: u64 = 100;

/// Less history than this is not worth a segment.
const LEAST_RECORD_BYTES: u64 = MIB;

#[derive(Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    host: Host,
    control: Control,
    intervals: IntervalsSection,
    /// Who plans, and the planner's numbers.
    #[cfg_attr(feature = "schema", schemars(schema_with = "super::schema::policy"))]
    policy: policy::Section,
    record: Record,
    tuning: Tuning,
    /// The VMs.
    vm: Vec<Vm>,
}

#[derive(Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct Host {
    /// What the VMs may have together, reserve included; MemTotal without it.
    capacity: Option<Bytes>,
    /// What is never given out; 5 % of the capacity without it, at least 512 MiB, at most a quarter.
    reserve: Option<Bytes>,
}

#[derive(Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct Control {
    /// Where `vmtide` finds the bridge: an absolute path.
    socket: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct Record {
    /// The folder of the recording: an absolute path.
    directory: Option<PathBuf>,
    /// The most that the recording may have, 1 MiB or more; 0: nothing is recorded.
    size: Option<Bytes>,
}

#[derive(Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct Tuning {
    /// No knob of the host does more than this; `observe` without it.
    mode: Option<Mode>,
    /// The folder of files that change or add knobs: an absolute path.
    catalogue: Option<PathBuf>,
    /// Where it is written down what was changed: an absolute path, in a folder of root's alone that a reboot empties.
    journal: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct IntervalsSection {
    /// How often agents report while demand moves, milliseconds.
    #[cfg_attr(feature = "schema", schemars(range(min = 100, max = 3_600_000)))]
    busy_ms: Option<u64>,
    /// How often agents report while it does not, milliseconds.
    #[cfg_attr(feature = "schema", schemars(range(min = 100, max = 3_600_000)))]
    quiet_ms: Option<u64>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Vm {
    /// 1 to 64 letters, digits, '.', '_' and '-'.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,64}$")))]
    name: String,
    /// It is never left with less; at least 32 MiB.
    minimum: Bytes,
    /// What it gets back whenever it needs it; none without it.
    reservation: Option<Bytes>,
    /// It never gets more; at most 64 TiB.
    maximum: Bytes,
    /// Its weight when memory is short.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    shares: Option<u32>,
    /// The same for its CPU time.
    #[serde(default)]
    cpu: Cpu,
    /// The same for its disks.
    #[serde(default)]
    io: Io,
    /// A QMP monitor of its own: an absolute path.
    qmp: PathBuf,
    /// Kernel vsock: the guest's context id. Give this or `vsock`.
    cid: Option<u32>,
    /// Hybrid vsock: the bridge listens at this path + `_7670`.
    vsock: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct Cpu {
    /// Its weight for CPU time; that for memory without it.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    shares: Option<u32>,
    /// CPU time that it can have when it wants it.
    minimum: Option<Millicpus>,
    /// CPU time that it never gets more than, at least 0.1; its vCPUs without it.
    maximum: Option<Millicpus>,
}

pub(super) fn load(path: &Path) -> Result<Config, Error> {
    check(path, &texts(path)?)
}

/// The main file and its drop-ins with what they say, in the order in which they are read.
pub(super) fn texts(path: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    files(path)?.into_iter().map(|path| trust::read(&path).map(|text| (path, text))).collect()
}

/// What `texts` mean; `path` is the main file.
pub(super) fn check(path: &Path, texts: &[(PathBuf, String)]) -> Result<Config, Error> {
    let mut config = Config::default();
    let mut taken = Taken::default();
    for (path, text) in texts {
        let file: File = toml::from_str(text)
            .map_err(|error| Error::Syntax { path: path.clone(), message: Explained::from(error).to_string() })?;
        apply(&mut config, file, path, &mut taken)?;
    }
    agree(&config).map_err(|(key, message)| Error::Value { path: path.to_owned(), key: key.to_owned(), message })?;
    Ok(config)
}

/// The main file, then the drop-ins in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = vec![path.to_owned()];
    let folder = path.with_file_name("conf.d");
    let read_error = |source| Error::Read { path: folder.clone(), source };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(read_error(error)),
    };
    trust::check(&folder, &std::fs::metadata(&folder).map_err(read_error)?)?;
    let mut dropins = Vec::new();
    for entry in entries {
        let path = entry.map_err(read_error)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            dropins.push(path);
        }
    }
    dropins.sort();
    files.append(&mut dropins);
    Ok(files)
}

/// What must be unique over all files, and which VM has it.
#[derive(Default)]
struct Taken {
    names: HashMap<String, PathBuf>,
    addresses: HashMap<Address, String>,
    monitors: HashMap<PathBuf, String>,
}

fn apply(config: &mut Config, file: File, path: &Path, taken: &mut Taken) -> Result<(), Error> {
    let wrong = |key: &str, message: String| Error::Value { path: path.to_owned(), key: key.to_owned(), message };

    config.capacity_bytes = file.host.capacity.map(|bytes| bytes.0).or(config.capacity_bytes);
    config.reserve_bytes = file.host.reserve.map(|bytes| bytes.0).or(config.reserve_bytes);
    if let Some(socket) = file.control.socket {
        config.control_socket = absolute(socket).map_err(|message| wrong("control.socket", message))?;
    }
    if let Some(directory) = file.record.directory {
        config.record.directory = absolute(directory).map_err(|message| wrong("record.directory", message))?;
    }
    config.tuning.mode = file.tuning.mode.unwrap_or(config.tuning.mode);
    for (key, value, slot) in [
        ("tuning.catalogue", file.tuning.catalogue, &mut config.tuning.catalogue),
        ("tuning.journal", file.tuning.journal, &mut config.tuning.journal),
    ] {
        if let Some(path) = value {
            *slot = absolute(path).map_err(|message| wrong(key, message))?;
        }
    }
    if let Some(Bytes(bytes)) = file.record.size {
        if bytes != 0 && !(LEAST_RECORD_BYTES..=MAXIMUM_BYTES).contains(&bytes) {
            let message = format!("{} cannot be; allowed is 0 (off) or 1MiB to 64TiB", Bytes(bytes));
            return Err(wrong("record.size", message));
        }
        config.record.size_bytes = bytes;
    }
    for (key, value, slot) in [
        ("intervals.busy_ms", file.intervals.busy_ms, &mut config.intervals.busy_ms),
        ("intervals.quiet_ms", file.intervals.quiet_ms, &mut config.intervals.quiet_ms),
    ] {
        if let Some(ms) = value {
            if !(100..=3_600_000).contains(&ms) {
                return Err(wrong(key, format!("{ms} is out of range; allowed is 100 to 3600000 milliseconds")));
            }
            *slot = ms;
        }
    }
    let mut section = file.policy;
    let planner = take_planner(&mut section).map_err(|(key, message)| wrong(&key, message))?;
    config.planner = planner.unwrap_or(config.planner);
    config.policy = overlay(&config.policy, section).map_err(|(key, message)| wrong(&key, message))?;
    for vm in file.vm {
        let vm = check_vm(vm, path)?;
        claim(&vm, path, taken)?;
        config.vms.push(vm);
    }
    Ok(())
}

/// Checks what several keys mean together, wherever each was written.
fn agree(config: &Config) -> Result<(), (&'static str, String)> {
    if let (Some(capacity), Some(reserve)) = (config.capacity_bytes, config.reserve_bytes)
        && reserve >= capacity
    {
        let message = format!("{} leaves nothing of the capacity of {}", Bytes(reserve), Bytes(capacity));
        return Err(("host.reserve", message));
    }
    let Intervals { busy_ms, quiet_ms } = config.intervals;
    if busy_ms > quiet_ms {
        return Err(("intervals.busy_ms", format!("{busy_ms} is longer than quiet_ms ({quiet_ms})")));
    }
    policy::agree(&config.policy)
}

fn check_vm(vm: Vm, path: &Path) -> Result<VmConfig, Error> {
    let wrong = |key: &str, message: String| Error::Value {
        path: path.to_owned(),
        key: format!("vm {:?}: {key}", vm.name),
        message,
    };

    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if vm.name.is_empty() || vm.name.len() > 64 || !vm.name.chars().all(plain) {
        return Err(wrong("name", "allowed are 1 to 64 letters, digits, '.', '_' and '-'".to_owned()));
    }
    let limits = Limits {
        minimum_bytes: vm.minimum.0,
        reservation_bytes: vm.reservation.map_or(0, |bytes| bytes.0),
        maximum_bytes: vm.maximum.0,
        shares: vm.shares.unwrap_or(DEFAULT_SHARES),
    };
    check_limits(&limits).map_err(|(key, message)| wrong(key, message))?;
    let address = match (vm.cid, &vm.vsock) {
        (Some(cid), None) if cid == 1 || (3..u32::MAX).contains(&cid) => Address::Cid(cid),
        (Some(cid), None) => {
            return Err(wrong("cid", format!("{cid} is reserved; a guest has 3 or more (1 is the local loopback)")));
        }
        (None, Some(socket)) => Address::Hybrid(absolute(socket.clone()).map_err(|message| wrong("vsock", message))?),
        (Some(_), Some(_)) => return Err(wrong("cid", "give cid or vsock, not both".to_owned())),
        (None, None) => {
            return Err(wrong("cid", "missing; give cid (kernel vsock) or vsock (hybrid socket)".to_owned()));
        }
    };
    let qmp = absolute(vm.qmp.clone()).map_err(|message| wrong("qmp", message))?;
    let cpu = check_cpu(&vm.cpu).map_err(|(key, message)| wrong(key, message))?;
    let io = vm.io.check().map_err(|(key, message)| wrong(key, message))?;
    Ok(VmConfig { name: vm.name, limits, cpu, io, qmp, address })
}

/// Checks what an operator may set, in a file or through the control API.
///
/// # Errors
/// The key that is wrong, with what was found and what is allowed.
pub(crate) fn check_limits(limits: &Limits) -> Result<(), (&'static str, String)> {
    let Limits { minimum_bytes, reservation_bytes, maximum_bytes, shares } = *limits;
    if minimum_bytes < LEAST_MINIMUM_BYTES {
        let message =
            format!("{} is too little; allowed is {} or more", Bytes(minimum_bytes), Bytes(LEAST_MINIMUM_BYTES));
        return Err(("minimum", message));
    }
    if maximum_bytes < minimum_bytes {
        let message = format!("{} is less than the minimum of {}", Bytes(maximum_bytes), Bytes(minimum_bytes));
        return Err(("maximum", message));
    }
    if reservation_bytes > maximum_bytes {
        let message = format!("{} is more than the maximum of {}", Bytes(reservation_bytes), Bytes(maximum_bytes));
        return Err(("reservation", message));
    }
    if maximum_bytes > MAXIMUM_BYTES {
        return Err(("maximum", format!("{} is too much; allowed is 64TiB or less", Bytes(maximum_bytes))));
    }
    if !(1..=MAXIMUM_SHARES).contains(&shares) {
        return Err(("shares", format!("{shares} is out of range; allowed is 1 to {MAXIMUM_SHARES}")));
    }
    Ok(())
}

fn check_cpu(cpu: &Cpu) -> Result<CpuConfig, (&'static str, String)> {
    let config = CpuConfig {
        shares: cpu.shares,
        minimum_millicpus: cpu.minimum.map_or(0, |minimum| minimum.0),
        maximum_millicpus: cpu.maximum.map(|maximum| maximum.0),
    };
    check_cpu_limits(&config).map(|()| config)
}

/// What may be set for a VM's CPU time; else the key, and what is allowed.
pub(crate) fn check_cpu_limits(cpu: &CpuConfig) -> Result<(), (&'static str, String)> {
    let minimum = cpu.minimum_millicpus;
    if let Some(maximum) = cpu.maximum_millicpus.filter(|most| *most < minimum || *most < LEAST_MAXIMUM_MILLICPUS) {
        let (maximum, minimum) = (Millicpus(maximum), Millicpus(minimum));
        return Err(("cpu.maximum", format!("{maximum} is less than the minimum of {minimum}, or than 0.1")));
    }
    if let Some(shares) = cpu.shares.filter(|shares| !(1..=MAXIMUM_SHARES).contains(shares)) {
        return Err(("cpu.shares", format!("{shares} is out of range; allowed is 1 to {MAXIMUM_SHARES}")));
    }
    Ok(())
}

fn claim(vm: &VmConfig, path: &Path, taken: &mut Taken) -> Result<(), Error> {
    let wrong = |key: &str, message: String| Error::Value {
        path: path.to_owned(),
        key: format!("vm {:?}: {key}", vm.name),
        message,
    };
    if let Some(earlier) = taken.names.insert(vm.name.clone(), path.to_owned()) {
        return Err(wrong("name", format!("is taken already, in {}", earlier.display())));
    }
    if let Some(other) = taken.addresses.insert(vm.address.clone(), vm.name.clone()) {
        return Err(wrong("address", format!("is that of VM {other:?} already")));
    }
    if let Some(other) = taken.monitors.insert(vm.qmp.clone(), vm.name.clone()) {
        return Err(wrong("qmp", format!("is that of VM {other:?} already")));
    }
    Ok(())
}

fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    if path.is_absolute() { Ok(path) } else { Err(format!("{:?} is not an absolute path", path.display().to_string())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::IoConfig;
    use crate::plan::{Planner, Policy};

    const VM: &str = "name = 'a'\nminimum = '128MiB'\nmaximum = '1GiB'\nqmp = '/q'\ncid = 3\n";

    fn load_texts(texts: &[(&str, &str)]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        for (name, text) in texts {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let shorten = |error: Error| error.to_string().replace(&format!("{}/", folder.path().display()), "");
        load(&folder.path().join("bridge.toml")).map_err(shorten)
    }

    fn error_of(text: &str) -> String {
        load_texts(&[("bridge.toml", text)]).unwrap_err()
    }

    #[test]
    fn lines_that_contradict_each_other_are_refused_wherever_they_are() {
        let error = error_of("[policy]\ncpu_clear_permille = 500\n");
        assert!(error.contains("policy.cpu_clear_permille: 500 is more than cpu_short_permille (400)"), "{error}");
        let error = load_texts(&[
            ("bridge.toml", "[policy]\nio_short_permille = 300\nio_clear_permille = 250\n"),
            ("conf.d/10.toml", "[policy]\nio_short_permille = 240\n"),
        ]);
        assert!(error.unwrap_err().contains("policy.io_clear_permille: 250 is more than io_short_permille (240)"));
    }

    #[test]
    fn drop_ins_add_vms_and_override_keys() {
        let config = load_texts(&[
            ("bridge.toml", &format!("[host]\ncapacity = '8GiB'\nreserve = '1GiB'\n[[vm]]\n{VM}")),
            (
                "conf.d/20-b.toml",
                "[[vm]]\nname='b'\nminimum='64MiB'\nmaximum='1GiB'\nshares=2000\nqmp='/r'\nvsock='/v'\ncpu = { shares = 7, maximum = 1.5 }\nio = { minimum = '2MiB/s', shares = 9 }\n",
            ),
            ("conf.d/10-host.toml", "[host]\nreserve = '2GiB'\n"),
            ("conf.d/notes.txt", "not TOML"),
        ])
        .unwrap();
        assert_eq!((config.capacity_bytes, config.reserve_bytes), (Some(8 << 30), Some(2 << 30)));
        let names: Vec<_> = config.vms.iter().map(|vm| vm.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(config.vms[0].limits.shares, DEFAULT_SHARES);
        assert_eq!(config.vms[1].address, Address::Hybrid("/v".into()));
        let limited = CpuConfig { shares: Some(7), minimum_millicpus: 0, maximum_millicpus: Some(1500) };
        assert_eq!([config.vms[0].cpu, config.vms[1].cpu], [CpuConfig::default(), limited]);
        let limited = IoConfig { shares: Some(9), minimum_bytes_per_s: 2 * MIB, maximum_bytes_per_s: None };
        assert_eq!([config.vms[0].io, config.vms[1].io], [IoConfig::default(), limited]);
    }

    #[test]
    fn errors_name_file_key_and_what_is_allowed() {
        for (text, expected) in [
            (
                format!("[[vm]]\n{VM}colour = 1\n"),
                &["bridge.toml", "line 7", "colour", "expected one of", "`minimum`"][..],
            ),
            (format!("[[vm]]\n{}", VM.replace("1GiB", "1MiB")), &["vm \"a\": maximum", "less than the minimum"]),
            (
                format!("[[vm]]\n{VM}reservation = '2GiB'\n"),
                &["vm \"a\": reservation: 2048 MiB is more than the maximum of 1024 MiB"],
            ),
            (format!("[[vm]]\n{}", VM.replace("1GiB", "65TiB")), &["vm \"a\": maximum", "allowed is 64TiB"]),
            (format!("[[vm]]\n{}", VM.replace("maximum", "shares").replace("'1GiB'", "1")), &["line 1", "`maximum`"]),
            (format!("[[vm]]\n{VM}shares = 0\n"), &["vm \"a\": shares", "allowed is 1 to 1000000"]),
            (format!("[[vm]]\n{VM}cpu.shares = 0\n"), &["vm \"a\": cpu.shares", "allowed is 1 to 1000000"]),
            (format!("[[vm]]\n{VM}cpu.maximum = 0.05\n"), &["vm \"a\": cpu.maximum: 0.05 is less"]),
            (
                format!("[[vm]]\n{VM}cpu = {{ minimum = 2, maximum = '1500m' }}\n"),
                &["1.5 is less than the minimum of 2"],
            ),
            (format!("[[vm]]\n{VM}cpu.minimum = -1\n"), &["line 7", "allowed is a number of CPUs"]),
            (format!("[[vm]]\n{VM}cpu.weight = 1\n"), &["line 7", "unknown field `weight`"]),
            (format!("[[vm]]\n{VM}io.maximum = '50 apples'\n"), &["line 7", "50 apples", "allowed is \"50MiB/s\""]),
            (format!("[[vm]]\n{VM}io.maximum = -5\n"), &["line 7", "a rate such as"]),
            (format!("[[vm]]\n{VM}io.maximum = 0\n"), &["vm \"a\": io.maximum", "allowed is 64KiB/s to 1TiB/s"]),
            (format!("[[vm]]\n{VM}io.weight = 1\n"), &["line 7", "unknown field `weight`"]),
            (format!("[[vm]]\n{VM}[[vm]]\n{VM}"), &["vm \"a\": name", "is taken already, in bridge.toml"]),
            (format!("[[vm]]\n{}", VM.replace("cid = 3", "cid = 2")), &["vm \"a\": cid", "reserved"]),
            (format!("[[vm]]\n{}", VM.replace("cid = 3\n", "")), &["vm \"a\": cid", "missing"]),
            (format!("[[vm]]\n{}", VM.replace("/q", "q")), &["vm \"a\": qmp", "not an absolute path"]),
            (format!("[[vm]]\n{}", VM.replace("128MiB", "12 apples")), &["line 3", "12 apples", "allowed is a number"]),
            ("[host]\ncapacity='1GiB'\nreserve='1GiB'\n".into(), &["host.reserve", "leaves nothing"]),
            ("[policy]\nidle_tax_percent = 100\n".into(), &["policy.idle_tax_percent", "0 to 99 percent"]),
            ("[policy]\nplanner = 'mom'\n".into(), &["bridge.toml: policy.planner: \"mom\" is no", "mom-rules"]),
            ("[policy]\nplanner = 1\n".into(), &["policy.planner: 1 is no planner's name"]),
            ("[intervals]\nbusy_ms = 5\n".into(), &["intervals.busy_ms", "allowed is 100"]),
            ("[record]\nsize = '1KiB'\n".into(), &["record.size", "1024 B cannot be; allowed is 0 (off) or 1MiB"]),
            ("[record]\ndirectory = 'here'\n".into(), &["record.directory", "not an absolute path"]),
            ("[host\n".into(), &["bridge.toml", "line 1"]),
        ] {
            let error = error_of(&text);
            for part in expected {
                assert!(error.contains(part), "{part:?} is not in: {error}");
            }
        }
    }

    #[test]
    fn later_files_override_single_keys_and_only_all_together_must_agree() {
        let config = load_texts(&[
            (
                "bridge.toml",
                "[host]\ncapacity='1GiB'\nreserve='1GiB'\n[intervals]\nbusy_ms = 60000\n\
                 [policy]\nheadroom_permille = 200\ndead_band_bytes = '1MiB'\n",
            ),
            (
                "conf.d/site.toml",
                "[host]\nreserve='512MiB'\n[intervals]\nquiet_ms = 60000\n[policy]\nplanner = 'static'\ndead_band_bytes = '2MiB'\n",
            ),
        ])
        .unwrap();
        assert_eq!((config.reserve_bytes, config.intervals.quiet_ms), (Some(512 * MIB), 60_000));
        let policy = Policy { headroom_permille: 200, dead_band_bytes: 2 * MIB, ..Policy::default() };
        assert_eq!((config.policy, config.planner), (policy, Planner::Static));
    }

    #[test]
    fn drop_ins_that_cannot_be_read_are_an_error_and_none_are_fine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bridge.toml");
        std::fs::write(&path, "").unwrap();
        assert!(load(&path).is_ok());
        std::fs::write(folder.path().join("conf.d"), "a file").unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.ends_with("conf.d: cannot be read"), "{error}");
    }

    #[test]
    fn minimums_that_do_not_fit_are_warned_of() {
        let config = load_texts(&[("bridge.toml", &format!("[[vm]]\n{VM}"))]).unwrap();
        assert_eq!(config.warning(128 * MIB), None);
        let warning = config.warning(127 * MIB).unwrap();
        assert!(warning.contains("128 MiB together") && warning.contains("reserve is 127 MiB"), "{warning}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Path::new("/nowhere/bridge.toml")).unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/bridge.toml: cannot be read");
    }
}
