//! What each guest said, kept outside its connection, and what the planner may make of it at a given time. Pure.
//!
//! A demand is fresh for [`EXPIRY_INTERVALS`] *quiet* intervals after it came, whatever came before: the bridge
//! cannot tell a quiet guest from one that is too short of memory to report, and the second is the one that a
//! shorter expiry would hurt. A lost connection changes nothing about that, and neither does "not yet" from an
//! agent that has just started. Another boot id does: the guest that the demand was about is gone.

use super::VmIndex;
use super::check::{Demand, Memory};
use super::event::{GuestEvent, Hello, Tally};
use crate::plan::{self, MemoryDemand, Millis};
use serde::{Deserialize, Serialize};
use vmtide_protocol::EXPIRY_INTERVALS;
use vmtide_protocol::bridge::Intervals;

/// What is known of all guests.
#[derive(Debug)]
pub struct Views {
    views: Vec<View>,
    expiry_ms: u64,
}

#[derive(Debug, Default)]
struct View {
    connected_ms: Option<Millis>,
    hello: Option<Hello>,
    last: Option<(Millis, Demand)>,
    /// The last demand for memory; "not yet" does not replace it.
    memory: Option<(Millis, MemoryDemand)>,
    tally: Tally,
    sessions: u64,
    violations: u64,
    last_end: Option<String>,
}

/// What an operator sees of a guest. The counts begin with the bridge: a guest cannot reset them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestSummary {
    /// How long its session lasts; `None` without one.
    pub connected_for_ms: Option<u64>,
    /// Who runs there, as of the last session.
    #[serde(flatten)]
    pub hello: Option<Hello>,
    /// The last demand.
    pub demand: Option<Demand>,
    /// How old that is.
    pub demand_age_ms: Option<u64>,
    /// What came in.
    pub tally: Tally,
    /// Sessions so far.
    pub sessions: u64,
    /// Connections that ended because the guest broke the protocol.
    pub violations: u64,
    /// Why the last connection ended.
    pub last_end: Option<String>,
}

impl Views {
    /// Views of `vms` guests that nobody has heard of yet.
    pub fn new(vms: usize, intervals: Intervals) -> Self {
        let views = (0..vms).map(|_| View::default()).collect();
        Self { views, expiry_ms: EXPIRY_INTERVALS.saturating_mul(intervals.quiet_ms) }
    }

    /// Takes in another guest.
    pub fn add(&mut self) {
        self.views.push(View::default());
    }

    /// Takes in what came from a guest at `now_ms`.
    pub fn apply(&mut self, vm: VmIndex, now_ms: Millis, event: &GuestEvent) {
        let view = &mut self.views[vm];
        match event {
            GuestEvent::Connected(hello) => {
                if view.hello.as_ref().is_some_and(|last| last.boot_id != hello.boot_id) {
                    view.last = None;
                    view.memory = None;
                }
                view.hello = Some(hello.clone());
                view.connected_ms = Some(now_ms);
                view.sessions += 1;
            }
            GuestEvent::Demand { demand, tally, .. } => {
                view.tally = view.tally.plus(tally);
                view.memory = demand.memory.as_ref().map(|memory| (now_ms, memory.demand)).or(view.memory);
                view.last = Some((now_ms, demand.as_ref().clone()));
            }
            GuestEvent::Disconnected { end, tally } => {
                view.tally = view.tally.plus(tally);
                view.violations += u64::from(end.is_violation());
                view.last_end = Some(end.to_string());
                view.connected_ms = None;
            }
            GuestEvent::Refused(end) => {
                view.violations += u64::from(end.is_violation());
                view.last_end = Some(end.to_string());
            }
            GuestEvent::Reply(_) | GuestEvent::Happened { .. } => {}
        }
    }

    /// Drops what a guest wanted, because its VM is gone.
    pub fn forget(&mut self, vm: VmIndex) {
        self.views[vm].last = None;
        self.views[vm].memory = None;
    }

    /// Drops all that is known of a guest, because its VM is no longer in the configuration.
    pub fn remove(&mut self, vm: VmIndex) {
        self.views[vm] = View::default();
    }

    /// How many agents have a session.
    pub fn sessions(&self) -> usize {
        self.views.iter().filter(|view| view.connected_ms.is_some()).count()
    }

