//! What a VM's disks did, as QEMU counted it: no guest can change these figures but by doing I/O.

use super::super::{Error, IoSeen};
use super::qmp::Qmp;
use super::throttle::{self, Disk};
use serde_json::{Value, json};

/// Reads the counters of all disks.
///
/// # Errors
/// Any [`Error`].
pub(super) async fn read(qmp: &mut Qmp) -> Result<IoSeen, Error> {
    let (disks, _) = throttle::disks(&qmp.execute("query-block", json!({})).await?);
    Ok(sum(&disks, &qmp.execute("query-blockstats", json!({})).await?))
}

fn sum(disks: &[Disk], answer: &Value) -> IoSeen {
    let images = disks.iter().filter_map(|disk| disk.image.clone()).collect();
    let mut seen = IoSeen { disks: disks.len(), images, ..IoSeen::default() };
    for block in answer.as_array().into_iter().flatten() {
        let id = block.get("qdev").and_then(Value::as_str);
        let Some(disk) = disks.iter().find(|disk| Some(disk.id.as_str()) == id) else { continue };
        let both = |read: &str, written: &str| {
            let counter = |name| block.pointer(&format!("/stats/{name}")).and_then(Value::as_u64).unwrap_or(0);
            counter(read).saturating_add(counter(written))
        };
        let add = |sum: &mut u64, value: u64| *sum = sum.saturating_add(value);
        let ops = both("rd_operations", "wr_operations");
        add(&mut seen.ops, ops);
        add(&mut seen.bytes, both("rd_bytes", "wr_bytes"));
        // The time that requests took holds what a throttle made them wait.
        if !disk.is_limited() {
            add(&mut seen.timed_ops, ops);
            add(&mut seen.timed_us, both("rd_total_time_ns", "wr_total_time_ns") / 1000);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_disks_count_and_only_free_ones_tell_how_long_the_store_takes() {
        let block = |id: &str, iops: u64| {
            let inserted = json!({ "file": format!("/images/{id}"), "iops": iops });
            json!({ "qdev": id, "inserted": inserted })
        };
        let (disks, _) = throttle::disks(&json!([block("a", 0), block("b", 9)]));
        let stats = |id: &str| {
            json!({ "qdev": id, "stats": {
                "rd_operations": 3, "wr_operations": 1, "rd_bytes": 300, "wr_bytes": 100,
                "rd_total_time_ns": 5000, "wr_total_time_ns": 2000,
            }})
        };
        let seen = sum(&disks, &json!([stats("a"), stats("b"), stats("gone"), { "stats": {} }]));
        let images = ["/images/a", "/images/b"].map(Into::into).into();
        assert_eq!(seen, IoSeen { disks: 2, ops: 8, bytes: 800, timed_ops: 4, timed_us: 7, images });
    }
}
