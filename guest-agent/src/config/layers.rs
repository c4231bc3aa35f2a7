//! Which files make the configuration, and which of them each value is from.
//!
//! ```text
//! built in <- /usr/lib/vmtide/agent.conf.d/*.toml <- /etc/vmtide/agent.toml <- /etc/vmtide/agent.conf.d/*.toml
//! ```
//!
//! Each overrides those before it key by key, the files of a folder in the order of their names. A file named on the command
//! line stands for all of `/etc/vmtide` and `/usr/lib/vmtide`; its drop-ins are in the folder beside it that ends in `.conf.d`
//! for its `.toml`. The bridge's drop-ins are in `conf.d`, so that a host that is itself a VM can have both.

use super::{Config, ConfigError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use toml::Table;
use vmtide_tuning::trust::distrust;

/// Where the configuration is when nobody says otherwise; it need not exist.
pub const DEFAULT_PATH: &str = "/etc/vmtide/agent.toml";
/// Where an image or another package brings its own defaults; it need not exist.
const VENDOR_FOLDER: &str = "/usr/lib/vmtide/agent.conf.d";
/// Of the folder beside a file.
const DROP_INS: &str = "conf.d";

/// A configuration and where it is from.
#[derive(Debug, Default)]
pub struct Layered {
    /// All of it.
    pub config: Config,
    /// The files that were read, in this order.
    pub files: Vec<PathBuf>,
    /// The last file that gave each key that was given.
    origins: BTreeMap<String, PathBuf>,
}

/// Reads `path` and its drop-ins, or without one all that [the module's documentation](self) names.
///
/// # Errors
/// [`ConfigError`] with the file, line, key and allowed values, or why a file is not trusted.
pub fn load(path: Option<&Path>) -> Result<Layered, ConfigError> {
    match path {
        Some(path) => read(None, path, true),
        None => read(Some(Path::new(VENDOR_FOLDER)), Path::new(DEFAULT_PATH), false),
    }
}

fn read(vendor: Option<&Path>, main: &Path, has_to_be_there: bool) -> Result<Layered, ConfigError> {
    let mut layers = Layers::default();
    if let Some(folder) = vendor {
        layers.add_folder(folder)?;
    }
    match File::open(main) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !has_to_be_there => {}
        file => layers.add(main, file)?,
    }
    layers.add_folder(&main.with_extension(DROP_INS))?;
    Ok(layers.all)
}

#[derive(Default)]
struct Layers {
    all: Layered,
    merged: Table,
}

impl Layers {
    fn add_folder(&mut self, folder: &Path) -> Result<(), ConfigError> {
        let unreadable = |source| ConfigError::Read { path: folder.into(), source };
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(unreadable)?,
        };
        trusted(folder, &fs::metadata(folder).map_err(unreadable)?)?;
        let mut files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
        let files = files.as_mut().map_err(|error| unreadable(io::Error::from(error.kind())))?;
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "toml")) {
            self.add(file, File::open(file))?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, file: io::Result<File>) -> Result<(), ConfigError> {
        let unreadable = |source| ConfigError::Read { path: path.into(), source };
        let invalid = |error: toml::de::Error| ConfigError::Invalid { path: path.into(), source: error.into() };
        let mut file = file.map_err(unreadable)?;
        trusted(path, &file.metadata().map_err(unreadable)?)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(unreadable)?;
        let table: Table = toml::from_str(&text).map_err(invalid)?;
        for key in leaves(&serde_json::to_value(&table).unwrap_or_default()) {
            self.all.origins.insert(key.0, path.into());
        }
        merge(&mut self.merged, table);
        // What a file lacks may be in one before it; but the file alone knows its lines.
        self.all.config = match self.merged.clone().try_into() {
            Ok(config) => config,
            Err(error) => return Err(invalid(toml::from_str::<Config>(&text).err().unwrap_or(error))),
        };
        self.all.files.push(path.into());
        Ok(())
    }
}

impl Layered {
    /// A line `key = value` for each key that a file gives, with the defaults too if `effective`; where each is from is behind
    /// it if `origin`. That is a configuration again. What is off by default and was not asked for is not among them.
    pub fn text(&self, effective: bool, origin: bool) -> String {
        let values = serde_json::to_value(&self.config).unwrap_or_default();
        let mut lines = String::new();
        for (key, value) in leaves(&values) {
            let file = self.origins.get(&key);
            if !effective && file.is_none() {
                continue;
            }
            // JSON's strings and integers are TOML's.
            lines += &format!("{key} = {value}");
            if origin {
                let from = file.map_or_else(|| "built in".into(), |file| file.display().to_string());
                lines += &format!("  # {from}");
            }
            lines.push('\n');
        }
        lines
    }
}

fn trusted(path: &Path, metadata: &Metadata) -> Result<(), ConfigError> {
    let refuse = |reason| Err(ConfigError::Untrusted { path: path.into(), reason });
    distrust(metadata).map_or(Ok(()), refuse)
}

/// Puts `over` over `under`, key by key.
fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => merge(under, over),
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

/// All values that are no tables, by their dotted keys; without those that are not set.
fn leaves(value: &Value) -> Vec<(String, &Value)> {
    let Value::Object(table) = value else { return Vec::new() };
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Null => {}
            Value::Object(_) => {
                found.extend(leaves(value).into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            value => found.push((key.clone(), value)),
        }
    }
    found
}

#[cfg(test)]
mod tests;
