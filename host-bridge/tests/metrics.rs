//! The metrics: what is written of a host that is known to the last number, read back as strictly as the formats say, and over the
//! control socket. `VMTIDE_UPDATE=1 cargo test -p vmtide-bridge` writes the golden pages and the tables of docs/metrics.md anew.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

mod exposition;
mod host;

use exposition::Exposition;
use host::{Host, text};
use serde::Deserialize;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use vmtide_bridge::api::metrics::{Family, Format, families, render};
use vmtide_bridge::api::types::{Status, Vm};

const FORMATS: [(Format, &str); 2] = [(Format::OpenMetrics, "openmetrics.txt"), (Format::Prometheus, "textfile.prom")];

#[derive(Deserialize)]
struct Seen {
    status: Status,
    vms: Vec<Vm>,
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn page(format: Format) -> String {
    let seen: Seen = serde_json::from_slice(&fs::read(file("tests/metrics/seen.json")).unwrap()).unwrap();
    render(format, &seen.status, &seen.vms)
}

/// Compares a file with what the code says it should be.
fn holds(path: &str, expected: &str) {
    if std::env::var_os("VMTIDE_UPDATE").is_some() {
        fs::write(file(path), expected).unwrap();
    }
    let found = fs::read_to_string(file(path)).unwrap_or_default();
    assert!(found == expected, "{path} is out of date: VMTIDE_UPDATE=1 cargo test -p vmtide-bridge");
}

#[test]
fn the_pages_are_the_golden_ones() {
    for (format, name) in FORMATS {
        holds(&format!("tests/metrics/{name}"), &page(format));
    }
}

#[test]
fn every_family_is_there_once_with_its_own_names_and_both_formats_say_the_same() {
    let [openmetrics, prometheus] = FORMATS.map(|(format, _)| Exposition::read(format, &page(format)).unwrap());
    assert_eq!(openmetrics.samples, prometheus.samples);
    let (of_host, of_vm) = families();
    let names: Vec<&str> = of_host.iter().chain(&of_vm).map(|family| family.name).collect();
    let found: Vec<&str> = openmetrics.families.iter().map(String::as_str).collect();
    assert_eq!(found, names, "the fixture has something of everything");
    let all_of_vm = |name: &str| name.starts_with("vmtide_vm_");
    assert!(of_vm.iter().all(|family| all_of_vm(family.name)) && !of_host.iter().any(|family| all_of_vm(family.name)));
}

#[test]
fn values_are_exact_and_labels_are_names_not_words_of_guests() {
    let page = Exposition::read(Format::OpenMetrics, &page(Format::OpenMetrics)).unwrap();
    for (sample, value) in [
        ("vmtide_vm_need_bytes vm=web-1", "2000000000"),
        ("vmtide_vm_cpu_seconds_total vm=web-1", "987.654"),
        ("vmtide_vm_quota_cpus vm=web-1", "1.75"),
        ("vmtide_vm_decisions_total outcome=superseded vm=web-1", "6"),
        ("vmtide_vm_performance_p_ratio resource=overall vm=web-1", "0.5"),
        ("vmtide_image_pool_low path=/images/we\"ird\\one.qcow2", "1"),
        ("vmtide_reaction_seconds percentile=95", "1.05"),
        ("vmtide_vm_state state=off vm=db", "1"),
    ] {
        assert_eq!(page.samples.get(sample).map(String::as_str), Some(value), "{sample}");
    }
    for absent in [
        "vmtide_vm_need_bytes vm=db",
        "vmtide_vm_report_age_seconds vm=db",
        "vmtide_vm_performance_t_ratio resource=memory vm=web-1",
    ] {
        assert!(!page.samples.contains_key(absent), "{absent} is not known");
    }
    assert!(!page.samples.keys().any(|sample| sample.contains("evil")), "nothing that a guest wrote");
}

#[test]
fn what_is_no_exposition_is_refused_by_the_reader() {
    let good = page(Format::OpenMetrics);
    for (from, to) in [
        ("# EOF\n", ""),
        ("# EOF\n", "# EOF\nx 1\n"),
        ("# TYPE vmtide_vms gauge\n", ""),
        ("# TYPE vmtide_vms gauge\n", "# TYPE vmtide_vms stateset\n"),
        ("# UNIT vmtide_free_bytes bytes\n", "# UNIT vmtide_free_bytes seconds\n"),
        ("vmtide_decisions_total 40\n", "vmtide_decisions 40\n"),
        ("vmtide_vms 2\n", "vmtide_vms 2\nvmtide_vms 2\n"),
        ("vmtide_vms 2\n", "vmtide_vms two\n"),
        ("we\\\"ird", "we\"ird"),
        ("we\\\"ird", "we\\ird"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from:?}");
        assert!(Exposition::read(Format::OpenMetrics, &bad).is_err(), "{from:?} -> {to:?}");
    }
}

#[test]
fn a_bridge_serves_them_in_both_formats() {
    let host = Host::new("");
    let _bridge = host.start();
    for (accept, format) in [("", Format::OpenMetrics), ("Accept: text/plain;version=0.0.4\r\n", Format::Prometheus)] {
        let mut socket = UnixStream::connect(host.path("control.sock")).unwrap();
        write!(socket, "GET /metrics HTTP/1.1\r\nHost: vmtide\r\n{accept}Connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains(&format!("content-type: {}\r\n", format.content_type())), "{head}");
        let page = Exposition::read(format, body).unwrap();
        assert_eq!(page.samples["vmtide_vm_state state=unreachable vm=a"], "1");
        assert_eq!(page.samples["vmtide_vm_maximum_bytes vm=a"], (512 << 20).to_string());
    }
}

#[test]
fn the_command_prints_them_or_replaces_a_file_and_leaves_nothing_else() {
    let host = Host::new("");
    let _bridge = host.start();
    let printed = host.vmtide(&["metrics"]);
    assert!(printed.status.success());
    Exposition::read(Format::OpenMetrics, &text(&printed.stdout)).unwrap();

    let folder = host.path("collector");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("vmtide.prom");
    fs::write(&path, "from before").unwrap();
    let written = host.vmtide(&["metrics", "--output", path.to_str().unwrap()]);
    assert!(written.status.success() && written.stdout.is_empty(), "{}", text(&written.stderr));
    Exposition::read(Format::Prometheus, &fs::read_to_string(&path).unwrap()).unwrap();

    fs::create_dir(folder.join("taken")).unwrap();
    for (arguments, code, part) in [
        (vec!["metrics".to_owned(), "--output".to_owned(), folder.join("taken").display().to_string()], 1, "taken: "),
        (
            vec!["metrics".to_owned(), "--output".to_owned(), "/nowhere/at/all".to_owned()],
            1,
            "/nowhere/at/all: No such file",
        ),
        (vec!["metrics".to_owned(), "--json".to_owned()], 2, "metrics are no JSON"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let refused = host.vmtide(&arguments);
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(part), "{error}");
    }
    let mut left: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["taken", "vmtide.prom"]);
}

fn table(families: &[Family]) -> String {
    let row = |family: &Family| {
        let Family { name, kind, label, help, .. } = family;
        let label = if label.is_empty() { String::new() } else { format!("`{label}`") };
        format!("| `{name}{}` | {} | {label} | {} |\n", kind.suffix(), kind.name(), help.trim_end_matches('.'))
    };
    format!("| name | type | label | what |\n|---|---|---|---|\n{}", families.iter().map(row).collect::<String>())
}

#[test]
fn the_page_has_every_metric_and_an_example_that_was_scraped() {
    const PAGE: &str = "../docs/metrics.md";
    let mut document = fs::read_to_string(file(PAGE)).unwrap();
    let (of_host, of_vm) = families();
    for (heading, table) in [("## The host\n\n", table(&of_host)), ("## Each VM\n\n", table(&of_vm))] {
        let (before, rest) = document.split_once(heading).unwrap();
        let (text, rest) = rest.split_once("| name |").unwrap();
        let (_, after) = rest.split_once("\n\n").unwrap();
        document = format!("{before}{heading}{text}{table}\n{after}");
    }
    holds(PAGE, &document);
    let example = document.split("```").find_map(|block| block.strip_prefix("openmetrics\n")).unwrap();
    let scraped = page(Format::OpenMetrics);
    for line in example.lines() {
        assert!(scraped.lines().any(|scraped| scraped == line), "{line}");
    }
    let rules = document.split("```").find_map(|block| block.strip_prefix("yaml\n")).unwrap();
    let names: Vec<String> =
        of_host.iter().chain(&of_vm).map(|family| format!("{}{}", family.name, family.kind.suffix())).collect();
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    for word in rules.split(|letter| !is_word(letter)).filter(|word| word.starts_with("vmtide_")) {
        assert!(names.iter().any(|name| name == word), "{word} is no metric");
    }
}
