//! A recording of a simulated host, replayed: the same planner verifies it, another one shows what it would have done,
//! and the same question has the same answer to the byte.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use tempfile::TempDir;
use vmtide_bridge::plan::{Planner, Policy};
use vmtide_bridge::record::{Entry, Header, Lever, LeverChange, LeverEntry, LeverOutcome, Tick, Writer, read};
use vmtide_bridge::replay::{Report, Wish, replay};
use vmtide_bridge::simulate::{Outcome, Parameters, simulate};

fn parameters(vms: usize) -> Parameters {
    let planner = Planner::Vmtide;
    Parameters {
        vms,
        hours: 1,
        overcommit_permille: 2_000,
        step_ms: 1_000,
        seed: 1,
        planner,
        policy: Policy::default(),
        asks: false,
    }
}

/// One hour of eight VMs on a short host, and what the simulation said of it.
static RECORDED: LazyLock<(TempDir, Outcome)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let outcome = simulate(&parameters(8), Some(folder.path())).unwrap();
    (folder, outcome)
});

fn recording() -> &'static Path {
    RECORDED.0.path()
}

fn wish(planner: Option<Planner>, set: &[(&str, &str)]) -> Wish {
    Wish::new(planner, set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

/// Every tick of the recording as `change` makes it, in a folder of its own.
fn rewritten(mut change: impl FnMut(&Header, &mut Tick)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = None;
    read(recording(), |entry| {
        if let Entry::Tick(header, tick) = entry {
            let mut tick = tick.clone();
            change(header, &mut tick);
            let writer = writer.get_or_insert_with(|| Writer::open(folder.path(), 1 << 30, header.clone()).unwrap());
            writer.tick(tick).unwrap();
        }
    })
    .unwrap();
    folder
}

fn what_if(wish: &Wish) -> Report {
    replay(recording(), Some(wish)).unwrap()
}

#[test]
fn the_planner_that_recorded_verifies_its_recording() {
    let report = replay(recording(), None).unwrap();
    assert_eq!((report.verification.plans, report.verification.differing_plans), (3_600, 0));
    assert!(report.text().contains("Verified: the planner decides the same in all 3600 plans, to the byte."));
    let (recorded, simulated) = (&report.columns[0], &RECORDED.1);
    assert_eq!((recorded.total, recorded.time), (simulated.total, simulated.time), "both keep the same books");
    assert!(recorded.total.vms.steps > 20 && recorded.total.vms.stall_us > 0, "it is a host where things happen");
}

#[test]
fn whoever_planned_verifies_although_peers_remember() {
    for planner in Planner::ALL {
        let folder = tempfile::tempdir().unwrap();
        simulate(&Parameters { planner, ..parameters(4) }, Some(folder.path())).unwrap();
        let verification = replay(folder.path(), None).unwrap().verification;
        assert_eq!((verification.plans, verification.differing_plans), (3_600, 0), "{planner}: {verification:?}");
    }
}

#[test]
fn a_planner_that_decides_otherwise_is_found_out() {
    let forged = rewritten(|_, tick| {
        if tick.ms == 1_800_000 {
            tick.plan.verdicts[3].entitled_bytes += 1;
        }
    });
    let verification = replay(forged.path(), None).unwrap().verification;
    assert_eq!((verification.differing_plans, verification.differences.len()), (1, 1));
    let difference = &verification.differences[0];
    assert_eq!((difference.unix_ms, difference.vm.as_deref()), (1_800_000, Some("vm-00003")));
    assert_ne!(difference.recorded, difference.now);
}

#[test]
fn changes_of_cpu_time_and_disks_are_told_with_what_came_of_them() {
    let change = |id: u64, lever: Lever, to: u64| LeverChange {
        id,
        at_unix_ms: 1_800_000_000_000,
        vm: "vm-00003".to_owned(),
        lever,
        from: 0,
        to,
        rule: "over_share".to_owned(),
        reason: "others wait".to_owned(),
        outcome: LeverOutcome::Asked,
    };
    let ended = |id: u64, outcome: LeverOutcome| LeverEntry::Ended { id, outcome };
    let decided = |id: u64, lever: Lever, to: u64| LeverEntry::Decided(change(id, lever, to));
    let told = rewritten(|_, tick| {
        tick.levers = match tick.ms {
            // 9 was decided before the recording began.
            10_000 => vec![ended(9, LeverOutcome::Lost), decided(1, Lever::IoRate, 1 << 20)],
            20_000 => vec![ended(1, LeverOutcome::Done { after_ms: 12 }), decided(2, Lever::CpuQuota, 1_750)],
            30_000 => {
                vec![ended(2, LeverOutcome::Refused { message: "it is theirs".into() }), decided(3, Lever::IoRate, 0)]
            }
            _ => Vec::new(),
        }
    });
    let report = replay(told.path(), None).unwrap();
    assert_eq!(report.verification.differing_plans, 0);
    let text = "Changes of CPU time and disks (--levers tells each):\n  vm-00003  CPU quota 1, 1 of them not done; rate of the disks 2\n";
    assert!(report.text().contains(text), "{}", report.text());

    let path = told.path().to_str().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&vmtide(&["replay", path, "--json"]).stdout).unwrap();
    assert_eq!(json["levers"]["vm-00003"]["io_rate"], serde_json::json!({ "changes": 2, "refused": 0 }));
    let output = vmtide(&["replay", path, "--levers"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "2027-01-15T08:00:00.000Z  vm-00003  rate of the disks none to 1 MiB/s\n  others wait (rule: over_share). Done after 12 ms.\n\
                    2027-01-15T08:00:00.000Z  vm-00003  CPU quota none to 1.75\n  others wait (rule: over_share). Not done: it is theirs.\n\
                    2027-01-15T08:00:00.000Z  vm-00003  rate of the disks none to none\n  others wait (rule: over_share). Not answered yet.\n";
    assert_eq!(text, expected);
    let json: serde_json::Value =
        serde_json::from_slice(&vmtide(&["replay", path, "--levers", "--json"]).stdout).unwrap();
    assert_eq!(json[1]["outcome"]["refused"]["message"], "it is theirs");
    let none = vmtide(&["replay", recording().to_str().unwrap(), "--levers"]);
    assert_eq!(String::from_utf8_lossy(&none.stdout), "The recording tells of no change of CPU time or disks.\n");
    assert_eq!(vmtide(&["replay", path, "--levers", "--set", "dead_band_permille=1"]).status.code(), Some(2));
}

/// The model moves balloons as the simulator did, so what it does with the recorded policy is what was recorded.
#[test]
fn the_twin_of_the_recorded_run_is_the_recorded_run() {
    let report = what_if(&wish(Some(Planner::Static), &[]));
    let [recorded, twin, still] = report.columns.as_slice() else { panic!("{:?}", report.columns) };
    assert_eq!(twin.total, recorded.total);
    assert_eq!(twin.vms, recorded.vms);
    assert!(still.total.vms.steps <= 32, "a split by shares, and then nothing: {}", still.total.vms.steps);
    assert!(still.total.vms.stall_us > recorded.total.vms.stall_us, "moving memory was worth it: {}", report.text());
}

#[test]
fn another_number_of_the_policy_shows_in_what_it_governs() {
    let report = what_if(&wish(None, &[("dead_band_bytes", "512MiB"), ("dead_band_permille", "200")]));
    let steps: Vec<u64> = report.columns.iter().map(|column| column.total.vms.steps).collect();
    assert!(steps[2] < steps[1], "a wide dead band moves less often: {steps:?}");
    let name = "dead_band_bytes=512MiB dead_band_permille=200";
    assert_eq!(report.columns[2].name, name);
}

#[test]
fn clocks_that_jump_are_counted_and_make_no_time() {
    let jumping = rewritten(|_, tick| {
        tick.unix_ms = if tick.ms < 1_000_000 { tick.ms + 7_200_000 } else { tick.ms };
        tick.ms = match tick.ms {
            0..2_000_000 => tick.ms,
            2_000_000..3_000_000 => tick.ms - 1_500_000,
            _ => tick.ms + 90_000,
        };
    });
    let report = replay(jumping.path(), Some(&wish(None, &[("headroom_permille", "0")]))).unwrap();
    assert_eq!(report.span.wall_clock_back, 1);
    for column in &report.columns {
        assert_eq!((column.time.clock_back, column.time.gaps, column.time.ticks), (1, 1, 3_600));
        assert_eq!(column.time.ms, (3_600 - 3) * 1_000, "{}", column.name);
    }
    assert!(report.text().contains("The wall clock went back 1 time, the planner's 1 time: no time passed then."));
}

fn vmtide(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmtide")).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_same_question_has_the_same_answer_to_the_byte() {
    let folder = recording().to_str().unwrap();
    for more in [&[][..], &["--json"], &["--policy", "static", "--set", "calm_block_ms=5000", "--json"]] {
        let ask = || vmtide(&[&["replay", folder], more].concat());
        let (first, second) = (ask(), ask());
        assert!(first.status.success() && !first.stdout.is_empty(), "{}", stderr(&first));
        assert_eq!(first.stdout, second.stdout);
    }
}

#[test]
fn wishes_that_cannot_be_meant_are_refused_as_in_the_configuration() {
    let folder = recording().to_str().unwrap();
    for (arguments, message) in [
        (["--set", "headroom=1"], "policy.headroom: is unknown; allowed are below_floor_permille, "),
        (["--set", "idle_tax_percent=100"], "policy.idle_tax_percent: 100 cannot be; allowed is a whole number of 0"),
        (["--set", "dead_band_bytes"], "allowed is KEY=VALUE"),
        (
            ["--policy", "best"],
            "\"best\" is no planner; allowed are vmtide, static, mom-rules, proxmox-rules, hyperv-rules",
        ),
    ] {
        let output = vmtide(&[&["replay", folder][..], &arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
    }
    let output = vmtide(&["replay", "/nowhere"]);
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(1), "vmtide: /nowhere: cannot be read: No such file or directory (os error 2)\n")
    );
}

#[test]
fn the_same_seed_is_the_same_simulation_and_another_is_not() {
    let result = |seed| {
        let outcome = simulate(&Parameters { seed, ..parameters(20) }, None).unwrap();
        let mut json = serde_json::to_value(outcome).unwrap();
        json.as_object_mut().unwrap().remove("wall");
        json.to_string()
    };
    assert_eq!(result(1), result(1));
    assert_ne!(result(1), result(2).replace("\"seed\":2", "\"seed\":1"));
}

/// What must hold for any host; what it comes to on a large one is in docs/simulate.md.
#[test]
fn no_simulated_host_is_ever_over_its_limit() {
    for (vms, overcommit_permille) in [(1, 1_000), (10, 1_500), (40, 3_000), (10, 10_000)] {
        let outcome = simulate(&Parameters { overcommit_permille, ..parameters(vms) }, None).unwrap();
        assert_eq!(outcome.time.ticks, 3_600);
        assert!(outcome.reports > 300 * vms as u64, "a report at least each ten seconds: {}", outcome.reports);
        // Ten times: the minimums, an eighth of the maximums each, do not fit, and it is said.
        let fits = overcommit_permille < 10_000;
        assert_eq!(
            (outcome.total.over_limit_ms == 0, outcome.states.emergency == 0),
            (fits, fits),
            "{}",
            outcome.text()
        );
        assert_eq!(outcome.total.vms.outside_limits_ms, 0);
    }
}

#[test]
fn guests_that_are_asked_keep_their_word_and_no_limit_is_passed() {
    let both = |overcommit_permille| {
        let run = |asks| simulate(&Parameters { overcommit_permille, asks, ..parameters(40) }, None).unwrap();
        (run(true), run(false))
    };
    for overcommit_permille in [2_000, 3_000] {
        let (asked, taken) = both(overcommit_permille);
        let requests = asked.requests.unwrap();
        assert!(requests.asked > 0 && requests.kept > 0 && requests.broken == 0, "{}", asked.text());
        assert!(requests.in_full <= requests.asked);
        assert_eq!((asked.total.over_limit_ms, asked.total.vms.outside_limits_ms), (0, 0), "{}", asked.text());
        assert_eq!(taken.requests, None);
        assert_ne!(asked.total, taken.total, "it is another run");
    }
    // Where everything fits, what is taken is free, and nobody has to be asked.
    let (asked, taken) = both(1_500);
    assert_eq!((asked.requests.unwrap().asked, asked.total), (0, taken.total));
}

#[test]
fn a_recording_would_not_hold_what_guests_answered() {
    let output = vmtide(&["simulate", "--ask", "--record", "/nowhere"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn a_simulation_goes_to_a_file_and_is_summed_up_on_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("outcome.json");
    let path = file.to_str().unwrap();
    let size = ["simulate", "--vms", "10", "--hours", "1", "--overcommit", "1.5"];
    let output = vmtide(&[&size[..], &["--json", path]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("fairness (Jain)"));
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&json["parameters"]["vms"], &json["time"]["ticks"]), (&10.into(), &3_600.into()));
    assert!(json["wall"]["tick_p99_us"].is_u64() && json["total"]["over_limit_ms"].is_u64());

    let output = vmtide(&[&size[..], &[path]].concat());
    assert_eq!(output.status.code(), Some(2), "a file is for JSON");
    let output = vmtide(&[&size[..], &["--json", "/nowhere/at/all"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("vmtide: /nowhere/at/all: cannot be written"), "{}", stderr(&output));
}

#[test]
fn a_recording_recommends_fixed_sizes_and_none_for_a_vm_that_it_does_not_have() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record");
    let path = path.to_str().unwrap();
    let output = vmtide(&["simulate", "--vms", "4", "--hours", "1", "--record", path]);
    assert!(output.status.success(), "{}", stderr(&output));
    let sizes = |more: &[&str]| vmtide(&[&["optimize", "--static", "--recording", path], more].concat());
    let json = |more: &[&str]| -> serde_json::Value {
        let output = sizes(&[&["--json"], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (usual, all) = (json(&[]), json(&["--percentile", "100"]));
    let vms = usual["vms"].as_array().unwrap();
    assert_eq!(vms.len(), 4);
    for (vm, at_most) in vms.iter().zip(all["vms"].as_array().unwrap()) {
        let memory = |vm: &serde_json::Value| vm["memory_bytes"].as_u64().unwrap();
        let [need, most] = [0, 1].map(|at| vm["need_bytes"][at].as_u64().unwrap());
        assert!(need <= most && memory(vm) > need && memory(vm) <= memory(at_most), "{vm}");
        assert!(vm["virsh"][0].as_str().unwrap().starts_with("setmaxmem ") && vm["vcpus"].is_null(), "{vm}");
    }
    // The headroom is that of the policy under which it was recorded.
    let generous = folder.path().join("generous");
    let generous = generous.to_str().unwrap();
    let set = ["--set", "headroom_permille=900"];
    let output = vmtide(&[&["simulate", "--vms", "4", "--hours", "1", "--record", generous], &set[..]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let output = vmtide(&["optimize", "--static", "--json", "--recording", generous]);
    let recommended: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures =
        |vm: &serde_json::Value| [&vm["memory_bytes"], &vm["need_bytes"][0]].map(|bytes| bytes.as_u64().unwrap());
    for vm in recommended["vms"].as_array().unwrap() {
        let [memory, need] = figures(vm);
        assert!(memory >= need + need * 9 / 10, "{vm}");
    }
    assert!(vms.iter().map(figures).any(|[memory, need]| memory < need + need * 9 / 10), "and not always so");

    let name = vms[0]["name"].as_str().unwrap();
    let output = sizes(&["--vm", name]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("\n{name}\n")) && text.contains("qemu  -m "), "{text}");
    let output = sizes(&["--vm", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("nobody: ") && stderr(&output).contains("no record of such a VM"));
    for wrong in [&["--percentile", "20"][..], &["--dry-run"]] {
        assert_eq!(sizes(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(vmtide(&["optimize"]).status.code(), Some(2), "--vm or --static");
}
