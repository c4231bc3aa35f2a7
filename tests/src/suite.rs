//! `cargo lab test`: every check of the workspace in one run, and one line that sums it up.
//!
//! In: the workspace. Out: each stage's own output as it comes, then `N passed, N failed`. A stage that fails
//! without a failed test, such as a lint, counts as one failure and is named. All stages run even when one fails.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, Result};

use crate::{
    prepare::{cargo_by, cargo_program, workspace_dir},
    vm::{Tied, sweep_scratch},
};

/// What came of one or all stages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Tests that passed.
    pub passed: u64,
    /// Tests and stages that failed.
    pub failed: u64,
}

const STAGES: [(&str, &[&str]); 5] = [
    ("formatting", &["fmt", "--all", "--check"]),
    ("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ("documentation", &["doc", "--workspace", "--no-deps"]),
    ("tests", &["test", "--workspace", "--exclude", "vmtide-lab", "--no-fail-fast"]),
    // One VM test at a time: two cores that translate cannot keep the promises of several fleets.
    ("real VMs", &["test", "--package", "vmtide-lab", "--no-fail-fast", "--", "--test-threads=1"]),
];

/// Runs all stages; prints the totals as the last line.
///
/// # Errors
/// When cargo cannot be started.
pub fn run() -> Result<Totals> {
    let mut totals = Totals::default();
    let mut failed_stages = Vec::new();
    for (name, args) in STAGES {
        println!("\n== {name}: cargo {}", args.join(" "));
        let (stage, success) = run_stage(args)?;
        totals.passed += stage.passed;
        totals.failed += stage.failed;
        if !success {
            failed_stages.push(name);
            // The tests that failed are counted already; what else failed is one failure.
            totals.failed += u64::from(stage.failed == 0);
        }
    }
    sweep_scratch();
    println!();
    for name in failed_stages {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed", totals.passed, totals.failed);
    Ok(totals)
}

fn run_stage(args: &[&str]) -> Result<(Totals, bool)> {
    // The stage must not outlive the lab, nor its test processes the stage.
    let mut stage = cargo_by(Tied::command(cargo_program()));
    stage.args(args);
    stage.env("VMTIDE_LAB_TIED", "1").env("RUSTDOCFLAGS", "-D warnings").env("RUST_LIB_BACKTRACE", "0");
    stage.current_dir(workspace_dir()).stdout(Stdio::piped());
    let mut child = stage.spawn().context("cannot start setpriv (util-linux)")?;
    let mut totals = Totals::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            if let Some(result) = parse_result(&line) {
                totals.passed += result.passed;
                totals.failed += result.failed;
            }
        }
    }
    Ok((totals, child.wait()?.success()))
}

/// Reads the runner's `test result: ok. 5 passed; 0 failed; …`.
fn parse_result(line: &str) -> Option<Totals> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |name: &str| counts.split("; ").find_map(|part| part.strip_suffix(name)?.trim().parse().ok());
    Some(Totals { passed: count("passed")?, failed: count("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_the_runner() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.5s";
        assert_eq!(parse_result(line), Some(Totals { passed: 12, failed: 3 }));
        assert_eq!(parse_result("test a ... ok"), None);
    }
}
