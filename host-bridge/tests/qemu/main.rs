//! The QEMU client and its driver against a monitor that misbehaves on purpose. The monitor here is a fake: it
//! stands for what a healthy QEMU does not do on demand. The lab runs the same code against real ones.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

mod disks;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use vmtide_bridge::hypervisor::driver::{Driver, Sighting};
use vmtide_bridge::hypervisor::qemu::Qemu;
use vmtide_bridge::hypervisor::qemu::qmp::Qmp;
use vmtide_bridge::hypervisor::{Error, Machine, MachineState};

const MIB: u64 = 1 << 20;
const RAM: u64 = 768 * MIB;

/// What the fake does next.
#[allow(clippy::struct_excessive_bools, reason = "each is a way to misbehave, and they combine")]
#[derive(Clone, Default)]
struct Manner {
    /// What the VM has; below zero where the guest's driver claims an absurd balloon.
    actual: i64,
    /// Answers nothing.
    mute: bool,
    /// Sends an event that nobody knows before each answer.
    chatty: bool,
    /// Refuses to move the balloon.
    refuses: bool,
    /// Was started without one.
    no_balloon: bool,
    /// The guest gives no more than down to here.
    sticks_at: Option<u64>,
    targets: Vec<u64>,
    /// The ids of the vCPUs in its slots; `None` for a machine without hotplug.
    vcpus: Option<[Option<String>; 4]>,
    /// The guest does not let go of a vCPU.
    clings: bool,
    virtio_mem: Option<VirtioMem>,
    /// What each disk has of a throttle.
    disks: BTreeMap<String, Value>,
    /// Of this disk no throttle is taken.
    refuses_disk: Option<String>,
    /// What `query-blockstats` says.
    block_stats: Value,
    /// Devices without a block backend.
    empty_drives: Vec<&'static str>,
}

/// A device as large as boot memory, and the guest's driver for it.
#[derive(Clone, Copy, Default)]
struct VirtioMem {
    size: u64,
    requested: u64,
    /// The driver plugs and unplugs as it is asked.
    answers: bool,
    /// It cannot unplug what is below.
    unmovable: u64,
}

#[derive(Clone)]
struct FakeQemu {
    path: PathBuf,
    manner: Arc<Mutex<Manner>>,
}

impl FakeQemu {
    fn start(folder: &Path) -> Self {
        let manner = Manner { actual: signed(RAM), ..Manner::default() };
        let fake = Self { path: folder.join("qmp.sock"), manner: Arc::new(Mutex::new(manner)) };
        let listener = UnixListener::bind(&fake.path).unwrap();
        let served = fake.clone();
        tokio::spawn(async move {
            // One client at a time, as a real monitor.
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let _ = served.clone().serve(stream).await;
            }
        });
        fake
    }

    fn with<T>(&self, change: impl FnOnce(&mut Manner) -> T) -> T {
        change(&mut self.manner.lock().unwrap())
    }

    async fn serve(self, stream: UnixStream) -> std::io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        if !self.with(|manner| manner.mute) {
            writer.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n").await?;
        }
        let mut lines = BufReader::new(reader).lines();
        while let Some(line) = lines.next_line().await? {
            let request: Value = serde_json::from_str(&line)?;
            if self.with(|manner| manner.mute) {
                continue;
            }
            if self.with(|manner| manner.chatty) {
                writer.write_all(b"{\"event\": \"FROM_A_NEWER_QEMU\", \"data\": [1]}\r\n").await?;
            }
            let mut answer = self.with(|manner| answer(manner, &request));
            answer["id"] = request["id"].clone();
            let text = format!("{answer}\r\n");
            // In two writes, as a socket may deliver it.
            let (first, second) = text.split_at(text.len() / 2);
            writer.write_all(first.as_bytes()).await?;
            writer.flush().await?;
            writer.write_all(second.as_bytes()).await?;
        }
        Ok(())
    }
}

