//! `cargo lab picture`: a demo's allocations over time as an SVG.
//!
//! In: the demo's [`Report`]. Out: each VM's allocation as a band, stacked to what all have together; the need each
//! guest stated as a dashed line within its band; the budget as a line on top.

use std::fmt::Write as _;

use anyhow::{Result, ensure};

use crate::{
    demo::{Report, Sample},
    vm::MIB,
};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 52.0;

/// Fill colours that differ in lightness too, for those who do not tell the hues apart.
const COLOURS: [&str; 6] = ["#3b82c4", "#e8a33d", "#4d9f70", "#b05fa3", "#7fb8d8", "#a0644a"];

/// Colours of text and lines follow the reader's scheme; the background is drawn so that both stay legible.
const STYLE: &str = "\
<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.paper { fill: #ffffff }
.grid { stroke: #d0d7de }
.need { fill: none; stroke: #1f2328; stroke-width: 1.5; stroke-dasharray: 4 3 }
.budget { stroke: #cf222e; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.paper { fill: #0d1117 }
.grid { stroke: #30363d }
.need { stroke: #f0f6fc }
.budget { stroke: #ff7b72 }
}
</style>
";

/// The scales of one picture.
struct Axes {
    end_ms: u64,
    top_bytes: u64,
}

/// Draws a run.
///
/// # Errors
/// When the report has no timeline.
pub fn draw(report: &Report) -> Result<String> {
    ensure!(report.timeline.len() > 1, "the report has no timeline: only `cargo lab demo --json` writes one");
    let axes = Axes {
        end_ms: report.timeline.last().map_or(1, |sample| sample.t_ms).max(1),
        top_bytes: report.budget_bytes.max(report.peak_committed_bytes).next_multiple_of(256 * MIB),
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <title>Memory of {} VMs on a budget of {} MiB</title>\n{STYLE}\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\n",
        report.vms.len(),
        report.budget_bytes / MIB
    );
    axes.grid(&mut svg);
    for at in 0..report.vms.len() {
        axes.band(&mut svg, &report.timeline, at);
    }
    let budget = axes.y(report.budget_bytes);
    line(&mut svg, "budget", (LEFT, budget), (WIDTH - RIGHT, budget));
    legend(&mut svg, report);
    svg.push_str("</svg>\n");
    Ok(svg)
}

impl Axes {
    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    fn x(&self, t_ms: u64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * t_ms as f64 / self.end_ms as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    fn y(&self, bytes: u64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * bytes as f64 / self.top_bytes as f64
    }

    fn grid(&self, svg: &mut String) {
        for mib in (0..=self.top_bytes / MIB).step_by(256) {
            let y = self.y(mib * MIB);
            line(svg, "grid", (LEFT, y), (WIDTH - RIGHT, y));
            text(svg, (LEFT - 8.0, y + 4.0), "end", &mib.to_string());
        }
        let step_ms = (self.end_ms / 8).next_multiple_of(5000);
        for t_ms in (0..=self.end_ms).step_by(usize::try_from(step_ms).unwrap_or(usize::MAX)) {
            text(svg, (self.x(t_ms), HEIGHT - BOTTOM + 20.0), "middle", &(t_ms / 1000).to_string());
        }
        text(svg, (LEFT - 8.0, TOP - 14.0), "end", "MiB");
        text(svg, (WIDTH - RIGHT, HEIGHT - 12.0), "end", "seconds");
    }

    /// One VM's allocation above those before it, and its need within.
    fn band(&self, svg: &mut String, timeline: &[Sample], at: usize) {
        let below = |sample: &Sample| sample.vms.iter().take(at).map(|vm| vm.allocation_bytes).sum::<u64>();
        let point = |sample: &Sample, bytes: u64| format!("{:.1},{:.1}", self.x(sample.t_ms), self.y(bytes));
        let upper = timeline.iter().map(|sample| point(sample, below(sample) + sample.vms[at].allocation_bytes));
        let lower = timeline.iter().rev().map(|sample| point(sample, below(sample)));
        let outline: Vec<String> = upper.chain(lower).collect();
        let colour = COLOURS[at % COLOURS.len()];
        push(svg, format_args!("<polygon fill=\"{colour}\" fill-opacity=\"0.85\" points=\"{}\"/>", outline.join(" ")));

        let mut path = String::new();
        let mut pen = 'M';
        for sample in timeline {
            // Without a report there is no need to draw: the line is broken there.
            pen = match sample.vms[at].need_bytes {
                Some(need) => {
                    path.push(pen);
                    // A guest may want more than there is; the picture ends at its top.
                    path.push_str(&point(sample, (below(sample) + need).min(self.top_bytes)));
                    'L'
                }
                None => 'M',
            };
        }
        push(svg, format_args!("<path class=\"need\" d=\"{path}\"/>"));
    }
}

fn legend(svg: &mut String, report: &Report) {
    let mut x = LEFT;
    let y = 26.0;
    for (at, vm) in report.vms.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        push(svg, format_args!("<rect x=\"{x}\" y=\"{}\" width=\"14\" height=\"14\" fill=\"{colour}\"/>", y - 11.0));
        text(svg, (x + 20.0, y), "start", &format!("VM {}", vm.name));
        x += 72.0;
    }
    push(svg, format_args!("<path class=\"need\" d=\"M{x},{0}L{1},{0}\"/>", y - 4.0, x + 26.0));
    text(svg, (x + 32.0, y), "start", "its need");
    x += 110.0;
    line(svg, "budget", (x, y - 4.0), (x + 26.0, y - 4.0));
    text(svg, (x + 32.0, y), "start", "budget");
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    push(svg, format_args!("<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1:.1}\" x2=\"{x2}\" y2=\"{y2:.1}\"/>"));
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    push(svg, format_args!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>", at.0, at.1));
}

fn push(svg: &mut String, element: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(svg, "{element}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(timeline: &serde_json::Value) -> Report {
        let vm = |name| {
            json!({"name": name, "max_bytes": 0, "allocation_start_bytes": 0, "allocation_min_bytes": 0,
                "allocation_max_bytes": 0, "allocation_end_bytes": 0, "work_ops": 0, "stall_ms": 0, "oom_kills": 0})
        };
        serde_json::from_value(json!({"accelerator": "tcg", "kernel": "6.12", "budget_bytes": 512 * MIB,
            "seconds": 2.0, "violation_seconds": 0.0, "peak_committed_bytes": 400 * MIB, "vms": [vm("a"), vm("b")],
            "reaction_ms": {"count": 0, "p50": 0, "p95": 0}, "decisions": 0, "timeline": timeline}))
        .unwrap()
    }

    #[test]
    fn bands_are_stacked_and_needs_break_where_unknown() {
        let vm =
            |mib: u64, need: Option<u64>| json!({"allocation_bytes": mib * MIB, "need_bytes": need.map(|n| n * MIB)});
        let svg = draw(&report(&json!([
            {"t_ms": 0, "vms": [vm(256, None), vm(128, Some(64))]},
            {"t_ms": 1000, "vms": [vm(256, Some(128)), vm(128, None)]},
            {"t_ms": 2000, "vms": [vm(256, Some(128)), vm(128, Some(64))]},
        ])))
        .unwrap();
        assert_eq!(svg.matches("<polygon").count(), 2);
        // 512 MiB are 304 pixels above y = 368: b's band ends at 384 MiB, its need stands at 320 MiB.
        assert!(svg.contains("points=\"64.0,140.0 450.0,140.0"), "{svg}");
        assert!(svg.contains("d=\"M64.0,178.0M836.0,178.0\""), "{svg}");
    }

    #[test]
    fn a_report_without_a_timeline_is_refused() {
        assert!(draw(&report(&json!([]))).unwrap_err().to_string().contains("no timeline"));
    }
}
