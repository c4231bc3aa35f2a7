//! What the API tells, for a monitoring system: OpenMetrics, or the text format of Prometheus that came before it.
//!
//! ```text
//! Status --> host, a table: name, unit, help, how it is read --+--> text --> GET /metrics, vmtide metrics
//! [Vm] ----> vm, likewise, each with the label vm -------------+
//! ```
//!
//! Pure. The tables are the one definition: the page `docs/metrics.md` is written from them. Names follow the conventions
//! of Prometheus: base units (bytes, seconds, ratios of 0 to 1), the unit at the end of the name, `_total` behind counters.
//! What is not known has no sample.
//!
//! Labels are bounded: names of VMs and paths of images come from the configuration of bridge and VMs, all else is a closed
//! list. Nothing that a guest wrote is a label.

mod host;
mod text;
mod vm;

pub use text::{Format, Kind};

use super::types::{Status, Vm};
use crate::performance::{Index, Indices, Resource};
use text::{Number, Page};

/// A family of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name, without the `_total` of a counter's samples.
    pub name: &'static str,
    /// What its values do.
    pub kind: Kind,
    /// What they are measured in, which ends the name; empty for plain numbers.
    pub unit: &'static str,
    /// The label that tells its samples of one thing apart; empty where there is one sample only.
    pub label: &'static str,
    /// What it is, in a sentence.
    pub help: &'static str,
}

/// A family, and how it is read from one thing.
struct Metric<T> {
    family: Family,
    read: fn(&T) -> Samples,
}

/// Values of the label, and what is measured.
type Samples = Vec<(String, Number)>;

impl<T> Metric<T> {
    const fn gauge(name: &'static str, unit: &'static str, help: &'static str, read: fn(&T) -> Samples) -> Self {
        Self { family: Family { name, kind: Kind::Gauge, unit, label: "", help }, read }
    }

    const fn counter(name: &'static str, unit: &'static str, help: &'static str, read: fn(&T) -> Samples) -> Self {
        Self { family: Family { name, kind: Kind::Counter, unit, label: "", help }, read }
    }

    const fn by(self, label: &'static str) -> Self {
        let Self { family: Family { name, kind, unit, help, .. }, read } = self;
        Self { family: Family { name, kind, unit, label, help }, read }
    }
}

/// All families, those of the host first; the samples of the others have the label `vm` besides.
pub fn families() -> (Vec<Family>, Vec<Family>) {
    (
        host::METRICS.iter().map(|metric| metric.family).collect(),
        vm::METRICS.iter().map(|metric| metric.family).collect(),
    )
}

/// The whole page.
pub fn render(format: Format, status: &Status, vms: &[Vm]) -> String {
    let mut page = Page::new(format);
    for Metric { family, read } in host::METRICS {
        page.family(family, read(status).iter().map(|(value, number)| ([(family.label, value.as_str())], *number)));
    }
    for Metric { family, read } in vm::METRICS {
        let samples: Vec<(&str, Samples)> = vms.iter().map(|vm| (vm.name.as_str(), read(vm))).collect();
        let samples = samples.iter().flat_map(|(vm, samples)| {
            samples.iter().map(|(value, number)| ([("vm", *vm), (family.label, value.as_str())], *number))
        });
        page.family(family, samples);
    }
    page.end()
}

/// The one sample of a family without a label, if it is known.
fn one(number: impl Into<Option<Number>>) -> Samples {
    number.into().map(|number| (String::new(), number)).into_iter().collect()
}

/// A sample for each of a closed list, 1 for the one that is so.
fn one_of<T: PartialEq>(all: &[(T, &str)], is: Option<&T>) -> Samples {
    all.iter().map(|(each, name)| ((*name).to_owned(), Number::flag(is == Some(each)))).collect()
}

/// Samples with these values of the label.
fn each<const N: usize>(samples: [(&str, Number); N]) -> Samples {
    samples.into_iter().map(|(value, number)| (value.to_owned(), number)).collect()
}

/// A number of an index, of each resource that has one and of all together.
fn indices(indices: &Indices, read: fn(&Index) -> Option<Number>) -> Samples {
    let resources = Resource::ALL.map(|resource| (resource.name(), indices.each.of(resource).as_ref()));
    let all = resources.into_iter().chain([("overall", indices.overall.as_ref())]);
    all.filter_map(|(name, index)| Some((name.to_owned(), read(index?)?))).collect()
}
