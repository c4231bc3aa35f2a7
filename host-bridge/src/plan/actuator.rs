//! Which actuator moves how much of a target, by what each costs. Pure.
//!
//! A VM's allocation is boot memory + plugged − balloon. Virtio-mem moves whole blocks and fast where the guest's memory is
//! movable; the balloon moves any page, and what virtio-mem cannot.
//!
//! ```text
//!  Parts, target, Speeds --split--> Goal (plugged, balloon), Why
//!  Parts, target, Goal   --orders-> what may be asked now: nothing that could pass the target together
//! ```
//!
//! A split moves both actuators the same way, or one only, but for less than a block that the balloon makes up for: so two
//! targets in a row never have one of them undo what the other did.

use super::{Direction, MIB, Millis};
use serde::{Deserialize, Serialize};

/// The smallest memory that is asked for.
const PAGE_BYTES: u64 = 4096;
/// Less than this is trimming: the balloon does it, unless it cannot.
pub const BIG_MOVE_BYTES: u64 = 32 * MIB;
/// What Linux writes down of a page: 64 bytes of each 4096, taken from boot memory when memory is plugged in.
/// Documentation/admin-guide/mm/memory-hotplug.rst, "Self-Hosted Memory Mapping" names the cost.
const PAGES_PER_DESCRIPTION: u64 = 64;
/// The most that is plugged in, in percent of boot memory: kernel memory cannot live in `ZONE_MOVABLE`. The kernel's own default of
/// `memory_hotplug.auto_movable_ratio` (commit e83a437faa62, "mm/memory_hotplug: introduce \"auto-movable\" online policy";
/// Documentation/admin-guide/mm/memory-hotplug.rst, "ZONE_MOVABLE Sizing Considerations").
pub const MOVABLE_RATIO_PERCENT: u64 = 301;

/// What a VM's memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// What it boots with.
    pub boot_bytes: u64,
    /// What its balloon holds; `None` where there is no balloon.
    pub balloon_bytes: Option<u64>,
    /// What virtio-mem has plugged in.
    pub plugged_bytes: u64,
    /// What virtio-mem was asked to have: the guest may go there by itself.
    pub requested_bytes: u64,
    /// The most that virtio-mem may have plugged in; 0 where there is none, what is plugged in where it does not move.
    pub pluggable_bytes: u64,
    /// Virtio-mem moves whole blocks of this size.
    pub block_bytes: u64,
}

impl Parts {
    /// What the VM has.
    pub fn allocation_bytes(&self) -> u64 {
        self.with(self.plugged_bytes)
    }

    /// What it may have without another word of ours.
    pub fn promised_bytes(&self) -> u64 {
        self.with(self.plugged_bytes.max(self.requested_bytes))
    }

    /// The most that it can be given.
    pub fn most_bytes(&self) -> u64 {
        self.boot_bytes.saturating_add(self.pluggable_bytes.max(self.plugged_bytes))
    }

    /// The least: without a balloon nothing takes boot memory away.
    pub fn least_bytes(&self) -> u64 {
        if self.balloon_bytes.is_some() { 0 } else { self.boot_bytes }
    }

    /// Targets that differ by less are the same.
    pub fn grain_bytes(&self) -> u64 {
        if self.balloon_bytes.is_some() { PAGE_BYTES } else { self.block() }
    }

    /// The most of `device_bytes` that is good for this guest.
    pub fn movable_limit(boot_bytes: u64, device_bytes: u64) -> u64 {
        device_bytes.min(boot_bytes.saturating_mul(MOVABLE_RATIO_PERCENT) / 100)
    }

    fn with(&self, plugged_bytes: u64) -> u64 {
        self.boot_bytes.saturating_add(plugged_bytes).saturating_sub(self.balloon_bytes.unwrap_or(0))
    }

    fn block(&self) -> u64 {
        self.block_bytes.max(PAGE_BYTES)
    }

    fn blocks_in(&self, bytes: u64) -> u64 {
        bytes - bytes % self.block()
    }
}

/// What `plugged_bytes` of hot-plugged memory take of boot memory for their description.
pub fn description_bytes(plugged_bytes: u64) -> u64 {
    plugged_bytes / PAGES_PER_DESCRIPTION
}

/// Where a target leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// What virtio-mem is to have plugged in.
    pub plugged_bytes: u64,
    /// What the balloon is to hold.
    pub balloon_bytes: u64,
}

