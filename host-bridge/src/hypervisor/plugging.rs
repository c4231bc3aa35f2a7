//! vCPUs on their way in or out: what is asked for, what is there, and how long it is waited for. Pure.

use crate::plan::cpu::Vcpus;
use std::time::{Duration, Instant};

/// How often it is looked whether a vCPU is gone.
pub(super) const POLL: Duration = Duration::from_millis(500);
/// A guest that holds on to a vCPU for so long does not let go of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is known of a VM's vCPUs, and what was asked for.
#[derive(Debug, Default)]
pub(super) struct Plugging {
    vcpus: Option<Vcpus>,
    /// How many there are to be when the one that is on its way out is gone, and since when.
    removing: Option<(u32, Instant)>,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Plug,
    Unplug,
}

impl Plugging {
    /// What to ask for, so that there are `wanted`; one at a time, and nothing while one is on its way out.
    pub(super) fn step(&self, wanted: u32) -> Option<Step> {
        let vcpus = self.vcpus.filter(|_| self.removing.is_none())?;
        match wanted.cmp(&vcpus.plugged) {
            std::cmp::Ordering::Greater => Some(Step::Plug),
            std::cmp::Ordering::Less => Some(Step::Unplug),
            std::cmp::Ordering::Equal => None,
        }
    }

    /// Takes in that the guest was asked to let go of one.
    pub(super) fn removes(&mut self, now: Instant) {
        self.removing = self.vcpus.map(|vcpus| (vcpus.plugged.saturating_sub(1), now));
    }

    /// Whether one is on its way out.
    pub(super) fn is_removing(&self) -> bool {
        self.removing.is_some()
    }

    /// Takes in what is there; returns it with its state, and whether the guest was given up on.
    pub(super) fn sees(&mut self, vcpus: Option<Vcpus>, now: Instant) -> (Option<Vcpus>, bool) {
        self.vcpus = vcpus;
        let waits = |(to, _): &(u32, Instant)| vcpus.is_some_and(|vcpus| vcpus.plugged > *to);
        self.removing = self.removing.filter(waits);
        let given_up = self.removing.take_if(|(_, since)| now.duration_since(*since) >= PATIENCE).is_some();
        let is_removing = self.is_removing();
        (vcpus.map(|vcpus| Vcpus { is_removing, ..vcpus }), given_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vcpus(plugged: u32) -> Vcpus {
        Vcpus { plugged, possible: 4, removable: plugged - 1, is_removing: false }
    }

    #[test]
    fn one_at_a_time_and_a_pending_removal_is_a_state() {
        let (mut plugging, now) = (Plugging::default(), Instant::now());
        assert_eq!(plugging.step(2), None, "nothing is known yet");
        plugging.sees(Some(vcpus(2)), now);
        assert_eq!([1, 2, 4].map(|wanted| plugging.step(wanted)), [Some(Step::Unplug), None, Some(Step::Plug)]);
        plugging.removes(now);
        let (seen, given_up) = plugging.sees(Some(vcpus(2)), now + PATIENCE / 2);
        assert!(seen.is_some_and(|vcpus| vcpus.is_removing) && !given_up);
        assert_eq!(plugging.step(1), None, "it was asked already");
        let (seen, given_up) = plugging.sees(Some(vcpus(1)), now + PATIENCE);
        assert!(seen.is_some_and(|vcpus| !vcpus.is_removing) && !given_up);
    }

    #[test]
    fn a_guest_that_does_not_let_go_is_given_up_on_once() {
        let (mut plugging, now) = (Plugging::default(), Instant::now());
        plugging.sees(Some(vcpus(2)), now);
        plugging.removes(now);
        assert!(plugging.sees(Some(vcpus(2)), now + PATIENCE).1);
        assert!(!plugging.sees(Some(vcpus(2)), now + 2 * PATIENCE).1);
        assert_eq!(plugging.step(1), Some(Step::Unplug));
    }

    #[test]
    fn without_hotplug_nothing_is_asked() {
        let mut plugging = Plugging::default();
        assert_eq!(plugging.sees(None, Instant::now()), (None, false));
        assert_eq!(plugging.step(4), None);
    }
}
