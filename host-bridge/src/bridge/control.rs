//! What the control API asks of the bridge.

use super::state::Bridge;
use super::vm::{Hypervisor, Vm};
use crate::api::Control;
use crate::api::counts::Counts;
use crate::api::optimize::{Progress, Wish};
use crate::api::trims::Trim;
use crate::api::types::{self, Change, Refusal, Status};
use crate::config::{
    Bytes, CpuConfig, IoConfig, Millicpus, Rate, check_cpu_limits, check_io_limits, check_limits, check_reservations,
};
use crate::plan::{Limits, Rule, Verdict};
use crate::record::{Decision, Event, LeverChange, standing};
use std::time::Duration;

impl Bridge {
    pub(super) fn number(&self, name: &str) -> Result<usize, Refusal> {
        self.numbers.get(name).copied().ok_or_else(|| {
            let named = self.vms.iter().filter(|vm| !vm.removed).map(|vm| vm.config.name.as_str());
            let mut known: Vec<&str> = named.take(8).collect();
            if self.numbers.len() > known.len() {
                known.push("…");
            }
            let message = format!("there is no VM {name:?}; there are: {}", known.join(", "));
            Refusal { not_found: true, message }
        })
    }

    fn describe(&self, number: usize) -> types::Vm {
        let vm = &self.vms[number];
        let limits = vm.limits();
        let demand = self.demand(number);
        let paused = |verdict: Verdict| {
            if self.is_paused(number) { Verdict { rule: Rule::Paused, step: None, ..verdict } } else { verdict }
        };
        let verdict = vm.verdict.map(paused);
        types::Vm {
            name: vm.config.name.clone(),
            state: vm.state(),
            detail: vm.detail(),
            paused: self.is_paused(number),
            allocation_bytes: vm.allocation_bytes(),
            target_bytes: vm.target_bytes,
            memory: vm.attached().map(|state| state.memory),
            resident_bytes: vm.attached().and_then(|state| state.resident_bytes),
            minimum_bytes: limits.minimum_bytes,
            reservation_bytes: limits.reservation_bytes,
            maximum_bytes: limits.maximum_bytes,
            shares: limits.shares,
            standing: verdict.map_or_else(|| "Not planned yet.".to_owned(), |verdict| standing(&demand, &verdict)),
            demand,
            verdict,
            performance: self.indices(number),
            cpu: self.describe_cpu(number),
            io: self.storage.vms[number].verdict,
            disks: self.describe_disks(number),
            counts: self.counts(number),
            agent: self.guests.summary(number, self.now.ms),
            yields: vm.asking.summary(self.now.ms),
            contradictions: vm.doubt.summary(),
            rates: vm.history.rates(),
            trim: self.trimming.last(number),
        }
    }

    fn counts(&self, number: usize) -> Counts {
        let disks = self.storage.vms[number].seen().filter(|_| self.vms[number].attached().is_some());
        Counts {
            cpu_ms: self.cpu.total_ms(number),
            disk_bytes: disks.map(|seen| seen.bytes),
            disk_operations: disks.map(|seen| seen.ops),
            ..self.vms[number].counts
        }
    }

    /// Where nothing was asked for a while, nothing is assumed.
    pub(super) fn resume(&mut self, number: usize) {
        let is_attached = matches!(self.vms[number].hypervisor, Hypervisor::Attached(_));
        if is_attached && !self.is_paused(number) {
            self.hold(number);
        }
    }

    fn committed_bytes(&self) -> u64 {
        self.vms.iter().map(Vm::committed_bytes).fold(0, u64::saturating_add)
    }
}

