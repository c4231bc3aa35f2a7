//! The command line of the agent.
//!
//! Exit codes: 0 fine, 1 it did not work, 2 the command line or the configuration is wrong; of `measure`, the command's.

mod measure_command;
#[cfg(test)]
#[path = "../../packaging/pages.rs"]
mod pages;

use anyhow::Context;
use clap::{Parser, Subcommand};
use measure_command::Measure;
use serde_json::json;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, info, level_filters::LevelFilter, warn};
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};
use vmtide_agent::agent::{AgentError, End};
use vmtide_agent::config::layers::{self, Layered};
use vmtide_agent::config::{Config, ConfigError};
use vmtide_agent::confine::confine;
use vmtide_agent::cooperate::Cpus;
use vmtide_agent::link::LinkState;
use vmtide_agent::observer::Observer;
use vmtide_agent::sense::working_set;
use vmtide_agent::status::{self, Status};
use vmtide_agent::supervisor::Supervisor;
use vmtide_agent::tune::{self, Tuner};
use vmtide_agent::{agent, doctor, full_text, table};
use vmtide_protocol::journal::{self, Journal};
use vmtide_tuning::command::{self as tuning_command, Tuning};
use vmtide_tuning::confine::Confined;
use vmtide_tuning::{Inventory, inventory, show};

/// As systemd gives to its own services that must go on.
const OOM_SCORE_ADJ: &str = "-900";

/// Senses what this VM needs and tells the vmtide bridge on its host.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done, 1 it did not work, 2 the command line or the configuration is wrong; of measure, \
                  the command's."
)]
struct Cli {
    /// Configuration file, instead of those in /etc/vmtide and /usr/lib/vmtide; *.toml in FILE's .conf.d are read after it
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until stopped
    Run {
        /// Read the guest's /proc and /sys below this folder
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
    },
    /// Show what the running agent does
    Status {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Look twice and show the demand; needs no bridge
    Once {
        /// As one JSON object, with the samples
        #[arg(long)]
        json: bool,
        /// Read the guest's /proc and /sys below this folder
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
        /// Time between the two looks, milliseconds
        #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1_000..=60_000))]
        interval_ms: u64,
    },
    /// Check every link between this VM and the bridge on its host, and say what to do; changes nothing
    Doctor {
        /// As one JSON object
        #[arg(long)]
        json: bool,
        /// Read the guest's /proc and /sys below this folder; vsock is not dialled then
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
    },
    /// Check the configuration
    Check,
    /// Check or show the configuration
    #[command(subcommand)]
    Config(Configuration),
    /// Run a command and tell what part of the VM it had and how long it waited; exits as the command does
    Measure(Measure),
    /// Show how the guest's settings are tuned, with or without a running agent
    #[command(subcommand)]
    Tuning(Tuning),
    /// Put back what vmtide changed and nobody else has changed since
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Revert {
        /// A knob, or a group; the running agent leaves it alone from then on
        #[arg(group = "which")]
        knob: Option<String>,
        /// All of them
        #[arg(long, group = "which")]
        all: bool,
        /// Write the guest's /proc and /sys below this folder
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
    },
}

#[derive(Subcommand)]
enum Configuration {
    /// Read it and say what is wrong with it
    Check,
    /// Show what the files give, as one configuration
    Show {
        /// With the defaults
        #[arg(long)]
        effective: bool,
        /// Say where each value is from
        #[arg(long)]
        origin: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Measure(measure) = &cli.command {
        return measure.run(cli.config.as_deref());
    }
    let done = match &cli.command {
        Command::Doctor { json, root } => doctor(cli.config.as_deref(), root, *json),
        _ => command(&cli).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            writeln!(io::stderr(), "{}vmtide-agent: {}", journal::error_mark(), full_text(error.as_ref())).ok();
            ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
        }
    }
}

fn command(cli: &Cli) -> anyhow::Result<()> {
    let layered = match layers::load(cli.config.as_deref()) {
        // What was changed in the guest goes back all the same.
        Err(error) if matches!(cli.command, Command::Revert { all: true, .. }) => {
            writeln!(io::stderr(), "vmtide-agent: going on with the defaults: {}", full_text(&error)).ok();
            Layered::default()
        }
        layered => layered?,
    };
    let config = layered.config.clone();
    match &cli.command {
        Command::Run { root } => run(config, cli.config.as_deref(), root),
        Command::Status { json } => show_status(&status::ask(&config.status_socket)?, *json),
        Command::Once { json, root, interval_ms } => once(&config, root, *interval_ms, *json),
        Command::Check | Command::Config(Configuration::Check) => {
            for file in &layered.files {
                print(&format!("read {}\n", file.display()))?;
            }
            print("the configuration is valid\n")
        }
        Command::Config(Configuration::Show { effective, origin }) => print(&layered.text(*effective, *origin)),
        // They exit in ways of their own.
        Command::Measure(_) | Command::Doctor { .. } => Ok(()),
        Command::Tuning(tuning) => print(&tuning.text(&take(&config, tuning.root())?)?),
        Command::Revert { knob, root, all } => {
            // A running agent has the CPUs that are offline for its bridge; it brings them back when it stops.
            if *all && status::ask(&config.status_socket).is_err() {
                Cpus::open(root, config.tuning.folder());
            }
            let settings = config.tuning.settings();
            let (files, here) = tuning_command::revert(&tune::DOMAIN, root, &settings, knob.as_deref())?;
            if here && *all {
                // A killed agent may have left it running in the kernel.
                working_set::end_leftover(root)?;
            }
            print(&show::undone(&files))?;
            anyhow::ensure!(files.iter().all(|file| file.outcome.is_some()), "not all of it could be put back");
            Ok(())
        }
    }
}

/// How the knobs stand, with what a running agent knows.
fn take(config: &Config, root: &Path) -> anyhow::Result<Inventory> {
    let running = status::ask(&config.status_socket).map(|status| (status.host, status.held));
    let (host, held) = running.unwrap_or_default();
    Ok(tune::inventory::take(root, &config.tuning, host, held)?)
}

/// Runs until stopped. SIGHUP: the files are read again; what they say takes the place of what held, or is refused.
fn run(mut config: Config, files: Option<&Path>, root: &Path) -> anyhow::Result<()> {
    log_to_stderr(config.log_level.into());
    outlive_ooms();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let mut supervisor = Supervisor::from_environment();
    // One that comes between two configurations waits here.
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let mut confined = None;
    loop {
        // Before the agent is confined: it makes the device of compressed swap, which it only takes away later.
        let tuner = Tuner::start(root, &config.tuning, inventory::now_ms()).map_err(AgentError::from)?;
        if root == Path::new("/") && confined.is_none() {
            confined = confine_to(&config, &tuner);
        }
        let stop = signals.end(&config, files);
        match runtime.block_on(agent::run(config.clone(), root, tuner, &mut supervisor, stop))? {
            End::Stop => return Ok(()),
            End::Reload(new) => config = *new,
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind, name| signal(kind).with_context(|| format!("cannot wait for {name}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            hangup: listen(SignalKind::hangup(), "SIGHUP")?,
        })
    }

    /// Waits until the agent has to end; a configuration that is wrong, or says what holds already, is no reason.
    async fn end(&mut self, config: &Config, files: Option<&Path>) -> End {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return End::Stop,
                _ = self.interrupt.recv() => return End::Stop,
                _ = self.hangup.recv() => {}
            }
            match layers::load(files) {
                Err(error) => warn!("the configuration from before holds: {}", full_text(&error)),
                Ok(Layered { config: found, .. }) => {
                    let (new, at_next_start) = config.reloaded(&found);
                    let waits = at_next_start.join(", ");
                    match (new == *config, at_next_start.is_empty()) {
                        (true, true) => info!("the configuration is what it was"),
                        (true, false) => info!("taken in by the next start only: {waits}"),
                        (false, true) => info!("the configuration is taken in anew"),
                        (false, false) => info!("the configuration is taken in anew; by the next start only: {waits}"),
                    }
                    if new != *config {
                        return End::Reload(Box::new(new));
                    }
                }
            }
        }
    }
}

