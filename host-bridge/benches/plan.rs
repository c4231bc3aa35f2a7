//! One tick of the planner: `cargo bench -p vmtide-bridge --bench plan`. The aim is 10 000 VMs in under 10 ms.

use divan::{Bencher, black_box};
use vmtide_bridge::plan::{
    Demand, History, HostView, Limits, MIB, MemoryDemand, Policy, Reach, Shown, Urgency, VmView, memory,
};

const NOW_MS: u64 = 600_000;
const COUNTS: [u64; 3] = [10, 1_000, 10_000];

fn main() {
    divan::main();
}

/// Every need and its headroom fit.
#[divan::bench(args = COUNTS)]
fn calm(bencher: Bencher<'_, '_>, count: u64) {
    tick(bencher, count, 2_400);
}

/// Two thirds of what is wanted is there: shares decide, donors give, urgent VMs grow.
#[divan::bench(args = COUNTS)]
fn short(bencher: Bencher<'_, '_>, count: u64) {
    tick(bencher, count, 1_000);
}

/// More is committed than there is.
#[divan::bench(args = COUNTS)]
fn emergency(bencher: Bencher<'_, '_>, count: u64) {
    tick(bencher, count, 600);
}

fn tick(bencher: Bencher<'_, '_>, count: u64, mib_per_vm: u64) {
    let vms: Vec<VmView> = (0..count).map(vm).collect();
    let host = HostView {
        capacity_bytes: count * mib_per_vm * MIB,
        reserve_bytes: 0,
        available_bytes: None,
        stall_full_permille: 0,
    };
    let policy = Policy::default();
    bencher.bench_local(|| memory::plan(NOW_MS, black_box(&host), black_box(&vms), &policy));
}

/// VMs of mixed demand, size and shares: most report, some are stale, unknown or out of reach.
fn vm(index: u64) -> VmView {
    // A fixed scatter, so that every run plans the same host.
    let scatter =
        |salt: u64| (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17).wrapping_mul(salt | 1) >> 40;
    let allocation_bytes = (256 + scatter(3) % 1_200) * MIB;
    let need_bytes = (128 + scatter(5) % 2_048) * MIB;
    let urgency = [Urgency::Idle, Urgency::Normal, Urgency::Normal, Urgency::Pressed, Urgency::Critical];
    let demand = match index % 16 {
        14 => Demand::Stale { floor_bytes: need_bytes / 2, shown_use_bytes: Some(need_bytes) },
        15 => Demand::Unknown { shown_use_bytes: None },
        _ => Demand::Fresh(MemoryDemand { need_bytes, floor_bytes: need_bytes / 2, urgency: urgency[kind(index, 5)] }),
    };
    VmView {
        limits: Limits {
            reservation_bytes: 0,
            minimum_bytes: 128 * MIB,
            maximum_bytes: 2_048 * MIB,
            shares: [500, 1_000, 1_000, 2_000][kind(index, 4)],
        },
        allocation_bytes,
        target_bytes: allocation_bytes,
        reach: if index % 50 == 49 { Reach::Unreachable } else { Reach::Ready },
        demand,
        history: History::default().after_demand(NOW_MS - 30_000, need_bytes / 4 * 5).after_demand(NOW_MS, need_bytes),
        shown: Shown::default(),
    }
}

/// Which of `kinds` kinds VM `index` is.
fn kind(index: u64, kinds: u64) -> usize {
    usize::try_from(index % kinds).unwrap_or(0)
}
