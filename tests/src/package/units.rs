//! How much a unit could do that its daemon does not need, as systemd itself rates it.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::prepare::{run, workspace_dir};

/// `systemd-analyze security` of a unit of `packaging/systemd`: 0 can do nothing, 10 everything. Drop-ins beside it are not its own.
///
/// # Errors
/// When there is no such unit, or systemd cannot read it.
pub fn exposure(unit: &str) -> Result<f64> {
    let path = workspace_dir().join("packaging/systemd").join(unit);
    let text = fs::read_to_string(&path).with_context(|| format!("{}: cannot read", path.display()))?;
    exposure_of(unit, &text)
}

/// The same of a unit's text.
///
/// # Errors
/// When systemd cannot read it.
pub fn exposure_of(unit: &str, text: &str) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join(unit);
    fs::write(&path, text)?;
    let mut analyze = Command::new("systemd-analyze");
    let text = run(analyze.args(["security", "--offline=true", "--no-pager"]).arg(&path).env("LC_ALL", "C.UTF-8"))?;
    parse(&text).with_context(|| format!("{unit}: no rating in\n{text}"))
}

/// Reads `→ Overall exposure level for a.service: 2.3 OK`.
fn parse(text: &str) -> Option<f64> {
    let (_, rating) = text.lines().last()?.split_once(": ")?;
    rating.split_whitespace().next()?.parse().ok()
}
