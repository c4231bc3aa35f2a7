//! The agent's configuration: small TOML files, every key optional.
//!
//! [`layers`] reads them, the later over the earlier; what comes out is one checked [`Config`].

pub mod layers;

use crate::link::Address;
use crate::sense::working_set::Wanted;
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use tracing::level_filters::LevelFilter;
use vmtide_tuning::suggest::Explained;
use vmtide_tuning::{Mode, Settings};

/// Shorter, and nothing could be granted in it; longer, and every ramp looks like the end.
const GRANT_MS: RangeInclusive<u64> = 100..=60_000;

/// More than twice the memory, and what cannot be compressed that far fills the guest.
const ZRAM_PERCENT: RangeInclusive<u64> = 1..=200;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says something that it may not; the source names line, key and what is allowed.
    #[error("{} is not a valid configuration", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Explained,
    },
    /// Somebody else than root and the agent's own user could have written it.
    #[error("{} is not trusted: {reason}", path.display())]
    Untrusted {
        /// The file or folder.
        path: PathBuf,
        /// Who could, and what makes it right.
        reason: String,
    },
}

/// What an operator may set. `agent.toml` in this crate's folder documents each key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the bridge listens.
    #[cfg_attr(feature = "schema", schemars(with = "String", regex(pattern = r"^(vsock://[0-9]+:[0-9]+|unix:/.+)$")))]
    pub bridge: Address,
    /// Where `vmtide-agent status` asks.
    pub status_socket: PathBuf,
    /// The least important lines that are logged.
    pub log_level: LogLevel,
    /// How long it takes from asking for memory to having it, until that was seen.
    #[serde(deserialize_with = "grant_ms")]
    #[cfg_attr(feature = "schema", schemars(range(min = 100, max = 60_000)))]
    pub grant_ms: u64,
    /// Of the guest's knobs.
    pub tuning: Tuning,
    /// Of how the working set is known.
    pub working_set: WorkingSet,
}

/// What an operator may say about the working set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct WorkingSet {
    /// Which sources may be used.
    pub source: Wanted,
}

/// What an operator may say about tuning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Tuning {
    /// No knob does more than this.
    pub mode: Mode,
    /// The folder of files that change or add knobs.
    pub catalogue: PathBuf,
    /// Where it is written down what was changed; in a file system that a reboot empties.
    pub journal: PathBuf,
    /// Compressed swap for a guest without any; `None` where nobody asked for it.
    pub zram: Option<Zram>,
}

impl Tuning {
    /// For the engine.
    pub fn settings(&self) -> Settings<'_> {
        Settings { mode: self.mode, catalogue: &self.catalogue, journal: &self.journal }
    }

    /// The folder of the journal, where the agent notes whatever it has to undo.
    pub fn folder(&self) -> &Path {
        self.journal.parent().unwrap_or(Path::new("/"))
    }
}

/// What an operator may say about compressed swap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Zram {
    /// Its size, of what the guest has when the agent starts.
    #[serde(deserialize_with = "size_percent")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 200)))]
    pub size_percent: u64,
    /// One that the kernel lists; `None` for zstd, or the kernel's own choice where there is no zstd.
    #[serde(default)]
    pub algorithm: Option<String>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            mode: Mode::Adaptive,
            catalogue: "/etc/vmtide/tuning.d".into(),
            journal: "/run/vmtide/tuning.journal".into(),
            zram: None,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bridge: Address::default(),
            status_socket: "/run/vmtide/agent.sock".into(),
            log_level: LogLevel::Info,
            grant_ms: 2_000,
            tuning: Tuning::default(),
            working_set: WorkingSet::default(),
        }
    }
}

impl Config {
    /// Reads the files that apply: see [`layers::load`].
    ///
    /// # Errors
    /// [`ConfigError`] with file, line, key and allowed values.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        layers::load(path).map(|layered| layered.config)
    }

    /// What holds after a reload that found `new`, and the keys that only the next start takes in: an agent that runs logs as it
    /// began to, may write the files that it was confined to then, and makes no devices any more.
    pub fn reloaded(&self, new: &Self) -> (Self, Vec<&'static str>) {
        let tuning =
            Tuning { journal: self.tuning.journal.clone(), zram: self.tuning.zram.clone(), ..new.tuning.clone() };
        let held = Self { log_level: self.log_level, status_socket: self.status_socket.clone(), tuning, ..new.clone() };
        let keys = [
            ("log_level", new.log_level != held.log_level),
            ("status_socket", new.status_socket != held.status_socket),
            ("tuning.journal", new.tuning.journal != held.tuning.journal),
            ("tuning.zram", new.tuning.zram != held.tuning.zram),
        ];
        (held, keys.into_iter().filter_map(|(key, waits)| waits.then_some(key)).collect())
    }
}

/// The JSON Schema of `agent.toml` and its drop-ins.
#[cfg(feature = "schema")]
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(Config)
}

/// How important a line has to be to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What an operator has to repair.
    Error,
    /// What an operator should know of: no bridge, a rejection, a file that makes no sense.
    Warn,
    /// Sessions that begin and end.
    Info,
    /// Every retry and every line that was skipped.
    Debug,
    /// Every message.
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

