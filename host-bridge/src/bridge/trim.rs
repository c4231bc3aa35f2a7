//! Has guests give unused blocks back: pools' room and guests' words in, one request at a time out. No I/O.
//!
//! What a guest says it gave is its word; beside it stands how much more room its pools had a while later.

use super::effect::Effect;
use super::state::Bridge;
use super::vm::Hypervisor;
use crate::api::trims::{Pool, Trim, TrimState};
use crate::api::types::Refusal;
use crate::config::Bytes;
use crate::guests::Reply;
use crate::host::pools::Image;
use crate::plan::Millis;
use crate::plan::trim::{PoolSpace, TrimPlanner, TrimView};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use vmtide_protocol::agent::ReplyStatus;
use vmtide_protocol::bridge::TrimStorage;

/// What an agent calls it in its hello.
const CAPABILITY: &str = "trim_storage";
/// What a guest has for it: it rests as long as it works.
const DEADLINE_MS: Millis = 600_000;
/// An answer that is later than this is none.
const LOST_MS: Millis = DEADLINE_MS + 5_000;
/// How long the host's file system may take to count what was given back.
const SETTLES_MS: Millis = 10_000;
/// What was given back is not settled for ever.
const UNSETTLED_MS: Millis = 60_000;
/// Requests for memory and CPUs have the numbers below.
const FIRST_ID: u64 = 1 << 33;

/// All VMs' unused blocks.
#[derive(Debug, Default)]
pub(super) struct Trimming {
    planner: TrimPlanner,
    pools: BTreeMap<u64, (PoolSpace, PathBuf)>,
    /// When they were looked at.
    looked_ms: Millis,
    vms: BTreeMap<usize, Seat>,
    asked: u64,
}

/// One VM's.
#[derive(Debug, Default)]
struct Seat {
    pools: BTreeSet<u64>,
    /// Images that cannot be looked at, and why, as told.
    said: Option<String>,
    /// When it was asked, and how much room its pools had.
    asked: Option<(Millis, Option<u64>)>,
    answered_ms: Option<Millis>,
    last: Option<Trim>,
}

impl Seat {
    fn is_open(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.state == TrimState::Asked)
    }
}

impl Trimming {
    fn room_bytes(&self, vm: usize) -> Option<u64> {
        let pools = &self.vms.get(&vm).filter(|seat| !seat.pools.is_empty())?.pools;
        let room = pools.iter().filter_map(|device| Some(self.pools.get(device)?.0.available_bytes));
        Some(room.fold(0, u64::saturating_add))
    }

    /// Who is at it.
    fn open(&self) -> Option<usize> {
        self.vms.iter().find(|(_, seat)| seat.is_open()).map(|(vm, _)| *vm)
    }

    pub(super) fn last(&self, vm: usize) -> Option<Trim> {
        self.vms.get(&vm)?.last.clone()
    }

    pub(super) fn forget(&mut self, vm: usize) {
        self.vms.remove(&vm);
        self.planner.forget(vm);
    }
}

impl Bridge {
    /// The images of all VMs that are there, for whoever looks where they are.
    pub fn images(&self) -> Vec<(usize, PathBuf)> {
        let there = self.storage.vms.iter().enumerate().filter(|(vm, _)| self.vms[*vm].attached().is_some());
        there.flat_map(|(vm, disks)| disks.images().iter().map(move |path| (vm, path.clone()))).collect()
    }

    /// Takes in where images are, and how much room is left there, as seen from `looked_ms` on.
    pub fn on_images(&mut self, looked_ms: Millis, images: &[Image]) {
        self.trimming.looked_ms = looked_ms;
        self.trimming.pools.clear();
        for seat in self.trimming.vms.values_mut() {
            seat.pools.clear();
        }
        let mut absent: BTreeMap<usize, String> = BTreeMap::new();
        for Image { vm, path, pool } in images.iter().filter(|image| !self.vms[image.vm].removed) {
            let seat = self.trimming.vms.entry(*vm).or_default();
            match pool {
                Ok(space) => {
                    self.trimming.pools.entry(space.device).or_insert_with(|| (*space, path.clone()));
                    seat.pools.insert(space.device);
                }
                Err(why) => _ = absent.entry(*vm).or_insert_with(|| format!("{}: {why}", path.display())),
            }
        }
        for (vm, why) in absent {
            let said = &mut self.trimming.vms.entry(vm).or_default().said;
            if said.as_ref() != Some(&why) {
                *said = Some(why.clone());
                self.note(vm, format!("the room that its image has left cannot be watched: {why}"));
            }
        }
        self.judge_pools();
        self.settle_trims();
    }

