//! One VM's accounts, and what they were lately.

use super::{Account, Each, Index, Millis, Resource, Totals};
use std::collections::VecDeque;

/// How often the accounts are kept for later windows.
const SLOT_MS: Millis = 5_000;
/// The longest window into the past.
pub const KEPT_MS: Millis = 300_000;

/// One VM's accounts.
#[derive(Debug, Default)]
pub struct Meter {
    accounts: Each<Account>,
    /// Since when it has which parts of its maximums, millionths.
    held: Option<(Millis, Each<u64>)>,
    told: Each<Option<Totals>>,
    /// The accounts of the last minutes, oldest first.
    kept: VecDeque<(Millis, Each<Account>)>,
}

impl Meter {
    /// Takes in that from `now_ms` on the VM has these parts of its maximums, millionths; `None`: there is no VM.
    pub fn hold(&mut self, now_ms: Millis, parts_ppm: Option<Each<u64>>) {
        if let Some((since_ms, parts_ppm)) = self.held {
            let ms = now_ms.saturating_sub(since_ms);
            self.accounts.memory.hold(ms, parts_ppm.memory);
            self.accounts.cpu.hold(ms, parts_ppm.cpu);
            self.accounts.io.hold(ms, parts_ppm.io);
        }
        self.held = parts_ppm.map(|parts_ppm| (now_ms, parts_ppm));
        if self.kept.back().is_none_or(|(last_ms, _)| now_ms.saturating_sub(*last_ms) >= SLOT_MS) {
            while self.kept.front().is_some_and(|(first_ms, _)| now_ms.saturating_sub(*first_ms) > KEPT_MS) {
                self.kept.pop_front();
            }
            self.kept.push_back((now_ms, self.accounts));
        }
    }

    /// Takes in what the guest counted; `None`: its kernel does not.
    pub fn tell(&mut self, told: Each<Option<Totals>>) {
        for resource in Resource::ALL {
            if let (Some(before), Some(after)) = (self.told.of(resource), told.of(resource)) {
                let account = match resource {
                    Resource::Memory => &mut self.accounts.memory,
                    Resource::Cpu => &mut self.accounts.cpu,
                    Resource::Io => &mut self.accounts.io,
                };
                account.tell(resource, before, after);
            }
        }
        self.told = told;
    }

    /// Another agent counts, or another boot of the guest: what comes next is no continuation.
    pub fn begin_anew(&mut self) {
        self.told = Each::default();
    }

    /// The accounts now.
    pub fn now(&self) -> Each<Account> {
        self.accounts
    }

    /// The accounts as they were `ago_ms` before `now_ms`: at the last moment kept that is not later, else at the first.
    pub fn before(&self, now_ms: Millis, ago_ms: Millis) -> Each<Account> {
        let then_ms = now_ms.saturating_sub(ago_ms);
        let last = self.kept.iter().rev().find(|(at_ms, _)| *at_ms <= then_ms).or(self.kept.front());
        last.map_or_else(Each::default, |(_, accounts)| *accounts)
    }

    /// The indices of the time since `earlier`.
    pub fn since(&self, earlier: &Each<Account>) -> Each<Option<Index>> {
        self.accounts.zip(earlier, |now, earlier| now.since(earlier).index())
    }
}
