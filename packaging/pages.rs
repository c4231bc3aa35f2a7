//! The manual page and the completions of a command, from the definition of its command line: a part of each binary's tests,
//! so that no binary carries what writes them. With `VMTIDE_PAGES=DIR`, as `cargo lab package` runs it, they go there.
#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use super::Cli;
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{env, fs};

/// What belongs to a command, by its name: the section of its page, its files and what to read next.
const ABOUT: [(&str, &str, &[&str], &str); 3] = [
    ("vmtide", "1", &["/run/vmtide/control.sock"], "vmtide-bridge(8), vmtide-bridge.toml(5), vmtide-agent(8)"),
    (
        "vmtide-agent",
        "8",
        &["/etc/vmtide/agent.toml", "/etc/vmtide/agent.conf.d/", "/etc/vmtide/tuning.d/", "/run/vmtide/"],
        "vmtide-agent.toml(5), vmtide-bridge(8)",
    ),
    (
        "vmtide-bridge",
        "8",
        &["/etc/vmtide/bridge.toml", "/etc/vmtide/conf.d/", "/run/vmtide/control.sock", "/var/lib/vmtide/record/"],
        "vmtide-bridge.toml(5), vmtide(1), vmtide-agent(8)",
    ),
];

/// A part of a page, without the heading that the renderer gives it.
fn part(render: impl Fn(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut text = Vec::new();
    render(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let is_body = |line: &&str| ![".SH ", ".ie ", ".el "].iter().any(|start| line.starts_with(start));
    text.lines().filter(is_body).flat_map(|line| [line, "\n"]).collect()
}

/// One page for the command with all its subcommands.
fn page(command: &Command) -> String {
    let (_, section, files, see_also) = ABOUT.iter().find(|(name, ..)| *name == command.get_name()).unwrap();
    let man = Man::new(command.clone()).section(*section).manual("vmtide");
    let mut page = Vec::new();
    man.render_title(&mut page).unwrap();
    let mut page = String::from_utf8(page).unwrap();
    page += &format!(".SH NAME\n{}", part(|text| man.render_name_section(text)));
    page += &format!(".SH SYNOPSIS\n{}", part(|text| man.render_synopsis_section(text)));
    page += &format!(".SH OPTIONS\n{}", part(|text| man.render_options_section(text)));
    page += ".SH COMMANDS\n";
    for (path, leaf) in leaves(command) {
        // What holds for all of them is said once.
        let leaf = leaf.mut_args(|arg| {
            let is_known = arg.is_global_set() || ["help", "version"].contains(&arg.get_id().as_str());
            arg.hide(is_known)
        });
        let man = Man::new(leaf);
        page += &format!(".SS \"{path}\"\n{}.PP\n", part(|text| man.render_synopsis_section(text)));
        page += &part(|text| man.render_description_section(text));
        page += &part(|text| man.render_options_section(text));
        page += &format!(".PP\n{}", part(|text| man.render_extra_section(text)));
    }
    page += &format!(".SH EXIT STATUS\n{}", part(|text| man.render_extra_section(text)));
    page += &format!(".SH FILES\n.nf\n{}\n.fi\n", files.join("\n"));
    page + &format!(".SH SEE ALSO\n{see_also}\n")
}

/// All commands without subcommands, by what is typed: `config show`.
fn leaves(command: &Command) -> Vec<(String, Command)> {
    let mut found = Vec::new();
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help" && !inner.is_hide_set()) {
        let name = inner.get_name().to_owned();
        if inner.has_subcommands() {
            found.extend(leaves(inner).into_iter().map(|(path, leaf)| (format!("{name} {path}"), leaf)));
        } else {
            found.push((name, inner.clone()));
        }
    }
    found
}

/// Names of the files that hold the page and the completions, below a folder, and their texts.
fn files() -> Vec<(String, String)> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let name = command.get_name().to_owned();
    let section = ABOUT.iter().find(|about| about.0 == name).unwrap().1;
    let mut files = vec![(format!("{name}.{section}"), page(&command))];
    for (shell, file) in
        [(Shell::Bash, format!("{name}.bash")), (Shell::Zsh, format!("_{name}")), (Shell::Fish, format!("{name}.fish"))]
    {
        let mut text = Vec::new();
        generate(shell, &mut Cli::command(), &name, &mut text);
        files.push((file, String::from_utf8(text).unwrap()));
    }
    files
}

#[test]
fn every_command_and_option_is_in_the_page_and_the_completions() {
    let files = files();
    if let Some(folder) = env::var_os("VMTIDE_PAGES").map(PathBuf::from) {
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in &files {
            fs::write(folder.join(file), text).unwrap();
        }
    }
    let mut command = Cli::command();
    command.build();
    let leaves = leaves(&command);
    assert!(leaves.len() > 2);
    let (page, completions) = files.split_first().unwrap();
    for (path, leaf) in &leaves {
        let options = leaf.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_global_set());
        let options: Vec<&str> = options.filter_map(|arg| arg.get_long()).filter(|name| *name != "help").collect();
        let (_, about) = page.1.split_once(&format!(".SS \"{path}\"\n")).unwrap_or_else(|| panic!("no {path:?}"));
        let about = about.split("\n.S").next().unwrap();
        for option in &options {
            // A hyphen that can be copied is written as `\-`.
            let written = format!("\\-\\-{}\\fR", option.replace('-', "\\-"));
            assert!(about.contains(&written), "{}: {path:?} lacks --{option}", page.0);
        }
        for (file, text) in completions {
            let words: BTreeSet<&str> = text.split(|c: char| !c.is_alphanumeric() && !"-_".contains(c)).collect();
            for name in path.split(' ') {
                assert!(words.contains(name), "{file} lacks {path:?}");
            }
            for option in &options {
                // fish: `-l json`.
                let is_there =
                    words.contains(format!("--{option}").as_str()) || text.contains(&format!(" -l {option}"));
                assert!(is_there, "{file} lacks --{option} of {path:?}");
            }
        }
    }
}
