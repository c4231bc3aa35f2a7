//! Disks held to a rate by `block_set_io_throttle`, and given back as they were.
//!
//! ```text
//!  query-block --> each disk: its limits, its group --> what to set --> block_set_io_throttle --> query-block: did it take?
//!                                   |                      refused: those set before are put back
//!                                   v
//!                 marked: ours, and what it was before
//! ```
//!
//! What a disk had before is written into the name of the throttle group that vmtide gives it. So QEMU itself keeps it for as
//! long as the throttle is there: a bridge that was killed leaves nothing behind that the next one does not know to be vmtide's, and
//! no file can disagree. A mark whose limits are not in force any more tells of another hand: that disk is left alone.
//!
//! Disks that had the same before (most had nothing) get the same group, and share the rate as they shared what they had.

use super::super::{Error, Held};
use super::qmp::Qmp;
use crate::plan::storage::Throttle;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A throttle group of this name is vmtide's.
const MARK: &str = "vmtide ";
/// Rates: of both directions, of reads, of writes. QEMU takes the first or the others.
const BYTES: [&str; 3] = ["bps", "bps_rd", "bps_wr"];
const OPS: [&str; 3] = ["iops", "iops_rd", "iops_wr"];
/// What a rate may have beside it: a burst, and how long that lasts.
const ENDS: [&str; 3] = ["", "_max", "_max_length"];
const SIZE: &str = "iops_size";

/// What is set of a disk, by QEMU's names; what is not set is not in it.
type Limits = BTreeMap<String, u64>;

/// What vmtide writes into the name of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    set: Limits,
    was: Limits,
    group: Option<String>,
}

/// A guest's disk that has a block backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// What QEMU calls its device.
    pub(super) id: String,
    /// The image's file, where it is one.
    pub(super) image: Option<PathBuf>,
    limits: Limits,
    group: Option<String>,
}

impl Disk {
    /// Whether anybody limits it.
    pub(super) fn is_limited(&self) -> bool {
        !self.limits.is_empty()
    }

    /// What is to be set, and in which group; `None` when it is as it should be, an error when it is somebody else's.
    fn wish(&self, throttle: Option<Throttle>) -> Result<Option<(Limits, Option<String>)>, String> {
        let (was, group) = match self.group.as_deref().and_then(Mark::read) {
            Some(mark) if mark.set == self.limits => (mark.was, mark.group),
            Some(_) => return Err(format!("{}: somebody else changed its throttle", self.id)),
            None => (self.limits.clone(), self.group.clone()),
        };
        let wanted = throttle.map_or_else(|| was.clone(), |throttle| held(&was, throttle));
        if wanted == self.limits {
            return Ok(None);
        }
        let group = if wanted == was { group } else { Some(Mark { set: wanted.clone(), was, group }.name()) };
        Ok(Some((wanted, group)))
    }
}

impl Mark {
    fn read(group: &str) -> Option<Self> {
        serde_json::from_str(group.strip_prefix(MARK)?).ok()
    }

    fn name(&self) -> String {
        MARK.to_owned() + &json!(self).to_string()
    }
}

/// The limits with which a disk that had `was` keeps to `throttle`: in each rate the lower of the two.
fn held(was: &Limits, throttle: Throttle) -> Limits {
    let mut limits: Limits = was.get(SIZE).map(|size| (SIZE.to_owned(), *size)).into_iter().collect();
    for ([total, parts @ ..], most) in [(BYTES, throttle.bytes_per_s), (OPS, throttle.ops_per_s)] {
        let is_split = parts.iter().any(|rate| was.contains_key(*rate));
        let rates = if is_split { parts.to_vec() } else { vec![total] };
        for rate in rates {
            if was.get(rate).is_none_or(|before| *before > most) {
                limits.insert(rate.to_owned(), most);
            } else {
                let kept = ENDS.iter().map(|end| format!("{rate}{end}"));
                limits.extend(kept.filter_map(|name| Some((name.clone(), *was.get(&name)?))));
            }
        }
    }
    limits
}

