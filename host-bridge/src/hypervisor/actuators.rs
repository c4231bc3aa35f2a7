//! The actuators of one VM on their way to a target: what to ask next, what they turned out to cost, which of them is of no
//! use. No I/O; time is an argument.
//!
//! ```text
//!            aim: a target                 moves            reached
//!  resting ----------------> under way ------------+-----------------> resting; the speed is learned
//!                             ^  |  ^              |
//!                             |  |  +--------------+
//!                             |  | virtio-mem stands still too long
//!                             |  +-> unplugging: stuck -> asked to keep what it has; the balloon takes the rest
//!                             |  +-> plugging: dead  --> asked to keep what it has; only the balloon is used, tried
//!                             +------------------------- again with back-off
//! ```

use crate::plan::actuator::{Actuator, Goal, Parts, Speeds, Split, orders, split};
use crate::plan::{Direction, Millis};

/// A plug that nothing came of for so long: nobody is at the other end, or it will not.
const PLUG_PATIENCE_MS: Millis = 5_000;
/// An unplug that nothing came of for so long has met memory that cannot move. Linux itself tries again after 50 ms, then slower
/// (drivers/virtio/virtio_mem.c, VIRTIO_MEM_RETRY_TIMER_MIN_MS).
const UNPLUG_PATIENCE_MS: Millis = 2_000;
/// For so long the balloon shrinks the VM after that.
const STUCK_MS: Millis = 60_000;
/// How soon a driver that seemed dead is tried again, at first and at last: it may be loaded any time.
const FIRST_RETRY_MS: Millis = 60_000;
const LAST_RETRY_MS: Millis = 960_000;

/// The actuators of one VM.
#[derive(Debug, Default)]
pub struct Actuators {
    speeds: Speeds,
    /// Where it goes, and since when.
    split: Option<(Split, Millis)>,
    /// What was asked last.
    asked: Option<Goal>,
    /// What is still to be learned of this split: of virtio-mem and of the balloon.
    untold: [bool; 2],
    /// What was plugged in when it last moved, and when that was.
    moved: (u64, Millis),
    stuck_until_ms: Millis,
    dead: Option<Dead>,
}

/// A driver that does not answer.
#[derive(Clone, Copy, Debug)]
struct Dead {
    /// What was plugged in: when that changes, somebody is there.
    plugged_bytes: u64,
    retry_ms: Millis,
    at_ms: Millis,
}

impl Actuators {
    /// What can be asked of `device`: nothing more to plug in while the driver seems dead.
    pub fn usable(&self, now_ms: Millis, device: &Parts) -> Parts {
        let rests = self.dead.is_some_and(|dead| now_ms < dead.at_ms);
        let pluggable_bytes = if rests { device.plugged_bytes } else { device.pluggable_bytes };
        Parts { pluggable_bytes, ..*device }
    }

    /// Whether virtio-mem is there and nobody in the guest answers to it.
    pub fn is_dead(&self) -> bool {
        self.dead.is_some()
    }

    /// How the last target is being reached.
    pub fn split(&self) -> Option<Split> {
        self.split.map(|(split, _)| split)
    }

    /// Goes for `target_bytes`; returns what is to be asked now, also where it was asked before.
    pub fn aim(&mut self, now_ms: Millis, device: &Parts, target_bytes: u64) -> Goal {
        self.hear(device);
        let parts = self.usable(now_ms, device);
        let split = split(&parts, target_bytes, &self.speeds, now_ms < self.stuck_until_ms);
        self.split = Some((split, now_ms));
        self.untold = [true; 2];
        self.moved = (parts.plugged_bytes, now_ms);
        let orders = orders(&parts, target_bytes, &split.to);
        self.asked = Some(orders);
        orders
    }