fn answer(manner: &mut Manner, request: &Value) -> Value {
    let returned = match request["execute"].as_str().unwrap() {
        "query-memory-size-summary" => json!({ "base-memory": RAM, "plugged-memory": 0 }),
        "query-status" => json!({ "running": true, "status": "running" }),
        "query-balloon" if manner.no_balloon => {
            return json!({ "error": { "class": "DeviceNotActive", "desc": "No balloon device has been activated" } });
        }
        "query-balloon" => json!({ "actual": manner.actual }),
        "qom-list" => json!([{ "name": "b0", "type": "child<virtio-balloon-pci>" }]),
        "qom-get" => json!({ "last-update": 0, "stats": {} }),
        "query-memory-devices" => match &mut manner.virtio_mem {
            None => json!([]),
            Some(VirtioMem { size, requested, answers, unmovable }) => {
                if *answers {
                    *size = (*requested).max((*size).min(*unmovable));
                }
                let sizes = json!({ "id": "m0", "size": size, "requested-size": requested, "max-size": RAM, "block-size": 2 * MIB });
                json!([{ "type": "virtio-mem", "data": sizes }])
            }
        },
        "qom-set" if request["arguments"]["property"] == "requested-size" => {
            assert_eq!(request["arguments"]["path"], "/machine/peripheral/m0");
            manner.virtio_mem.as_mut().unwrap().requested = request["arguments"]["value"].as_u64().unwrap();
            json!({})
        }
        "balloon" if manner.refuses => return json!({ "error": { "class": "GenericError", "desc": "no such luck" } }),
        "balloon" => {
            let value = request["arguments"]["value"].as_u64().unwrap();
            manner.targets.push(value);
            manner.actual = signed(manner.sticks_at.map_or(value, |at| value.max(at)));
            json!({})
        }
        "query-hotpluggable-cpus" if manner.vcpus.is_some() => {
            let slot = |(socket, id): (usize, &Option<String>)| {
                let mut slot = json!({ "type": "cpu", "vcpus-count": 1, "props": { "socket-id": socket } });
                if let Some(id) = id {
                    slot["qom-path"] = format!("/machine/peripheral/{id}").into();
                }
                slot
            };
            manner.vcpus.as_ref().unwrap().iter().enumerate().map(slot).rev().collect()
        }
        "device_add" => {
            let arguments = &request["arguments"];
            let socket = usize::try_from(arguments["socket-id"].as_u64().unwrap()).unwrap();
            manner.vcpus.as_mut().unwrap()[socket] = Some(arguments["id"].as_str().unwrap().to_owned());
            json!({})
        }
        "device_del" if !manner.clings => {
            let id = request["arguments"]["id"].as_str();
            manner
                .vcpus
                .as_mut()
                .unwrap()
                .iter_mut()
                .filter(|slot| slot.as_deref() == id)
                .for_each(|slot| *slot = None);
            json!({})
        }
        "query-block" => {
            let disks = manner.disks.iter().map(|(id, has)| json!({ "qdev": id, "inserted": has }));
            disks.chain(manner.empty_drives.iter().map(|id| json!({ "qdev": id }))).collect()
        }
        "query-blockstats" => manner.block_stats.clone(),
        "block_set_io_throttle" => {
            let mut set = request["arguments"].clone();
            let id = set["id"].as_str().unwrap().to_owned();
            assert!(!manner.empty_drives.contains(&id.as_str()), "QEMU has nothing to throttle there");
            if manner.refuses_disk.as_ref() == Some(&id) {
                return json!({ "error": { "class": "GenericError", "desc": "not this one" } });
            }
            set.as_object_mut().unwrap().remove("id");
            manner.disks.insert(id, set);
            json!({})
        }
        _ => json!({}),
    };
    json!({ "return": returned })
}

fn vcpus(sighting: &Sighting) -> Option<(u32, u32, bool)> {
    let Sighting::Vcpus(Some(vcpus)) = sighting else { return None };
    Some((vcpus.plugged, vcpus.removable, vcpus.is_removing))
}

#[tokio::test]
async fn vcpus_come_and_go_one_at_a_time_and_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    // The boot CPU, and one that somebody else plugged in.
    fake.with(|manner| manner.vcpus = Some([Some("boot".into()), Some("theirs".into()), None, None]));
    let (driver, mut sightings) = drive(&fake.path);
    until(&mut sightings, |sighting| vcpus(sighting) == Some((2, 0, false))).await;
    driver.set_vcpus(4);
    until(&mut sightings, |sighting| vcpus(sighting) == Some((3, 1, false))).await;
    driver.set_vcpus(4);
    until(&mut sightings, |sighting| vcpus(sighting) == Some((4, 2, false))).await;
    driver.set_vcpus(5);
    let full = |sighting: &Sighting| matches!(sighting, Sighting::VcpusRefused(why) if why.contains("all 4 vCPUs"));
    until(&mut sightings, full).await;

    fake.with(|manner| manner.clings = true);
    driver.set_vcpus(3);
    until(&mut sightings, |sighting| vcpus(sighting) == Some((4, 2, true))).await;
    // The guest lets go at last, and nobody has to ask again.
    fake.with(|manner| manner.vcpus.as_mut().unwrap()[3] = None);
    until(&mut sightings, |sighting| vcpus(sighting) == Some((3, 1, false))).await;

    fake.with(|manner| manner.clings = false);
    driver.set_vcpus(2);
    until(&mut sightings, |sighting| vcpus(sighting) == Some((2, 0, false))).await;
    driver.set_vcpus(1);
    let theirs = |sighting: &Sighting| matches!(sighting, Sighting::VcpusRefused(why) if why.contains("by vmtide"));
    until(&mut sightings, theirs).await;
    assert_eq!(fake.with(|manner| manner.vcpus.clone()).unwrap()[1].as_deref(), Some("theirs"));
}

