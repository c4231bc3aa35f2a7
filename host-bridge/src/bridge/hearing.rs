//! What guests say, to those whose it is.

use super::state::{Bridge, URGENT};
use crate::guests::GuestEvent;
use crate::plan::{Urgency, active_bytes};
use vmtide_protocol::agent::EventKind;

impl Bridge {
    /// Takes in what a guest said, or what became of its session.
    pub fn on_guest(&mut self, number: usize, event: &GuestEvent) {
        if self.vms[number].removed {
            return;
        }
        let now_ms = self.now.ms;
        self.guests.apply(number, now_ms, event);
        self.meter_guest(number, event);
        match event {
            GuestEvent::Connected(hello) => {
                self.vms[number].asking.on_session();
                self.on_cpu_session(number);
                self.on_trim_lost(number);
                self.remember(number, format!("its agent {} reports, on Linux {}", hello.agent, hello.kernel));
            }
            GuestEvent::Demand { demand, urgent, .. } => {
                if let Some(cpu) = &demand.cpu {
                    self.on_online_report(number, cpu.signals.online_cpus);
                }
                let Some(memory) = &demand.memory else { return };
                let vm = &mut self.vms[number];
                let believed = vm.doubt.believed(memory.demand, u64::MAX);
                let active_bytes = active_bytes(&believed, memory.idle().as_ref());
                vm.history = vm.history.after_demand(now_ms, believed.need_bytes);
                vm.history = vm.history.after_activity(now_ms, active_bytes);
                let waits = believed.need_bytes > vm.allocation_bytes();
                if let Some(ms) = vm.waiting.on_demand(now_ms, if waits { memory.waiting_ms } else { 0 }) {
                    self.reactions.push(ms);
                }
                if *urgent || memory.demand.urgency >= Urgency::Pressed {
                    self.want_plan(URGENT);
                }
            }
            GuestEvent::Reply(reply) => {
                if !self.on_online_reply(number, reply) && !self.on_trim_reply(number, reply) {
                    self.on_reply(number, reply);
                }
            }
            GuestEvent::Happened { event, message } => {
                let what = if *event == EventKind::Tuning { "tuning in its guest" } else { "its guest says" };
                self.remember(number, format!("{what}: {message}"));
            }
            GuestEvent::Disconnected { end, .. } => {
                self.remember(number, format!("its agent's session ended: {end}"));
                self.on_trim_lost(number);
            }
            GuestEvent::Refused(_) => self.refused += 1,
        }
    }
}
