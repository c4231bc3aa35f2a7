//! `vmtide init`: no bridge is asked.

use crate::{Failure, print};
use clap::Args;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use vmtide_bridge::init::look;

#[derive(Args)]
pub struct Init {
    /// Write it here, in place of standard output; a file that is there stays.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite that file.
    #[arg(long, requires = "output")]
    force: bool,
    /// Look at the host below this folder.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Init {
    /// Looks and prints, or writes the one file that it was told to.
    pub fn run(&self, out: &mut impl Write, json: bool) -> Result<(), Failure> {
        let found = look(&self.root);
        let Some(path) = &self.output else { return print(out, json, &found, || found.text()) };
        let local = |error: &std::io::Error| {
            Failure::Local(match error.kind() {
                ErrorKind::AlreadyExists => format!("{}: is there already; --force overwrites it", path.display()),
                _ => format!("{}: cannot be written: {error}", path.display()),
            })
        };
        let mut options = OpenOptions::new();
        options.write(true).mode(0o644);
        let options = if self.force { options.create(true).truncate(true) } else { options.create_new(true) };
        let mut file = options.open(path).map_err(|error| local(&error))?;
        file.write_all(found.text().as_bytes()).map_err(|error| local(&error))?;
        print(out, json, &found, || found.notes().join("\n") + "\n")
    }
}
