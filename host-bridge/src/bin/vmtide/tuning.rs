//! `vmtide tuning`: how the host's own kernel is tuned, with or without a running tuner.

use crate::Failure;
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use vmtide_bridge::config::{self, Config};
use vmtide_bridge::tune::{DOMAIN, Senses, settings};
use vmtide_tuning::control::{Answer, Request, ask};
use vmtide_tuning::inventory::now_ms;
use vmtide_tuning::{Facts, Inventory, command, full_text, show};

/// Between the two looks that tell how the host does.
const WINDOW: Duration = Duration::from_secs(1);

/// What to show or to put back.
#[derive(Args)]
pub struct Tuning {
    /// The bridge's configuration; *.toml in conf.d beside it are read after it.
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Show(command::Tuning),
    /// Put back what vmtide changed and nobody else has changed since
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Revert {
        /// A knob, or a group; the running tuner leaves it alone from then on
        #[arg(group = "which")]
        knob: Option<String>,
        /// All of them
        #[arg(long, group = "which")]
        all: bool,
    },
}

impl Tuning {
    /// Shows, or puts back.
    pub async fn run(&self, out: &mut impl Write) -> Result<(), Failure> {
        let config = match Config::load(&self.config) {
            // A host without a bridge can be looked at, too.
            Err(config::Error::Read { source, .. })
                if source.kind() == ErrorKind::NotFound && self.config == Path::new(config::DEFAULT_PATH) =>
            {
                Config::default()
            }
            loaded => loaded.map_err(|error| Failure::Usage(full_text(&error)))?,
        };
        let text = match &self.command {
            Command::Show(tuning) => {
                let inventory = take(&config, tuning.root()).await?;
                tuning.text(&inventory).map_err(local)?
            }
            Command::Revert { knob, .. } => {
                let settings = settings(&config.tuning);
                let (files, _) = command::revert(&DOMAIN, Path::new("/"), &settings, knob.as_deref()).map_err(local)?;
                out.write_all(show::undone(&files).as_bytes())?;
                let all_went = files.iter().all(|file| file.outcome.is_some());
                return if all_went { Ok(()) } else { Err(Failure::Told) };
            }
        };
        Ok(out.write_all(text.as_bytes())?)
    }
}

/// How the knobs stand, with what a running tuner knows; without one, by two looks at the host.
async fn take(config: &Config, root: &Path) -> Result<Inventory, Failure> {
    // Who may not ask it looks for himself.
    let running = ask(&config.tuning.journal, &Request::Status).ok().flatten();
    let (facts, held) = if let Some(Answer::Stands { held, facts }) = running {
        (Facts::told(&DOMAIN, &facts), held)
    } else {
        let mut senses = Senses::open(root, config.policy.clone()).map_err(local)?;
        senses.look(now_ms()).map_err(local)?;
        tokio::time::sleep(WINDOW).await;
        senses.look(now_ms()).map_err(local)?;
        (senses.facts(), BTreeSet::new())
    };
    Inventory::take(&DOMAIN, root, &settings(&config.tuning), facts, held).map_err(local)
}

fn local(error: impl std::error::Error) -> Failure {
    Failure::Local(full_text(&error))
}
