//! `vmtide doctor`: with or without a bridge.

use crate::{Failure, print};
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};
use vmtide_bridge::config;
use vmtide_bridge::doctor::{gather, report};

#[derive(Args)]
pub struct Doctor {
    /// The bridge's configuration; *.toml in conf.d beside it are read after it.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Look at the host's files below this folder.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Doctor {
    /// Looks and prints; a broken link is [`Failure::Told`].
    pub async fn run(&self, socket: &Path, out: &mut impl Write, json: bool) -> Result<(), Failure> {
        let report = report(&gather(&self.config, socket, &self.root).await);
        print(out, json, &report, || report.text())?;
        if report.ok { Ok(()) } else { Err(Failure::Told) }
    }
}
