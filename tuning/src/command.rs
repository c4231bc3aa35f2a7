//! The commands about tuning, the same on both sides: `tuning list`, `explain`, `diff`, `history` and `apply --dry-run`,
//! which write nothing, and what `revert` does.

use crate::control::{self, Answer, Request};
use crate::domain::{Domain, Settings};
use crate::hand::Undone;
use crate::inventory::{Inventory, InventoryError};
use crate::revert::{self, RevertError};
use crate::{full_text, show};
use clap::{Args, Subcommand};
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};

/// What to show.
#[derive(Debug, Subcommand)]
pub enum Tuning {
    /// Each knob: what it holds, should hold and held, whose it is, and how it stands
    List(Options),
    /// All that is known of a knob, and of those that are changed together with it
    Explain {
        /// The knob, or its group
        knob: String,
        /// How to show it.
        #[command(flatten)]
        options: Options,
    },
    /// Only what vmtide changed, or would change
    Diff(Options),
    /// What was done in this boot, oldest first
    History(Options),
    /// What would be done now
    Apply {
        /// Change nothing, say everything; applying is the running daemon's
        #[arg(long, required = true)]
        dry_run: bool,
        /// How to show it.
        #[command(flatten)]
        options: Options,
    },
}

/// Of each of them.
#[derive(Debug, Args)]
pub struct Options {
    /// As one JSON object
    #[arg(long)]
    json: bool,
    /// Read /proc and /sys below this folder
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Tuning {
    /// Below which folder the machine is.
    pub fn root(&self) -> &Path {
        &self.options().root
    }

    /// What the command prints.
    ///
    /// # Errors
    /// [`InventoryError::Unknown`] when there is no such knob.
    pub fn text(&self, inventory: &Inventory) -> Result<String, InventoryError> {
        if self.options().json { Ok(format!("{}\n", self.json(inventory)?)) } else { self.prose(inventory) }
    }

    fn options(&self) -> &Options {
        let (Self::List(options)
        | Self::Explain { options, .. }
        | Self::Diff(options)
        | Self::History(options)
        | Self::Apply { options, .. }) = self;
        options
    }

    fn prose(&self, inventory: &Inventory) -> Result<String, InventoryError> {
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

    fn json(&self, inventory: &Inventory) -> Result<serde_json::Value, InventoryError> {
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

/// Why nothing was put back.
#[derive(Debug, thiserror::Error)]
pub enum RevertCommandError {
    /// The running daemon's socket.
    #[error("the running daemon does not answer")]
    Silent(#[source] io::Error),
    /// The running daemon would not.
    #[error("{0}")]
    Failed(String),
    /// None runs, and it could not be done without.
    #[error(transparent)]
    Revert(#[from] RevertError),
}

/// Puts knobs back: through the daemon that runs, or by itself when none does. Returns the files, and whether it was done
/// here.
///
/// # Errors
/// [`RevertCommandError`] when nothing could be done.
pub fn revert(
    domain: &'static Domain,
    root: &Path,
    settings: &Settings<'_>,
    name: Option<&str>,
) -> Result<(Vec<Undone>, bool), RevertCommandError> {
    let request = Request::Revert { name: name.map(Into::into) };
    match control::ask(settings.journal, &request).map_err(RevertCommandError::Silent)? {
        Some(Answer::Undone { files }) => Ok((files, false)),
        Some(Answer::Failed { message }) => Err(RevertCommandError::Failed(message)),
        Some(answer) => Err(RevertCommandError::Failed(format!("it answered {answer:?}"))),
        None => Ok((revert::revert(domain, root, settings, name)?, true)),
    }
}
