//! The configuration with the file and line that each value is from.

use super::{Config, DEFAULT_SHARES, Error, file};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// A configuration and the files that it is from.
#[derive(Debug)]
pub struct Layered {
    /// All of it.
    pub config: Config,
    texts: Vec<(PathBuf, String)>,
}

/// A key that has a value.
struct Entry {
    key: String,
    /// As TOML.
    value: String,
    origin: String,
}

impl Layered {
    /// Reads `path` and `conf.d/*.toml` beside it, as [`Config::load`] does.
    ///
    /// # Errors
    /// [`Error`] for the first thing that is wrong, in the order in which the files are read.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let texts = file::texts(path)?;
        Ok(Self { config: file::check(path, &texts)?, texts })
    }

    /// The files that were read, in this order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.texts.iter().map(|(path, _)| path.as_path())
    }

    /// A line `key = value` for each key that a file gives, with the defaults too if `effective`; the file and line that
    /// each is from are behind it if `origin`. That is a configuration again.
    pub fn text(&self, effective: bool, origin: bool) -> String {
        let mut entries = if effective { defaults() } else { Vec::new() };
        let mut vms = Vec::new();
        for (path, text) in &self.texts {
            let Ok(table) = DeTable::parse(text) else { continue };
            let source = Source { path, text };
            for (key, value) in table.get_ref() {
                match value.get_ref() {
                    DeValue::Array(tables) if key.get_ref() == "vm" => {
                        vms.extend(tables.iter().filter_map(|vm| Some(source.entries("", vm.get_ref().as_table()?))));
                    }
                    DeValue::Table(section) => {
                        let given = source.entries(&format!("{}.", key.get_ref()), section);
                        for entry in given {
                            replace(&mut entries, entry);
                        }
                    }
                    _ => {}
                }
            }
        }
        let mut out = lines(&entries, origin);
        for mut vm in vms {
            if effective && !vm.iter().any(|entry| entry.key == "shares") {
                vm.push(built_in("shares", DEFAULT_SHARES));
            }
            out += "\n[[vm]]\n";
            out += &lines(&vm, origin);
        }
        out
    }
}

/// Where a file says what.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    /// All values below `table` that are no tables, in the order of their lines, each as it is written.
    fn entries(&self, prefix: &str, table: &DeTable<'_>) -> Vec<Entry> {
        let mut found = Vec::new();
        self.collect(prefix, table, &mut found);
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(_, entry)| entry).collect()
    }

    fn collect(&self, prefix: &str, table: &DeTable<'_>, found: &mut Vec<(usize, Entry)>) {
        for (key, value) in table {
            let key = format!("{prefix}{}", key.get_ref());
            if let DeValue::Table(table) = value.get_ref() {
                self.collect(&format!("{key}."), table, found);
                continue;
            }
            let span = value.span();
            let line = self.text[..span.start].bytes().filter(|byte| *byte == b'\n').count() + 1;
            let origin = format!("{}:{line}", self.path.display());
            found.push((span.start, Entry { key, value: self.text[span].to_owned(), origin }));
        }
    }
}

/// The keys that have a default which does not depend on the host.
fn defaults() -> Vec<Entry> {
    let Config { control_socket, intervals, planner, policy, record, tuning, .. } = Config::default();
    let mut entries = vec![
        built_in("control.socket", control_socket.display().to_string()),
        built_in("intervals.busy_ms", intervals.busy_ms),
        built_in("intervals.quiet_ms", intervals.quiet_ms),
        built_in("policy.planner", planner.to_string()),
    ];
    if let Ok(Value::Object(numbers)) = serde_json::to_value(policy) {
        entries.extend(numbers.into_iter().map(|(key, number)| built_in(&format!("policy.{key}"), number)));
    }
    entries.push(built_in("record.directory", record.directory.display().to_string()));
    entries.push(built_in("record.size", record.size_bytes));
    entries.push(built_in("tuning.mode", format!("{:?}", tuning.mode).to_lowercase()));
    entries.push(built_in("tuning.catalogue", tuning.catalogue.display().to_string()));
    entries.push(built_in("tuning.journal", tuning.journal.display().to_string()));
    entries
}

/// JSON's strings and integers are TOML's.
fn built_in(key: &str, value: impl Into<Value>) -> Entry {
    Entry { key: key.to_owned(), value: value.into().to_string(), origin: "built in".to_owned() }
}

/// Puts `entry` in the place of the one with its key; at the end where there is none.
fn replace(entries: &mut Vec<Entry>, entry: Entry) {
    match entries.iter_mut().find(|known| known.key == entry.key) {
        Some(known) => *known = entry,
        None => entries.push(entry),
    }
}

fn lines(entries: &[Entry], origin: bool) -> String {
    let mut out = String::new();
    for Entry { key, value, origin: from } in entries {
        // Writing to a String does not fail.
        _ = if origin { writeln!(out, "{key} = {value}  # {from}") } else { writeln!(out, "{key} = {value}") };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "[host]\ncapacity = '8GiB'\n\n[intervals]\nquiet_ms = 5171\n[policy]\ncalm_block_ms = 1\n\
                        [[vm]]\nname = 'a'\nminimum = '128MiB'\nmaximum = '1GiB'\nqmp = '/q'\ncid = 3\n";

    fn layered(folder: &Path) -> Layered {
        std::fs::create_dir(folder.join("conf.d")).unwrap();
        std::fs::write(folder.join("bridge.toml"), MAIN).unwrap();
        std::fs::write(folder.join("conf.d/10.toml"), "intervals = { quiet_ms = 6000 }\n").unwrap();
        Layered::load(&folder.join("bridge.toml")).unwrap()
    }

    #[test]
    fn each_value_is_shown_with_the_line_that_holds() {
        let folder = tempfile::tempdir().unwrap();
        let text = layered(folder.path()).text(true, true).replace(&format!("{}/", folder.path().display()), "");
        for line in [
            "host.capacity = '8GiB'  # bridge.toml:2\n",
            "intervals.busy_ms = 1000  # built in\n",
            "intervals.quiet_ms = 6000  # conf.d/10.toml:1\n",
            "policy.planner = \"vmtide\"  # built in\n",
            "policy.calm_block_ms = 1  # bridge.toml:7\n",
            "\n[[vm]]\nname = 'a'  # bridge.toml:9\n",
            "shares = 1000  # built in\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
        assert!(!text.contains("5171"), "what was overridden does not hold:\n{text}");
    }

    #[test]
    fn what_is_shown_means_the_same_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = layered(folder.path());
        let (effective, given) = (first.text(true, true), first.text(false, false));
        assert!(!given.contains("busy_ms") && !given.contains('#'), "{given}");
        for text in [effective, given] {
            let again = tempfile::tempdir().unwrap();
            let path = again.path().join("bridge.toml");
            std::fs::write(&path, text).unwrap();
            assert_eq!(Config::load(&path).unwrap(), first.config);
        }
    }
}