    /// What the planner goes by at `now_ms` for a VM of at most `maximum_bytes` (which may have been lowered since
    /// the report) of which the hypervisor says that `shown_use_bytes` are in use.
    pub fn demand(
        &self,
        vm: VmIndex,
        now_ms: Millis,
        maximum_bytes: u64,
        shown_use_bytes: Option<u64>,
    ) -> plan::Demand {
        let Some((at_ms, MemoryDemand { need_bytes, floor_bytes, urgency })) = self.views[vm].memory else {
            return plan::Demand::Unknown { shown_use_bytes };
        };
        let floor_bytes = floor_bytes.min(maximum_bytes);
        if now_ms.saturating_sub(at_ms) < self.expiry_ms {
            plan::Demand::Fresh(MemoryDemand { need_bytes: need_bytes.min(maximum_bytes), floor_bytes, urgency })
        } else {
            plan::Demand::Stale { floor_bytes, shown_use_bytes }
        }
    }

    /// A guest's demand for CPU at `now_ms`; `None` without one, and when it expired.
    pub fn cpu(&self, vm: VmIndex, now_ms: Millis) -> Option<&super::check::Cpu> {
        let (at_ms, demand) = self.views[vm].last.as_ref()?;
        demand.cpu.as_ref().filter(|_| now_ms.saturating_sub(*at_ms) < self.expiry_ms)
    }

    /// What a guest's last report shows beside its demand. Committed are anonymous memory and swap in use.
    pub fn shown(&self, vm: VmIndex) -> plan::Shown {
        let last = self.views[vm].last.as_ref();
        let memory = last.and_then(|(_, demand)| demand.memory.as_ref());
        let signals = memory.map(|memory| &memory.signals);
        plan::Shown {
            committed_bytes: signals.map(|signals| signals.anon_bytes.saturating_add(signals.swap_used_bytes)),
            cached_bytes: signals.map(|signals| signals.active_file_bytes.saturating_add(signals.inactive_file_bytes)),
            idle: memory.and_then(Memory::idle),
            ..plan::Shown::default()
        }
    }

    /// Whether a VM's agent has a session.
    pub fn is_connected(&self, vm: VmIndex) -> bool {
        self.views[vm].connected_ms.is_some()
    }

    /// Whether a VM's agent has a session and can do what this name means.
    pub fn can(&self, vm: VmIndex, capability: &str) -> bool {
        let view = &self.views[vm];
        let names = view.hello.as_ref().map(|hello| &hello.capabilities);
        view.connected_ms.is_some() && names.is_some_and(|names| names.iter().any(|name| name == capability))
    }

    /// What a balloon can take at `now_ms` without anybody in the guest having to reclaim, as its last report says: free
    /// memory less what lies between its floor and its hard use, and less what was asked of its balloon since, down to
    /// `target_bytes`. 0 where no report holds.
    pub fn spare_bytes(&self, vm: VmIndex, now_ms: Millis, target_bytes: u64) -> u64 {
        let last = self.views[vm].last.as_ref().filter(|(at_ms, _)| now_ms.saturating_sub(*at_ms) < self.expiry_ms);
        let Some(memory) = last.and_then(|(_, demand)| demand.memory.as_ref()) else { return 0 };
        let signals = &memory.signals;
        let present_bytes = signals.total_bytes.saturating_sub(signals.balloon_bytes);
        let hard_bytes = present_bytes.saturating_sub(signals.available_bytes);
        let margin_bytes = memory.demand.floor_bytes.saturating_sub(hard_bytes);
        let spare_bytes = signals.free_bytes.min(signals.available_bytes).saturating_sub(margin_bytes);
        spare_bytes.saturating_sub(present_bytes.saturating_sub(target_bytes))
    }

    /// What a guest's last report says is in use, but for what is available, at `now_ms`; `None` where no report holds.
    pub fn used_bytes(&self, vm: VmIndex, now_ms: Millis) -> Option<u64> {
        let last = self.views[vm].last.as_ref().filter(|(at_ms, _)| now_ms.saturating_sub(*at_ms) < self.expiry_ms);
        let signals = &last?.1.memory.as_ref()?.signals;
        signals.total_bytes.checked_sub(signals.balloon_bytes)?.checked_sub(signals.available_bytes)
    }

