//! Takes in a configuration that was read again, while VMs run.
//!
//! Who stays keeps its number, session and history. A VM that is gone from the configuration leaves its number behind, and
//! nobody gets that again: what is still underway for it must not reach another VM. One with another monitor or
//! address is another VM. Limits that an operator set by hand hold until the files say something else than before.

use super::state::{Bridge, URGENT};
use super::vm::{Hypervisor, Vm};
use crate::api::types::Reload;
use crate::config::{Bytes, Config, VmConfig};
use crate::record::Outcome;

/// What the shell is to do about the VMs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The numbers of those that are gone.
    pub removed: Vec<usize>,
    /// Those that are new; their numbers follow the last one.
    pub added: Vec<VmConfig>,
    /// Whether what follows is another run for whoever replays it.
    pub is_another_run: bool,
}

impl Bridge {
    /// Takes in `new`, which was `old` before.
    pub fn reload(&mut self, old: &Config, new: &Config) -> Changes {
        let mut changes =
            Changes { is_another_run: (new.planner, &new.policy) != (old.planner, &old.policy), ..Changes::default() };
        self.policy.clone_from(&new.policy);
        for number in 0..self.vms.len() {
            if self.vms[number].removed {
                continue;
            }
            let running = &self.vms[number].config;
            let same =
                |vm: &&VmConfig| (&vm.name, &vm.qmp, &vm.address) == (&running.name, &running.qmp, &running.address);
            if let Some(vm) = new.vms.iter().find(same) {
                self.change(number, old, vm);
            } else {
                self.remove(number);
                changes.removed.push(number);
            }
        }
        changes.added = new.vms.iter().filter(|vm| !self.numbers.contains_key(&vm.name)).cloned().collect();
        for vm in &changes.added {
            self.add(vm);
        }
        changes.is_another_run |= !changes.removed.is_empty() || !changes.added.is_empty();
        if changes.is_another_run {
            self.planning = new.planner.start();
        }
        let at_next_start = at_next_start(old, new);
        tracing::info!(vms = new.vms.len(), ?at_next_start, "the configuration was taken in anew");
        self.events.push(self.now.unix_ms, None, "the configuration was taken in anew".to_owned());
        self.reload = Some(Reload { at_unix_ms: self.now.unix_ms, error: None, at_next_start });
        self.want_plan(URGENT);
        changes
    }

    /// Remembers why a configuration was not taken in.
    pub fn refuse_reload(&mut self, error: String) {
        tracing::error!("the configuration from before holds: {error}");
        self.events.push(self.now.unix_ms, None, format!("the configuration from before holds: {error}"));
        self.reload = Some(Reload { at_unix_ms: self.now.unix_ms, error: Some(error), at_next_start: Vec::new() });
    }

    /// The names of all VMs by their numbers, of those also that are gone.
    pub fn names(&self) -> Vec<String> {
        self.vms.iter().map(|vm| vm.config.name.clone()).collect()
    }

    fn change(&mut self, number: usize, old: &Config, vm: &VmConfig) {
        let before = old.vms.iter().find(|before| before.name == vm.name);
        let VmConfig { limits: by_hand, cpu, io, .. } = self.vms[number].config;
        let limits = held(before.map(|before| &before.limits), vm.limits, by_hand);
        let cpu = held(before.map(|before| &before.cpu), vm.cpu, cpu);
        let io = held(before.map(|before| &before.io), vm.io, io);
        self.vms[number].config = VmConfig { limits, cpu, io, ..vm.clone() };
        if limits != by_hand {
            let (minimum, maximum) = (Bytes(limits.minimum_bytes), Bytes(limits.maximum_bytes));
            let shares = limits.shares;
            self.note(number, format!("the configuration sets minimum {minimum}, maximum {maximum}, shares {shares}"));
            self.tell(number);
        }
    }

    fn add(&mut self, vm: &VmConfig) {
        let number = self.vms.len();
        self.numbers.insert(vm.name.clone(), number);
        self.vms.push(Vm::new(vm.clone()));
        self.guests.add();
        self.add_cpu();
        self.storage.add();
        self.note(number, "it is in the configuration now".to_owned());
    }

    fn remove(&mut self, number: usize) {
        self.end_lease_of(number, "it is no longer in the configuration");
        let has = self.vms[number].allocation_bytes();
        self.settle(number, Outcome::Lost { reached_bytes: has });
        let stays = format!("its balloon stays where it is: {} are not counted any more", Bytes(has));
        self.note(number, format!("it is no longer in the configuration; {stays}"));
        let name = self.vms[number].config.name.clone();
        self.numbers.remove(&name);
        self.guests.remove(number);
        self.forget_cpu(number);
        self.storage.forget(number);
        self.trimming.forget(number);
        let mut gone = Vm::new(self.vms[number].config.clone());
        gone.hypervisor = Hypervisor::Absent { before: false, detail: "no longer in the configuration".to_owned() };
        gone.removed = true;
        self.vms[number] = gone;
        self.effects.retain(|effect| effect.vm() != Some(number));
    }
}

/// What was set by hand, until the files say something else than before.
fn held<T: PartialEq>(before: Option<&T>, new: T, by_hand: T) -> T {
    if before == Some(&new) { by_hand } else { new }
}

/// What changed and cannot be changed while the bridge runs.
fn at_next_start(old: &Config, new: &Config) -> Vec<String> {
    let changed = [
        ("control.socket", old.control_socket != new.control_socket),
        ("intervals", old.intervals != new.intervals),
        ("record", old.record != new.record),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key.to_owned()).collect()
}
