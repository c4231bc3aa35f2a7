//! Unused blocks: who is asked, what becomes of the answer, and what the pools tell.

use super::*;
use crate::api::trims::{Trim, TrimState};
use crate::api::types::Refusal;
use crate::guests::{End, Reply};
use crate::host::pools::Image;
use crate::hypervisor::IoSeen;
use crate::plan::HostLoad;
use crate::plan::trim::PoolSpace;
use vmtide_protocol::agent::ReplyStatus;
use vmtide_protocol::bridge::TrimStorage;

const GIB: u64 = 1024 * MIB;
const POOL: u64 = 7;

/// Its disk did nothing by now, or wrote 64 MiB each second.
fn wrote(second: u64, is_busy: bool) -> Sighting {
    let ops = if is_busy { second * 64 } else { 0 };
    let images = Vec::new();
    Sighting::Io(IoSeen { disks: 1, ops, bytes: ops * MIB, timed_ops: ops, timed_us: ops * 100, images })
}

impl Bridge {
    /// Both VMs quiet, their agents able, images of both in one pool with so much room of 100 GiB.
    fn with_images(free_gib: u64) -> Self {
        let mut bridge = Bridge::settled(2048, 300, 300);
        for vm in [A, B] {
            bridge.on_guest(vm, &hello(&["memory", "trim_storage"]));
        }
        bridge.pool(0, free_gib);
        bridge
    }

    fn pool(&mut self, looked_ms: u64, free_gib: u64) {
        let space = PoolSpace { device: POOL, total_bytes: 100 * GIB, available_bytes: free_gib * GIB };
        let image = |vm| Image { vm, path: format!("/images/{vm}").into(), pool: Ok(space) };
        self.on_images(looked_ms, &[image(A), image(B)]);
    }

    /// Those who are asked in these seconds.
    fn trims(&mut self, seconds: std::ops::Range<u64>, is_a_busy: bool) -> Vec<(usize, TrimStorage)> {
        let mut asked = Vec::new();
        for second in seconds {
            self.time(second * 1000);
            self.on_sighting(A, wrote(second, is_a_busy));
            self.on_sighting(B, wrote(second, false));
            self.on_host(self.host, &HostLoad::default());
            self.plan();
            for effect in self.take_effects() {
                if let Effect::Trim { vm, request } = effect {
                    asked.push((vm, request));
                }
            }
        }
        asked
    }

    fn trim_of(&self, name: &str) -> Trim {
        Control::vm(self, name).unwrap().trim.unwrap()
    }

    fn told(&self, words: &str) -> usize {
        Control::events(self, 0).iter().filter(|event| event.message.contains(words)).count()
    }
}

fn done(id: u64, bytes: u64) -> GuestEvent {
    let detail = Some("/: all".to_owned());
    GuestEvent::Reply(Reply { id, status: ReplyStatus::Done, amount: bytes, detail })
}

#[test]
fn with_room_left_nobody_is_asked_and_with_little_one_quiet_guest_after_the_other() {
    let mut bridge = Bridge::with_images(50);
    assert_eq!(bridge.trims(1..120, false), []);

    let mut bridge = Bridge::with_images(10);
    assert_eq!(bridge.told("room is low: quiet guests are asked"), 1);
    let asked = bridge.trims(1..60, false);
    let [(A, request)] = asked[..] else { panic!("one at a time: {asked:?}") };
    bridge.on_guest(A, &done(request.id, 3 * GIB));
    let asked = bridge.trims(60..120, false);
    let [(B, request)] = asked[..] else { panic!("{asked:?}") };
    bridge.on_guest(B, &done(request.id, 0));
    assert_eq!(bridge.trims(120..600, false), [], "not again for hours");
    assert!(bridge.trim_of("b").is_over, "nothing was given, nothing is waited for");
}

#[test]
fn who_is_busy_paused_or_not_able_is_left_alone() {
    let mut busy = Bridge::with_images(10);
    assert!(busy.trims(1..120, true).iter().all(|(vm, _)| *vm == B));
    let mut paused = Bridge::with_images(10);
    paused.pause(None, true).unwrap();
    assert_eq!(paused.trims(1..120, false), []);
    let mut unable = Bridge::with_images(10);
    for vm in [A, B] {
        unable.on_guest(vm, &hello(&["memory"]));
    }
    assert_eq!(unable.trims(1..120, false), []);
}