/// Why a target is split as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Virtio-mem is faster here.
    PlugFaster,
    /// The balloon is.
    BalloonFaster,
    /// Too little for virtio-mem to be worth it.
    Trimming,
    /// There is no virtio-mem, or no more of it to move.
    NothingToPlug,
    /// Its last unplug got stuck: memory that cannot move is in the way.
    UnplugStuck,
    /// There is no balloon, or no more of it to move.
    NoBalloon,
}

/// How a target is reached, and the figures that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The allocation that is asked for.
    pub target_bytes: u64,
    /// What there was.
    pub from: Goal,
    /// What is to be.
    pub to: Goal,
    /// Why.
    pub why: Why,
    /// Of virtio-mem in this direction.
    pub plug: Rate,
    /// Of the balloon.
    pub balloon: Rate,
}

impl Split {
    /// How many bytes virtio-mem moves.
    pub fn plug_moves_bytes(&self) -> u64 {
        self.from.plugged_bytes.abs_diff(self.to.plugged_bytes)
    }

    /// How many the balloon moves.
    pub fn balloon_moves_bytes(&self) -> u64 {
        self.from.balloon_bytes.abs_diff(self.to.balloon_bytes)
    }
}

/// How fast an actuator moves, one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes per second.
    pub bytes_per_s: u64,
    /// Whether that was seen at this VM, or is what others measured.
    pub is_measured: bool,
}

/// A rate as it is learned: recent moves count for most of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moves {
    bytes: u64,
    ms: Millis,
}

impl Moves {
    fn saw(&mut self, bytes: u64, ms: Millis) {
        *self = Self { bytes: self.bytes / 2 + bytes, ms: self.ms / 2 + ms.max(1) };
    }

    fn rate(&self, prior_bytes_per_s: u64) -> Rate {
        if self.ms == 0 {
            return Rate { bytes_per_s: prior_bytes_per_s, is_measured: false };
        }
        let bytes_per_s = u128::from(self.bytes) * 1000 / u128::from(self.ms);
        Rate { bytes_per_s: u64::try_from(bytes_per_s).unwrap_or(u64::MAX).max(1), is_measured: true }
    }
}

/// Which actuator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actuator {
    /// Virtio-mem.
    Plug,
    /// The balloon.
    Balloon,
}

/// What the actuators of one VM cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speeds([[Moves; 2]; 2]);

impl Speeds {
    /// Takes in that `bytes` moved in `ms`. What is less than a big move tells how long asking takes, and is left out.
    pub fn saw(&mut self, actuator: Actuator, direction: Direction, bytes: u64, ms: Millis) {
        if bytes >= BIG_MOVE_BYTES {
            self.0[actuator as usize][direction as usize].saw(bytes, ms);
        }
    }

    /// Bytes per second. Before anything was seen, what Wrenger et al. measured with KVM ("HyperAlloc", EuroSys 2025, raw data):
    /// virtio-mem 34.5 GiB/s out and 4.0 back, a balloon 0.95 out and 0.69 back and touched.
    pub fn rate(&self, actuator: Actuator, direction: Direction) -> Rate {
        let prior_mib_per_s = match (actuator, direction) {
            (Actuator::Plug, Direction::Shrink) => 35_328,
            (Actuator::Plug, Direction::Grow) => 4_096,
            (Actuator::Balloon, Direction::Shrink) => 973,
            (Actuator::Balloon, Direction::Grow) => 707,
        };
        self.0[actuator as usize][direction as usize].rate(prior_mib_per_s * MIB)
    }
}

