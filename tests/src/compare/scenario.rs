//! The scenarios: which guests, on which budget, what each needs when.

use std::time::Duration;

use clap::ValueEnum;

use crate::fleet::RESERVE_BYTES;
use crate::vm::MIB;

/// A scenario's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Three guests of 768 MiB on 1280 MiB; each in turn needs 600 MiB for 40 s, the others 120
    Hotspot,
    /// Two guests of 1024 MiB on 1408 MiB; one jumps from 100 to 800 MiB for 30 s twice, the other holds 250
    Spike,
    /// Two guests of 768 MiB on 1280 MiB; one reads 300 MiB of files throughout, the other goes 100 -> 640 -> 100
    Cache,
}

/// Guests on a budget.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) budget_mib: u64,
    pub(super) guest_mib: u64,
    pub(super) guests: Vec<Guest>,
}

/// One guest and what it needs.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) name: &'static str,
    /// Read from the disk before the load begins.
    pub(super) file_mib: u64,
    stages: Vec<Stage>,
}

#[derive(Debug, Clone, Copy)]
struct Stage {
    anon_mib: u64,
    seconds: u64,
}

/// A time in which a guest needs more than before, since the load began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) guest: usize,
    pub(super) begin_ms: u64,
    pub(super) end_ms: u64,
}

impl Name {
    /// The name, as it is given on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hotspot => "hotspot",
            Self::Spike => "spike",
            Self::Cache => "cache",
        }
    }

    /// Each begins with half a minute in which nobody grows, so that whoever goes by averages has some.
    pub(super) fn scenario(self) -> Scenario {
        match self {
            Self::Hotspot => Scenario {
                budget_mib: 1280,
                guest_mib: 768,
                guests: vec![
                    guest("a", &[(120, 30), (600, 40), (120, 80)]),
                    guest("b", &[(120, 70), (600, 40), (120, 40)]),
                    guest("c", &[(120, 110), (600, 40)]),
                ],
            },
            Self::Spike => Scenario {
                budget_mib: 1408,
                guest_mib: 1024,
                guests: vec![
                    guest("a", &[(100, 30), (800, 30), (100, 30), (800, 30), (100, 10)]),
                    guest("b", &[(250, 130)]),
                ],
            },
            Self::Cache => Scenario {
                budget_mib: 1280,
                guest_mib: 768,
                guests: vec![
                    Guest { file_mib: 300, ..guest("a", &[(0, 120)]) },
                    guest("b", &[(100, 30), (640, 60), (100, 30)]),
                ],
            },
        }
    }
}

fn guest(name: &'static str, stages: &[(u64, u64)]) -> Guest {
    let stage = |&(anon_mib, seconds): &(u64, u64)| Stage { anon_mib, seconds };
    Guest { name, file_mib: 0, stages: stages.iter().map(stage).collect() }
}

impl Scenario {
    pub(super) fn duration(&self) -> Duration {
        let seconds = |guest: &Guest| guest.stages.iter().map(|stage| stage.seconds).sum();
        Duration::from_secs(self.guests.iter().map(seconds).max().unwrap_or(0))
    }

    /// What each guest starts with, but for the unlimited run: the budget split evenly.
    pub(super) fn split_bytes(&self) -> u64 {
        let even = (self.budget_mib * MIB - RESERVE_BYTES) / self.guests.len() as u64;
        even - even % MIB
    }

    /// Every growth, in the order in which they begin.
    pub(super) fn growths(&self) -> Vec<Growth> {
        let mut growths = Vec::new();
        for (at, guest) in self.guests.iter().enumerate() {
            let mut begin_ms = 0;
            for (index, stage) in guest.stages.iter().enumerate() {
                let end_ms = begin_ms + stage.seconds * 1000;
                if index > 0 && stage.anon_mib > guest.stages[index - 1].anon_mib {
                    growths.push(Growth { guest: at, begin_ms, end_ms });
                }
                begin_ms = end_ms;
            }
        }
        growths.sort_unstable_by_key(|growth| growth.begin_ms);
        growths
    }

    /// By how much the guests' needs change together, up and down.
    pub(super) fn need_change_bytes(&self) -> u64 {
        let change = |stages: &[Stage]| stages[0].anon_mib.abs_diff(stages[1].anon_mib);
        let changes = |guest: &Guest| guest.stages.windows(2).map(change).sum::<u64>();
        self.guests.iter().map(changes).sum::<u64>() * MIB
    }
}

impl Guest {
    /// Its phases, as `vmtide-load` takes them.
    pub(super) fn phases(&self) -> String {
        let phase = |stage: &Stage| match (stage.anon_mib, self.file_mib) {
            (anon, 0) => format!("anon={anon}M:{}s", stage.seconds),
            (0, file) => format!("file={file}M:{}s", stage.seconds),
            (anon, file) => format!("anon={anon}M+file={file}M:{}s", stage.seconds),
        };
        self.stages.iter().map(phase).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::parse_phases;

    #[test]
    fn the_phases_are_what_the_load_understands_and_last_as_long_as_the_scenario() {
        for name in Name::value_variants() {
            let scenario = name.scenario();
            for guest in &scenario.guests {
                let phases = parse_phases(&guest.phases()).unwrap();
                assert_eq!(phases.iter().map(|phase| phase.duration).sum::<Duration>(), scenario.duration());
            }
        }
    }

    #[test]
    fn growths_are_found_in_the_order_in_which_they_begin() {
        let growth = |guest, begin: u64, end: u64| Growth { guest, begin_ms: begin * 1000, end_ms: end * 1000 };
        assert_eq!(Name::Hotspot.scenario().growths(), [growth(0, 30, 70), growth(1, 70, 110), growth(2, 110, 150)]);
        assert_eq!(Name::Spike.scenario().growths(), [growth(0, 30, 60), growth(0, 90, 120)]);
        assert_eq!(Name::Cache.scenario().growths(), [growth(1, 30, 90)]);
    }

    #[test]
    fn needs_change_as_much_as_the_stages_say() {
        assert_eq!(Name::Spike.scenario().need_change_bytes(), 4 * 700 * MIB);
        assert_eq!(Name::Hotspot.scenario().need_change_bytes(), 5 * 480 * MIB);
    }
}