/// Without root there is little to take away, and without Landlock no way to.
fn confine_to(config: &Config, tuner: &Tuner) -> Option<Confined> {
    match confine(config, tuner.catalogue(), &tuner.also_writes()) {
        Ok(confined) => Some(confined),
        Err(error) => {
            warn!("the agent may write more than it has to: {}", full_text(&error));
            None
        }
    }
}

/// The agent is of most use while the kernel looks for somebody to kill; it is small, and killing it frees nothing.
/// Whoever started it may have said otherwise already.
fn outlive_ooms() {
    const OWN: &str = "/proc/self/oom_score_adj";
    if fs::read_to_string(OWN).is_ok_and(|score| score.trim() == "0")
        && let Err(error) = fs::write(OWN, OOM_SCORE_ADJ)
    {
        debug!("cannot lower {OWN}: {error}");
    }
}

/// The journal has each line with its fields, where standard error is the journal's.
fn log_to_stderr(level: LevelFilter) {
    match Journal::of_stderr("vmtide-agent") {
        Some(journal) => tracing_subscriber::registry().with(level).with(journal).init(),
        None => tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(level).with_target(false).init(),
    }
}

fn once(config: &Config, root: &Path, interval_ms: u64, as_json: bool) -> anyhow::Result<()> {
    log_to_stderr(config.log_level.into());
    let mut observer = Observer::open(root, config.grant_ms)?;
    observer.look(0, interval_ms, None);
    std::thread::sleep(Duration::from_millis(interval_ms));
    let seen = observer.look(interval_ms, interval_ms, None);
    if as_json {
        print(&format!("{}\n", json!({ "samples": observer.samples(), "demand": seen.demand })))
    } else {
        print(&table(&seen.demand))
    }
}

/// A wrong configuration is a finding like any other.
fn doctor(config: Option<&Path>, root: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let report = doctor::report(&runtime.block_on(doctor::gather(layers::load(config), root)));
    print(&if as_json { format!("{}\n", serde_json::to_string(&report)?) } else { report.text() })?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show_status(status: &Status, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return print(&format!("{}\n", serde_json::to_string(status)?));
    }
    let session = &status.session;
    let state = match session.state {
        LinkState::Connecting => "connecting",
        LinkState::Connected => "connected",
        LinkState::Waiting => "waiting for the next attempt",
    };
    let mut text = format!(
        "session  {state} for {} s ({}{}), attempt {}\n",
        session.state_ms / 1000,
        session.bridge,
        session.vm.as_ref().map(|vm| format!(", VM {vm}")).unwrap_or_default(),
        session.attempts,
    );
    let last = [("error", &session.last_error), ("reject", &session.last_reject)];
    for (what, last) in last.into_iter().filter_map(|(what, last)| Some((what, last.as_ref()?))) {
        text += &format!("{what:<8} {last}\n");
    }
    text += &format!(
        "looking  {:?}, {} times in {} s, stall trigger {}\n\n{}",
        status.mode,
        status.looks,
        status.running_ms / 1000,
        if status.stall_trigger { "on" } else { "absent" },
        table(&status.demand),
    );
    print(&text)
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}
