//! vmtide-bridge: the daemon. Command line only.

#[cfg(test)]
#[path = "../../../packaging/pages.rs"]
mod pages;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use nix::sys::stat::{Mode, umask};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::fmt::time::uptime;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};
use vmtide_bridge::config::{self, Config, Layered};
use vmtide_bridge::host::{Host, HostError};
use vmtide_protocol::journal::{self, Journal};

/// Turns the demand of a host's VMs into one fair plan and asks the hypervisor for it.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done, 1 it cannot run now, 2 the command line or the configuration is wrong."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM; balloons stay where they are when it stops.
    Run(ConfigFile),
    /// Tune this host's own kernel until SIGTERM, then put back what was set; as root.
    Tune(ConfigFile),
    /// Read the configuration, say what it means, and touch nothing.
    Check(ConfigFile),
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(Configuration),
}

#[derive(Subcommand)]
enum Configuration {
    /// Read it, say what it means, and touch nothing.
    Check(ConfigFile),
    /// Show what the files give, as one configuration.
    Show {
        #[command(flatten)]
        file: ConfigFile,
        /// With the defaults.
        #[arg(long)]
        effective: bool,
        /// Say which file and line each value is from.
        #[arg(long)]
        origin: bool,
    },
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration; *.toml in conf.d beside it are read after it.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(ConfigFile { config }) => run(&config),
        Command::Tune(ConfigFile { config }) => tune(&config),
        Command::Check(ConfigFile { config }) | Command::Config(Configuration::Check(ConfigFile { config })) => {
            check(&config)
        }
        Command::Config(Configuration::Show { file, effective, origin }) => show(&file.config, effective, origin),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}vmtide-bridge: {error:#}", journal::error_mark());
            let is_config = error.is::<config::Error>()
                || error.is::<config::Overreserved>()
                || matches!(error.downcast_ref(), Some(HostError::Capacity { .. } | HostError::Reserve { .. }));
            ExitCode::from(if is_config { 2 } else { 1 })
        }
    }
}

/// The host, as the configuration wants it used.
fn host_of(config: &Config, path: &Path) -> Result<Host> {
    let host = Host::new(Path::new("/"), config.capacity_bytes, config.reserve_bytes)?;
    config.check_reservations(host.limit_bytes()).with_context(|| path.display().to_string())?;
    Ok(host)
}

fn check(path: &Path) -> Result<()> {
    let layered = Layered::load(path)?;
    let config = &layered.config;
    let host = host_of(config, path)?;
    let mut text = String::new();
    for file in layered.files() {
        text += &format!("read {}\n", file.display());
    }
    text += &format!("{}: valid, {} VMs\n", path.display(), config.vms.len());
    if let Some(warning) = config.warning(host.limit_bytes()) {
        text += &format!("warning: {warning}\n");
    }
    print(&text)
}

fn show(path: &Path, effective: bool, origin: bool) -> Result<()> {
    print(&Layered::load(path)?.text(effective, origin))
}

fn print(text: &str) -> Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn run(path: &Path) -> Result<()> {
    // All that can be wrong with it, before anything is touched.
    let config = Config::load(path)?;
    let host = host_of(&config, path)?;
    log();
    if let Some(warning) = config.warning(host.limit_bytes()) {
        tracing::warn!("{warning}");
    }
    // Sockets say for themselves who may open them; whatever shell or unit started us, a group may have what is its.
    umask(Mode::S_IRWXO);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(vmtide_bridge::bridge::run(config, path.to_owned(), host))?)
}

fn tune(path: &Path) -> Result<()> {
    let config = Config::load(path)?;
    log();
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(vmtide_bridge::tune::run(&config))?)
}

fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    if let Some(journal) = Journal::of_stderr("vmtide-bridge") {
        tracing_subscriber::registry().with(filter).with(journal).init();
    } else {
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
        log.with_timer(uptime()).init();
    }
}
