//! The agent tunes real guests: what it sets is really set, what it set goes back, what others set stays.

mod tuned;

use std::collections::BTreeSet;

use anyhow::Result;
use tuned::{Files, Guest, Row, SOON};
use vmtide_lab::{Kernel, wait_for};

/// Transparent huge pages are off in guests of less than 512 MiB, and with them four knobs.
const MIB: u64 = 640;

const ZRAM_OF_A_QUARTER: &str = "[tuning.zram]\nsize_percent = 25";

/// What a lab guest holds already, or has no reason to change: an operator's own values, for the real files' sake. And a knob
/// that the kernel refuses while its device is in use.
const OWN: &str = r#"
[[knob]]
id = "page_reporting_order"
mode = "static"
when = 'original > 0'

[[knob]]
id = "auto_online_blocks"
mode = "static"
when = 'true'

[[knob]]
id = "cpuidle_governor"
mode = "static"
value = '"ladder"'
when = 'true'

[[knob]]
id = "numa_balancing"
mode = "static"
default = [0]
value = '1'

[[knob]]
# A module in 6.12, and not loaded: EINVAL.
id = "block_scheduler"
mode = "static"
value = '"mq-deadline"'
when = 'true'

[[knob]]
id = "read_ahead_kb"
mode = "static"
value = '64'

[[knob]]
id = "somaxconn"
mode = "static"
value = '8192'

[[knob]]
id = "busy_poll"
mode = "static"
value = '50'

[[knob]]
id = "busy_read"
mode = "static"
value = '50'

[[knob]]
id = "refused"
path = "/sys/block/zram1/disksize"
value = '33554432'
risk = "low"
why = "The size of a device that is in use cannot be changed: EBUSY."
source = "drivers/block/zram"
"#;

/// Knobs that are off, or were set by whoever built the kernel, as they would be elsewhere; and a device in use.
const BEFORE: &str = "echo 1 >/sys/kernel/mm/ksm/run && echo 0 >/sys/kernel/mm/lru_gen/enabled &&
    echo 1 >/proc/sys/kernel/sched_autogroup_enabled &&
    cat /sys/class/zram-control/hot_add && echo 16M >/sys/block/zram1/disksize";

/// What a guest whose host is short of everything has no reason for.
const WHILE_THE_HOST_HAS_TIME: &str = "thp_defrag";

fn applied(rows: &[Row]) -> Vec<&Row> {
    rows.iter().filter(|row| row.standing == "applied").collect()
}

/// Each file that is said to be applied holds what it should, and has changed; all others hold what they held. Returns the
/// knobs that are applied, and those that could be.
async fn is_what_it_says(guest: &Guest, before: &Files) -> Result<[BTreeSet<String>; 2]> {
    let (rows, now) = (guest.rows().await?, guest.files().await?);
    for row in rows.iter().filter(|row| now.contains_key(&row.path)) {
        if row.standing == "applied" {
            assert_eq!(now[&row.path], row.wanted, "{row:?}");
            assert_ne!(now[&row.path], before[&row.path], "{row:?}");
        } else {
            assert_eq!(now[&row.path], before[&row.path], "{row:?}");
        }
    }
    let all = rows.iter().filter(|row| row.standing != "absent" && row.standing != "only_told");
    Ok([applied(&rows), all.collect()].map(|rows| rows.iter().map(|row| row.knob.clone()).collect()))
}

