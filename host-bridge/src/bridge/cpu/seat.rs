//! What is known of one VM's CPU time, and what was asked of its guest. Pure.

use crate::guests::Reply;
use crate::plan::Millis;
use crate::plan::cpu::{CpuVerdict, Vcpus};
use vmtide_protocol::agent::ReplyStatus;
use vmtide_protocol::bridge::SetOnlineCpus;

/// A guest that needs its CPUs is not asked for them again so soon.
const LESS_REST_MS: Millis = 60_000;
/// A vCPU that was plugged in just now is seen by its guest a moment later.
const MORE_REST_MS: Millis = 3_000;
/// A machine that refused to plug is not asked again so soon.
const PLUG_REST_MS: Millis = 600_000;
/// So many different messages about one VM are kept from being said again.
const MOST_SAID: usize = 16;

/// One VM's.
#[derive(Debug, Default)]
pub(in crate::bridge) struct CpuSeat {
    pub(super) vcpus: Option<Vcpus>,
    pub(super) used_millicpus: Option<u64>,
    pub(super) total_ms: Option<u64>,
    pub(super) waited_millicpus: Option<u64>,
    pub(super) online: Option<u32>,
    pub(super) asked: Option<Asked>,
    /// A vCPU was asked for, and the hypervisor has not said what came of it.
    pub(super) is_plugging: bool,
    pub(super) verdict: Option<CpuVerdict>,
    /// Shares and quota as they were asked for last.
    pub(super) set: Option<(u32, Option<u64>)>,
    pub(super) group: Option<String>,
    /// Fewer, or more, than this was refused, until then.
    least: Option<(u32, Millis)>,
    most: Option<(u32, Millis)>,
    no_plugging_until: Option<Millis>,
    said: Vec<String>,
}

/// A request that has no answer yet.
#[derive(Debug)]
pub(super) struct Asked {
    request: SetOnlineCpus,
    at_ms: Millis,
    why: String,
}

impl CpuSeat {
    pub(super) fn asks(&mut self, now_ms: Millis, request: SetOnlineCpus, why: String) {
        self.asked = Some(Asked { request, at_ms: now_ms, why });
    }

    /// Takes in a reply; `None` when it answers nothing that was asked. Ok: what came of it. Err: why it did not.
    pub(super) fn answers(&mut self, now_ms: Millis, reply: &Reply) -> Option<Result<String, String>> {
        let Asked { request, at_ms, why } = self.asked.take_if(|asked| asked.request.id == reply.id)?;
        let (before, wanted) = (self.online, request.cpus);
        let online = u32::try_from(reply.amount).unwrap_or(u32::MAX);
        let took_ms = now_ms.saturating_sub(at_ms);
        if online > 0 && reply.status != ReplyStatus::Unsupported {
            self.online = Some(online);
        }
        let detail = reply.detail.as_deref().unwrap_or("no reason given");
        if online != wanted {
            let is_less = before.is_some_and(|before| wanted < before);
            if is_less {
                self.least = Some((online.max(1), now_ms.saturating_add(LESS_REST_MS)));
            } else {
                self.most = Some((online.max(1), now_ms.saturating_add(MORE_REST_MS)));
            }
            return Some(Err(format!("CPU: asked to run on {wanted} vCPUs, its guest runs on {online}: {detail}")));
        }
        let before = before.map(|before| format!(", before {before}")).unwrap_or_default();
        Some(Ok(format!("CPU: its guest runs on {online} vCPUs{before}, after {took_ms} ms: {why}")))
    }

    /// Whether a request has waited for `lost_ms`; nobody waits for its answer then.
    pub(super) fn gives_up(&mut self, now_ms: Millis, lost_ms: Millis) -> bool {
        let lost = self.asked.take_if(|asked| now_ms.saturating_sub(asked.at_ms) >= lost_ms);
        if let (Some(asked), Some(online)) = (&lost, self.online) {
            let until_ms = now_ms.saturating_add(LESS_REST_MS);
            if asked.request.cpus < online {
                self.least = Some((online, until_ms));
            } else {
                self.most = Some((online, until_ms));
            }
        }
        lost.is_some()
    }

    pub(super) fn refuses_plugging(&mut self, now_ms: Millis) {
        self.is_plugging = false;
        self.no_plugging_until = Some(now_ms.saturating_add(PLUG_REST_MS));
    }

    /// The fewest and the most vCPUs that its guest may be asked to run on.
    pub(super) fn bounds(&self, now_ms: Millis) -> (u32, u32) {
        let holds =
            |bound: Option<(u32, Millis)>| bound.filter(|(_, until_ms)| now_ms < *until_ms).map(|(cpus, _)| cpus);
        (holds(self.least).unwrap_or(0), holds(self.most).unwrap_or(u32::MAX))
    }

    /// Its vCPUs as far as they may be changed.
    pub(super) fn vcpus_at(&self, now_ms: Millis) -> Option<Vcpus> {
        let may = self.no_plugging_until.is_none_or(|until_ms| now_ms >= until_ms);
        self.vcpus.map(|vcpus| if may { vcpus } else { Vcpus { possible: vcpus.plugged, removable: 0, ..vcpus } })
    }

    /// Whether a message is new.
    pub(super) fn says(&mut self, message: &str) -> bool {
        let is_new = !self.said.iter().any(|said| said == message);
        if is_new {
            if self.said.len() == MOST_SAID {
                self.said.remove(0);
            }
            self.said.push(message.to_owned());
        }
        is_new
    }
}
