//! One knob as the catalogue describes it.

use crate::{expression::Expression, value::Value};
use serde::{Deserialize, Serialize};

/// A setting of the kernel, and what vmtide knows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Knob {
    /// Its name in commands, in the journal and in overrides.
    pub id: String,
    /// Where it is; `*` stands for the rest of a folder's name, for a setting of each disk or each CPU, and `{a,b}` for either.
    pub path: String,
    /// The file that holds the same limit in another unit: the kernel sets either to 0 when the other is written.
    pub twin: Option<String>,
    /// What the kernel sets by itself; anything else was somebody's choice, and stays. Empty where that cannot be said.
    pub default: Vec<Value>,
    /// The same for the twin.
    pub twin_default: Option<Value>,
    /// Knobs of one group are changed, judged and put back together.
    pub group: Option<String>,
    /// What it should be; `None` for what is only told.
    pub value: Option<Expression>,
    /// When that applies.
    pub when: Option<Expression>,
    /// Whether and how it is changed.
    pub mode: Mode,
    /// What a wrong value costs.
    pub risk: Risk,
    /// What shows its benefit; `None` where no signal of the machine does, and it is not tried but applied.
    pub signal: Option<Signal>,
    /// Facts that, when they change, make the kernel compute this value anew: then an unexpected one is its own.
    pub kernel_resets_on: Vec<String>,
    /// Why vmtide would change it.
    pub why: String,
    /// Where the kernel's own documentation is.
    pub source: String,
}

impl Knob {
    /// The knobs that are changed together with it have the same.
    pub fn unit(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.id)
    }
}

/// Whether and how a knob is changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Not looked at.
    Off,
    /// Told what it would be.
    Observe,
    /// Set once, and left so until the daemon stops.
    Static,
    /// Follows the machine.
    #[default]
    Adaptive,
}

impl Mode {
    /// Whether anything is written.
    pub fn writes(self) -> bool {
        self >= Self::Static
    }
}

/// What a wrong value costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// A little speed.
    Low,
    /// Much speed for some workloads.
    Medium,
    /// A workload that fails.
    High,
}

impl Risk {
    /// The mode when nobody says otherwise.
    pub fn default_mode(self) -> Mode {
        if self == Self::Low { Mode::Adaptive } else { Mode::Observe }
    }
}

/// What shows a knob's benefit. All of them are better when lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Share of time in which some task waited for memory (PSI), millionths.
    MemoryStall,
    /// The same for a CPU.
    CpuStall,
    /// The same for block I/O.
    IoStall,
    /// Evicted pages read again, KiB per second.
    Refaults,
    /// Pages read from swap, KiB per second.
    SwapIn,
    /// Time that the host ran something else, millionths of a CPU's time.
    Steal,
    /// Time that a request to a disk takes, microseconds.
    IoLatency,
}
