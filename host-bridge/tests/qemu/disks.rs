//! Disks of a QEMU: what they did, what they are held to, and what cannot be held.

use super::*;
use vmtide_bridge::hypervisor::driver::release;
use vmtide_bridge::plan::storage::Throttle;

const NONE: [(&str, u64); 6] = [("bps", 0), ("bps_rd", 0), ("bps_wr", 0), ("iops", 0), ("iops_rd", 0), ("iops_wr", 0)];

fn disk(iops: u64, group: Option<&str>) -> Value {
    let mut disk: Value = NONE.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    disk["iops"] = iops.into();
    if let Some(group) = group {
        disk["group"] = group.into();
    }
    disk
}

#[tokio::test]
async fn disks_are_held_all_or_none_and_let_go_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    let before = BTreeMap::from([("a".to_owned(), disk(0, None)), ("b".to_owned(), disk(500, Some("theirs")))]);
    fake.with(|manner| manner.disks.clone_from(&before));
    let mut qemu = Qemu::connect(&fake.path).await.unwrap();
    let throttle = Some(Throttle { bytes_per_s: MIB, ops_per_s: 64 });

    fake.with(|manner| manner.refuses_disk = Some("b".to_owned()));
    let error = qemu.hold_io(throttle).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { .. }) && error.to_string().contains("not this one"), "{error}");
    assert_eq!(fake.with(|manner| manner.disks.clone()), before, "nothing half done");

    fake.with(|manner| manner.refuses_disk = None);
    let held = qemu.hold_io(throttle).await.unwrap();
    assert_eq!((held.disks, held.changed), (2, 2));
    let limits = fake.with(|manner| manner.disks.values().map(|disk| disk["iops"].clone()).collect::<Vec<_>>());
    assert_eq!(limits, [64, 64]);
}

#[tokio::test]
async fn a_device_without_a_block_backend_is_named_and_nothing_is_asked_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    fake.with(|manner| manner.empty_drives = vec!["cd"]);
    let mut qemu = Qemu::connect(&fake.path).await.unwrap();
    assert_eq!(qemu.io().await.unwrap().disks, 0, "which is what its group is for");
    for throttle in [Some(Throttle { bytes_per_s: MIB, ops_per_s: 64 }), None] {
        let held = qemu.hold_io(throttle).await.unwrap();
        assert_eq!((held.disks, held.changed, held.left), (0, 0, vec!["cd: an empty drive".to_owned()]));
    }

    // Beside one that has a backend, that is held all the same.
    fake.with(|manner| manner.disks.insert("a".to_owned(), disk(0, None)));
    let held = qemu.hold_io(Some(Throttle { bytes_per_s: u64::MAX, ops_per_s: u64::MAX })).await.unwrap();
    assert_eq!((held.disks, held.changed, held.left.len()), (1, 1, 1));
}

#[tokio::test]
async fn counters_that_make_no_sense_are_none_and_huge_ones_stay_in_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    fake.with(|manner| manner.disks = ["a", "b"].map(|id| (id.to_owned(), disk(0, None))).into());
    let mut qemu = Qemu::connect(&fake.path).await.unwrap();
    let stats = |number: Value| {
        let names = ["rd_operations", "wr_operations", "rd_bytes", "wr_bytes", "rd_total_time_ns", "wr_total_time_ns"];
        let stats: Value = names.map(|name| (name.to_owned(), number.clone())).into_iter().collect();
        json!([{ "qdev": "a", "stats": stats }, { "qdev": "b", "stats": stats }])
    };
    for (answer, count) in [
        (stats(json!(u64::MAX)), u64::MAX),
        (stats(json!(-1)), 0),
        (stats(json!("many")), 0),
        (stats(json!(1.5e300)), 0),
        (json!([{ "qdev": "a" }, { "qdev": "b", "stats": [] }, 7]), 0),
        (json!("nonsense"), 0),
    ] {
        fake.with(|manner| manner.block_stats.clone_from(&answer));
        let seen = qemu.io().await.unwrap();
        assert_eq!((seen.disks, seen.ops, seen.bytes), (2, count, count), "{answer}");
    }
}

#[tokio::test]
async fn a_bridge_that_comes_lets_go_what_one_that_was_killed_held() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeQemu::start(folder.path());
    let before = BTreeMap::from([("a".to_owned(), disk(0, None)), ("b".to_owned(), disk(500, Some("theirs")))]);
    fake.with(|manner| manner.disks.clone_from(&before));
    let (driver, mut sightings) = drive(&fake.path);
    let throttle = Some(Throttle { bytes_per_s: MIB, ops_per_s: 64 });
    driver.set_throttle(throttle);
    until(&mut sightings, |seen| matches!(seen, Sighting::Throttled { throttle: Some(_), .. })).await;
    drop((driver, sightings));

    let (driver, mut sightings) = drive(&fake.path);
    until(&mut sightings, |seen| matches!(seen, Sighting::Throttled { throttle: None, .. })).await;
    assert_eq!(fake.with(|manner| manner.disks.clone()), before);

    // And one that stops in peace does so itself.
    driver.set_throttle(throttle);
    until(&mut sightings, |seen| matches!(seen, Sighting::Throttled { throttle: Some(_), .. })).await;
    assert_ne!(fake.with(|manner| manner.disks.clone()), before);
    release(&mut [driver]).await;
    assert_eq!(fake.with(|manner| manner.disks.clone()), before);
}
