//! vmtide-bridge: the daemon. Command line only.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::sys::stat::{Mode, umask};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::uptime;
use vmtide_bridge::config::{self, Config};
use vmtide_bridge::host::{Host, HostError};

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
    let (config, host) = match read(path) {
        Ok(read) => read,
        Err(error) => {
            let is_of_the_host = matches!(error.downcast_ref(), Some(HostError::Read { .. }));
            return fail(&error, if is_of_the_host { 1 } else { 2 });
        }
    };
    let warning = config.warning(host.limit_bytes());
    let done = match cli.command {
        Command::Check { .. } => {
            println!("{}: valid, {} VMs", path.display(), config.vms.len());
            if let Some(warning) = warning {
                println!("warning: {warning}");
            }
            Ok(())
        }
        Command::Run { .. } => run(config, host, warning),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

/// All that can be wrong before anything is touched.
fn read(path: &Path) -> Result<(Config, Host)> {
    let config = Config::load(path)?;
    let host = Host::new(Path::new("/"), config.capacity_bytes, config.reserve_bytes)?;
    config.check_reservations(host.limit_bytes()).with_context(|| path.display().to_string())?;
    Ok((config, host))
}

fn fail(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("vmtide-bridge: {error:#}");
    ExitCode::from(status)
}

fn run(config: Config, host: Host, warning: Option<String>) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // The journal stamps by itself.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.with_timer(uptime()).init();
    }
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    // Sockets say for themselves who may open them; whatever shell or unit started us, a group may have what is its.
    umask(Mode::S_IRWXO);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(vmtide_bridge::bridge::run(config, host))?)
}