    fn judge_pools(&mut self) {
        let spaces: Vec<PoolSpace> = self.trimming.pools.values().map(|(space, _)| *space).collect();
        let before = self.trimming.planner.clone();
        self.trimming.planner.on_pools(&spaces, &self.policy);
        for space in &spaces {
            let (was, is) = (before.is_low(space.device), self.trimming.planner.is_low(space.device));
            if was != is {
                let state = if is {
                    "room is low: quiet guests are asked to give unused blocks back"
                } else {
                    "room is enough again"
                };
                let message = format!("storage: {state} ({})", self.pool_words(space));
                tracing::info!("{message}");
                self.events.push(self.now.unix_ms, None, message);
            }
        }
    }

    fn pool_words(&self, space: &PoolSpace) -> String {
        let path = self.trimming.pools.get(&space.device).map(|(_, path)| path.display().to_string());
        let (free, total) = (Bytes(space.available_bytes), Bytes(space.total_bytes));
        format!("{free} of {total} free where {} is", path.unwrap_or_default())
    }

    /// Asks the next guest, if a pool is low and one is quiet.
    pub(super) fn plan_trims(&mut self) {
        let now_ms = self.now.ms;
        self.give_up_trims();
        let views: Vec<TrimView> = (0..self.vms.len()).map(|number| self.trim_view(number)).collect();
        let is_open = self.trimming.open().is_some();
        let Some(number) = self.trimming.planner.plan(now_ms, &views, is_open, &self.policy) else { return };
        self.ask_trim(number, false);
    }

    fn trim_view(&self, number: usize) -> TrimView {
        let vm = &self.vms[number];
        let is_running = matches!(vm.hypervisor, Hypervisor::Attached(state) if state.running);
        let seat = self.trimming.vms.get(&number);
        TrimView {
            pools: seat.map(|seat| seat.pools.iter().copied().collect()).unwrap_or_default(),
            is_able: is_running && !self.is_paused(number) && self.guests.can(number, CAPABILITY),
            rate: self.storage.vms[number].done(self.now.ms).rate(),
        }
    }

    /// Asks one guest because an operator wants it.
    pub(super) fn trim_by_hand(&mut self, name: &str) -> Result<Trim, Refusal> {
        let number = self.number(name)?;
        let refuse = |message: String| Err(Refusal { not_found: false, message });
        if let Some(other) = self.trimming.open() {
            let other = &self.vms[other].config.name;
            return refuse(format!("{other} gives unused blocks back now; one VM at a time"));
        }
        if !self.guests.is_connected(number) {
            return refuse(format!("{name}: no agent has a session, and only that can give unused blocks back"));
        }
        Ok(self.ask_trim(number, true))
    }

    fn ask_trim(&mut self, number: usize, by_hand: bool) -> Trim {
        self.trimming.asked += 1;
        let id = FIRST_ID + self.trimming.asked;
        let now = self.now;
        let room_bytes = self.trimming.room_bytes(number);
        self.trimming.planner.on_asked(now.ms, number);
        let trim = Trim {
            id,
            at_unix_ms: now.unix_ms,
            by_hand,
            state: TrimState::Asked,
            given_bytes: 0,
            detail: None,
            pool_bytes: None,
            is_over: false,
        };
        let seat = self.trimming.vms.entry(number).or_default();
        seat.asked = Some((now.ms, room_bytes));
        seat.answered_ms = None;
        seat.last = Some(trim.clone());
        self.effects.push(Effect::Trim { vm: number, request: TrimStorage { id, deadline_ms: DEADLINE_MS } });
        let why = if by_hand { "by an operator" } else { "as its pool is low and it is quiet" };
        self.note(number, format!("storage: asked to give unused blocks back, {why}"));
        trim
    }