#[tokio::test]
async fn a_machine_without_hotplug_says_so_and_its_memory_moves_on() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    let (driver, mut sightings) = drive(&fake.path);
    until(&mut sightings, |sighting| matches!(sighting, Sighting::Vcpus(None))).await;
    driver.set_vcpus(4);
    driver.set_target(512 * MIB);
    until(&mut sightings, |sighting| has(sighting, 512 * MIB)).await;
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap()
}

type Sightings = mpsc::Receiver<(usize, Sighting)>;

fn drive(path: &Path) -> (Driver, Sightings) {
    let (sender, sightings) = mpsc::channel(16);
    (Driver::start::<Qemu>(0, path.to_owned(), sender), sightings)
}

/// The next that is not about vCPUs, which are read beside the rest, nor about who runs the VM.
async fn next(sightings: &mut Sightings) -> Sighting {
    until(sightings, |sighting| !matches!(sighting, Sighting::Vcpus(_) | Sighting::Process(_))).await
}

async fn until(sightings: &mut Sightings, wanted: impl Fn(&Sighting) -> bool) -> Sighting {
    loop {
        let sighting = timeout(Duration::from_secs(15), sightings.recv()).await.unwrap().unwrap().1;
        if wanted(&sighting) {
            return sighting;
        }
    }
}

fn has(sighting: &Sighting, bytes: u64) -> bool {
    matches!(sighting, Sighting::Attached(state) | Sighting::State { state, .. } if state.allocation_bytes == bytes)
}

#[tokio::test]
async fn reads_what_the_vm_has_in_spite_of_unknown_events() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    fake.with(|manner| manner.chatty = true);
    let mut qemu = Qemu::connect(&fake.path).await.unwrap();
    qemu.set_target(512 * MIB).await.unwrap();
    let seen = qemu.read().await.unwrap();
    // The fake runs in this process.
    assert!(seen.resident_bytes.is_some());
    assert_eq!(
        seen,
        MachineState {
            ram_bytes: RAM,
            allocation_bytes: 512 * MIB,
            running: true,
            has_balloon: true,
            shown_use_bytes: None,
            shown_free_bytes: None,
            resident_bytes: seen.resident_bytes,
            memory: seen.memory,
        }
    );
}

#[tokio::test]
async fn a_vm_without_a_balloon_and_one_that_claims_nonsense_count_in_full() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    let mut qemu = Qemu::connect(&fake.path).await.unwrap();
    fake.with(|manner| manner.actual = -4096);
    let seen = qemu.read().await.unwrap();
    assert_eq!((seen.allocation_bytes, seen.has_balloon), (RAM, true));
    fake.with(|manner| manner.no_balloon = true);
    let seen = qemu.read().await.unwrap();
    assert_eq!((seen.allocation_bytes, seen.has_balloon), (RAM, false));
}

#[tokio::test]
async fn tells_absent_from_mute_from_senseless() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.sock");
    assert!(matches!(Qmp::connect(&missing).await, Err(Error::Absent { .. })));

    let fake = FakeQemu::start(folder.path());
    fake.with(|manner| manner.mute = true);
    let error = Qmp::connect(&fake.path).await.unwrap_err();
    assert!(error.to_string().ends_with("no answer to the greeting within 2000 ms"), "{error}");

    let other = folder.path().join("other.sock");
    let listener = UnixListener::bind(&other).unwrap();
    tokio::spawn(async move {
        for words in ["HTTP/1.1 400 Bad Request\r\n", "{\"hello\": 1}\n"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(words.as_bytes()).await.unwrap();
        }
        let (mut stream, _) = listener.accept().await.unwrap();
        // A line without end: refused long before memory is.
        while stream.write_all(&vec![b'x'; 65536]).await.is_ok() {}
    });
    assert!(matches!(Qmp::connect(&other).await, Err(Error::Lost { .. })));
    assert!(matches!(Qmp::connect(&other).await, Err(Error::Senseless { .. })));
    assert!(matches!(Qmp::connect(&other).await, Err(Error::Lost { .. })));
}

#[tokio::test]
async fn a_target_is_confirmed_by_what_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    let (driver, mut sightings) = drive(&fake.path);
    assert!(has(&next(&mut sightings).await, RAM));

    fake.with(|manner| manner.sticks_at = Some(700 * MIB));
    driver.set_target(512 * MIB);
    assert!(has(&next(&mut sightings).await, 700 * MIB), "as far as it came, not as far as it was asked");
    fake.with(|manner| manner.actual = signed(512 * MIB));
    until(&mut sightings, |sighting| has(sighting, 512 * MIB)).await;
}