    /// Looks how far it came; returns what is to be asked next, if that is something new.
    pub fn tend(&mut self, now_ms: Millis, device: &Parts, is_running: bool) -> Option<Goal> {
        self.hear(device);
        let ((split, since_ms), asked) = (self.split?, self.asked?);
        if device.plugged_bytes != self.moved.0 || !is_running {
            self.moved = (device.plugged_bytes, now_ms);
        }
        self.learn(now_ms, device, &split, since_ms);
        let waited_ms = now_ms.saturating_sub(self.moved.1);
        let plugs = asked.plugged_bytes > device.plugged_bytes;
        if plugs && waited_ms >= PLUG_PATIENCE_MS {
            self.bury(now_ms, device);
            return Some(self.aim(now_ms, device, split.target_bytes));
        }
        let unplugs = asked.plugged_bytes < device.plugged_bytes;
        if unplugs && waited_ms >= UNPLUG_PATIENCE_MS && now_ms >= self.stuck_until_ms {
            self.told(Actuator::Plug, &split, device.plugged_bytes, self.moved.1.saturating_sub(since_ms));
            self.stuck_until_ms = now_ms + STUCK_MS;
            return Some(self.aim(now_ms, device, split.target_bytes));
        }
        let orders = orders(&self.usable(now_ms, device), split.target_bytes, &split.to);
        (orders != asked).then(|| {
            self.asked = Some(orders);
            orders
        })
    }

    /// Virtio-mem is of no use for now: its driver does not answer, or the hypervisor refuses to ask it.
    pub fn bury(&mut self, now_ms: Millis, device: &Parts) {
        let retry_ms = self.dead.map_or(FIRST_RETRY_MS, |dead| (dead.retry_ms * 2).min(LAST_RETRY_MS));
        self.dead = Some(Dead { plugged_bytes: device.plugged_bytes, retry_ms, at_ms: now_ms + retry_ms });
    }

    /// The guest starts anew: nothing that was found out about its driver holds.
    pub fn reset(&mut self) {
        (self.dead, self.stuck_until_ms) = (None, 0);
    }

    fn hear(&mut self, device: &Parts) {
        self.dead = self.dead.filter(|dead| dead.plugged_bytes == device.plugged_bytes);
    }

    fn learn(&mut self, now_ms: Millis, device: &Parts, split: &Split, since_ms: Millis) {
        let took_ms = now_ms.saturating_sub(since_ms);
        if device.plugged_bytes == split.to.plugged_bytes {
            self.told(Actuator::Plug, split, device.plugged_bytes, took_ms);
        }
        if device.balloon_bytes.is_some_and(|bytes| bytes == split.to.balloon_bytes) {
            self.told(Actuator::Balloon, split, split.to.balloon_bytes, took_ms);
        }
    }

