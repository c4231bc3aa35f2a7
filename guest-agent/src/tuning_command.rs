//! The commands about tuning: `tuning list`, `explain`, `diff`, `history` and `apply --dry-run`, which write nothing, and
//! `revert`.

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};
use vmtide_agent::config::Config;
use vmtide_agent::sense::working_set;
use vmtide_agent::tune::control::{self, Answer, Request};
use vmtide_agent::tune::{Inventory, revert, show};
use vmtide_agent::{full_text, status};

/// What to show.
#[derive(Subcommand)]
pub enum Tuning {
    /// Each knob: what it holds, should hold and held, whose it is, and how it stands
    List(Options),
    /// All that is known of a knob, and of those that are changed together with it
    Explain {
        /// The knob, or its group
        knob: String,
        #[command(flatten)]
        options: Options,
    },
    /// Only what vmtide changed, or would change
    Diff(Options),
    /// What was done in this boot, oldest first
    History(Options),
    /// What an agent would do now
    Apply {
        /// Change nothing, say everything; applying is the running agent's
        #[arg(long, required = true)]
        dry_run: bool,
        #[command(flatten)]
        options: Options,
    },
}

/// Of each of them.
#[derive(Args)]
pub struct Options {
    /// As one JSON object
    #[arg(long)]
    json: bool,
    /// Read the guest's /proc and /sys below this folder
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Tuning {
    /// What the command prints.
    pub fn text(&self, config: &Config) -> anyhow::Result<String> {
        let (Self::List(options)
        | Self::Explain { options, .. }
        | Self::Diff(options)
        | Self::History(options)
        | Self::Apply { options, .. }) = self;
        let inventory = take(config, &options.root)?;
        Ok(if options.json { format!("{}\n", self.json(&inventory)?) } else { self.prose(&inventory)? })
    }

    fn prose(&self, inventory: &Inventory) -> anyhow::Result<String> {
        let mut text = String::new();
        for error in &inventory.errors {
            text += &format!("skipped: {}\n", full_text(error).trim_end());
        }
        text += &match self {
            Self::List(_) => show::list(&inventory.rows()),
            Self::Explain { knob, .. } => {
                let unit = inventory.unit(knob)?;
                unit.iter().map(|(knob, rows)| show::explain(knob, rows)).collect::<Vec<_>>().join("\n")
            }
            Self::Diff(_) => show::diff(&inventory.rows()),
            Self::History(_) => show::history(&inventory.records),
            Self::Apply { .. } => show::plan(&inventory.rows()),
        };
        Ok(text)
    }

    fn json(&self, inventory: &Inventory) -> anyhow::Result<serde_json::Value> {
        let errors: Vec<_> = inventory.errors.iter().map(|error| full_text(error)).collect();
        let mut rows = inventory.rows();
        match self {
            Self::History(_) => return Ok(json!({ "records": inventory.records })),
            Self::Explain { knob, .. } => {
                let unit = inventory.unit(knob)?;
                rows.retain(|row| unit.iter().any(|(knob, _)| knob.id == row.knob));
            }
            Self::Diff(_) => rows.retain(show::differs),
            Self::List(_) | Self::Apply { .. } => {}
        }
        Ok(json!({
            "knobs": rows,
            "tally": show::tally(&rows),
            "facts": inventory.facts.all(),
            "errors": errors,
        }))
    }
}

/// Puts knobs back, and with all of them ends what a killed agent left running in the kernel: through the agent that runs, or
/// by itself when none does; returns what to print, and whether all went
/// back that was vmtide's.
pub fn revert(config: &Config, name: Option<&str>, root: &Path) -> anyhow::Result<(String, bool)> {
    let request = Request::Revert { name: name.map(Into::into) };
    let files = match control::ask(&config.tuning.journal, &request).context("the running agent does not answer")? {
        Some(Answer::Undone { files }) => files,
        Some(Answer::Failed { message }) => anyhow::bail!(message),
        None => {
            let files = revert::revert(root, &config.tuning, name)?;
            if name.is_none() {
                working_set::end_leftover(root)?;
            }
            files
        }
    };
    let all_went = files.iter().all(|file| file.outcome.is_some());
    Ok((show::undone(&files), all_went))
}

fn take(config: &Config, root: &Path) -> anyhow::Result<Inventory> {
    let running = status::ask(&config.status_socket).map(|status| (status.host, status.held));
    let (host, held) = running.unwrap_or_default();
    Ok(Inventory::take(root, &config.tuning, host, held)?)
}