/// Which actuator moves how much to come from `parts` to `target_bytes`.
///
/// The two together make exactly the target where that can be; else as near as they come. `unplug_stuck`: unplugging got stuck a
/// moment ago.
pub fn split(parts: &Parts, target_bytes: u64, speeds: &Speeds, unplug_stuck: bool) -> Split {
    let now_bytes = parts.allocation_bytes();
    let direction = if target_bytes < now_bytes { Direction::Shrink } else { Direction::Grow };
    let to_move_bytes = now_bytes.abs_diff(target_bytes);
    let from = Goal { plugged_bytes: parts.plugged_bytes, balloon_bytes: parts.balloon_bytes.unwrap_or(0) };
    let (plug, balloon) = (speeds.rate(Actuator::Plug, direction), speeds.rate(Actuator::Balloon, direction));

    let (least, most) = plugged_within(parts, target_bytes);
    let preferred = match direction {
        Direction::Grow => parts.plugged_bytes.saturating_add(parts.blocks_in(to_move_bytes)),
        Direction::Shrink => parts.plugged_bytes - parts.blocks_in(to_move_bytes.min(parts.plugged_bytes)),
    };
    let can_plug = preferred.clamp(least, most) != parts.plugged_bytes;
    // What describes the plugged memory is taken from the guest again.
    let plug_gains = plug.bytes_per_s - description_bytes(plug.bytes_per_s);
    let why = if parts.balloon_bytes.is_none() {
        Why::NoBalloon
    } else if !can_plug {
        Why::NothingToPlug
    } else if to_move_bytes < BIG_MOVE_BYTES {
        Why::Trimming
    } else if direction == Direction::Shrink && unplug_stuck {
        Why::UnplugStuck
    } else if plug_gains > balloon.bytes_per_s {
        Why::PlugFaster
    } else {
        Why::BalloonFaster
    };
    let wanted = if matches!(why, Why::PlugFaster | Why::NoBalloon) { preferred } else { parts.plugged_bytes };
    let plugged_bytes = wanted.clamp(least, most);
    // Whatever the balloon was preferred for: it is empty, or holds all that it can.
    let is_forced = plugged_bytes != wanted && plugged_bytes != parts.plugged_bytes && wanted == parts.plugged_bytes;
    let why = if is_forced { Why::NoBalloon } else { why };
    let balloon_bytes = match parts.balloon_bytes {
        None => 0,
        Some(_) => parts.boot_bytes.saturating_add(plugged_bytes).saturating_sub(target_bytes).min(most_balloon(parts)),
    };
    Split { target_bytes, from, to: Goal { plugged_bytes, balloon_bytes }, why, plug, balloon }
}

/// What may be asked for now on the way to `goal`.
///
/// Taking away is always asked at once. What adds is asked as far as it fits into `target_bytes` beside what the other actuator
/// still has or was promised: so at no time can the guest come to have more than the target, or than it had.
pub fn orders(parts: &Parts, target_bytes: u64, goal: &Goal) -> Goal {
    let balloon_bytes = parts.balloon_bytes.unwrap_or(0);
    let plugged_bytes = if goal.plugged_bytes > parts.plugged_bytes {
        let held = balloon_bytes.min(goal.balloon_bytes);
        let room = target_bytes.saturating_add(held).saturating_sub(parts.boot_bytes);
        parts.blocks_in(room).clamp(parts.plugged_bytes, goal.plugged_bytes)
    } else {
        goal.plugged_bytes
    };
    let plugged_at_most = parts.plugged_bytes.max(plugged_bytes);
    let must_hold = parts.boot_bytes.saturating_add(plugged_at_most).saturating_sub(target_bytes);
    // No more than it holds: what is over the target already is not the balloon's to make up for while virtio-mem moves.
    let balloon_bytes = goal.balloon_bytes.max(must_hold.min(balloon_bytes));
    Goal { plugged_bytes, balloon_bytes }
}

/// Within which bounds plugged memory can be part of `target_bytes`: below, the balloon would have to hold less than nothing;
/// above, more than it can. Where a block is more than it can hold, the upper one counts: rather less than too much.
fn plugged_within(parts: &Parts, target_bytes: u64) -> (u64, u64) {
    let most = parts.blocks_in(parts.pluggable_bytes).max(parts.plugged_bytes);
    let beyond_boot = target_bytes.saturating_sub(parts.boot_bytes);
    let (least, most_with) = match parts.balloon_bytes {
        Some(_) => {
            (beyond_boot.div_ceil(parts.block()).saturating_mul(parts.block()), target_bytes.saturating_sub(PAGE_BYTES))
        }
        None => (parts.blocks_in(beyond_boot), beyond_boot),
    };
    let most = parts.blocks_in(most_with).min(most);
    (least.min(most), most)
}

/// QEMU does not take a target of nothing for a balloon.
fn most_balloon(parts: &Parts) -> u64 {
    parts.boot_bytes.saturating_sub(PAGE_BYTES)
}

#[cfg(test)]
mod tests;
