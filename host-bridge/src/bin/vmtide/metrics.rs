//! `vmtide metrics`: to standard output, or to a file that is whole at any time.

use super::Failure;
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{fs, io, process};
use vmtide_bridge::api::client::Client;
use vmtide_bridge::api::metrics::Format;

#[derive(Args)]
pub(crate) struct Metrics {
    /// Write them to this file in one piece, as the textfile collector of node_exporter reads them: a name that ends with .prom in
    /// its folder.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Metrics {
    pub(crate) async fn run(&self, client: &Client, out: &mut impl Write, json: bool) -> Result<(), Failure> {
        if json {
            return Err(Failure::Usage("metrics are no JSON; status and list --json tell the same".to_owned()));
        }
        let Some(path) = &self.output else {
            out.write_all(client.metrics(Format::OpenMetrics).await?.as_bytes())?;
            return Ok(out.flush()?);
        };
        let text = client.metrics(Format::Prometheus).await?;
        replace(path, &text).map_err(|error| Failure::Local(format!("{}: {error}", path.display())))
    }
}

/// Puts a file with this text in the place of what is there. Whoever reads sees the one or the other; of one that cannot be written
/// nothing is left.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("a file's name is missing"))?;
    // It does not end with .prom, so the collector does not read it.
    let new = path.with_file_name(format!(".{}.{}.new", name.display(), process::id()));
    let write = || {
        fs::File::create_new(&new)?.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    };
    write().inspect_err(|_| _ = fs::remove_file(&new))
}
