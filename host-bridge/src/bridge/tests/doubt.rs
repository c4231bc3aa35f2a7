//! Guests whose agents contradict their own kernels.

use super::*;

/// A guest of 640 MiB that says so much is in use, and needs no more than a little beyond.
fn says_used(mib: u64) -> GuestEvent {
    let mut event = report(mib + 20, Urgency::Normal, 0);
    let GuestEvent::Demand { demand, .. } = &mut event else { panic!("a report is a demand") };
    let Some(memory) = &mut demand.memory else { panic!("it has memory") };
    memory.signals.total_bytes = 640 * MIB;
    memory.signals.available_bytes = (640 - mib) * MIB;
    event
}

impl Bridge {
    /// A says one thing each second, and its kernel shows another. What is believed of its need at the end, MiB.
    fn hears_of_a(&mut self, seconds: std::ops::Range<u64>, said_mib: u64, shown_mib: u64) -> u64 {
        for second in seconds {
            self.time(second * 1000).on_guest(A, &says_used(said_mib));
            let state = MachineState { shown_use_bytes: Some(shown_mib * MIB), ..state(640) };
            self.on_sighting(A, Sighting::State { state, accepted_bytes: Some(640 * MIB) });
        }
        let plan::Demand::Fresh(demand) = self.demand(A) else { panic!("a report came") };
        demand.need_bytes / MIB
    }
}

#[test]
fn a_guest_that_says_more_than_its_kernel_shows_is_believed_up_to_a_quarter_of_what_it_has() {
    let mut bridge = Bridge::settled(1024, 640, 300);
    assert_eq!(bridge.hears_of_a(0..40, 600, 150), 620, "a jump is ahead of the statistics");
    assert_eq!(bridge.vm("a").unwrap().contradictions.count, 0);
    assert_eq!(bridge.hears_of_a(40..60, 600, 150), 150 + 160 + 20);
    let told = bridge.vm("a").unwrap().contradictions;
    assert_eq!((told.count, told.said_bytes, told.shown_bytes), (1, 600 * MIB, 150 * MIB));
    let events = bridge.events_about("a", 9).unwrap();
    assert!(events.iter().any(|event| event.message.contains("contradicts")), "{events:?}");
    assert_eq!(bridge.hears_of_a(60..61, 300, 150), 320, "they agree");
    assert_eq!(bridge.hears_of_a(61..70, 600, 150), 620, "and a new one has to last as long");
    assert!(!bridge.vm("a").unwrap().contradictions.is_open);
}

#[test]
fn a_guest_that_says_less_than_its_kernel_shows_is_held_to_what_that_uses() {
    let mut bridge = Bridge::settled(1024, 640, 300);
    assert_eq!(bridge.hears_of_a(0..60, 50, 600), 600 - 160 + 20);
    assert_eq!(bridge.hears_of_a(60..61, 600, 600), 620);
}

#[test]
fn a_difference_within_bounds_is_none_however_long() {
    let mut bridge = Bridge::settled(1024, 640, 300);
    assert_eq!(bridge.hears_of_a(0..300, 350, 200), 370);
    assert_eq!(bridge.vm("a").unwrap().contradictions.count, 0);
}
