//! `vmtide replay` and `vmtide simulate`: no bridge is asked.

use crate::{Failure, print};
use clap::Args;
use std::io::Write;
use std::path::PathBuf;
use vmtide_bridge::config::assign;
use vmtide_bridge::plan::{Planner, Policy};
use vmtide_bridge::replay::{self, Wish};
use vmtide_bridge::simulate::{Parameters, simulate};

/// The most VMs that are simulated.
const MOST_VMS: u64 = 100_000;
/// The longest simulation: a year.
const MOST_HOURS: u64 = 8_760;

#[derive(Args)]
pub struct Replay {
    /// A segment, or a folder of segments.
    #[arg(value_name = "FILE")]
    recording: PathBuf,
    /// In place of the report: each change of CPU time and disks, with what came of it.
    #[arg(long, conflicts_with_all = ["set", "policy"])]
    levers: bool,
    #[command(flatten)]
    wish: WishArgs,
}

#[derive(Args)]
pub struct Simulate {
    /// How many VMs.
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=MOST_VMS))]
    vms: u64,
    /// For how long.
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=MOST_HOURS))]
    hours: u64,
    /// The sum of the maximums over what there is, 1 to 10.
    #[arg(long, value_name = "FACTOR", default_value = "1.5", value_parser = overcommit)]
    overcommit: u64,
    /// The time between two plans, 100ms to 10s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = step)]
    step: u64,
    /// Decides what the guests do.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Ask guests before a calm shrink, as the bridge does; without it what the planner wants is taken at once.
    #[arg(long, conflicts_with = "record")]
    ask: bool,
    /// Also write a recording into this folder, for `vmtide replay`.
    #[arg(long, value_name = "DIRECTORY")]
    record: Option<PathBuf>,
    #[command(flatten)]
    wish: WishArgs,
    /// With --json: write the JSON here, and a summary to standard output.
    #[arg(value_name = "FILE", requires = "json")]
    file: Option<PathBuf>,
}

/// How to plan instead.
#[derive(Args)]
struct WishArgs {
    /// A key of the policy, as the configuration has it; may be given again.
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// Who plans: vmtide, or a peer's rules (static, mom-rules, proxmox-rules, hyperv-rules).
    #[arg(long, value_name = "NAME", value_parser = str::parse::<Planner>)]
    policy: Option<Planner>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("allowed is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Thousandths.
fn overcommit(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no factor; allowed is 1 to 10, with up to three decimals");
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    if decimals.is_empty() || decimals.len() > 3 || ![whole, decimals].iter().all(|part| is_number(part)) {
        return Err(wrong());
    }
    let permille: u64 = format!("{whole}{decimals:0<3}").parse().map_err(|_| wrong())?;
    if (1_000..=10_000).contains(&permille) { Ok(permille) } else { Err(wrong()) }
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Milliseconds.
fn step(text: &str) -> Result<u64, String> {
    let ms = humantime::parse_duration(text).map(|time| time.as_millis()).map_err(|error| error.to_string())?;
    let allowed = u64::try_from(ms).ok().filter(|ms| (100..=10_000).contains(ms));
    allowed.ok_or_else(|| format!("{text} cannot be; allowed is 100ms to 10s"))
}

impl Replay {
    /// Replays and prints.
    pub fn run(&self, out: &mut impl Write, json: bool) -> Result<(), Failure> {
        if self.levers {
            let changes = replay::lever_changes(&self.recording).map_err(replay::Error::from)?;
            return print(out, json, &changes, || replay::lever_text(&changes));
        }
        let WishArgs { set, policy } = &self.wish;
        let is_wish = !set.is_empty() || policy.is_some();
        let wish = is_wish.then(|| Wish::new(*policy, set.clone()));
        let report = replay::replay(&self.recording, wish.as_ref())?;
        print(out, json, &report, || report.text())
    }
}

impl Simulate {
    /// Simulates and prints.
    pub fn run(&self, out: &mut impl Write, json: bool) -> Result<(), Failure> {
        let usage = |message: String| Failure::Usage(message);
        let parameters = Parameters {
            vms: usize::try_from(self.vms).map_err(|error| usage(error.to_string()))?,
            hours: self.hours,
            overcommit_permille: self.overcommit,
            step_ms: self.step,
            seed: self.seed,
            planner: self.wish.policy.unwrap_or_default(),
            policy: assign(&Policy::default(), &self.wish.set).map_err(usage)?,
            asks: self.ask,
        };
        // Before the long part, so that a path that cannot be written is said at once.
        let file = self.file.as_ref().map(|path| Ok((path, std::fs::File::create(path)?))).transpose();
        let file = file.map_err(|error: std::io::Error| self.cannot_write(&error))?;
        let outcome =
            simulate(&parameters, self.record.as_deref()).map_err(|error| Failure::Local(error.to_string()))?;
        if let Some((_, mut file)) = file {
            print(&mut file, true, &outcome, String::new).map_err(|failure| match failure {
                Failure::Output(error) => self.cannot_write(&error),
                other => other,
            })?;
            return print(out, false, &outcome, || outcome.text());
        }
        print(out, json, &outcome, || outcome.text())
    }

    fn cannot_write(&self, error: &std::io::Error) -> Failure {
        let path = self.file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        Failure::Local(format!("{path}: cannot be written: {error}"))
    }
}

impl From<replay::Error> for Failure {
    fn from(error: replay::Error) -> Self {
        match error {
            replay::Error::Read(error) => Self::Local(error.to_string()),
            replay::Error::Wish(message) => Self::Usage(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_read_without_rounding() {
        for (text, permille) in [("1", 1_000), ("1.5", 1_500), ("2.125", 2_125), ("10.0", 10_000)] {
            assert_eq!(overcommit(text), Ok(permille), "{text}");
        }
        for text in ["", ".", "1.", "0.9", "10.001", "1.5555", "-1", "1,5", "+2", "nan"] {
            let error = overcommit(text).unwrap_err();
            assert!(error.ends_with("allowed is 1 to 10, with up to three decimals"), "{text}: {error}");
        }
    }

    #[test]
    fn a_step_is_held_to_what_planning_makes_sense_with() {
        assert_eq!([step("1s"), step("250ms")], [Ok(1_000), Ok(250)]);
        for text in ["0s", "99ms", "11s", "1 fortnight"] {
            assert!(step(text).is_err(), "{text}");
        }
    }
}
