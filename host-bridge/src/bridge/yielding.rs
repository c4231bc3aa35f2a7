//! Asks guests for memory before their balloons inflate, and hears what they can spare.
//! [`plan::asking`](crate::plan::asking) says when and for how much.

use super::effect::Effect;
use super::state::{Bridge, URGENT};
use crate::config::Bytes;
use crate::guests::Reply;
use crate::hypervisor::driver::PAGE_BYTES;
use crate::plan::asking::{Shrink, Way, is_asked_about};
use crate::plan::{Demand, Millis, Pace, Rule, Step, Verdict};
use crate::record::Asked;
use vmtide_protocol::agent::ReplyStatus;
use vmtide_protocol::bridge::YieldMemory;

/// What an agent calls it in its hello.
const CAPABILITY: &str = "yield_memory";

/// Agents of a bridge that was away dial it every 10 s, and report at once: until then nothing is taken calmly from a guest
/// that has said nothing, which may be as busy as it was under the bridge before.
const FIRST_WORD_MS: Millis = 15_000;

impl Bridge {
    /// What is to be done of `step` now, and what the guest said to it; `None` while that is not known.
    pub(super) fn agree(&mut self, number: usize, verdict: &Verdict, step: Step) -> Option<(Step, Option<Asked>)> {
        let now_ms = self.now.ms;
        let vm = &self.vms[number];
        if !is_asked_about(&step, verdict, vm.limits().maximum_bytes) {
            let is_stalled = step.pace == Pace::GiveBack;
            if self.vms[number].asking.on_moved(now_ms, is_stalled) {
                self.tell_broken(number);
            }
            return Some((step, None));
        }
        let is_unheard = matches!(self.demand(number), Demand::Unknown { .. });
        if is_unheard && now_ms.saturating_sub(vm.held_ms) < FIRST_WORD_MS {
            return None;
        }
        let bytes = step.from_bytes - step.to_bytes;
        let shrink = Shrink {
            bytes,
            spare_bytes: self.guests.spare_bytes(number, now_ms, vm.target_bytes),
            slice_bytes: self.policy.slice_bytes(vm.allocation_bytes()).max(PAGE_BYTES),
            least_bytes: self.policy.urgent_step_bytes.max(PAGE_BYTES),
            for_others: verdict.rule == Rule::Revoke,
            can_ask: self.guests.can(number, CAPABILITY),
            leaves: *vm.history.leaves(),
        };
        match self.vms[number].asking.way(now_ms, &shrink, &self.policy) {
            Way::Inflate { bytes: taken, asked } => {
                let to_bytes = step.from_bytes - (taken - taken % PAGE_BYTES);
                (to_bytes < step.from_bytes).then_some((Step { to_bytes, ..step }, asked))
            }
            Way::Ask { bytes, deadline_ms } => {
                self.requests += 1;
                let request = YieldMemory { id: self.requests, bytes, deadline_ms };
                tracing::debug!(vm = %self.vms[number].config.name, bytes = %Bytes(bytes), deadline_ms, "asked to yield");
                self.vms[number].asking.on_asked(now_ms, request.id, bytes, deadline_ms);
                self.effects.push(Effect::Yield { vm: number, request });
                None
            }
            Way::Wait => None,
        }
    }

    /// Takes in a guest's answer; the next plan makes something of it.
    pub(super) fn on_reply(&mut self, number: usize, reply: &Reply) {
        let vm = &mut self.vms[number];
        tracing::debug!(vm = %vm.config.name, ?reply, "reply");
        let spare_bytes = (reply.status != ReplyStatus::Unsupported).then_some(reply.amount);
        if vm.asking.on_answer(self.now.ms, reply.id, spare_bytes) {
            self.want_plan(URGENT);
        }
    }

    /// Looks whose word came to nothing.
    pub(super) fn judge_words(&mut self) {
        for number in 0..self.vms.len() {
            if self.vms[number].asking.has_broken(self.now.ms) {
                self.tell_broken(number);
            }
        }
    }

    fn tell_broken(&mut self, number: usize) {
        let message = "it did not keep its word on the memory that it can spare, and is not asked for a while";
        self.remember(number, message.to_owned());
    }
}
