//! vmtide-bridge: the daemon. Command line only.

use anyhow::Result;
use clap::{Parser, Subcommand};
use nix::sys::stat::{Mode, umask};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::uptime;
use vmtide_bridge::config::{self, Config};

/// Turns the demand of a host's VMs into one fair plan and asks the hypervisor for it.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM; balloons stay where they are when it stops.
    Run {
        /// The configuration; *.toml in conf.d beside it are read after it.
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Read the configuration, say what it means, and touch nothing.
    Check {
        /// The configuration; *.toml in conf.d beside it are read after it.
        #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (Command::Run { config: path } | Command::Check { config: path }) = &cli.command;
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("vmtide-bridge: {:#}", anyhow::Error::new(error));
            return ExitCode::from(2);
        }
    };
    let done = match cli.command {
        Command::Check { .. } => {
            println!("{}: valid, {} VMs", path.display(), config.vms.len());
            Ok(())
        }
        Command::Run { .. } => run(config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmtide-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // The journal stamps by itself.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.with_timer(uptime()).init();
    }
    // Sockets say for themselves who may open them; whatever shell or unit started us, a group may have what is its.
    umask(Mode::S_IRWXO);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(vmtide_bridge::bridge::run(config))?)
}
