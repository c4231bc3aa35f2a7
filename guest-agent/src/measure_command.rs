//! `vmtide-agent measure`.

use clap::Args;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vmtide_agent::config::Config;
use vmtide_agent::full_text;
use vmtide_agent::measure::{Measured, measure};

/// What could not be measured ends as `env` and `timeout` do when they fail themselves.
const FAILED: u8 = 125;

/// What to run, and where to tell what came of it.
#[derive(Args)]
#[command(
    after_help = "Exit status: the command's own; 128 and the signal's number when one ended it; 127 when there is no \
                  such command, 126 when it cannot be run, 125 when it cannot be measured."
)]
pub struct Measure {
    /// As one JSON object
    #[arg(long)]
    json: bool,
    /// Write it there, not to standard output behind what the command wrote
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Measure {
    /// Runs, tells, and returns how to exit.
    pub fn run(&self, config: Option<&Path>) -> ExitCode {
        let fail = |message: &str, code: u8| {
            writeln!(io::stderr(), "vmtide-agent: {message}").ok();
            ExitCode::from(code)
        };
        let config = match Config::load(config) {
            Ok(config) => config,
            Err(error) => return fail(&full_text(&error), 2),
        };
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&full_text(&error), FAILED),
        };
        let measured = match runtime.block_on(measure(&config, Path::new("/"), &self.command)) {
            Ok(measured) => measured,
            Err(error) => return fail(&full_text(&error), error.exit_code()),
        };
        if let Err(error) = self.tell(&measured) {
            let to = self.output.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default();
            writeln!(io::stderr(), "vmtide-agent: {to}{error}").ok();
        }
        ExitCode::from(measured.exit_code)
    }

    fn tell(&self, measured: &Measured) -> io::Result<()> {
        let text = if self.json { serde_json::to_string(measured)? + "\n" } else { format!("\n{measured}") };
        match &self.output {
            Some(path) => fs::write(path, text),
            None => io::stdout().write_all(text.as_bytes()),
        }
    }
}