    /// Once for each split: an actuator came to `bytes` within `ms`.
    fn told(&mut self, actuator: Actuator, split: &Split, bytes: u64, ms: Millis) {
        if !std::mem::take(&mut self.untold[actuator as usize]) {
            return;
        }
        let (from, grows) = match actuator {
            Actuator::Plug => (split.from.plugged_bytes, bytes > split.from.plugged_bytes),
            Actuator::Balloon => (split.from.balloon_bytes, bytes < split.from.balloon_bytes),
        };
        let direction = if grows { Direction::Grow } else { Direction::Shrink };
        self.speeds.saw(actuator, direction, from.abs_diff(bytes), ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::MIB;
    use crate::plan::actuator::Why;

    /// A VM of 512 MiB with as much again to plug in.
    fn parts(plugged_mib: u64, balloon_mib: u64) -> Parts {
        Parts {
            boot_bytes: 512 * MIB,
            balloon_bytes: Some(balloon_mib * MIB),
            plugged_bytes: plugged_mib * MIB,
            requested_bytes: plugged_mib * MIB,
            pluggable_bytes: 512 * MIB,
            block_bytes: 2 * MIB,
        }
    }

    fn goal(plugged_mib: u64, balloon_mib: u64) -> Goal {
        Goal { plugged_bytes: plugged_mib * MIB, balloon_bytes: balloon_mib * MIB }
    }

    #[test]
    fn what_moves_is_waited_for_and_its_speed_learned() {
        let mut actuators = Actuators::default();
        assert_eq!(actuators.aim(0, &parts(0, 0), 912 * MIB), goal(400, 0));
        for (ms, plugged_mib) in [(4_000, 100), (8_000, 300), (10_000, 400), (99_000, 400)] {
            assert_eq!(actuators.tend(ms, &parts(plugged_mib, 0), true), None);
        }
        let rate = actuators.speeds.rate(Actuator::Plug, Direction::Grow);
        assert_eq!(
            (rate.bytes_per_s, rate.is_measured),
            (40 * MIB, true),
            "until it was there, not until it was seen again"
        );
        assert!(!actuators.is_dead());
    }

    #[test]
    fn an_unplug_that_gets_stuck_is_the_balloon_s_to_finish() {
        let mut actuators = Actuators::default();
        assert_eq!(actuators.aim(0, &parts(400, 0), 512 * MIB), goal(0, 0));
        assert_eq!(actuators.tend(1_000, &parts(150, 0), true), None);
        assert_eq!(actuators.tend(2_999, &parts(150, 0), true), None);
        assert_eq!(actuators.tend(3_000, &parts(150, 0), true), Some(goal(150, 150)));
        assert_eq!(actuators.split().unwrap().why, Why::UnplugStuck);
        assert_eq!(actuators.tend(4_000, &parts(150, 150), true), None);
        assert_eq!(actuators.speeds.rate(Actuator::Plug, Direction::Shrink).bytes_per_s, 250 * MIB);
        // A minute later it is tried again.
        assert_eq!(actuators.aim(50_000, &parts(150, 150), 400 * MIB), goal(150, 262));
        assert_eq!(actuators.aim(63_000, &parts(150, 150), 400 * MIB), goal(38, 150));
    }

    #[test]
    fn a_driver_that_does_not_answer_is_left_alone_and_tried_again() {
        let mut actuators = Actuators::default();
        assert_eq!(actuators.aim(0, &parts(0, 200), 512 * MIB), goal(200, 200));
        assert_eq!(actuators.tend(4_999, &parts(0, 200), true), None);
        assert_eq!(actuators.tend(5_000, &parts(0, 200), true), Some(goal(0, 0)), "nothing stays asked for");
        assert!(actuators.is_dead());
        assert_eq!(actuators.usable(5_000, &parts(0, 0)).most_bytes(), 512 * MIB);
        assert_eq!(actuators.aim(6_000, &parts(0, 0), 300 * MIB), goal(0, 212));
        assert_eq!(actuators.aim(64_999, &parts(0, 212), 512 * MIB), goal(0, 0));
        // Tried again after one minute, then after two.
        assert_eq!(actuators.aim(65_000, &parts(0, 212), 512 * MIB), goal(212, 212));
        assert_eq!(actuators.tend(70_000, &parts(0, 212), true), Some(goal(0, 0)));
        assert_eq!(actuators.aim(189_999, &parts(0, 212), 512 * MIB), goal(0, 0));
        assert_eq!(actuators.aim(190_000, &parts(0, 212), 512 * MIB), goal(212, 212));
        assert_eq!(actuators.tend(190_100, &parts(100, 212), true), None);
        assert!(!actuators.is_dead(), "somebody is there");
    }

    #[test]
    fn a_guest_that_does_not_run_is_no_dead_driver() {
        let mut actuators = Actuators::default();
        actuators.aim(0, &parts(0, 0), 912 * MIB);
        assert_eq!(actuators.tend(60_000, &parts(0, 0), false), None);
        assert_eq!(actuators.tend(64_999, &parts(0, 0), true), None);
        assert!(actuators.tend(65_000, &parts(0, 0), true).is_some() && actuators.is_dead());
        actuators.reset();
        assert!(!actuators.is_dead(), "another kernel may have it");
    }
}