/// `without`: what cannot be set in this guest, and must be refused or not apply.
async fn sets_all_and_puts_all_back(kernel: Kernel, without: &[&str]) -> Result<()> {
    let guest = Guest::boot(kernel, MIB).await?;
    guest.vm.run(BEFORE).await?;
    guest.configure("adaptive", ZRAM_OF_A_QUARTER).await?;
    guest.set_all_at_once(OWN).await?;
    let before = guest.files().await?;

    let agent = guest.start().await?;
    let during = guest.files().await?;
    let [set, all] = is_what_it_says(&guest, &before).await?;
    let unset: Vec<_> = all.difference(&set).map(String::as_str).collect();
    assert_eq!(unset, without, "{:#?}", guest.rows().await?);
    assert!(set.len() >= 24, "{set:?}");
    assert_eq!(guest.holds("/sys/block/zram1/disksize").await?, "16777216", "refused: EBUSY");
    let refused = guest.heard("zram1/disksize");
    assert!(refused.len() == 1 && refused[0].contains("busy"), "said once: {:?}", guest.heard(""));
    if without.contains(&"block_scheduler") {
        let refused = guest.heard("vda/queue/scheduler");
        assert!(refused.len() == 1 && refused[0].contains("Invalid argument"), "said once: {:?}", guest.heard(""));
    }
    let swaps = guest.vm.read("/proc/swaps", 0).await?;
    assert!(swaps.lines().any(|line| line.starts_with("/dev/zram2") && line.ends_with("100")), "{swaps}");

    guest.stop(agent).await?;
    assert_eq!(guest.files().await?, before, "after a clean stop");
    assert_eq!(guest.vm.read("/proc/swaps", 0).await?.lines().count(), 1);

    let agent = guest.start().await?;
    guest.kill(agent).await?;
    assert_eq!(guest.files().await?, during, "a killed agent leaves all of it");
    guest.vm.run("vmtide-agent revert --all --config /tmp/agent.toml").await?;
    assert_eq!(guest.files().await?, before, "after SIGKILL and revert");
    assert_eq!(guest.vm.run("ls -d /sys/block/zram*").await?.lines().count(), 2, "the third is gone");

    others_may_come_and_go(&guest, before).await
}

/// A value that somebody else writes is theirs, a CPU that goes stops nobody, and both are said.
async fn others_may_come_and_go(guest: &Guest, mut before: Files) -> Result<()> {
    let agent = guest.start().await?;
    guest.vm.run("echo 33 >/proc/sys/vm/swappiness; echo 0 >/sys/devices/system/cpu/cpu1/online").await?;
    guest.host_is_short(false).await?;
    let taken = "swappiness: taken by someone else, /proc/sys/vm/swappiness is now 33";
    wait_for("the bridge hears who won", SOON, async || Ok(!guest.heard(taken).is_empty())).await?;
    assert_eq!(guest.stands("swappiness").await?.0, "taken_by_someone_else");
    assert!(guest.runs(agent).await?);
    assert_eq!(guest.stands(WHILE_THE_HOST_HAS_TIME).await?.0, "applied");
    assert_eq!(guest.stands("ksm").await?.0, "not_applicable");
    guest.vm.run("echo 1 >/sys/devices/system/cpu/cpu1/online").await?;
    guest.stop(agent).await?;
    before.insert("/proc/sys/vm/swappiness".into(), "33".into());
    assert_eq!(guest.files().await?, before);
    Ok(())
}

#[tokio::test]
async fn every_knob_of_6_1_is_set_and_goes_back() -> Result<()> {
    sets_all_and_puts_all_back(Kernel::V6_1, &["refused", WHILE_THE_HOST_HAS_TIME]).await
}

#[tokio::test]
async fn every_knob_of_6_12_is_set_and_goes_back() -> Result<()> {
    // Its order of page reporting is -1: as the kernel likes.
    let without = ["block_scheduler", "page_reporting_order", "refused", WHILE_THE_HOST_HAS_TIME];
    sets_all_and_puts_all_back(Kernel::V6_12, &without).await
}

