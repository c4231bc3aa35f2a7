//! Which planner plans: vmtide's own, or a peer's rules for comparison.

use super::peers::{HyperV, Mom, Proxmox, StaticSplit};
use super::{HostView, Millis, Plan, Policy, VmView, memory};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A planner's name: `policy.planner` of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Planner {
    /// vmtide's own ([`memory`]).
    #[default]
    Vmtide,
    /// A fixed split by shares.
    Static,
    /// The rules of oVirt's Memory Overcommitment Manager.
    MomRules,
    /// The rules of Proxmox VE's automatic ballooning.
    ProxmoxRules,
    /// The rules of Hyper-V's Dynamic Memory.
    HypervRules,
}

/// No planner has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no planner; allowed are vmtide, static, mom-rules, proxmox-rules, hyperv-rules")]
pub struct UnknownPlanner(String);

impl Planner {
    /// All of them, vmtide's own first.
    pub const ALL: [Self; 5] = [Self::Vmtide, Self::Static, Self::MomRules, Self::ProxmoxRules, Self::HypervRules];

    /// The name, as it is configured.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmtide => "vmtide",
            Self::Static => "static",
            Self::MomRules => "mom-rules",
            Self::ProxmoxRules => "proxmox-rules",
            Self::HypervRules => "hyperv-rules",
        }
    }

    /// A planner that has seen nothing yet.
    pub fn start(self) -> Planning {
        Planning(match self {
            Self::Vmtide => Kind::Vmtide,
            Self::Static => Kind::Static(StaticSplit::default()),
            Self::MomRules => Kind::Mom(Mom::default()),
            Self::ProxmoxRules => Kind::Proxmox(Proxmox::default()),
            Self::HypervRules => Kind::HyperV(HyperV::default()),
        })
    }
}

impl fmt::Display for Planner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Planner {
    type Err = UnknownPlanner;

    fn from_str(name: &str) -> Result<Self, UnknownPlanner> {
        let found = Self::ALL.into_iter().find(|planner| planner.name() == name);
        found.ok_or_else(|| UnknownPlanner(name.to_owned()))
    }
}

/// A planner at work, with what it remembers from plan to plan: nothing for vmtide's own, whose history is in the views.
/// As pure as [`memory::plan`]: the same sequence of views and times gives the same plans.
#[derive(Clone, Debug)]
pub struct Planning(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Vmtide,
    Static(StaticSplit),
    Mom(Mom),
    Proxmox(Proxmox),
    HyperV(HyperV),
}

impl Planning {
    /// The plan for `vms` on `host` at `now_ms`, which does not go back from call to call. The views are in the same order
    /// each time; another number of them makes a peer forget what it remembers.
    pub fn plan(&mut self, now_ms: Millis, host: &HostView, vms: &[VmView], policy: &Policy) -> Plan {
        match &mut self.0 {
            Kind::Vmtide => memory::plan(now_ms, host, vms, policy),
            Kind::Static(peer) => peer.plan(host, vms),
            Kind::Mom(peer) => peer.plan(now_ms, host, vms),
            Kind::Proxmox(peer) => peer.plan(now_ms, host, vms),
            Kind::HyperV(peer) => peer.plan(now_ms, host, vms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_planners_and_others_are_refused() {
        for planner in Planner::ALL {
            assert_eq!(planner.name().parse(), Ok(planner));
            assert_eq!(serde_json::to_value(planner).unwrap(), planner.name());
            assert!(UnknownPlanner(String::new()).to_string().contains(planner.name()));
        }
        let error = "mom".parse::<Planner>().unwrap_err().to_string();
        assert!(error.starts_with("\"mom\" is no planner"), "{error}");
    }
}
