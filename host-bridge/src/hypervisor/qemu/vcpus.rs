//! vCPU hotplug: which slots QEMU's machine has, which are taken, and one more or one less.
//!
//! A vCPU that vmtide plugs in has an id of its own, so that the next bridge knows it again, and only such are taken away.
//! Unplugging is a request: the vCPU is there until its guest lets go of it.

use super::super::Error;
use super::qmp::Qmp;
use crate::plan::cpu::Vcpus;
use serde_json::{Map, Value, json};

/// Begins the ids of vCPUs that vmtide plugged in.
const ID: &str = "vmtide-vcpu";
const QUERY: &str = "query-hotpluggable-cpus";

/// A place for a vCPU.
#[derive(Clone, Debug, PartialEq)]
struct Slot {
    driver: String,
    /// Where it is: socket, core, thread, as the machine has it.
    place: Map<String, Value>,
    vcpus: u32,
    /// Of the vCPU that is in it.
    path: Option<String>,
}

impl Slot {
    /// The id of a vCPU that vmtide plugged in here.
    fn id(&self) -> Option<&str> {
        let id = self.path.as_deref()?.strip_prefix("/machine/peripheral/")?;
        id.starts_with(ID).then_some(id)
    }
}

/// Reads the slots; `None` for a machine without hotplug, whose vCPUs are as they are, and where the answer makes no sense:
/// memory goes on without.
async fn slots(qmp: &mut Qmp) -> Result<Option<Vec<Slot>>, Error> {
    match qmp.execute(QUERY, json!({})).await {
        Ok(answer) => Ok(parse(&answer)),
        Err(Error::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(answer: &Value) -> Option<Vec<Slot>> {
    let slot = |value: &Value| {
        Some(Slot {
            driver: value.get("type")?.as_str()?.to_owned(),
            place: value.get("props")?.as_object()?.clone(),
            vcpus: u32::try_from(value.get("vcpus-count")?.as_u64()?).ok()?,
            path: value.get("qom-path").and_then(Value::as_str).map(str::to_owned),
        })
    };
    answer.as_array()?.iter().map(slot).collect()
}

/// What there is; `None` for a machine without hotplug.
pub(super) async fn read(qmp: &mut Qmp) -> Result<Option<Vcpus>, Error> {
    Ok(slots(qmp).await?.map(|slots| count(&slots)))
}

fn count(slots: &[Slot]) -> Vcpus {
    let sum = |of: &dyn Fn(&&Slot) -> bool| slots.iter().filter(of).map(|slot| slot.vcpus).fold(0, u32::saturating_add);
    Vcpus {
        plugged: sum(&|slot| slot.path.is_some()),
        possible: sum(&|_| true),
        removable: sum(&|slot| slot.id().is_some()),
        is_removing: false,
    }
}

/// Plugs one in, into the first free slot.
pub(super) async fn plug(qmp: &mut Qmp) -> Result<(), Error> {
    let Some(slots) = slots(qmp).await? else { return Err(without_hotplug(qmp)) };
    // QEMU lists them from the last to the first.
    let free = slots.iter().rev().find(|slot| slot.path.is_none());
    let Some(slot) = free else {
        let message = format!("all {} vCPUs are there", count(&slots).possible);
        return Err(Error::Refused { path: qmp.path(), command: "device_add", message });
    };
    let mut arguments = slot.place.clone();
    arguments.insert("driver".to_owned(), slot.driver.clone().into());
    arguments.insert("id".to_owned(), free_id(&slots).into());
    qmp.execute("device_add", arguments.into()).await.map(drop)
}

fn free_id(slots: &[Slot]) -> String {
    let is_free = |id: &String| !slots.iter().any(|slot| slot.id() == Some(id));
    // There are more numbers than slots.
    (0..=slots.len()).map(|number| format!("{ID}{number}")).find(is_free).unwrap_or_default()
}

/// Asks for the last one that was plugged in to go.
pub(super) async fn unplug(qmp: &mut Qmp) -> Result<(), Error> {
    let Some(slots) = slots(qmp).await? else { return Err(without_hotplug(qmp)) };
    let Some(id) = slots.iter().find_map(Slot::id) else {
        let message = "no vCPU was plugged in by vmtide".to_owned();
        return Err(Error::Refused { path: qmp.path(), command: "device_del", message });
    };
    qmp.execute("device_del", json!({ "id": id })).await.map(drop)
}

fn without_hotplug(qmp: &Qmp) -> Error {
    Error::Refused { path: qmp.path(), command: QUERY, message: "this machine has no vCPU hotplug".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As q35 answers with `-smp 1,maxcpus=4,sockets=4,cores=1,threads=1`, one plugged in.
    fn answer() -> Value {
        let slot = |socket: u32, path: Option<&str>| {
            let mut slot = json!({ "type": "qemu64-x86_64-cpu", "vcpus-count": 1,
                "props": { "core-id": 0, "thread-id": 0, "socket-id": socket } });
            if let Some(path) = path {
                slot["qom-path"] = path.into();
            }
            slot
        };
        json!([
            slot(3, None),
            slot(2, None),
            slot(1, Some("/machine/peripheral/vmtide-vcpu0")),
            slot(0, Some("/machine/unattached/device[0]")),
        ])
    }

    #[test]
    fn slots_are_counted_and_only_ours_can_go() {
        let slots = parse(&answer()).unwrap();
        assert_eq!(count(&slots), Vcpus { plugged: 2, possible: 4, removable: 1, is_removing: false });
        assert_eq!(slots.iter().find_map(Slot::id), Some("vmtide-vcpu0"));
        assert_eq!(free_id(&slots), "vmtide-vcpu1");
        let others = answer().to_string().replace("vmtide-vcpu0", "cpu-1");
        assert_eq!(count(&parse(&serde_json::from_str(&others).unwrap()).unwrap()).removable, 0);
    }

    #[test]
    fn what_is_no_slot_makes_no_sense() {
        for odd in [json!({}), json!([{}]), json!([{ "type": "x", "props": {}, "vcpus-count": -1 }]), json!(null)] {
            assert_eq!(parse(&odd), None, "{odd}");
        }
    }
}