#[tokio::test]
async fn adaptive_sets_what_is_of_low_risk_and_tells_the_rest() -> Result<()> {
    let guest = Guest::boot(Kernel::V6_12, MIB).await?;
    guest.configure("adaptive", "").await?;
    let before = guest.files().await?;
    let agent = guest.start().await?;
    let rows = guest.rows().await?;
    assert!(applied(&rows).iter().all(|row| row.risk == "low"), "{rows:#?}");
    let told = rows.iter().filter(|row| row.risk != "low" && row.standing == "would_apply").count();
    assert!(told >= 3 && is_what_it_says(&guest, &before).await?[0].len() >= 8, "{rows:#?}");
    guest.stop(agent).await?;
    assert_eq!(guest.files().await?, before);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_written_down_or_written_stays_as_it_is() -> Result<()> {
    let guest = Guest::boot(Kernel::V6_12, MIB).await?;
    let before = guest.files().await?;

    // A place for the journal in which there is room for some records, not for all.
    guest.vm.run("mkdir /tmp/small && mount -t tmpfs -o size=8k small /tmp/small").await?;
    guest.configure("adaptive", "journal = \"/tmp/small/tuning.journal\"").await?;
    guest.set_all_at_once(OWN).await?;
    let agent = guest.start().await?;
    let journal = guest.vm.read("/tmp/small/tuning.journal", 0).await?;
    let changed: Vec<_> = guest.files().await?.into_iter().filter(|(path, holds)| before[path] != *holds).collect();
    for (path, _) in changed.iter().filter(|(path, _)| !path.ends_with("_ratio")) {
        assert!(journal.contains(path.as_str()), "{path} was written without a record");
    }
    let left_alone = guest.heard("stays as it is");
    assert!(!changed.is_empty() && !left_alone.is_empty(), "{changed:?} {left_alone:?}");
    assert!(left_alone.iter().all(|event| event.contains("No space left")), "{left_alone:?}");
    assert!(guest.runs(agent).await?);
    guest.stop(agent).await?;
    assert_eq!(guest.files().await?, before, "what was written goes back, room or not");

    // A /sys that nobody may write: what is in /proc is set all the same, and no device is made that could not be removed.
    guest.configure("adaptive", ZRAM_OF_A_QUARTER).await?;
    guest.vm.run("mount -o remount,ro /sys").await?;
    let agent = guest.start().await?;
    let now = guest.files().await?;
    assert!(now.iter().all(|(path, holds)| path.starts_with("/proc/") || before[path] == *holds), "{now:?}");
    assert_ne!(now["/proc/sys/vm/watermark_scale_factor"], before["/proc/sys/vm/watermark_scale_factor"]);
    let refused = guest.heard("Read-only file system");
    assert!(refused.iter().any(|event| event.contains("max_ptes_none")), "{refused:?}");
    assert!(refused.iter().any(|event| event.starts_with("zram: cannot swap to /dev/zram1")), "{refused:?}");
    guest.vm.run("mount -o remount,rw /sys && test ! -e /sys/block/zram1").await?;
    guest.stop(agent).await?;
    assert_eq!(guest.files().await?, before);

    // Two agents at once.
    let agent = guest.start().await?;
    let second = guest.vm.try_run("vmtide-agent run --config /tmp/agent.toml").await?;
    assert_eq!(second.code, 1, "{}", second.stderr);
    assert!(second.stderr.contains(&format!("another agent runs: process {agent} holds ")), "{}", second.stderr);
    guest.stop(agent).await?;
    assert_eq!(guest.files().await?, before);
    Ok(())
}

/// What is swapped to, as the kernel has it: path and MiB in use.
async fn swap(guest: &Guest) -> Result<Option<(String, u64)>> {
    let swaps = guest.vm.read("/proc/swaps", 0).await?;
    let Some(line) = swaps.lines().nth(1) else { return Ok(None) };
    let words: Vec<_> = line.split_whitespace().collect();
    Ok(Some((words[0].to_owned(), words[3].parse::<u64>()? / 1024)))
}

async fn compressed_swap_comes_and_goes(kernel: Kernel) -> Result<()> {
    let guest = Guest::boot(kernel, 256).await?;
    let before = guest.files().await?;
    guest.configure("adaptive", "[tuning.zram]\nsize_percent = 150").await?;
    assert_eq!(guest.stands("zram").await?.0, "pending");
    let agent = guest.start().await?;
    assert_eq!(swap(&guest).await?, Some(("/dev/zram1".into(), 0)));
    assert_eq!(guest.holds("/sys/block/zram1/comp_algorithm").await?, "zstd");
    let [set, _] = is_what_it_says(&guest, &before).await?;
    assert!(["swappiness", "page_cluster", "zram"].iter().all(|knob| set.contains(*knob)), "{set:?}");

    // More than the guest has memory for, so that a part of it is in the swap.
    guest.vm.run("mkdir /tmp/work && mount -t tmpfs -o size=1g work /tmp/work").await?;
    let make = "i=0; while [ $i -lt 28 ]; do yes \"part $i\" | head -c 10000000 >/tmp/work/$i; i=$((i+1)); done";
    guest.vm.run(make).await?;
    let sums = guest.vm.run("cat /tmp/work/? | md5sum").await?;
    let full = swap(&guest).await?;
    assert!(full.as_ref().is_some_and(|(_, mib)| *mib > 60), "{full:?}");

    // It does not fit into the memory that is left: it stays, with all that is in it, and the record of it.
    guest.stop(agent).await?;
    assert!(swap(&guest).await?.is_some_and(|(path, mib)| path == "/dev/zram1" && mib > 60));
    let reverted = guest.vm.try_run("vmtide-agent revert --all --config /tmp/agent.toml").await?;
    assert!(reverted.code == 1 && reverted.stdout.contains("do not fit into"), "{reverted:?}");

    // Nor does the next agent make a second one; once there is room it goes, and what was in it is whole.
    let agent = guest.start().await?;
    assert_eq!(guest.stands("zram").await?.0, "applied");
    guest.vm.run("rm /tmp/work/??").await?;
    let left = swap(&guest).await?;
    guest.kill(agent).await?;
    let reverted = guest.vm.run("vmtide-agent revert --all --config /tmp/agent.toml").await?;
    assert!(reverted.contains("restored       /dev/zram1"), "{left:?} {reverted}");
    assert_eq!(swap(&guest).await?, None);
    guest.vm.run("test ! -e /sys/block/zram1").await?;
    assert_eq!(guest.vm.run("cat /tmp/work/? | md5sum").await?, sums);
    assert_eq!(guest.files().await?, before);
    assert_eq!(guest.vm.oom_kills().await?, 0);
    only_what_is_ours_goes(&guest, &before).await
}

/// A swap that somebody switched off is let go, one that somebody else made stays, and beside one there is no second.
async fn only_what_is_ours_goes(guest: &Guest, before: &Files) -> Result<()> {
    let agent = guest.start().await?;
    guest.vm.run("swapoff /dev/zram1").await?;
    guest.host_is_short(false).await?;
    wait_for("the bridge hears of it", SOON, async || {
        Ok(!guest.heard("zram: /dev/zram1: switched off by someone else").is_empty())
    })
    .await?;
    guest.vm.run("test ! -e /sys/block/zram1").await?;
    guest.stop(agent).await?;
    assert_eq!(guest.files().await?, *before);

    let agent = guest.start().await?;
    guest.kill(agent).await?;
    guest.vm.run("swapoff /dev/zram1 && mkswap /dev/zram1 && swapon /dev/zram1").await?;
    let reverted = guest.vm.run("vmtide-agent revert --all --config /tmp/agent.toml").await?;
    assert!(reverted.contains("taken          /dev/zram1"), "{reverted}");
    let agent = guest.start().await?;
    assert_eq!(guest.stands("zram").await?.0, "not_applicable");
    guest.stop(agent).await?;
    assert_eq!(swap(guest).await?, Some(("/dev/zram1".into(), 0)));
    Ok(())
}

#[tokio::test]
async fn compressed_swap_comes_and_goes_on_6_1() -> Result<()> {
    compressed_swap_comes_and_goes(Kernel::V6_1).await
}

#[tokio::test]
async fn compressed_swap_comes_and_goes_on_6_12() -> Result<()> {
    compressed_swap_comes_and_goes(Kernel::V6_12).await
}