fn grant_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    within(deserializer, &GRANT_MS, "milliseconds")
}

fn size_percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    within(deserializer, &ZRAM_PERCENT, "percent")
}

fn within<'de, D: Deserializer<'de>>(
    deserializer: D,
    range: &RangeInclusive<u64>,
    unit: &str,
) -> Result<u64, D::Error> {
    let value = u64::deserialize(deserializer)?;
    if range.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (range.start(), range.end());
    Err(D::Error::custom(format!("{value} is out of range, expected {least} to {most} {unit}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const EXAMPLE: &str = include_str!("../agent.toml");

    #[test]
    fn a_reload_takes_in_what_an_agent_that_runs_can_change() {
        let old = Config::default();
        assert_eq!(old.reloaded(&old), (old.clone(), vec![]));
        let tuning = Tuning { mode: Mode::Observe, journal: "/run/other".into(), ..Tuning::default() };
        let new = Config { log_level: LogLevel::Debug, grant_ms: 700, tuning, ..old.clone() };
        let (held, waits) = old.reloaded(&new);
        assert_eq!(waits, ["log_level", "tuning.journal"]);
        assert_eq!((held.grant_ms, held.tuning.mode, held.log_level), (700, Mode::Observe, LogLevel::Info));
        assert_eq!(held.tuning.journal, old.tuning.journal);
    }

    #[test]
    fn the_example_is_the_default_and_so_is_nothing() {
        assert_eq!(toml::from_str::<Config>(EXAMPLE).unwrap(), Config::default());
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
    }

    #[test]
    fn the_example_shows_every_key_with_its_default() {
        let shown: Vec<_> = EXAMPLE.lines().filter_map(|line| line.strip_prefix("#:")).collect();
        let shown = shown.join("\n");
        assert_eq!(toml::from_str::<Config>(&shown).unwrap(), Config::default());
        for unknown in ["no_such_key = 1", "tuning.no_such_key = 1", "working_set.no_such_key = 1"] {
            let error = toml::from_str::<Config>(unknown).unwrap_err().to_string();
            let (_, allowed) = error.split_once("expected ").unwrap();
            let allowed = allowed.trim_start_matches("one of ");
            for key in allowed.trim().split(", ") {
                let key = key.trim_matches('`');
                // What is off by default is shown without being a default.
                let is_shown = shown.contains(&format!("{key} = "))
                    || shown.contains(&format!("[{key}]"))
                    || EXAMPLE.contains(&format!("#[tuning.{key}]"));
                assert!(is_shown, "agent.toml does not show {key}");
            }
        }
    }

    #[test]
    fn the_example_s_compressed_swap_is_off_until_its_lines_are_taken_in() {
        let (_, section) = EXAMPLE.split_once("#[tuning.zram]\n").unwrap();
        let lines = section.lines().filter(|line| line.contains(" = ")).map(|line| line.trim_start_matches('#'));
        let text = format!("[tuning.zram]\n{}", lines.collect::<Vec<_>>().join("\n"));
        let zram = toml::from_str::<Config>(&text).unwrap().tuning.zram.unwrap();
        assert_eq!(zram, Zram { size_percent: 50, algorithm: Some("zstd".into()) });
    }

    #[test]
    fn errors_name_file_line_key_and_what_is_allowed() {
        for (text, expected) in [
            ("\nbrigde = 1\n", &["line 2", "brigde", "expected one of `bridge`", "did you mean `bridge`?"][..]),
            ("bridge = \"tcp://1:2\"", &["line 1", "bridge", "tcp://1:2", "vsock://CID:PORT", "unix:/"]),
            ("log_level = \"loud\"", &["line 1", "log_level", "loud", "`warn`"]),
            ("grant_ms = 5", &["line 1", "grant_ms", "5 is out of range", "100 to 60000 milliseconds"]),
            ("grant_ms = -5", &["line 1", "grant_ms"]),
            ("status_socket = 7", &["line 1", "status_socket", "string"]),
            ("[working_set]\nsource = \"numa\"", &["line 2", "source", "numa", "`mglru`", "`counters`"]),
            ("[tuning]\nmode = \"on\"", &["line 2", "mode", "`observe`, `static`"]),
            ("[tuning.zram]\nsize_percent = 0", &["line 2", "size_percent", "0 is out of range", "1 to 200 percent"]),
            ("[tuning.zram]\nalgorithm = \"lz4\"", &["line 1", "missing field `size_percent`"]),
            ("[tuning.zram]\nsize_percent = 5\npriority = 1", &["line 3", "priority", "`size_percent` or `algorithm`"]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("agent.toml");
            fs::write(&path, text).unwrap();
            let error = crate::full_text(&Config::load(Some(&path)).unwrap_err());
            for part in expected.iter().chain(&["agent.toml"]) {
                assert!(error.contains(part), "{part:?} is not in: {error}");
            }
        }
    }

    #[test]
    fn a_file_that_was_asked_for_has_to_be_there() {
        let error = crate::full_text(&Config::load(Some(Path::new("/no/such/agent.toml"))).unwrap_err());
        assert!(error.starts_with("cannot read /no/such/agent.toml: No such file"), "{error}");
    }
}