    /// Takes in that the request could not be sent, or that the session that had it ended.
    pub(super) fn on_trim_lost(&mut self, number: usize) {
        if self.trimming.open() == Some(number) {
            self.end_trim(number, TrimState::Unanswered, 0, Some("its agent's session ended".to_owned()));
        }
    }

    /// Whether the reply was to one of our requests.
    pub(super) fn on_trim_reply(&mut self, number: usize, reply: &Reply) -> bool {
        if reply.id < FIRST_ID {
            return false;
        }
        let is_open = self.trimming.vms.get(&number).is_some_and(Seat::is_open);
        let is_this = self.trimming.last(number).is_some_and(|last| last.id == reply.id);
        if is_open && is_this {
            let state = match reply.status {
                ReplyStatus::Done => TrimState::Done,
                ReplyStatus::Partial => TrimState::Partial,
                ReplyStatus::Refused => TrimState::Refused,
                ReplyStatus::Unsupported => TrimState::Unsupported,
            };
            self.end_trim(number, state, reply.amount, reply.detail.clone());
        }
        true
    }

    fn give_up_trims(&mut self) {
        let Some(number) = self.trimming.open() else { return };
        let asked_ms = self.trimming.vms[&number].asked.map_or(0, |(asked_ms, _)| asked_ms);
        if self.now.ms.saturating_sub(asked_ms) >= LOST_MS {
            self.end_trim(number, TrimState::Unanswered, 0, Some("its guest did not answer in time".to_owned()));
        }
    }

    fn end_trim(&mut self, number: usize, state: TrimState, given_bytes: u64, detail: Option<String>) {
        let now_ms = self.now.ms;
        let Some(seat) = self.trimming.vms.get_mut(&number) else { return };
        seat.answered_ms = Some(now_ms);
        let is_known = seat.asked.is_some_and(|(_, room_bytes)| room_bytes.is_some());
        let Some(last) = &mut seat.last else { return };
        (last.state, last.given_bytes) = (state, given_bytes);
        // Nothing was given: there is nothing to wait for.
        last.is_over = given_bytes == 0 || !is_known;
        last.detail = detail;
        let message = last.said();
        self.note(number, format!("storage: {message}"));
    }

    /// Looks what came of it, once the pools were looked at late enough.
    fn settle_trims(&mut self) {
        let looked_ms = self.trimming.looked_ms;
        let due = self.trimming.vms.iter().filter_map(|(vm, seat)| {
            let answered_ms = seat.answered_ms.filter(|_| seat.last.as_ref().is_some_and(|last| !last.is_over))?;
            (looked_ms >= answered_ms + SETTLES_MS).then_some((*vm, answered_ms, seat.asked?.1?))
        });
        for (number, answered_ms, before_bytes) in due.collect::<Vec<_>>() {
            let room_bytes = self.trimming.room_bytes(number);
            if room_bytes.is_none() && looked_ms < answered_ms + UNSETTLED_MS {
                continue;
            }
            let Some(last) = self.trimming.vms.get_mut(&number).and_then(|seat| seat.last.as_mut()) else { continue };
            last.is_over = true;
            last.pool_bytes = room_bytes
                .map(|now_bytes| i64::try_from(i128::from(now_bytes) - i128::from(before_bytes)).unwrap_or(i64::MAX));
            if let Some(room) = last.room() {
                self.note(number, format!("storage: {room}"));
            }
        }
    }

    /// Where images are, for an operator.
    pub(super) fn pools(&self) -> Vec<Pool> {
        let pool = |(device, (space, path)): (&u64, &(PoolSpace, PathBuf))| {
            let on = self.trimming.vms.iter().filter(|(_, seat)| seat.pools.contains(device));
            Pool {
                path: path.display().to_string(),
                space: *space,
                is_low: self.trimming.planner.is_low(*device),
                vms: on.map(|(vm, _)| self.vms[*vm].config.name.clone()).collect(),
            }
        };
        self.trimming.pools.iter().map(pool).collect()
    }
}
