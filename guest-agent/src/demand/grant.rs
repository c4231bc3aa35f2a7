//! How long it takes from asking for memory to having it, as the guest sees it: measured, not assumed.
//!
//! It begins when the need becomes urgent and passes what the guest has, and ends when half of the difference has
//! arrived: from then on the guest lives on what comes. A need that is never met is no long grant, it is none.

/// The last grants that count.
const KEPT: usize = 4;
/// What was not granted by then was refused.
const REFUSED_MS: u64 = 30_000;
/// A smaller difference is noise, bytes.
const LEAST_BYTES: u64 = 16 * super::memory::MIB;

/// The time of the last grants.
#[derive(Clone, Copy, Debug)]
pub(super) struct GrantTime {
    assumed_ms: u64,
    asked: Option<Asked>,
    took_ms: [Option<u64>; KEPT],
    next: usize,
}

/// A grant that is under way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at_ms: u64,
    goal_bytes: u64,
}

impl GrantTime {
    /// `assumed_ms` is taken until a grant was seen, and bounds what is believed of those that were.
    pub(super) fn new(assumed_ms: u64) -> Self {
        Self { assumed_ms, asked: None, took_ms: [None; KEPT], next: 0 }
    }

    /// Takes in what the guest has and needs, and whether that is urgent.
    pub(super) fn update(&mut self, now_ms: u64, present_bytes: u64, need_bytes: u64, is_urgent: bool) {
        match self.asked {
            Some(asked) if present_bytes >= asked.goal_bytes => {
                self.took_ms[self.next] = Some(now_ms.saturating_sub(asked.at_ms));
                self.next = (self.next + 1) % KEPT;
                self.asked = None;
            }
            Some(asked) if now_ms.saturating_sub(asked.at_ms) > REFUSED_MS => self.asked = None,
            Some(_) => {}
            None => {
                let missing_bytes = need_bytes.saturating_sub(present_bytes);
                if is_urgent && missing_bytes >= LEAST_BYTES {
                    self.asked = Some(Asked { at_ms: now_ms, goal_bytes: present_bytes + missing_bytes / 2 });
                }
            }
        }
    }

    /// How long the next one may take: twice the longest of the last ones, for the next may find the host busier; within a
    /// quarter and four times of what was assumed.
    pub(super) fn ms(&self) -> u64 {
        let longest_ms = self.took_ms.iter().flatten().max();
        longest_ms.map_or(self.assumed_ms, |ms| (2 * ms).clamp(self.assumed_ms / 4, 4 * self.assumed_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demand::memory::MIB;

    /// A grant of 200 MiB on top of 100 that takes so long.
    fn grant(time: &mut GrantTime, began_ms: u64, takes_ms: u64) {
        time.update(began_ms, 100 * MIB, 300 * MIB, true);
        time.update(began_ms + takes_ms / 2, 150 * MIB, 400 * MIB, true);
        time.update(began_ms + takes_ms, 200 * MIB, 400 * MIB, true);
        time.update(began_ms + takes_ms + 1, 300 * MIB, 300 * MIB, false);
    }

    #[test]
    fn the_longest_of_the_last_grants_counts_twice_within_bounds() {
        let mut time = GrantTime::new(2_000);
        assert_eq!(time.ms(), 2_000, "assumed");
        grant(&mut time, 0, 100);
        assert_eq!(time.ms(), 500, "never less than a quarter");
        grant(&mut time, 10_000, 900);
        assert_eq!(time.ms(), 1_800);
        for number in 2..6 {
            grant(&mut time, number * 10_000, 400);
        }
        assert_eq!(time.ms(), 800, "older grants are forgotten");
        grant(&mut time, 90_000, 25_000);
        assert_eq!(time.ms(), 8_000, "never more than four times");
    }

    #[test]
    fn a_need_that_is_not_urgent_small_or_never_met_says_nothing() {
        let mut time = GrantTime::new(2_000);
        time.update(0, 100 * MIB, 300 * MIB, false);
        time.update(100, 300 * MIB, 300 * MIB, false);
        time.update(200, 300 * MIB, 310 * MIB, true);
        time.update(300, 310 * MIB, 310 * MIB, true);
        time.update(1_000, 100 * MIB, 300 * MIB, true);
        time.update(1_000 + REFUSED_MS + 1, 100 * MIB, 300 * MIB, true);
        time.update(99_000, 300 * MIB, 300 * MIB, true);
        assert_eq!(time.ms(), 2_000);
    }
}
