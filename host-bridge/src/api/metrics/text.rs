//! The two text formats: OpenMetrics 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>) and what Prometheus had before
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), which is all that node_exporter's textfile collector reads.

use super::Family;
use std::fmt::{self, Display, Write};

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format 0.0.4 of Prometheus.
    Prometheus,
}

impl Format {
    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The one for who accepts this: OpenMetrics, unless only the other is spoken of.
    pub fn accepted(accept: &str) -> Self {
        let names = |name| accept.to_ascii_lowercase().contains(name);
        if names("text/plain") && !names("application/openmetrics-text") { Self::Prometheus } else { Self::OpenMetrics }
    }
}

/// What the values of a family do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They rise and fall.
    Gauge,
    /// They rise; one that is less than before began anew.
    Counter,
}

impl Kind {
    /// Its name in both formats.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }

    /// What ends the names of its samples.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Gauge => "",
            Self::Counter => "_total",
        }
    }
}

/// A number with so many decimals, written as it is: no digit of a count is lost on the way through a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    units: u64,
    decimals: u32,
}

impl Number {
    pub(super) fn whole(units: u64) -> Self {
        Self { units, decimals: 0 }
    }

    pub(super) fn count(count: usize) -> Self {
        Self::whole(u64::try_from(count).unwrap_or(u64::MAX))
    }

    pub(super) fn flag(is_so: bool) -> Self {
        Self::whole(u64::from(is_so))
    }

    pub(super) fn thousandths(units: u64) -> Self {
        Self { units, decimals: 3 }
    }

    pub(super) fn millionths(units: u64) -> Self {
        Self { units, decimals: 6 }
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = 10_u64.pow(self.decimals);
        write!(f, "{}", self.units / one)?;
        if self.units.is_multiple_of(one) {
            return Ok(());
        }
        let width = usize::try_from(self.decimals).unwrap_or(0);
        let decimals = format!("{:0width$}", self.units % one);
        write!(f, ".{}", decimals.trim_end_matches('0'))
    }
}

/// A page that is being written.
pub(super) struct Page {
    format: Format,
    text: String,
}

impl Page {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::new() }
    }

    /// One family with all its samples: labels without a name are left out. Without samples there is nothing to tell.
    pub(super) fn family<'a, const N: usize>(
        &mut self,
        family: &Family,
        samples: impl Iterator<Item = ([(&'a str, &'a str); N], Number)>,
    ) {
        let Family { name, kind, unit, help, .. } = family;
        let suffix = kind.suffix();
        // OpenMetrics describes the family, the older format each name that samples have.
        let described = if self.format == Format::Prometheus { suffix } else { "" };
        let mut samples = samples.peekable();
        if samples.peek().is_none() {
            return;
        }
        // Writing to a String does not fail.
        _ = writeln!(self.text, "# HELP {name}{described} {}", escaped(help, self.format));
        _ = writeln!(self.text, "# TYPE {name}{described} {}", kind.name());
        if self.format == Format::OpenMetrics && !unit.is_empty() {
            _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        for (labels, number) in samples {
            let labels = labels.iter().filter(|(label, _)| !label.is_empty());
            let labels: Vec<String> =
                labels.map(|(label, value)| format!("{label}=\"{}\"", escaped(value, Format::OpenMetrics))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            _ = writeln!(self.text, "{name}{suffix}{labels} {number}");
        }
    }

    pub(super) fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// A label's value, or a help: the older format leaves quotes in a help as they are.
fn escaped(text: &str, format: Format) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if format == Format::OpenMetrics { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_every_digit_and_no_more() {
        for (number, text) in [
            (Number::whole(u64::MAX), "18446744073709551615"),
            (Number::thousandths(0), "0"),
            (Number::thousandths(1_050), "1.05"),
            (Number::millionths(1_000_000), "1"),
            (Number::millionths(7), "0.000007"),
            (Number::flag(true), "1"),
        ] {
            assert_eq!(number.to_string(), text);
        }
    }

    #[test]
    fn openmetrics_is_for_all_who_do_not_ask_for_the_other() {
        for (accept, format) in [
            ("", Format::OpenMetrics),
            ("*/*", Format::OpenMetrics),
            ("text/plain;version=0.0.4", Format::Prometheus),
            ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", Format::OpenMetrics),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn labels_are_escaped_and_a_family_without_samples_is_not_named() {
        let family = Family { name: "x", kind: Kind::Counter, unit: "", label: "path", help: "A \"b\\c\"." };
        let path = "/a \"b\\\n}c";
        for (format, text) in [
            (
                Format::OpenMetrics,
                "# HELP x A \\\"b\\\\c\\\".\n# TYPE x counter\nx_total{path=\"/a \\\"b\\\\\\n}c\"} 7\n# EOF\n",
            ),
            (
                Format::Prometheus,
                "# HELP x_total A \"b\\\\c\".\n# TYPE x_total counter\nx_total{path=\"/a \\\"b\\\\\\n}c\"} 7\n",
            ),
        ] {
            let mut page = Page::new(format);
            page.family(&family, [([("path", path)], Number::whole(7))].into_iter());
            page.family(&family, std::iter::empty::<([(&str, &str); 1], Number)>());
            assert_eq!(page.end(), text);
        }
    }
}