    /// How many virtual CPUs are online, as of the guest's last report.
    pub fn online_cpus(&self, vm: VmIndex) -> Option<u64> {
        let (_, demand) = self.views[vm].last.as_ref()?;
        demand.cpu.as_ref().map(|cpu| cpu.signals.online_cpus)
    }

    /// What an operator sees at `now_ms`.
    pub fn summary(&self, vm: VmIndex, now_ms: Millis) -> GuestSummary {
        let view = &self.views[vm];
        GuestSummary {
            connected_for_ms: view.connected_ms.map(|since| now_ms.saturating_sub(since)),
            hello: view.hello.clone(),
            demand: view.last.as_ref().map(|(_, demand)| demand.clone()),
            demand_age_ms: view.last.as_ref().map(|(at, _)| now_ms.saturating_sub(*at)),
            tally: view.tally.clone(),
            sessions: view.sessions,
            violations: view.violations,
            last_end: view.last_end.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{Clamps, MemorySignals};
    use super::super::event::End;
    use super::*;
    use vmtide_protocol::demand::{MemoryReason, Urgency};

    const EXPIRY_MS: u64 = 30_000;
    const MAXIMUM: u64 = 1000;

    fn views() -> Views {
        Views::new(1, Intervals { busy_ms: 1_000, quiet_ms: 10_000 })
    }

    fn connected(boot_id: &str) -> GuestEvent {
        let text = |text: &str| text.to_owned();
        let (agent, kernel, boot_id) = (text("0.1"), text("6.12"), text(boot_id));
        GuestEvent::Connected(Hello { protocol: 1, agent, kernel, boot_id, capabilities: Vec::new() })
    }

    fn demand() -> MemoryDemand {
        MemoryDemand { need_bytes: 800, floor_bytes: 500, urgency: Urgency::Critical }
    }

    fn report(memory: Option<MemoryDemand>) -> GuestEvent {
        let memory = memory.map(|demand| Memory {
            demand,
            reason: MemoryReason::Steady,
            waiting_ms: 0,
            signals: MemorySignals::default(),
            working_set: None,
        });
        let tally = Tally { reports: 1, clamps: Clamps { count: 2, last_field: Some("x".into()) }, ..Tally::default() };
        GuestEvent::Demand { demand: Box::new(Demand { memory, ..Demand::default() }), urgent: false, tally }
    }

    #[test]
    fn unknown_then_fresh_then_stale_at_the_expiry() {
        let mut views = views();
        assert_eq!(views.demand(0, 0, MAXIMUM, Some(7)), plan::Demand::Unknown { shown_use_bytes: Some(7) });
        views.apply(0, 1_000, &connected("a"));
        views.apply(0, 1_000, &report(Some(demand())));
        assert_eq!(views.demand(0, 1_000 + EXPIRY_MS - 1, MAXIMUM, None), plan::Demand::Fresh(demand()));
        let stale = plan::Demand::Stale { floor_bytes: 500, shown_use_bytes: Some(7) };
        assert_eq!(views.demand(0, 1_000 + EXPIRY_MS, MAXIMUM, Some(7)), stale);
    }

    #[test]
    fn neither_a_lost_connection_nor_not_yet_forgets_the_demand() {
        let mut views = views();
        views.apply(0, 0, &connected("a"));
        views.apply(0, 0, &report(Some(demand())));
        views.apply(0, 10, &GuestEvent::Disconnected { end: End::Closed, tally: Tally::default() });
        assert_eq!(views.demand(0, 20, MAXIMUM, None), plan::Demand::Fresh(demand()));
        assert_eq!(views.summary(0, 20).connected_for_ms, None);
        views.apply(0, 30, &connected("a"));
        views.apply(0, 40, &report(None));
        assert_eq!(views.demand(0, 50, MAXIMUM, None), plan::Demand::Fresh(demand()));
        assert!(matches!(views.demand(0, EXPIRY_MS, MAXIMUM, None), plan::Demand::Stale { floor_bytes: 500, .. }));
    }

    #[test]
    fn a_reboot_forgets_the_demand_and_keeps_the_counts() {
        let mut views = views();
        views.apply(0, 0, &connected("a"));
        views.apply(0, 0, &report(Some(demand())));
        views.apply(0, 5, &GuestEvent::Disconnected { end: End::TooMany, tally: Tally::default() });
        views.apply(0, 10, &connected("b"));
        assert_eq!(views.demand(0, 10, MAXIMUM, None), plan::Demand::Unknown { shown_use_bytes: None });
        views.apply(0, 20, &report(None));
        let summary = views.summary(0, 50);
        assert_eq!((summary.connected_for_ms, summary.demand_age_ms), (Some(40), Some(30)));
        assert_eq!((summary.sessions, summary.violations, summary.tally.clamps.count), (2, 1, 4));
    }

    #[test]
    fn spare_is_what_is_free_beyond_the_margin_and_was_not_taken_since() {
        let mut views = views();
        assert_eq!(views.spare_bytes(0, 0, 1_000), 0, "nothing was heard");
        // 1000 present, 600 in hard use, a floor of 650: a margin of 50.
        let mut event = report(Some(MemoryDemand { need_bytes: 700, floor_bytes: 650, urgency: Urgency::Idle }));
        let GuestEvent::Demand { demand, .. } = &mut event else { panic!("a report is a demand") };
        let signals = &mut demand.memory.as_mut().unwrap().signals;
        (signals.total_bytes, signals.balloon_bytes) = (1_500, 500);
        (signals.available_bytes, signals.free_bytes) = (400, 300);
        views.apply(0, 0, &event);
        let spare = |target_bytes| views.spare_bytes(0, EXPIRY_MS - 1, target_bytes);
        assert_eq!((spare(1_000), spare(1_200), spare(900), spare(0)), (250, 250, 150, 0));
        assert_eq!(views.spare_bytes(0, EXPIRY_MS, 1_000), 0, "it expired");
    }

    #[test]
    fn only_who_has_a_session_can_do_anything() {
        let mut views = views();
        let mut hello = connected("a");
        let GuestEvent::Connected(said) = &mut hello else { panic!("a hello connects") };
        said.capabilities = vec!["yield_memory".into()];
        assert!(!views.can(0, "yield_memory"));
        views.apply(0, 0, &hello);
        assert!(views.can(0, "yield_memory") && !views.can(0, "trim_storage"));
        views.apply(0, 10, &GuestEvent::Disconnected { end: End::Closed, tally: Tally::default() });
        assert!(!views.can(0, "yield_memory"));
    }

    #[test]
    fn a_demand_for_cpu_expires_and_only_a_guest_that_is_there_can() {
        let mut views = views();
        let hello = Hello {
            protocol: 1,
            agent: "0.1".into(),
            kernel: "6.12".into(),
            boot_id: "a".into(),
            capabilities: vec!["set_online_cpus".into()],
        };
        views.apply(0, 0, &GuestEvent::Connected(hello));
        let cpu = super::super::check::Cpu {
            need_millicpus: 700,
            floor_millicpus: 100,
            urgency: Urgency::Normal,
            reason: vmtide_protocol::demand::CpuReason::Steady,
            signals: super::super::check::CpuSignals::default(),
        };
        let demand = Demand { cpu: Some(cpu), ..Demand::default() };
        let report = GuestEvent::Demand { demand: Box::new(demand), urgent: false, tally: Tally::default() };
        views.apply(0, 1_000, &report);
        assert_eq!(views.cpu(0, 30_999).map(|cpu| cpu.need_millicpus), Some(700));
        assert_eq!(views.cpu(0, 31_000), None);
        assert!(views.can(0, "set_online_cpus") && !views.can(0, "fly"));
        views.apply(0, 1_000, &GuestEvent::Disconnected { end: End::Closed, tally: Tally::default() });
        assert!(!views.can(0, "set_online_cpus"));
    }

    #[test]
    fn a_maximum_that_was_lowered_since_holds() {
        let mut views = views();
        views.apply(0, 0, &report(Some(demand())));
        let held = MemoryDemand { need_bytes: 400, floor_bytes: 400, ..demand() };
        assert_eq!(views.demand(0, 0, 400, None), plan::Demand::Fresh(held));
    }
}
