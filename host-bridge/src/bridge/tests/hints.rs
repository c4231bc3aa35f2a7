//! What the host is short of, from its readings to its guests.

use super::*;
use crate::plan::HostLoad;
use vmtide_protocol::agent::EventKind;
use vmtide_protocol::bridge::Host;

impl Bridge {
    /// A reading each second for so long, from `from_ms` on; gives what the guests were told, and when.
    fn reads(&mut self, from_ms: u64, seconds: u64, load: HostLoad) -> Vec<(u64, Host)> {
        let mut told = Vec::new();
        for at_ms in (0..seconds).map(|second| from_ms + second * 1000) {
            let host = self.host;
            self.time(at_ms).on_host(host, &load);
            self.plan();
            let host = |effect| if let Effect::TellHost(host) = effect { Some((at_ms, host)) } else { None };
            told.extend(self.take_effects().into_iter().filter_map(host));
        }
        told
    }

    fn host_events(&self) -> Vec<String> {
        self.events(0).into_iter().filter(|event| event.vm.is_none()).map(|event| event.message).collect()
    }
}

const CALM: HostLoad =
    HostLoad { cpu_stall_some_permille: 20, cpu_steal_permille: 0, cpu_used_permille: 500, io_stall_full_permille: 10 };
const CPU_STALLS: HostLoad = HostLoad { cpu_stall_some_permille: 900, cpu_used_permille: 990, ..CALM };
const IO_STALLS: HostLoad = HostLoad { io_stall_full_permille: 600, ..CALM };

#[test]
fn a_stall_of_the_hosts_cpus_reaches_the_guests_and_goes_away_again() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    assert_eq!(bridge.reads(0, 60, CALM), []);
    let told = bridge.reads(60_000, 30, CPU_STALLS);
    let cpu_short = Host { cpu_short: true, ..Host::default() };
    assert!(matches!(told[..], [(60_000..=67_000, host)] if host == cpu_short), "once, within 7 s: {told:?}");
    let status = bridge.status();
    assert!(status.short_of == cpu_short && status.cpu_stall_permille > 800, "{status:?}");

    let told = bridge.reads(90_000, 60, CALM);
    assert!(matches!(told[..], [(100_000..=120_000, host)] if host == Host::default()), "once, in time: {told:?}");
    assert_eq!(bridge.status().short_of, Host::default());
    let events = bridge.host_events();
    assert!(events.iter().any(|event| event.starts_with("CPU: short (its tasks waited for one ")), "{events:?}");
    assert!(events.iter().any(|event| event.starts_with("CPU: enough again (")), "{events:?}");
    assert!(!events.iter().any(|event| event.contains("I/O")), "{events:?}");
}

#[test]
fn a_stall_of_the_hosts_disks_reaches_the_guests_and_goes_away_again() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    let told = bridge.reads(0, 30, IO_STALLS);
    let io_short = Host { io_short: true, ..Host::default() };
    assert!(matches!(told[..], [(0..=7_000, host)] if host == io_short), "{told:?}");
    let told = bridge.reads(30_000, 60, CALM);
    assert!(matches!(told[..], [(_, host)] if host == Host::default()), "{told:?}");
}

#[test]
fn what_the_host_is_short_of_is_told_together() {
    let mut bridge = Bridge::settled(640, 300, 300);
    bridge.on_guest(A, &report(500, Urgency::Pressed, 0));
    bridge.on_guest(B, &report(500, Urgency::Pressed, 0));
    let told = bridge.reads(0, 20, CPU_STALLS);
    assert_eq!(told[0].1, Host { memory_short: true, ..Host::default() });
    assert_eq!(told[1].1, Host { memory_short: true, cpu_short: true, io_short: false });
    assert_eq!(told.len(), 2);
}

#[test]
fn a_paused_bridge_tells_the_guests_all_the_same() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    bridge.pause(None, true).unwrap();
    assert_eq!(bridge.reads(0, 30, CPU_STALLS).len(), 1);
}

#[test]
fn what_was_tuned_in_a_guest_is_its_own_story_beside_the_hosts() {
    let mut bridge = Bridge::settled(2048, 300, 300);
    bridge.reads(0, 30, CPU_STALLS);
    let tuned = |message: &str| GuestEvent::Happened { event: EventKind::Tuning, message: message.to_owned() };
    bridge.on_guest(A, &tuned("set guest_halt_poll_ns=0"));
    bridge.on_guest(B, &tuned("set ksm=0"));
    let about: Vec<String> = bridge.events_about("a", 2).unwrap().into_iter().map(|event| event.message).collect();
    let place = |part: &str| about.iter().position(|message| message.contains(part));
    assert!(place("CPU: short") < place("tuning in its guest: set guest_halt_poll_ns=0"), "{about:?}");
    assert!(place("CPU: short").is_some() && place("ksm").is_none(), "{about:?}");
    assert!(bridge.events_about("c", 2).unwrap_err().not_found);
}

#[test]
fn the_hint_of_memory_follows_the_state_and_not_each_plan() {
    let mut bridge = Bridge::settled(640, 300, 300);
    let mut told = Vec::new();
    for second in 0..180 {
        // Every other second until the 90th, both want more than there is.
        let need_mib = if second < 90 && second % 2 == 0 { 500 } else { 150 };
        for vm in [A, B] {
            bridge.time(second * 1000).on_guest(vm, &report(need_mib, Urgency::Pressed, 0));
        }
        told.extend(bridge.reads(second * 1000, 1, CALM).into_iter().map(|(at_ms, host)| (at_ms, host.memory_short)));
    }
    assert!(matches!(told[..], [(0, true), (99_000.., false)]), "once each: {told:?}");
    let events = bridge.host_events();
    assert!(events.iter().filter(|event| event.starts_with("memory:")).count() <= 4, "{events:?}");
}
