//! The planner's numbers.

use super::{MIB, Millis};
use serde::{Deserialize, Serialize};

/// The planner's numbers; every one can be set in the bridge's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Headroom over the need, thousandths of the need.
    pub headroom_permille: u32,
    /// The least headroom over any need, bytes.
    pub minimum_headroom_bytes: u64,
    /// The most that is kept free for urgent grants, thousandths of the limit: as long as nothing is known of the VMs, or
    /// when one of them took as much at once in the last minutes.
    pub spike_pool_permille: u32,
    /// The least that is kept free for urgent grants, thousandths of the limit.
    pub least_spike_pool_permille: u32,
    /// How much idle bytes are taxed when memory is short, percent, at most 99 (Waldspurger 2002, §5.3): those above the
    /// need, and those of the need that the working set shows unused.
    pub idle_tax_percent: u32,
    /// A need less than this below its peak of the last minute is noise, not a fall; thousandths of the peak.
    pub need_noise_permille: u32,

    /// Nothing moves by less than this without urgency, thousandths of the allocation.
    pub dead_band_permille: u32,
    /// Nothing moves by less than this without urgency, bytes.
    pub dead_band_bytes: u64,
    /// The least move that an urgent need is worth, bytes.
    pub urgent_step_bytes: u64,
    /// How long a VM that grew keeps its bytes although somebody else stalls, milliseconds (ChromeOS: 10 s).
    pub urgent_block_ms: Millis,
    /// How long any other move waits after one the opposite way, milliseconds.
    pub calm_block_ms: Millis,
    /// The most that is taken from below a guest's floor before the guest confirmed it, thousandths of the
    /// allocation: it needs the time to shed cache.
    pub below_floor_permille: u32,

    /// A balloon that inflates slower than this is stalled, bytes per second (ChromeOS: 15 MiB/s).
    pub stall_bytes_per_s: u64,
    /// What a stalled balloon gives back, bytes (ChromeOS: 128 MiB).
    pub give_back_bytes: u64,
    /// How long a VM is not shrunk after its balloon stalled, milliseconds.
    pub stall_rest_ms: Millis,

    /// The host is in trouble when less than this is available, thousandths of the capacity. Growth that nobody waits
    /// for stays clear of twice this line, urgent growth of the line.
    pub hard_line_permille: u32,
    /// The host is in trouble when its tasks waited longer than this for memory (PSI full), thousandths of the time.
    pub host_stall_permille: u32,
    /// What the VMs give at a time while the host stalls, thousandths of the limit.
    pub host_stall_slice_permille: u32,

    /// The host is short of CPU from this share of time on in which its tasks wait for one, thousandths.
    pub cpu_short_permille: u32,
    /// It is not any more below this one.
    pub cpu_clear_permille: u32,
    /// The host is short of I/O from this share of time on in which all its tasks wait for it, thousandths.
    pub io_short_permille: u32,
    /// It is not any more below this one.
    pub io_clear_permille: u32,

    /// Headroom over a need for CPU, thousandths of the need.
    pub cpu_headroom_permille: u32,
    /// How long a VM has to use fewer vCPUs than it runs on before it gives the rest back to a host that is short,
    /// milliseconds.
    pub cpu_give_after_ms: Millis,
    /// How long a VM has to run on more vCPUs than it is entitled to before it is left fewer, milliseconds.
    pub cpu_trim_after_ms: Millis,
    /// How long a need has to last before vCPUs come online, milliseconds.
    pub cpu_grow_after_ms: Millis,
    /// How long vCPUs do not go offline after some came online, and the other way round without urgency, milliseconds;
    /// [`Self::calm_block_ms`] where those that came online had been taken less than that before.
    pub cpu_block_ms: Millis,
    /// How long a need has to last before a vCPU is plugged in, milliseconds.
    pub cpu_plug_after_ms: Millis,
    /// How long a vCPU has to be offline before it is unplugged, milliseconds.
    pub cpu_unplug_after_ms: Millis,
    /// How long a VM has to get more than its part while another lacks before it is held by a quota, milliseconds.
    pub cpu_hold_after_ms: Millis,
    /// What a quota leaves for the VMM's own threads, thousandths of what the guest may use.
    pub vmm_room_permille: u32,
    /// The least that it leaves for them, thousandths of a CPU.
    pub vmm_room_millicpus: u64,
    /// A VM waits for I/O when its operations take longer than this on average, milliseconds, on disks that nobody
    /// throttles.
    pub io_latency_ms: Millis,
    /// No VM's disks are held to less than this, bytes per second; an operation counts like 16 KiB.
    pub io_floor_bytes_per_s: u64,

    /// Guests are asked for unused blocks when less than this is free where their images are, thousandths.
    pub trim_low_permille: u32,
    /// They are not asked any more from this on.
    pub trim_clear_permille: u32,
    /// A guest is quiet while its disks take less, bytes per second; an operation counts like 16 KiB.
    pub trim_quiet_bytes_per_s: u64,
    /// How long it has to be quiet before it is asked, milliseconds.
    pub trim_quiet_ms: Millis,
    /// How long a guest is not asked again, hours.
    pub trim_again_hours: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            headroom_permille: 100,
            minimum_headroom_bytes: 64 * MIB,
            spike_pool_permille: 50,
            least_spike_pool_permille: 10,
            idle_tax_percent: 75,
            need_noise_permille: 125,
            dead_band_permille: 10,
            dead_band_bytes: 16 * MIB,
            urgent_step_bytes: 4 * MIB,
            urgent_block_ms: 10_000,
            calm_block_ms: 60_000,
            below_floor_permille: 62,
            stall_bytes_per_s: 15 * MIB,
            give_back_bytes: 128 * MIB,
            stall_rest_ms: 60_000,
            hard_line_permille: 20,
            host_stall_permille: 100,
            host_stall_slice_permille: 10,
            cpu_short_permille: 400,
            cpu_clear_permille: 250,
            io_short_permille: 200,
            io_clear_permille: 100,
            cpu_headroom_permille: 100,
            cpu_give_after_ms: 2_000,
            cpu_trim_after_ms: 5_000,
            cpu_grow_after_ms: 1_000,
            cpu_block_ms: 10_000,
            cpu_plug_after_ms: 10_000,
            cpu_unplug_after_ms: 30_000,
            cpu_hold_after_ms: 5_000,
            vmm_room_permille: 100,
            vmm_room_millicpus: 250,
            io_latency_ms: 20,
            io_floor_bytes_per_s: MIB,
            trim_low_permille: 150,
            trim_clear_permille: 200,
            trim_quiet_bytes_per_s: MIB,
            trim_quiet_ms: 30_000,
            trim_again_hours: 6,
        }
    }
}

impl Policy {
    /// What is taken at a time from a VM that has `allocation_bytes` where it is not known that the guest can spare it, bytes.
    pub fn slice_bytes(&self, allocation_bytes: u64) -> u64 {
        permille(allocation_bytes, self.below_floor_permille).max(1)
    }

    /// What changes of a VM that has `allocation_bytes` are too small to be worth a calm move, bytes.
    pub(super) fn dead_band(&self, allocation_bytes: u64) -> u64 {
        permille(allocation_bytes, self.dead_band_permille).max(self.dead_band_bytes).max(1)
    }

    /// The margin over `need_bytes`, bytes.
    pub(crate) fn headroom(&self, need_bytes: u64) -> u64 {
        permille(need_bytes, self.headroom_permille).max(self.minimum_headroom_bytes)
    }
}

/// `permille` thousandths of `bytes`, rounded down, at most `u64::MAX`.
pub(super) fn permille(bytes: u64, permille: u32) -> u64 {
    narrow(u128::from(bytes) * u128::from(permille) / 1000)
}

/// `bytes` as far as a `u64` goes.
pub(super) fn narrow(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
