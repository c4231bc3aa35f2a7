//! Follows the guest: gives the engine its facts and readings, and has it look when something may have changed.
//!
//! It looks at once when the host's hints change, soon when the guest's memory does, and else each [`CHECK_MS`].

use super::{DOMAIN, facts};
use crate::config::{Tuning, Zram};
use crate::observer::Samples;
use crate::sense::{MemorySample, offline_bytes};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use vmtide_protocol::bridge::Host;
use vmtide_tuning::control::{Answer, Request};
use vmtide_tuning::engine::{CHECK_MS, Event};
use vmtide_tuning::hand::Undone;
use vmtide_tuning::journal::LockError;
use vmtide_tuning::windows::Reading;
use vmtide_tuning::{Catalogue, Engine, Facts, Mode};

/// The shortest time between two looks because memory moved.
const SOON_MS: u64 = 2_000;
/// The balance of refaults is taken over this time at least, and twice as long at most.
const BALANCE_MS: u64 = 60_000;

/// The engine, and what its facts come from.
#[derive(Debug)]
pub struct Tuner {
    root: PathBuf,
    engine: Engine,
    mode: Mode,
    host: Host,
    host_changed: bool,
    zram: Option<Zram>,
    /// An older and a newer sample, for the balance of refaults.
    balance: Option<[(u64, MemorySample); 2]>,
    paused_until_ms: u64,
    /// What was offline at the last full look.
    offline_bytes: u64,
}

impl Tuner {
    /// Takes the journal's lock, puts back what a killed agent left, and sets up compressed swap where an operator asked
    /// for it.
    ///
    /// # Errors
    /// [`LockError::Held`] when another agent runs. Without a place for a journal it only observes.
    pub fn start(root: &Path, tuning: &Tuning, now_ms: u64) -> Result<Self, LockError> {
        let mut tuner = Self {
            root: root.into(),
            engine: Engine::start(&DOMAIN, root, &tuning.settings(), now_ms)?,
            mode: tuning.mode,
            host: Host::default(),
            host_changed: false,
            zram: tuning.zram.clone(),
            balance: None,
            paused_until_ms: 0,
            offline_bytes: 0,
        };
        tuner.set_up_zram(now_ms);
        Ok(tuner)
    }

    /// Takes over what the bridge says; returns whether to [`Tuner::tend`] at once.
    pub fn hear(&mut self, host: Host) -> bool {
        let is_new = self.host != host;
        self.host = host;
        self.host_changed |= is_new;
        is_new
    }

    /// Leaves the knobs as they are until `until_ms`.
    pub fn pause(&mut self, until_ms: u64) {
        self.paused_until_ms = until_ms;
    }

    /// Looks at the knobs if it is time; returns what happened.
    pub fn tend(&mut self, now_ms: u64, samples: &Samples) -> Vec<Event> {
        if self.mode != Mode::Off
            && now_ms >= self.paused_until_ms
            && let Some(memory) = &samples.memory
        {
            if let Some(reading) = reading(samples) {
                self.engine.see(now_ms, &reading);
            }
            if self.is_time(now_ms, memory) {
                self.look(now_ms, memory);
            }
            self.engine.try_out(now_ms);
        }
        self.engine.take_events()
    }

    /// Does what an operator asks.
    pub fn serve(&mut self, request: &Request, now_ms: u64) -> Answer {
        self.engine.serve(request, now_ms)
    }

    /// Puts everything back.
    pub fn stop(&mut self, now_ms: u64) -> Vec<Undone> {
        self.engine.stop(now_ms)
    }

    /// The knobs, with what an operator changed of them.
    pub fn catalogue(&self) -> &Catalogue {
        self.engine.catalogue()
    }

    /// How many files hold vmtide's value.
    pub fn applied(&self) -> usize {
        self.engine.applied()
    }

    /// Units that an operator had reverted.
    pub fn held(&self) -> &BTreeSet<String> {
        self.engine.held()
    }

    fn is_time(&self, now_ms: u64, memory: &MemorySample) -> bool {
        let Some(since_ms) = self.engine.since_look_ms(now_ms) else { return true };
        self.host_changed || since_ms >= CHECK_MS || (since_ms >= SOON_MS && self.has_resized(memory))
    }

    /// Reads the guest and does what each knob's assessment says.
    fn look(&mut self, now_ms: u64, memory: &MemorySample) {
        let may_differ = std::mem::take(&mut self.host_changed) || self.has_moved(memory);
        let before = self.balance.as_ref().map(|[(_, older), _]| *older);
        let (root, host) = (self.root.clone(), self.host);
        let mut read = || facts::read(&root, memory, before.as_ref(), host);
        let is_full = self.engine.begin_look(now_ms, may_differ, &mut read);
        if is_full && self.look_after_zram(now_ms) {
            self.engine.renew(read());
        }
        if is_full {
            self.look_for_offline_memory();
        }
        let [_, newer] = *self.balance.get_or_insert([(now_ms, *memory); 2]);
        if now_ms.saturating_sub(newer.0) >= BALANCE_MS {
            self.balance = Some([newer, (now_ms, *memory)]);
        }
        self.engine.look(now_ms, is_full, &mut read);
    }

    /// Says so when memory that the host plugged in is of no use here.
    fn look_for_offline_memory(&mut self) {
        let has_virtio_mem = self.engine.facts().get("virtio_mem") == Some(true.into());
        let bytes = if has_virtio_mem { offline_bytes(&self.root) } else { 0 };
        if bytes > 0 && bytes != self.offline_bytes {
            let text = format!("{} MiB were plugged in and stay offline: set auto_online_blocks", bytes >> 20);
            self.engine.say(text);
        }
        self.offline_bytes = bytes;
    }

    fn has_resized(&self, memory: &MemorySample) -> bool {
        Some(facts::memory_now(memory)) != self.engine.facts().get("memory_now_bytes")
    }

    /// Whether memory or refaults differ from what the facts rest on. In a guest where nothing moves the other facts wait for
    /// the look at everything: reading them is most of what a look costs.
    fn has_moved(&self, memory: &MemorySample) -> bool {
        let refaulted = |sample: &MemorySample| (sample.refault_anon_bytes, sample.refault_file_bytes);
        self.has_resized(memory) || self.balance.is_none_or(|[_, (_, newer)]| refaulted(&newer) != refaulted(memory))
    }

    fn read_facts(&self, memory: &MemorySample) -> Facts {
        facts::read(&self.root, memory, None, self.host)
    }
}

/// What trials compare; `None` while CPUs and disks were not read.
fn reading(samples: &Samples) -> Option<Reading> {
    let (memory, cpu, read_ms) = (samples.memory?, samples.cpu?, samples.rest_at_ms?);
    let storage = samples.storage.unwrap_or_default();
    Some(Reading {
        read_ms,
        memory_bytes: memory.total_bytes.saturating_sub(memory.balloon_bytes),
        anon_bytes: memory.anon_bytes,
        refault_bytes: memory.refault_anon_bytes.saturating_add(memory.refault_file_bytes),
        swap_in_bytes: memory.swap_in_bytes,
        memory_stall_us: memory.stall.map(|stall| stall.some_us),
        cpu_stall_us: cpu.stall.map(|stall| stall.some_us),
        io_stall_us: storage.stall.map(|stall| stall.some_us),
        online_cpus: cpu.online_cpus,
        cpu_used_ms: cpu.used_ms,
        steal_ms: cpu.steal_ms,
        disk_ops: storage.ops,
        disk_wait_ms: storage.request_ms,
    })
}

mod swapping;

#[cfg(test)]
mod tests;
