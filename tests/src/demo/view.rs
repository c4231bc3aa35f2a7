//! The live view: a table that is redrawn in place on a terminal, one line every five seconds elsewhere.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use vmtide_bridge::{api::types::Vm as BridgeVm, record::sentence};

use super::{LoadLog, Look, need_bytes};
use crate::vm::MIB;

const BAR_CELLS: u64 = 32;

/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 120;

const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// What has been drawn so far.
#[derive(Debug)]
pub(super) struct View {
    live: bool,
    drawn_lines: usize,
    next_plain: Duration,
}

impl View {
    pub(super) fn new() -> Self {
        Self { live: io::stdout().is_terminal(), drawn_lines: 0, next_plain: Duration::ZERO }
    }

    pub(super) fn show(&mut self, at: Duration, look: &Look, logs: &[LoadLog]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.live {
            let table = table(at, look, logs);
            // Up to where the last table began, and away with what is left of its lines.
            if self.drawn_lines > 0 {
                write!(out, "\x1b[{}A", self.drawn_lines)?;
            }
            for line in &table {
                let line: String = line.chars().take(COLUMNS).collect();
                writeln!(out, "\r{line}\x1b[K")?;
            }
            write!(out, "\x1b[J")?;
            self.drawn_lines = table.len();
            out.flush()
        } else if at >= self.next_plain {
            self.next_plain += PLAIN_INTERVAL;
            writeln!(out, "{}", plain(at, look, logs))
        } else {
            Ok(())
        }
    }
}

fn table(at: Duration, look: &Look, logs: &[LoadLog]) -> Vec<String> {
    let mut lines = vec![
        format!("{:>5} s", at.as_secs()),
        format!("VM   {:<32}  {:>6} {:>6} MiB  {:>9}  {:>8}", "allocation, | need", "has", "needs", "stall", "work"),
    ];
    for ((vm, allocation_bytes), log) in look.vms.iter().zip(&look.allocation_bytes).zip(logs) {
        lines.push(format!(
            "{:<4} {}  {:>6} {:>6} MiB  {:>4} ms/s  {:>6}/s  {}",
            vm.name,
            bar(vm, *allocation_bytes),
            allocation_bytes / MIB,
            need_bytes(vm).map_or("?".to_owned(), |bytes| (bytes / MIB).to_string()),
            log.stall_ms_per_s(),
            log.ops_per_s(),
            log.last().phase
        ));
    }
    let limit = look.status.capacity_bytes.saturating_sub(look.status.reserve_bytes);
    let (committed, free) = (look.status.committed_bytes / MIB, look.status.free_bytes / MIB);
    lines.push(format!(
        "host committed {committed} of {} MiB, free {free} MiB, spike pool {} MiB, {} decisions",
        limit / MIB,
        look.status.spike_pool_bytes / MIB,
        look.status.decisions
    ));
    lines.extend(look.decisions.iter().map(|decision| format!("{}: {}", decision.vm, sentence(decision))));
    lines
}

/// The allocation as filled cells of the maximum, with a mark where the need is.
fn bar(vm: &BridgeVm, allocation_bytes: u64) -> String {
    let cell = |bytes: u64| bytes * BAR_CELLS / vm.maximum_bytes.max(1);
    let need = need_bytes(vm).map(cell);
    (0..BAR_CELLS)
        .map(|at| match (need == Some(at), at < cell(allocation_bytes)) {
            (true, _) => '|',
            (false, true) => '█',
            (false, false) => '·',
        })
        .collect()
}

fn plain(at: Duration, look: &Look, logs: &[LoadLog]) -> String {
    let mut line = format!("{:>4} s", at.as_secs());
    for ((vm, allocation_bytes), log) in look.vms.iter().zip(&look.allocation_bytes).zip(logs) {
        let need = need_bytes(vm).map_or("?".to_owned(), |bytes| (bytes / MIB).to_string());
        // Writing to a String does not fail.
        let _ = write!(
            line,
            "  {}: {} MiB (needs {need}), stall {} ms/s, {} ops/s",
            vm.name,
            allocation_bytes / MIB,
            log.stall_ms_per_s(),
            log.ops_per_s()
        );
    }
    line + &format!("  committed {} MiB", look.status.committed_bytes / MIB)
}
