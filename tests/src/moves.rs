//! `cargo lab scenario moves`: how fast virtio-mem and the balloon move memory, without a bridge in between.
//!
//! In: one guest of 1 GiB with as much again to plug in. Out: MiB/s of each, each way, the median of three turns; the
//! guest's plugged memory is movable and empty, the best case for an unplug.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::{Kernel, Lab, Vm, VmConfig, vm::MIB};

const BOOT_MIB: u64 = 1024;
/// What each turn moves by each of the two.
const MOVED_MIB: u64 = 512;
const TURNS: usize = 3;
/// Short beside what is measured, and easy on two cores.
const LOOK: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(60);

/// What was measured, MiB/s.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Moves {
    /// What was moved each time.
    pub moved_mib: u64,
    /// Into the guest by virtio-mem.
    pub plug_mib_per_s: f64,
    /// And out of it.
    pub unplug_mib_per_s: f64,
    /// Out of the guest by its balloon.
    pub inflate_mib_per_s: f64,
    /// And back.
    pub deflate_mib_per_s: f64,
}

/// Measures this lab's QEMU and kernel.
///
/// # Errors
/// When the VM does not come up, or a move takes longer than a minute.
pub async fn measure(lab: &Lab, kernel: Kernel) -> Result<Moves> {
    let config = VmConfig::new("moves", kernel).memory_mib(BOOT_MIB).virtio_mem_mib(MOVED_MIB);
    let vm = lab.launch(config).await?;
    vm.run("echo online_movable >/sys/devices/system/memory/auto_online_blocks").await?;
    let mut speeds: [Vec<f64>; 4] = Default::default();
    for _ in 0..TURNS {
        let turn = [
            moved(&vm, vm.request_plugged(MOVED_MIB * MIB), BOOT_MIB + MOVED_MIB).await.context("plugging in")?,
            moved(&vm, vm.request_plugged(0), BOOT_MIB).await.context("unplugging")?,
            moved(&vm, vm.set_allocation((BOOT_MIB - MOVED_MIB) * MIB), BOOT_MIB - MOVED_MIB).await.context("out")?,
            moved(&vm, vm.set_allocation(BOOT_MIB * MIB), BOOT_MIB).await.context("back")?,
        ];
        for (all, speed) in speeds.iter_mut().zip(turn) {
            all.push(speed);
        }
    }
    let [plug, unplug, inflate, deflate] = speeds.map(|mut turns| {
        turns.sort_by(f64::total_cmp);
        turns[TURNS / 2].round()
    });
    Ok(Moves {
        moved_mib: MOVED_MIB,
        plug_mib_per_s: plug,
        unplug_mib_per_s: unplug,
        inflate_mib_per_s: inflate,
        deflate_mib_per_s: deflate,
    })
}

/// MiB/s from `asking` until QEMU says that the VM has `mib`.
async fn moved(vm: &Vm, asking: impl Future<Output = Result<()>>, mib: u64) -> Result<f64> {
    let began = Instant::now();
    asking.await?;
    let arrives = async {
        while vm.allocation_bytes().await? != mib * MIB {
            sleep(LOOK).await;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, arrives).await.with_context(|| format!("not {mib} MiB after {PATIENCE:?}"))??;
    #[allow(clippy::cast_precision_loss, reason = "a few hundred")]
    Ok(MOVED_MIB as f64 / began.elapsed().as_secs_f64())
}
