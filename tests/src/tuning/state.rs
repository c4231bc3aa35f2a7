//! Every setting of a guest, read by the lab: all of `/proc/sys`, and each file of `/sys` that a knob could touch.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use crate::Vm;

/// Counters and states that the kernel keeps below `/proc/sys`, not settings.
const NO_SETTINGS: [&str; 11] = [
    "/proc/sys/fs/aio-nr",
    "/proc/sys/fs/dentry-state",
    "/proc/sys/fs/file-nr",
    "/proc/sys/fs/inode-nr",
    "/proc/sys/fs/inode-state",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/kernel/perf_event_max_sample_rate",
    "/proc/sys/kernel/pty/nr",
    "/proc/sys/kernel/random/",
    "/proc/sys/kernel/tainted",
    "/proc/sys/net/netfilter/nf_conntrack_count",
];

/// Files and what they hold.
#[derive(Debug, PartialEq, Eq)]
pub struct State(BTreeMap<String, String>);

impl State {
    /// Reads the guest.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn read(vm: &Vm) -> Result<Self> {
        let list = vm.run("vmtide-agent tuning list --json").await?;
        let paths = knob_files(&serde_json::from_str(&list)?).join(" ");
        // Some files are for writing only, and say so on standard error.
        vm.try_run(&format!("grep -rs '' /proc/sys >/tmp/state; grep -Hs '' {paths} >>/tmp/state")).await?;
        Ok(Self::parse(&vm.read("/tmp/state", 0).await?))
    }

    /// What is not the same in both, in sentences.
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let differs = |path: &&String| self.0.get(*path) != after.0.get(*path);
        let mut paths: Vec<_> = self.0.keys().chain(after.0.keys()).filter(differs).collect();
        paths.sort_unstable();
        paths.dedup();
        let shown =
            |state: &Self, path: &String| state.0.get(path).map_or("nothing".to_owned(), |text| format!("{text:?}"));
        paths
            .into_iter()
            .map(|path| format!("{path}: {} before, {} after", shown(self, path), shown(after, path)))
            .collect()
    }

    /// From lines of `grep -H`; a file may have several.
    fn parse(text: &str) -> Self {
        let mut files = BTreeMap::<String, String>::new();
        for (path, line) in text.lines().filter_map(|line| line.split_once(':')) {
            if !NO_SETTINGS.iter().any(|prefix| path.starts_with(prefix)) {
                let content = files.entry(path.to_owned()).or_default();
                content.push_str(line);
                content.push('\n');
            }
        }
        Self(files)
    }
}

/// Of `vmtide-agent tuning list --json`, those below `/sys`; patterns that no file fits are left to the shell.
fn knob_files(list: &Value) -> Vec<String> {
    let rows = list["knobs"].as_array().into_iter().flatten();
    let mut files: Vec<_> = rows
        .filter_map(|row| row["path"].as_str())
        .filter(|path| path.starts_with("/sys/"))
        .map(str::to_owned)
        .collect();
    files.sort_unstable();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_and_counters_are_no_settings() {
        let before = State::parse("/proc/sys/vm/a:1\n/proc/sys/vm/a:2\n/proc/sys/vm/b:x:y\n/proc/sys/fs/file-nr:7\n");
        let after = State::parse("/proc/sys/vm/a:1\n/proc/sys/vm/a:3\n/sys/c:0\n/proc/sys/fs/file-nr:9\n");
        assert!(before.differences(&before).is_empty());
        assert_eq!(
            before.differences(&after),
            [
                r#"/proc/sys/vm/a: "1\n2\n" before, "1\n3\n" after"#,
                r#"/proc/sys/vm/b: "x:y\n" before, nothing after"#,
                r#"/sys/c: nothing before, "0\n" after"#,
            ]
        );
    }

    #[test]
    fn the_files_of_knobs_below_sys_are_those_of_the_list() {
        let list = serde_json::json!({ "knobs": [
            { "path": "/sys/a" }, { "path": "/proc/sys/vm/b" }, { "path": "/sys/block/vd*/c" }, { "path": "/sys/a" }
        ]});
        assert_eq!(knob_files(&list), ["/sys/a", "/sys/block/vd*/c"]);
    }
}