impl Control for Bridge {
    fn status(&self) -> Status {
        let committed_bytes = self.committed_bytes();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: self.now.ms,
            paused: self.paused,
            capacity_bytes: self.host.capacity_bytes,
            reserve_bytes: self.host.reserve_bytes,
            committed_bytes,
            free_bytes: self.host.limit_bytes().saturating_sub(committed_bytes),
            spike_pool_bytes: self.spike_pool_bytes,
            state: self.standing.state(),
            short_of: self.short_of(),
            memory_stall_permille: self.host.stall_full_permille,
            cpu_stall_permille: self.shortage.cpu().average_permille(),
            io_stall_permille: self.shortage.io().average_permille(),
            vms: self.vms.iter().filter(|vm| !vm.removed).count(),
            vms_reachable: self.vms.iter().filter(|vm| matches!(vm.hypervisor, Hypervisor::Attached(_))).count(),
            agents: self.guests.sessions(),
            decisions: self.decisions,
            reaction_ms: self.reactions.summary(),
            refused: self.refused,
            reload: self.reload.clone(),
            recording: self.recording.clone(),
            pools: self.pools(),
            performance: self.host_indices(),
        }
    }

    fn vms(&self) -> Vec<types::Vm> {
        (0..self.vms.len()).filter(|number| !self.vms[*number].removed).map(|number| self.describe(number)).collect()
    }

    fn vm(&self, name: &str) -> Result<types::Vm, Refusal> {
        Ok(self.describe(self.number(name)?))
    }

    fn decisions(&self, vm: Option<&str>, count: usize) -> Result<Vec<Decision>, Refusal> {
        if let Some(name) = vm {
            return Ok(self.vms[self.number(name)?].decisions.last(count));
        }
        let mut all: Vec<Decision> = self.vms.iter().flat_map(|vm| vm.decisions.last(count)).collect();
        all.sort_unstable_by_key(|decision| decision.id);
        Ok(all.split_off(all.len().saturating_sub(count)))
    }

    fn events(&self, after: u64) -> Vec<Event> {
        self.events.after(after)
    }

    fn events_about(&self, name: &str, count: usize) -> Result<Vec<Event>, Refusal> {
        self.number(name)?;
        Ok(self.events.about(name, count))
    }

    fn levers(&self, name: &str, count: usize) -> Result<Vec<LeverChange>, Refusal> {
        Ok(self.vms[self.number(name)?].levers.last(count))
    }

    fn set(&mut self, name: &str, change: Change) -> Result<types::Vm, Refusal> {
        let number = self.number(name)?;
        let old = self.vms[number].config.limits;
        let limits = Limits {
            minimum_bytes: change.minimum_bytes.unwrap_or(old.minimum_bytes),
            reservation_bytes: change.reservation_bytes.unwrap_or(old.reservation_bytes),
            maximum_bytes: change.maximum_bytes.unwrap_or(old.maximum_bytes),
            shares: change.shares.unwrap_or(old.shares),
        };
        let refuse = |(key, message)| Refusal { not_found: false, message: format!("{key}: {message}") };
        check_limits(&limits).map_err(refuse)?;
        let old = self.vms[number].config.cpu;
        let cpu = CpuConfig {
            shares: change.cpu_shares.or(old.shares),
            minimum_millicpus: change.cpu_minimum_millicpus.unwrap_or(old.minimum_millicpus),
            maximum_millicpus: change.cpu_maximum_millicpus.or(old.maximum_millicpus),
        };
        check_cpu_limits(&cpu).map_err(refuse)?;
        let old = self.vms[number].config.io;
        let io = IoConfig {
            shares: change.io_shares.or(old.shares),
            minimum_bytes_per_s: change.io_minimum_bytes_per_s.unwrap_or(old.minimum_bytes_per_s),
            maximum_bytes_per_s: change.io_maximum_bytes_per_s.or(old.maximum_bytes_per_s),
        };
        check_io_limits(&io).map_err(refuse)?;
        let others = self.vms.iter().enumerate().filter(|(other, _)| *other != number).map(|(_, vm)| vm.config.limits);
        check_reservations(others.chain([limits]), self.host.limit_bytes())
            .map_err(|error| Refusal { not_found: false, message: error.to_string() })?;
        let config = &mut self.vms[number].config;
        (config.limits, config.cpu, config.io) = (limits, cpu, io);
        let Limits { minimum_bytes, reservation_bytes, maximum_bytes, shares } = self.vms[number].limits();
        self.note(
            number,
            format!(
                "an operator set minimum {}, reservation {}, maximum {}, shares {shares}; of CPU time minimum {}, maximum {}, shares {}; \
                 of the disks minimum {}, maximum {}, shares {}",
                Bytes(minimum_bytes),
                Bytes(reservation_bytes),
                Bytes(maximum_bytes),
                Millicpus(cpu.minimum_millicpus),
                cpu.maximum_millicpus.map_or("none".to_owned(), |maximum| Millicpus(maximum).to_string()),
                cpu.shares.unwrap_or(shares),
                Rate(io.minimum_bytes_per_s),
                io.maximum_bytes_per_s.map_or("none".to_owned(), |maximum| Rate(maximum).to_string()),
                io.shares.unwrap_or(shares),
            ),
        );
        self.tell(number);
        self.want_plan(Duration::ZERO);
        Ok(self.describe(number))
    }

    fn pause(&mut self, name: Option<&str>, paused: bool) -> Result<(), Refusal> {
        let verb = if paused { "paused" } else { "resumed" };
        if let Some(name) = name {
            let number = self.number(name)?;
            if paused {
                self.pause_leased(Some(number));
            }
            self.vms[number].paused = paused;
            self.resume(number);
            self.note(number, format!("an operator {verb} its planning"));
        } else {
            if paused {
                self.pause_leased(None);
            }
            self.paused = paused;
            for number in 0..self.vms.len() {
                self.resume(number);
            }
            tracing::info!("an operator {verb} all planning");
            self.events.push(self.now.unix_ms, None, format!("an operator {verb} all planning"));
        }
        self.want_plan(Duration::ZERO);
        Ok(())
    }

    fn trim(&mut self, name: &str) -> Result<Trim, Refusal> {
        self.trim_by_hand(name)
    }

    fn optimize(&mut self, wish: &Wish) -> Result<Progress, Refusal> {
        self.begin_lease(wish)
    }

    fn optimizing(&mut self, id: u64) -> Result<Progress, Refusal> {
        self.lease_progress(id)
    }

    fn end_optimizing(&mut self, id: u64) -> Result<Progress, Refusal> {
        self.lease_progress(id)?;
        self.end_lease("it was ended early");
        self.lease_progress(id)
    }
}