#[test]
fn the_guests_word_stands_beside_what_the_pool_has_more_a_while_later() {
    let mut bridge = Bridge::with_images(10);
    let (_, request) = bridge.trims(1..60, false)[0];
    bridge.on_guest(A, &done(request.id, 90 * GIB));
    let claimed = bridge.trim_of("a");
    assert_eq!((claimed.state, claimed.given_bytes, claimed.is_over), (TrimState::Done, 90 * GIB, false));
    // A look that began too early does not count.
    bridge.pool(60_000, 11);
    assert!(!bridge.trim_of("a").is_over);
    bridge.pool(75_000, 12);
    let settled = bridge.trim_of("a");
    assert_eq!((settled.pool_bytes, settled.is_over), (Some(2_147_483_648), true));
    assert_eq!(bridge.told("its pools have 2048 MiB more room"), 1, "{:?}", Control::events(&bridge, 0));
}

#[test]
fn a_session_that_ends_and_a_guest_that_is_silent_answered_nothing_and_hold_up_nobody() {
    let mut bridge = Bridge::with_images(10);
    assert_eq!(bridge.trims(1..60, false).len(), 1);
    bridge.on_guest(A, &GuestEvent::Disconnected { end: End::Closed, tally: Tally::default() });
    assert_eq!(bridge.trim_of("a").state, TrimState::Unanswered);
    let [(B, request)] = bridge.trims(60..90, false)[..] else { panic!("B is next") };

    // B never answers; its late word is not taken for one.
    assert_eq!(bridge.trims(90..800, false), []);
    assert_eq!(bridge.trim_of("b").state, TrimState::Unanswered);
    bridge.on_guest(B, &done(request.id, GIB));
    assert_eq!((bridge.trim_of("b").state, bridge.trim_of("b").given_bytes), (TrimState::Unanswered, 0));
}

#[test]
fn an_operator_asks_whom_the_bridge_would_not_but_one_at_a_time_and_nobody_without_an_agent() {
    let mut bridge = bridge(2048);
    let refused = |trim: Result<Trim, Refusal>| trim.unwrap_err().message;
    assert!(refused(Control::trim(&mut bridge, "a")).contains("no agent has a session"));
    assert!(Control::trim(&mut bridge, "nobody").unwrap_err().not_found);

    let mut bridge = Bridge::with_images(50);
    let trim = Control::trim(&mut bridge, "a").unwrap();
    assert_eq!((trim.by_hand, trim.state), (true, TrimState::Asked));
    assert!(refused(Control::trim(&mut bridge, "b")).contains("a gives unused blocks back now"));
    let reply = Reply { id: trim.id, status: ReplyStatus::Refused, amount: 0, detail: Some("cannot: no".to_owned()) };
    bridge.on_guest(A, &GuestEvent::Reply(reply));
    let trim = bridge.trim_of("a");
    assert_eq!((trim.state, trim.detail.as_deref(), trim.is_over), (TrimState::Refused, Some("cannot: no"), true));
    Control::trim(&mut bridge, "b").unwrap();
}

#[test]
fn a_pool_that_cannot_be_read_is_said_once_and_nobody_is_asked_for_it() {
    let mut bridge = Bridge::with_images(50);
    let unread =
        |why: &str| [A, B].map(|vm| Image { vm, path: format!("/images/{vm}").into(), pool: Err(why.to_owned()) });
    for _ in 0..3 {
        bridge.on_images(1_000, &unread("Input/output error"));
    }
    assert_eq!(bridge.told("the room that its image has left cannot be watched: /images/0: Input/output error"), 1);
    assert!(Control::status(&bridge).pools.is_empty());
    assert_eq!(bridge.trims(1..60, false), []);
    bridge.on_images(60_000, &unread("Stale file handle"));
    assert_eq!(bridge.told("Stale file handle"), 2, "another reason, of each VM");

    // Numbers that no file system has.
    for (total_bytes, available_bytes) in [(u64::MAX, u64::MAX), (1, u64::MAX), (u64::MAX, 0)] {
        let space = PoolSpace { device: POOL, total_bytes, available_bytes };
        let image = |vm| Image { vm, path: "/images/x".into(), pool: Ok(space) };
        bridge.on_images(61_000, &[image(A), image(B)]);
        assert_eq!(Control::status(&bridge).pools[0].is_low, available_bytes == 0, "{space:?}");
    }
}