/// The disks in an answer to `query-block`, and what there is beside them.
pub(super) fn disks(answer: &Value) -> (Vec<Disk>, Vec<String>) {
    let (mut disks, mut left) = (Vec::new(), Vec::new());
    for block in answer.as_array().into_iter().flatten() {
        let text = |name| block.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let Some(id) = text("qdev") else { continue };
        let flag = |of: &Value, name| of.get(name).and_then(Value::as_bool).unwrap_or(false);
        let Some(inserted) = block.get("inserted") else {
            left.push(format!("{id}: an empty drive"));
            continue;
        };
        if flag(inserted, "ro") && flag(block, "removable") {
            left.push(format!("{id}: read-only and removable"));
            continue;
        }
        let names = BYTES.iter().chain(&OPS).flat_map(|rate| ENDS.map(|end| format!("{rate}{end}")));
        let set = |name: String| Some((name.clone(), inserted.get(&name)?.as_u64().filter(|value| *value > 0)?));
        disks.push(Disk {
            id: id.to_owned(),
            image: inserted.get("file").and_then(Value::as_str).map(PathBuf::from).filter(|path| path.is_absolute()),
            limits: names.chain([SIZE.to_owned()]).filter_map(set).collect(),
            group: inserted.get("group").and_then(Value::as_str).map(str::to_owned),
        });
    }
    (disks, left)
}

/// Holds all disks of a VM to `throttle`, or gives them back as they were.
///
/// # Errors
/// [`Error::Refused`] when QEMU would not, or did not although it said so; then all disks have what they had before the call.
pub(super) async fn hold(qmp: &mut Qmp, throttle: Option<Throttle>) -> Result<Held, Error> {
    let (all, mut left) = disks(&qmp.execute("query-block", json!({})).await?);
    let mut set: Vec<(&Disk, Limits)> = Vec::new();
    for disk in &all {
        let (limits, group) = match disk.wish(throttle) {
            Ok(Some(wish)) => wish,
            Ok(None) => continue,
            Err(why) => {
                left.push(why);
                continue;
            }
        };
        let answer = write(qmp, &disk.id, &limits, group.as_deref()).await;
        if let Err(error) = answer {
            undo(qmp, &set).await?;
            return Err(error);
        }
        set.push((disk, limits));
    }
    if !set.is_empty() {
        let (now, _) = disks(&qmp.execute("query-block", json!({})).await?);
        let took = |disk: &Disk, limits: &Limits| now.iter().any(|now| now.id == disk.id && now.limits == *limits);
        if let Some((disk, _)) = set.iter().find(|(disk, limits)| !took(disk, limits)) {
            let message = format!("{} has other limits than were set", disk.id);
            undo(qmp, &set).await?;
            return Err(Error::Refused { path: qmp.path(), command: "block_set_io_throttle", message });
        }
    }
    Ok(Held { disks: all.len(), changed: set.len(), left })
}