#[tokio::test]
async fn a_refusal_keeps_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    let (driver, mut sightings) = drive(&fake.path);
    next(&mut sightings).await;
    fake.with(|manner| manner.refuses = true);
    driver.set_target(512 * MIB);
    assert!(matches!(
        next(&mut sightings).await,
        Sighting::Refused { target_bytes, error } if target_bytes == 512 * MIB && error.to_string().contains("no such luck")
    ));
    fake.with(|manner| manner.refuses = false);
    driver.set_target(500 * MIB);
    until(&mut sightings, |sighting| has(sighting, 500 * MIB)).await;
}

#[tokio::test]
async fn after_silence_the_vm_is_unreachable_then_attached_with_nothing_assumed() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    let (driver, mut sightings) = drive(&fake.path);
    next(&mut sightings).await;
    fake.with(|manner| manner.mute = true);
    driver.set_target(600 * MIB);
    until(&mut sightings, |sighting| matches!(sighting, Sighting::Unreachable(_))).await;
    // What is asked of a VM that does not answer is not carried out later, when nobody wants it any more.
    driver.set_target(128 * MIB);
    fake.with(|manner| manner.mute = false);
    until(&mut sightings, |sighting| matches!(sighting, Sighting::Attached(_))).await;
    assert!(fake.with(|manner| manner.targets.is_empty()));
}

#[tokio::test]
async fn a_monitor_without_socket_is_absent_and_found_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let (_driver, mut sightings) = drive(&folder.path().join("qmp.sock"));
    assert!(matches!(next(&mut sightings).await, Sighting::Absent(_)));
    let _fake = FakeQemu::start(folder.path());
    until(&mut sightings, |sighting| matches!(sighting, Sighting::Attached(_))).await;
}

#[tokio::test]
async fn virtio_mem_moves_big_targets_and_the_balloon_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    fake.with(|manner| manner.virtio_mem = Some(VirtioMem { answers: true, ..VirtioMem::default() }));
    let (driver, mut sightings) = drive(&fake.path);
    let Sighting::Attached(state) = next(&mut sightings).await else { panic!("attached comes first") };
    assert_eq!((state.ram_bytes, state.allocation_bytes), (2 * RAM, RAM));

    for (target, plugged, balloon) in [(1025, 258, 1), (900, 134, 2), (910, 142, 0), (600, 0, 168), (1536, 768, 0)] {
        driver.set_target(target * MIB);
        let seen = until(&mut sightings, |sighting| has(sighting, target * MIB)).await;
        let Sighting::State { state, accepted_bytes } = seen else { panic!("{seen:?}") };
        let parts = state.memory.parts;
        assert_eq!((parts.plugged_bytes / MIB, parts.balloon_bytes.map(|bytes| bytes / MIB)), (plugged, Some(balloon)));
        assert_eq!(accepted_bytes, Some(target * MIB));
    }
}

#[tokio::test]
async fn what_cannot_be_unplugged_counts_until_the_balloon_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    let device = VirtioMem { size: 512 * MIB, requested: 512 * MIB, answers: true, unmovable: 300 * MIB };
    fake.with(|manner| manner.virtio_mem = Some(device));
    let (driver, mut sightings) = drive(&fake.path);
    assert!(has(&next(&mut sightings).await, RAM + 512 * MIB));
    driver.set_target(RAM);
    until(&mut sightings, |sighting| has(sighting, RAM + 300 * MIB)).await;
    until(&mut sightings, |sighting| has(sighting, RAM)).await;
    let requested = fake.with(|manner| manner.virtio_mem.unwrap().requested);
    assert_eq!(requested, 300 * MIB, "a driver that goes on trying would take the guest below its target");
    assert_eq!(fake.with(|manner| manner.actual), signed(RAM - 300 * MIB));
}

#[tokio::test]
async fn a_driver_that_is_not_there_is_found_out_and_the_balloon_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    fake.with(|manner| manner.virtio_mem = Some(VirtioMem::default()));
    let (driver, mut sightings) = drive(&fake.path);
    next(&mut sightings).await;
    driver.set_target(512 * MIB);
    until(&mut sightings, |sighting| has(sighting, 512 * MIB)).await;
    driver.set_target(700 * MIB);
    let is_promised = |sighting: &Sighting| {
        matches!(sighting, Sighting::State { state, .. }
        if state.memory.parts.promised_bytes() == 700 * MIB && state.allocation_bytes == 512 * MIB)
    };
    until(&mut sightings, is_promised).await;
    let seen = until(&mut sightings, |sighting| has(sighting, 700 * MIB)).await;
    let Sighting::State { state, .. } = seen else { panic!("{seen:?}") };
    assert!(state.memory.is_plug_dead);
    assert_eq!(state.ram_bytes, RAM, "no promise that cannot be kept");
    assert_eq!(fake.with(|manner| manner.virtio_mem.unwrap().requested), 0);
}
