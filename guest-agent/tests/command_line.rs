//! The binary as an operator meets it.
#![allow(clippy::unwrap_used)] // a test

use std::path::Path;
use std::process::{Command, Output};

fn agent(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmtide-agent")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A configuration whose status socket nobody else uses.
fn config(dir: &Path, more: &str) -> String {
    let path = dir.join("agent.toml");
    let socket = dir.join("agent.sock");
    std::fs::write(&path, format!("status_socket = \"{}\"\n{more}\n", socket.display())).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn once_shows_the_samples_and_the_demand_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let output = agent(&["once", "--json", "--config", &config(dir.path(), "")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let total = json["samples"]["memory"]["total_bytes"].as_u64().unwrap();
    let memory = &json["demand"]["memory"]["known"];
    let (need, floor) = (memory["need_bytes"].as_u64().unwrap(), memory["floor_bytes"].as_u64().unwrap());
    assert!(total > 64 << 20 && floor > 0 && need >= floor, "{memory}");
    assert!(json["demand"]["cpu"]["known"]["signals"]["online_cpus"].as_u64().unwrap() > 0);

    let output = agent(&["once", "--config", &config(dir.path(), "")]);
    let table = text(&output.stdout);
    assert!(table.lines().count() == 4 && table.contains("memory") && table.contains("MiB"), "{table}");
}

#[test]
fn once_without_a_guest_says_what_is_missing() {
    let output = agent(&["once", "--root", "/no/such/root"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/no/such/root/proc/meminfo"), "{}", text(&output.stderr));
}

#[test]
fn check_and_run_refuse_a_wrong_configuration_with_2() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(agent(&["check", "--config", &config(dir.path(), "")]).status.code(), Some(0));
    let wrong = config(dir.path(), "brigde = \"x\"");
    for command in ["check", "run", "once", "status"] {
        let output = agent(&[command, "--config", &wrong]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        let error = text(&output.stderr);
        for part in ["agent.toml", "line 2", "brigde", "`bridge`"] {
            assert!(error.contains(part), "{error}");
        }
    }
    assert_eq!(agent(&["check", "--config", "/no/such/file"]).status.code(), Some(2));
    assert_eq!(agent(&["no-such-command"]).status.code(), Some(2));
}

#[test]
fn config_shows_what_holds_and_where_it_is_from() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "grant_ms = 700");
    std::fs::create_dir(dir.path().join("agent.conf.d")).unwrap();
    let drop_in = dir.path().join("agent.conf.d/10-site.toml");
    std::fs::write(&drop_in, "grant_ms = 800\n").unwrap();
    let show = |args: &[&str]| text(&agent(&[&["config", "show", "--config", &config], args].concat()).stdout);
    assert!(show(&[]).contains("grant_ms = 800\n") && !show(&[]).contains("log_level"), "{}", show(&[]));
    let all = show(&["--effective", "--origin"]);
    assert!(all.contains(&format!("grant_ms = 800  # {}\n", drop_in.display())), "{all}");
    assert!(all.contains("log_level = \"info\"  # built in\n"), "{all}");
    let check = agent(&["config", "check", "--config", &config]);
    let expected = format!("read {config}\nread {}\nthe configuration is valid\n", drop_in.display());
    assert_eq!((check.status.code(), text(&check.stdout)), (Some(0), expected));

    std::fs::set_permissions(&drop_in, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let check = agent(&["config", "check", "--config", &config]);
    assert_eq!(check.status.code(), Some(2));
    assert!(text(&check.stderr).contains("10-site.toml is not trusted: everybody may write to it (mode 0666)"));
}

#[test]
fn status_without_an_agent_is_1_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let output = agent(&["status", "--config", &config(dir.path(), "")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is vmtide-agent running?"));
}

#[test]
fn tuning_shows_every_knob_without_an_agent_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("guest");
    for (path, holds) in [
        ("proc/meminfo", "MemTotal: 737280 kB\nMemFree: 563200 kB\nMemAvailable: 614400 kB\n"),
        ("proc/vmstat", "nr_free_pages 3\n"),
        ("proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n"),
        ("proc/sys/kernel/osrelease", "6.12.43\n"),
        ("proc/sys/vm/swappiness", "60\n"),
        ("proc/sys/vm/watermark_scale_factor", "100\n"),
    ] {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, holds).unwrap();
    }
    let config =
        config(dir.path(), &format!("[tuning]\nmode = \"adaptive\"\njournal = \"{}/j\"", dir.path().display()));
    let tuning = |args: &[&str]| {
        let common = ["--root", root.to_str().unwrap(), "--config", &config];
        let output = agent(&[&["tuning"], args, &common].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let list = tuning(&["list"]);
    assert!(list.lines().any(|line| line.starts_with("swappiness") && line.contains("pending")), "{list}");
    assert!(list.lines().any(|line| line.contains("not the kernel's default")), "{list}");
    let json: serde_json::Value = serde_json::from_str(&tuning(&["list", "--json"])).unwrap();
    assert_eq!((&json["tally"]["foreign"], &json["facts"]["swap_kind"]), (&1.into(), &"zram".into()));
    assert!(json["knobs"].as_array().unwrap().iter().any(|row| row["knob"] == "swappiness" && row["wanted"] == 140));
    let explained = tuning(&["explain", "dirty_bytes"]);
    assert!(explained.contains("dirty_background_bytes") && explained.contains("group    dirty"), "{explained}");
    assert_eq!(tuning(&["diff"]), "/proc/sys/vm/swappiness\n- 60\n+ 140    pending\n");
    assert!(tuning(&["apply", "--dry-run"]).contains("write 140"));
    assert_eq!(tuning(&["history"]), "nothing was done in this boot\n");
    assert_eq!(std::fs::read_to_string(root.join("proc/sys/vm/swappiness")).unwrap(), "60\n");
    assert!(!dir.path().join("j").exists());

    assert_eq!(agent(&["tuning", "apply", "--config", &config]).status.code(), Some(2));
    let unknown = agent(&["tuning", "explain", "moon", "--config", &config]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("no knob \"moon\""), "{}", text(&unknown.stderr));
}

#[test]
fn revert_without_an_agent_puts_back_what_a_killed_one_left() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("guest");
    std::fs::create_dir_all(root.join("proc/sys/vm")).unwrap();
    std::fs::write(root.join("proc/sys/vm/swappiness"), "140\n").unwrap();
    std::fs::write(root.join("proc/sys/vm/page-cluster"), "5\n").unwrap();
    let journal = dir.path().join("tuning.journal");
    let record = |knob: &str, path: &str, original: &str, written: &str| {
        format!(
            "{{\"record\":\"write\",\"at_ms\":1,\"knob\":\"{knob}\",\"path\":\"/proc/sys/vm/{path}\",\"original\":\"{original}\",\
             \"written\":\"{written}\",\"why\":\"w\"}}\n"
        )
    };
    let lines = [
        "{\"record\":\"began\",\"version\":1,\"boot_id\":\"\"}\n".to_owned(),
        record("swappiness", "swappiness", "60", "140"),
        record("page_cluster", "page-cluster", "3", "0"),
        "{\"record\":\"wri".to_owned(),
    ];
    std::fs::write(&journal, lines.concat()).unwrap();
    let config = config(dir.path(), &format!("[tuning]\njournal = \"{}\"", journal.display()));
    let revert =
        |args: &[&str]| agent(&[&["revert", "--root", root.to_str().unwrap(), "--config", &config], args].concat());
    assert_eq!(revert(&[]).status.code(), Some(2));
    assert_eq!(revert(&["moon"]).status.code(), Some(1));
    let output = revert(&["--all"]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(shown.contains("restored       /proc/sys/vm/swappiness (60)"), "{shown}");
    assert!(shown.contains("taken          /proc/sys/vm/page-cluster (5)"), "{shown}");
    assert_eq!(std::fs::read_to_string(root.join("proc/sys/vm/swappiness")).unwrap(), "60");
    assert_eq!(std::fs::read_to_string(root.join("proc/sys/vm/page-cluster")).unwrap(), "5\n");
    assert_eq!(text(&revert(&["--all"]).stdout), "nothing holds a value of vmtide's\n");
    // All of it goes back even without a configuration, which the lab tries; whoever asks for one knob can repair it first.
    std::fs::write(&config, "brigde = 1").unwrap();
    let output = revert(&["swappiness"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

/// As much of a guest as an agent needs.
fn make_guest(dir: &Path) {
    for file in ["meminfo", "vmstat"] {
        std::fs::create_dir_all(dir.join("proc")).unwrap();
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest").join(file);
        std::fs::copy(sample, dir.join("proc").join(file)).unwrap();
    }
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed().as_secs() < 30, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_running_agent_takes_in_a_right_configuration_and_goes_on_with_its_own_when_the_new_one_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    make_guest(dir.path());
    let at = dir.path().display();
    let with = |bridge: &str, more: &str| {
        let journal = format!("[tuning]\njournal = \"{at}/tuning.journal\"\n");
        config(dir.path(), &format!("bridge = \"unix:{at}/{bridge}\"\n{more}\n{journal}"))
    };
    let path = with("first", "");
    let log = dir.path().join("log");
    let logged = |words: &str| std::fs::read_to_string(&log).unwrap().contains(words);
    let run = ["run", "--root", dir.path().to_str().unwrap(), "--config", &path];
    let stderr = std::fs::File::create(&log).unwrap();
    let mut running = Command::new(env!("CARGO_BIN_EXE_vmtide-agent")).args(run).stderr(stderr).spawn().unwrap();
    let bridge = || {
        let output = agent(&["status", "--json", "--config", &path]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        json["session"]["bridge"].as_str().unwrap_or_default().to_owned()
    };
    wait_for("an agent", || bridge().ends_with("/first"));
    let hang_up = || {
        let kill = Command::new("kill").args(["-HUP", &running.id().to_string()]).status().unwrap();
        assert!(kill.success());
    };

    with("second", "grant_ms = 7");
    hang_up();
    wait_for("a refusal", || logged("the configuration from before holds") && logged("expected 100 to 60000"));
    with("second", "log_level = \"debug\"");
    hang_up();
    wait_for("the other configuration", || logged("taken in anew; by the next start only: log_level"));
    wait_for("the other bridge", || bridge().ends_with("/second"));

    assert!(Command::new("kill").arg(running.id().to_string()).status().unwrap().success());
    assert_eq!(running.wait().unwrap().code(), Some(0), "{}", std::fs::read_to_string(&log).unwrap());
}

#[test]
fn a_second_agent_ends_with_1_and_names_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let listens = dir.path().join("tuning.sock");
    let more = format!("bridge = \"unix:{0}/none\"\n[tuning]\njournal = \"{0}/tuning.journal\"", dir.path().display());
    let config = config(dir.path(), &more);
    make_guest(dir.path());
    let guest = dir.path().to_str().unwrap();
    let run = ["run", "--root", guest, "--config", &config];
    let mut first = Command::new(env!("CARGO_BIN_EXE_vmtide-agent"));
    let mut first = first.args(run).stderr(std::process::Stdio::null()).spawn().unwrap();
    while !listens.exists() {
        assert!(first.try_wait().unwrap().is_none(), "the first agent ended");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let second = agent(&run);
    let reverts = agent(&["revert", "--all", "--root", guest, "--config", &config]);
    first.kill().unwrap();
    let pid = first.id();
    first.wait().unwrap();
    let error = text(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{error}");
    assert!(error.contains("another agent runs") && error.contains(&format!("process {pid} holds ")), "{error}");
    assert_eq!(text(&reverts.stdout), "nothing holds a value of vmtide's\n", "{}", text(&reverts.stderr));
}

#[test]
fn measure_tells_of_a_command_and_exits_as_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "");
    let output = agent(&["measure", "--json", "--config", &config, "--", "sh", "-c", "echo out; sleep 0.3; exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    let json: serde_json::Value = serde_json::from_str(told.strip_prefix("out\n").unwrap()).unwrap();
    assert_eq!((&json["exit_code"], &json["command"][0]), (&7.into(), &"sh".into()));
    assert!((300..10_000).contains(&json["wall_ms"].as_u64().unwrap()), "{json}");
    for (resource, part) in ["memory", "cpu", "io"].map(|resource| (resource, &json[resource])) {
        // The machine of the tests may have no PSI.
        if !part.is_null() {
            let [r, p] = ["r_ppm", "p_ppm"].map(|key| part[key].as_u64().unwrap());
            assert!(0 < r && r <= 1_000_000 && p <= r, "{resource}: {part}");
        }
    }
}

#[test]
fn measure_says_how_a_command_could_not_run_or_was_ended() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "");
    let run = |command: &[&str]| agent(&[&["measure", "--config", &config, "--"], command].concat());
    let absent = run(&["no-such-command-here"]);
    assert_eq!(absent.status.code(), Some(127));
    assert!(text(&absent.stderr).contains("no-such-command-here: no such command"), "{}", text(&absent.stderr));
    assert_eq!(run(&["/"]).status.code(), Some(126));
    assert_eq!(run(&["sh", "-c", "kill -KILL $$"]).status.code(), Some(128 + 9));
    assert_eq!(run(&[]).status.code(), Some(2));
    let file = dir.path().join("told");
    let output = agent(&["measure", "--config", &config, "-o", file.to_str().unwrap(), "echo", "--json"]);
    assert_eq!(text(&output.stdout), "--json\n", "what follows the command is the command's");
    assert!(std::fs::read_to_string(file).unwrap().contains("overall"));
}

/// Never without a root of its own: the machine that runs the tests is nobody's guest.
#[test]
fn doctor_tells_all_it_finds_and_exits_with_1_when_a_link_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("guest").to_str().unwrap().to_owned();
    let wrong = config(dir.path(), "brigde = 1");
    let output = agent(&["doctor", "--root", &root, "--config", &wrong]);
    let shown = text(&output.stdout);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), ""));
    for part in ["FAIL  configuration", "did you mean `bridge`?", "try: vmtide-agent config check", "try: modprobe"] {
        assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
    }
    let bridge = format!("bridge = \"unix:{}/b.sock\"", dir.path().display());
    let output = agent(&["doctor", "--json", "--root", &root, "--config", &config(dir.path(), &bridge)]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["ok"]), (Some(1), &serde_json::json!(false)));
    let check = |name: &str| report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap();
    assert_eq!(check("bridge")["state"], "fail");
    assert_eq!(check("bridge")["try"], "on the host: systemctl start vmtide-bridge");
    assert_eq!(check("configuration")["state"], "ok");
}