async fn undo(qmp: &mut Qmp, set: &[(&Disk, Limits)]) -> Result<(), Error> {
    for (disk, _) in set {
        match write(qmp, &disk.id, &disk.limits, disk.group.as_deref()).await {
            // A disk that was unplugged meanwhile has nothing to put back.
            Ok(()) | Err(Error::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn write(qmp: &mut Qmp, id: &str, limits: &Limits, group: Option<&str>) -> Result<(), Error> {
    let mut arguments = json!({ "id": id });
    // These six must be given; 0 is no limit.
    for rate in BYTES.iter().chain(&OPS) {
        arguments[*rate] = 0.into();
    }
    for (name, value) in limits {
        arguments[name.as_str()] = (*value).into();
    }
    if let Some(group) = group.filter(|_| !limits.is_empty()) {
        arguments["group"] = group.into();
    }
    qmp.execute("block_set_io_throttle", arguments).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Throttle = Throttle { bytes_per_s: 1000, ops_per_s: 50 };

    fn limits<const N: usize>(set: [(&str, u64); N]) -> Limits {
        set.map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn disk(limits: Limits, group: Option<&str>) -> Disk {
        Disk { id: "d".into(), image: None, limits, group: group.map(str::to_owned) }
    }

    /// What the disk is once the wish was granted.
    fn granted(disk: &Disk, throttle: Option<Throttle>) -> Disk {
        let (limits, group) = disk.wish(throttle).unwrap().unwrap();
        // QEMU forgets the group of a disk without limits.
        let group = group.filter(|_| !limits.is_empty());
        Disk { limits, group, ..disk.clone() }
    }

    #[test]
    fn a_disk_is_given_back_as_it_was_by_whoever_finds_it() {
        let burst = [("iops", 200), ("iops_max", 400), ("iops_max_length", 3), ("iops_size", 4096)];
        for before in [
            disk(limits([]), None),
            disk(limits(burst), Some("theirs")),
            disk(limits([("bps_rd", 5000), ("bps_wr", 10), ("iops_wr", 60)]), Some("d")),
        ] {
            let mut held = granted(&before, Some(HALF));
            held = granted(&held, Some(Throttle { bytes_per_s: 7, ops_per_s: 7 }));
            // Nothing but what QEMU shows is known here.
            assert_eq!(granted(&held, None), before);
            assert_eq!(before.wish(None), Ok(None), "and then nothing is to be done");
        }
    }

    #[test]
    fn an_operators_tighter_limit_holds_on() {
        let was = limits([("bps", 10), ("bps_max", 20), ("bps_max_length", 1), ("iops", 90), ("iops_max", 99)]);
        let held = held(&was, HALF);
        assert_eq!(held, limits([("bps", 10), ("bps_max", 20), ("bps_max_length", 1), ("iops", 50)]));
        let split = super::held(&limits([("bps_rd", 9), ("iops_wr", 100)]), HALF);
        assert_eq!(split, limits([("bps_rd", 9), ("bps_wr", 1000), ("iops_rd", 50), ("iops_wr", 50)]));
        let tight = disk(limits([("bps", 1), ("iops", 1)]), Some("d"));
        assert_eq!(tight.wish(Some(HALF)), Ok(None));
    }

    #[test]
    fn what_somebody_else_changed_is_left_alone() {
        let mut held = granted(&disk(limits([]), None), Some(HALF));
        held.limits.insert("iops".into(), 51);
        for throttle in [None, Some(HALF)] {
            assert!(held.wish(throttle).unwrap_err().contains("somebody else"));
        }
        let odd = disk(limits([("iops", 5)]), Some("vmtide but no mark"));
        assert_eq!(granted(&granted(&odd, Some(Throttle { ops_per_s: 1, ..HALF })), None), odd);
    }

    #[test]
    fn disks_share_what_they_shared_before() {
        let free = [disk(limits([]), None), disk(limits([]), None)].map(|disk| granted(&disk, Some(HALF)).group);
        assert!(free[0].is_some() && free[0] == free[1]);
        let theirs = disk(limits([("iops", 100)]), Some("theirs"));
        assert_ne!(granted(&theirs, Some(HALF)).group, free[0]);
    }

    #[test]
    fn what_cannot_be_throttled_is_named() {
        let answer = json!([
            { "device": "cd", "qdev": "cd", "removable": true },
            { "device": "iso", "qdev": "iso", "removable": true, "inserted": { "ro": true, "iops": 0 } },
            { "device": "unattached", "inserted": { "ro": false } },
            { "device": "", "qdev": "/machine/a", "removable": false,
              "inserted": { "ro": true, "file": "/images/a.raw", "iops": 5, "bps": 0, "group": "g" } },
            { "device": "b", "qdev": "b", "inserted": { "file": "nbd://x", "iops": -3 } },
        ]);
        let (disks, left) = disks(&answer);
        assert_eq!(left, ["cd: an empty drive", "iso: read-only and removable"]);
        let a = Disk {
            id: "/machine/a".into(),
            image: Some("/images/a.raw".into()),
            ..disk(limits([("iops", 5)]), Some("g"))
        };
        assert_eq!(disks, [a, Disk { id: "b".into(), ..disk(limits([]), None) }]);
        assert_eq!(super::disks(&json!("nonsense")), (vec![], vec![]));
    }
}
