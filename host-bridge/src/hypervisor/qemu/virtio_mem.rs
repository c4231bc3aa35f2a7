//! QEMU's virtio-mem devices: what they have, and what they are asked to have.
//!
//! `size` is QEMU's own count of what the guest has plugged in; it cannot pass `requested-size` but where that was lowered, and
//! the guest goes there when it can (docs/system/devices and the virtio specification, 5.15).

use super::qmp::Qmp;
use crate::hypervisor::Error;
use serde_json::{Value, json};

const COMMAND: &str = "query-memory-devices";

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// Its QOM path; `None` for one without an id, which counts and is not moved.
    path: Option<String>,
    pub(super) size_bytes: u64,
    pub(super) requested_bytes: u64,
    /// What it may be asked for.
    pub(super) most_bytes: u64,
    pub(super) block_bytes: u64,
}

/// What is plugged into a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plugged {
    pub(super) devices: Vec<Device>,
    /// Memory of DIMMs, which stays.
    pub(super) dimm_bytes: u64,
}

impl Plugged {
    /// Reads all devices.
    pub(super) async fn read(qmp: &mut Qmp) -> Result<Self, Error> {
        let list = qmp.execute(COMMAND, json!({})).await?;
        let mut plugged = Self::default();
        for device in list.as_array().into_iter().flatten() {
            let data = device.get("data").unwrap_or(&Value::Null);
            let bytes = |name| data.get(name).and_then(Value::as_u64);
            match device.get("type").and_then(Value::as_str) {
                Some("dimm") => plugged.dimm_bytes = plugged.dimm_bytes.saturating_add(bytes("size").unwrap_or(0)),
                Some("virtio-mem") => plugged.devices.push(
                    Device::read(data).ok_or_else(|| qmp.senseless(COMMAND, format!("a virtio-mem like {data}")))?,
                ),
                _ => {}
            }
        }
        Ok(plugged)
    }

    pub(super) fn size_bytes(&self) -> u64 {
        sum(self.devices.iter().map(|device| device.size_bytes))
    }

    /// What the guest may come to have: of each device the larger of what it has and what it was asked to have.
    pub(super) fn promised_bytes(&self) -> u64 {
        sum(self.devices.iter().map(|device| device.size_bytes.max(device.requested_bytes)))
    }

    /// The most that can be plugged in.
    pub(super) fn most_bytes(&self) -> u64 {
        sum(self.devices.iter().map(|device| device.most_bytes.max(device.size_bytes)))
    }

    /// All devices together move by this.
    pub(super) fn block_bytes(&self) -> u64 {
        self.devices.iter().map(|device| device.block_bytes).max().unwrap_or(0)
    }

    /// What each device is to be asked for, so that they come to `total_bytes` together: each keeps what it has as far as that
    /// goes, the first ones with room get more.
    fn shared_out(&self, total_bytes: u64) -> Vec<u64> {
        let fixed = sum(self.devices.iter().filter(|device| device.path.is_none()).map(|device| device.size_bytes));
        let mut left = total_bytes.saturating_sub(fixed);
        let mut take = |most: u64, block: u64| {
            let bytes = most.min(left) / block * block;
            left -= bytes;
            bytes
        };
        let mut shares: Vec<u64> = self
            .devices
            .iter()
            .map(|device| match device.path {
                None => device.size_bytes,
                Some(_) => take(device.size_bytes, device.block_bytes),
            })
            .collect();
        for (device, share) in self.devices.iter().zip(&mut shares).filter(|(device, _)| device.path.is_some()) {
            *share += take(device.most_bytes.saturating_sub(*share), device.block_bytes);
        }
        shares
    }

    /// Asks the devices to come to `total_bytes` together.
    pub(super) async fn request(&mut self, qmp: &mut Qmp, total_bytes: u64) -> Result<(), Error> {
        let shares = self.shared_out(total_bytes);
        for (device, bytes) in self.devices.iter_mut().zip(shares) {
            let Some(path) = device.path.as_ref().filter(|_| device.requested_bytes != bytes) else { continue };
            let property = json!({ "path": path, "property": "requested-size", "value": bytes });
            qmp.execute("qom-set", property).await?;
            device.requested_bytes = bytes;
        }
        Ok(())
    }
}

impl Device {
    /// `None` for what makes no sense; a device's numbers are QEMU's, not the guest's.
    fn read(data: &Value) -> Option<Self> {
        let bytes = |name| data.get(name).and_then(Value::as_u64);
        let id = data.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
        let (size_bytes, most_bytes) = (bytes("size")?, bytes("max-size")?);
        let block_bytes = bytes("block-size").filter(|block| block.is_power_of_two())?;
        let path = id.map(|id| format!("/machine/peripheral/{id}"));
        let most_bytes = if path.is_some() { most_bytes / block_bytes * block_bytes } else { size_bytes };
        Some(Self { path, size_bytes, requested_bytes: bytes("requested-size")?, most_bytes, block_bytes })
    }
}

fn sum(bytes: impl Iterator<Item = u64>) -> u64 {
    bytes.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: &str, size: u64, most: u64, block: u64) -> Device {
        let data = json!({ "id": id, "size": size, "requested-size": size, "max-size": most, "block-size": block });
        Device::read(&data).unwrap()
    }

    #[test]
    fn devices_keep_what_they_have_and_the_first_with_room_get_more() {
        let plugged = Plugged { devices: vec![device("a", 4, 9, 2), device("b", 6, 16, 2)], dimm_bytes: 0 };
        assert_eq!((plugged.size_bytes(), plugged.most_bytes(), plugged.block_bytes()), (10, 24, 2));
        for (total, shares) in [(10, [4, 6]), (12, [6, 6]), (24, [8, 16]), (99, [8, 16]), (6, [4, 2]), (1, [0, 0])] {
            assert_eq!(plugged.shared_out(total), shares, "{total}");
        }
    }

    #[test]
    fn a_device_without_an_id_counts_and_stays() {
        let plugged = Plugged { devices: vec![device("", 6, 16, 2), device("b", 2, 8, 2)], dimm_bytes: 0 };
        assert_eq!(plugged.most_bytes(), 14);
        assert_eq!([plugged.shared_out(12), plugged.shared_out(4)], [[6, 6], [6, 0]]);
    }

    #[test]
    fn what_makes_no_sense_is_no_device() {
        let sane = json!({ "id": "a", "size": 2, "requested-size": 2, "max-size": 8, "block-size": 2 });
        assert!(Device::read(&sane).is_some());
        for (name, value) in
            [("block-size", json!(0)), ("block-size", json!(3)), ("size", json!(-1)), ("max-size", json!(null))]
        {
            let mut odd = sane.clone();
            odd[name] = value;
            assert_eq!(Device::read(&odd), None, "{odd}");
        }
    }
}
