//! Manual pages and completions, written when packages are built.
//!
//! Those of commands come from the definitions of their command lines, by the binaries' own tests (`packaging/pages.rs`): no
//! binary carries what writes them. Those of files come from the commented configurations that are shipped, which tests hold
//! to the types.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::PACKAGES;
use crate::prepare::{cargo_by, cargo_program, run, say};

/// The commented configuration, where it is installed, its page, what it is of and what to read next.
const FILES: [(&str, &str, &str, &str); 2] = [
    ("guest-agent/agent.toml", "/etc/vmtide/agent.toml", "vmtide-agent", "vmtide-agent(8), vmtide-bridge.toml(5)"),
    (
        "packaging/config/bridge.toml",
        "/etc/vmtide/bridge.toml",
        "vmtide-bridge",
        "vmtide-bridge(8), vmtide(1), vmtide-agent.toml(5)",
    ),
];

/// Writes all of them below `target/pages` of a checkout, where the packages' metadata has them.
///
/// # Errors
/// When the tests that write them fail.
pub fn pages(tree: &Path) -> Result<()> {
    let folder = tree.join("target/pages");
    say("writing manual pages and completions");
    let mut writers = cargo_by(Command::new(cargo_program()));
    writers.args(["test", "--quiet", "--locked", "--bins"]);
    for (_, name) in PACKAGES {
        writers.args(["-p", name]);
    }
    run(writers.args(["--", "pages"]).env("VMTIDE_PAGES", &folder).current_dir(tree))?;
    for (source, installed, of, see_also) in FILES {
        let source = tree.join(source);
        let configuration =
            fs::read_to_string(&source).with_context(|| format!("{}: cannot read", source.display()))?;
        fs::write(folder.join(format!("{of}.toml.5")), page(Path::new(installed), of, see_also, &configuration))?;
    }
    Ok(())
}

/// A line of a commented configuration.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// `[section]` or `[[section]]`.
    Section(&'a str),
    /// `key = value`, with what is behind it.
    Key {
        key: &'a str,
        value: &'a str,
        what: &'a str,
    },
    Text(&'a str),
    Blank,
}

fn line(text: &str) -> Line<'_> {
    let text = text.trim_start_matches('#').trim_start_matches(':').trim();
    let is_key = |key: &str| {
        !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c))
    };
    if text.is_empty() {
        return Line::Blank;
    }
    if text.starts_with('[') && text.ends_with(']') {
        return Line::Section(text);
    }
    match text.split_once(" = ") {
        Some((key, rest)) if is_key(key) => {
            let (value, what) = rest.split_once(" # ").unwrap_or((rest, ""));
            Line::Key { key, value: value.trim(), what: what.trim() }
        }
        _ => Line::Text(text),
    }
}

/// The page about a configuration: its comments, in its order.
fn page(installed: &Path, of: &str, see_also: &str, configuration: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let path = escaped(&installed.display().to_string());
    let mut page = format!(".TH {of}.toml 5 \"\" \"{of} {version}\" vmtide\n");
    page += &format!(".SH NAME\n{0}.toml \\- configuration of {0}\n", escaped(of));
    page += &format!(".SH SYNOPSIS\n{path}\n.SH DESCRIPTION\n");
    // What was said and is about the line that follows.
    let mut said = String::new();
    let tell = |page: &mut String, said: &mut String| {
        if !said.is_empty() {
            *page += &format!("{}\n", escaped(&std::mem::take(said)));
        }
    };
    for line in configuration.lines().filter(|line| *line != "# end of policy").map(line) {
        match line {
            Line::Text(text) => {
                said += if said.is_empty() { "" } else { " " };
                said += text;
            }
            Line::Blank => {
                tell(&mut page, &mut said);
                page += ".PP\n";
            }
            Line::Section(section) => {
                page += &format!(".SH \"{}\"\n", escaped(section));
                tell(&mut page, &mut said);
            }
            Line::Key { key, value, what } => {
                page += &format!(".TP\n\\fB{}\\fR = {}\n", escaped(key), escaped(value));
                said += what;
                tell(&mut page, &mut said);
            }
        }
    }
    tell(&mut page, &mut said);
    page + &format!(".SH FILES\n{path}\n.SH SEE ALSO\n{see_also}\n")
}

/// As text that begins a line.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test

    use super::*;
    use crate::prepare::workspace_dir;

    #[test]
    fn every_key_and_section_of_a_configuration_is_in_its_page_with_what_is_said_of_it() {
        for (source, installed, of, see_also) in FILES {
            let text = fs::read_to_string(workspace_dir().join(source)).unwrap();
            let page = page(Path::new(installed), of, see_also, &text);
            let keys = text.lines().filter_map(|text| match line(text) {
                Line::Key { key, value, .. } => Some(format!(".TP\n\\fB{key}\\fR = {}\n", escaped(value))),
                Line::Section(section) => Some(format!(".SH \"{}\"\n", escaped(section))),
                Line::Text(_) | Line::Blank => None,
            });
            let keys: Vec<_> = keys.collect();
            assert!(keys.len() > 10, "{source}: {keys:?}");
            for key in keys {
                let (_, about) = page.split_once(&key).unwrap_or_else(|| panic!("{of}.toml.5 lacks {key}"));
                assert!(key.starts_with(".SH") || !about.starts_with('.'), "{of}.toml.5 says nothing of {key}");
            }
        }
    }

    #[test]
    fn lines_are_told_apart() {
        assert_eq!(line("#:grant_ms = 2000"), Line::Key { key: "grant_ms", value: "2000", what: "" });
        let with_text = line("# cid = 3          # kernel vsock");
        assert_eq!(with_text, Line::Key { key: "cid", value: "3", what: "kernel vsock" });
        assert_eq!(line("# [[vm]]"), Line::Section("[[vm]]"));
        assert_eq!(line("# What is = so."), Line::Text("What is = so."));
        assert_eq!(line("#"), Line::Blank);
    }

    #[test]
    fn nothing_that_is_said_commands_the_reader() {
        let page = page(Path::new("/etc/a"), "a", "b(1)", "# .so /etc/passwd\n# it's \\fB\n# key = \"-1\"\n");
        assert!(page.contains("\\&.so /etc/passwd it\\(aqs \\efB\n"), "{page}");
        assert!(page.contains(".TP\n\\fBkey\\fR = \\(dq\\-1\\(dq\n"), "{page}");
    }
}
