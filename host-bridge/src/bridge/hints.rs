//! What the host is short of, and who is told: its guests, so that they tune themselves for it, and the operator.

use super::effect::Effect;
use super::state::Bridge;
use crate::plan::{Hint, HostLoad, HostState, HostView};
use vmtide_protocol::bridge::Host;

impl Bridge {
    /// Takes in a new reading of the host.
    pub fn on_host(&mut self, host: HostView, load: &HostLoad) {
        self.host = host;
        let before = self.shortage.clone();
        self.shortage.update(self.now.ms, load, &self.policy);
        let told = [
            ("CPU", "its tasks waited for one", before.cpu(), self.shortage.cpu()),
            ("I/O", "all its tasks waited for it", before.io(), self.shortage.io()),
        ];
        let news = told.into_iter().filter_map(|(what, waited, before, now)| change(what, waited, before, now));
        for message in news.collect::<Vec<_>>() {
            tracing::info!("{message}");
            self.events.push(self.now.unix_ms, None, message);
        }
        self.plan_storage();
        self.plan_trims();
        // Also while planning is paused: what a guest does about it takes nobody's memory.
        self.tell_host();
    }

    /// What the host is short of. Memory as of the last plans.
    pub(super) fn short_of(&self) -> Host {
        Host {
            cpu_short: self.shortage.cpu().is_short(),
            memory_short: self.standing.state() >= Some(HostState::Short),
            io_short: self.shortage.io().is_short(),
        }
    }

    /// Tells the guests, if it is news to them.
    pub(super) fn tell_host(&mut self) {
        let host = self.short_of();
        if host != self.told {
            self.told = host;
            self.effects.push(Effect::TellHost(host));
        }
    }
}

fn change(what: &str, waited: &str, before: &Hint, now: &Hint) -> Option<String> {
    let state = match (before.is_short(), now.is_short()) {
        (false, true) => "short",
        (true, false) => "enough again",
        _ => return None,
    };
    let (percent, tenth) = (now.average_permille() / 10, now.average_permille() % 10);
    Some(format!("{what}: {state} ({waited} {percent}.{tenth} % of the last seconds)"))
}
