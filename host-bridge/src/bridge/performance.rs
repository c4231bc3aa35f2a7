//! Feeds the performance index from what the bridge sees, and tells it.

use super::state::Bridge;
use crate::guests::GuestEvent;
use crate::performance::{Each, Indices, PPM, Resource, whole_host};

/// The window of the index that is shown all the time.
pub(super) const WINDOW_MS: u64 = 60_000;

impl Bridge {
    /// Takes in what VM `number` has from now on.
    pub(super) fn meter(&mut self, number: usize) {
        let now_ms = self.now.ms;
        let (cpu, io) = (self.cpu_part_ppm(number), self.io_part_ppm(number));
        let vm = &mut self.vms[number];
        let (allocation, maximum) = (vm.allocation_bytes(), vm.limits().maximum_bytes);
        let part = |allocation: u64, maximum: u64| {
            let ppm = u128::from(allocation) * u128::from(PPM) / u128::from(maximum.max(1));
            u64::try_from(ppm).unwrap_or(PPM).min(PPM)
        };
        let parts_ppm = Each { memory: part(allocation, maximum), cpu, io };
        vm.meter.hold(now_ms, (allocation > 0).then_some(parts_ppm));
    }

    /// Takes in how long the tasks of a guest waited.
    pub(super) fn meter_guest(&mut self, number: usize, event: &GuestEvent) {
        match event {
            // The agent's clock begins with the agent, the totals with the guest.
            GuestEvent::Connected(_) => self.vms[number].meter.begin_anew(),
            GuestEvent::Demand { demand, .. } => self.vms[number].meter.tell(demand.stalls),
            _ => {}
        }
    }

    /// The indices of a VM over the last minute.
    pub(super) fn indices(&self, number: usize) -> Indices {
        let meter = &self.vms[number].meter;
        Indices::of(meter.since(&meter.before(self.now.ms, WINDOW_MS)), &Resource::ALL)
    }

    /// The indices of all VMs together over the last minute.
    pub(super) fn host_indices(&self) -> Indices {
        let vm = |number: usize| {
            let cpus = self.guests.online_cpus(number).unwrap_or(1);
            let weights = Each { memory: self.vms[number].limits().maximum_bytes, cpu: cpus, io: 1 };
            (self.indices(number), weights)
        };
        whole_host(&(0..self.vms.len()).filter(|number| !self.vms[*number].removed).map(vm).collect::<Vec<_>>())
    }
}
