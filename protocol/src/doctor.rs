//! What `vmtide doctor` and `vmtide-agent doctor` find: the one form that both print, as text and as JSON.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// How a link of the chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It holds.
    Ok,
    /// vmtide works without it, yet worse.
    Warn,
    /// The chain is broken here.
    Fail,
    /// There is nothing to check, or no way to.
    Skip,
}

/// One link of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Which.
    pub name: String,
    /// How it stands.
    pub state: State,
    /// What was found: a figure, a path, an error.
    pub found: String,
    /// What it is needed for.
    pub why: String,
    /// What to type, or to change, next; `None` where nothing has to be done.
    #[serde(rename = "try")]
    pub next: Option<String>,
}

impl Check {
    /// A link `name` that is needed for `why`; nothing was found out about it yet.
    pub fn new(name: impl Into<String>, why: &str) -> Self {
        Self { name: name.into(), state: State::Skip, found: String::new(), why: why.to_owned(), next: None }
    }

    /// It holds.
    #[must_use]
    pub fn ok(self, found: impl Into<String>) -> Self {
        Self { state: State::Ok, found: found.into(), ..self }
    }

    /// It is worse than it could be, and `next` would better it.
    #[must_use]
    pub fn warn(self, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { state: State::Warn, found: found.into(), next: Some(next.into()), ..self }
    }

    /// It is broken, and `next` would mend it.
    #[must_use]
    pub fn fail(self, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { state: State::Fail, found: found.into(), next: Some(next.into()), ..self }
    }

    /// It was not looked at, and why not.
    #[must_use]
    pub fn skip(self, found: impl Into<String>) -> Self {
        Self { state: State::Skip, found: found.into(), ..self }
    }
}

/// All links, in the order in which they depend on each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether none is broken.
    pub ok: bool,
    /// Each.
    pub checks: Vec<Check>,
}

impl Report {
    /// Of these.
    pub fn new(checks: Vec<Check>) -> Self {
        Self { ok: !checks.iter().any(|check| check.state == State::Fail), checks }
    }

    /// The check of this name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// A line for each check; below those that warn or fail, what the link is for and what to try. Nothing in it steers a
    /// terminal, whoever wrote what was found.
    pub fn text(&self) -> String {
        let width = self.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for check in &self.checks {
            let state = match check.state {
                State::Ok => "ok",
                State::Warn => "warn",
                State::Fail => "FAIL",
                State::Skip => "skip",
            };
            // Writing to a String does not fail.
            _ = writeln!(text, "{state:<4}  {:<width$}  {}", one_line(&check.name), one_line(&check.found));
            if matches!(check.state, State::Warn | State::Fail) {
                _ = writeln!(text, "      {:<width$}  why: {}", "", one_line(&check.why));
            }
            if let Some(next) = &check.next {
                _ = writeln!(text, "      {:<width$}  try: {}", "", one_line(next));
            }
        }
        text
    }
}

fn one_line(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::new("device", "the way to the host").ok("/dev/vsock"),
            Check::new("pressure", "how long tasks wait").warn("absent", "boot with psi=1"),
            Check::new("virtio-mem", "memory that comes and goes").skip("none"),
        ]
    }

    #[test]
    fn each_check_is_a_line_and_what_is_wrong_says_why_and_what_to_try() {
        let text = Report::new(checks()).text();
        let expected = "ok    device      /dev/vsock\n\
                        warn  pressure    absent\n                  why: how long tasks wait\n                  try: boot with psi=1\n\
                        skip  virtio-mem  none\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn only_a_failure_is_a_failure() {
        assert!(Report::new(checks()).ok && Report::new(Vec::new()).ok);
        let failed = Check::new("port", "").fail("refused", "systemctl start vmtide-bridge");
        assert!(!Report::new([checks(), vec![failed]].concat()).ok);
    }

    #[test]
    fn what_others_wrote_steers_no_terminal_and_takes_one_line() {
        let hostile = Check::new("a\u{1b}[2J", "").fail("b\r\nok    c\u{7}", "d\n");
        let text = Report::new(vec![hostile]).text();
        assert!(text.lines().count() == 3 && text.lines().all(|line| !line.contains(char::is_control)), "{text:?}");
    }

    #[test]
    fn json_has_the_documented_shape() {
        let json = serde_json::to_value(Report::new(checks())).unwrap();
        assert_eq!(json["ok"], true);
        let expected = serde_json::json!({
            "name": "pressure", "state": "warn", "found": "absent", "why": "how long tasks wait", "try": "boot with psi=1"
        });
        assert_eq!(json["checks"][1], expected);
        assert_eq!(json["checks"][0]["try"], serde_json::Value::Null);
    }
}
