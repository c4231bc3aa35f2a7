//! The daemon and the operator's command as processes: what they print, how they exit, what they leave behind.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vmtide_bridge::record::{Entry, read};

/// A host with one VM, `a`, whose QEMU is not there and whose agent may come.
struct Host {
    folder: TempDir,
}

impl Host {
    fn new(extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "[host]\ncapacity = '1GiB'\nreserve = '64MiB'\n[control]\nsocket = '{}'\n\
             [record]\ndirectory = '{}'\n[[vm]]\nname = 'a'\nminimum = '128MiB'\nmaximum = '512MiB'\nqmp = '{}'\nvsock = '{}'\n{extra}",
            path("control.sock"),
            path("record"),
            path("a.qmp"),
            path("a.vsock")
        );
        std::fs::write(folder.path().join("bridge.toml"), config).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn bridge(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmtide-bridge"));
        command.args([verb, "--config"]).arg(self.path("bridge.toml")).stderr(Stdio::piped());
        command
    }

    /// A running bridge that answers.
    fn start(&self) -> Bridge {
        self.answering(self.bridge("run"))
    }

    fn answering(&self, mut command: Command) -> Bridge {
        let bridge = Bridge(command.stderr(Stdio::null()).spawn().unwrap());
        let patience = Instant::now() + Duration::from_secs(20);
        while !self.vmtide(&["status"]).status.success() {
            assert!(Instant::now() < patience, "the bridge does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        bridge
    }

    fn vmtide(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vmtide"))
            .arg("--socket")
            .arg(self.path("control.sock"))
            .args(arguments)
            .output()
            .unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.vmtide(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Ended when the test ends, however it ends.
struct Bridge(Child);

impl Bridge {
    fn terminate(mut self) -> bool {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.0.wait().unwrap().success()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_configuration_that_cannot_be_used_exits_with_2_before_anything_is_touched() {
    let host = Host::new("colour = 'blue'\n");
    for verb in ["check", "run"] {
        let output = host.bridge(verb).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("bridge.toml") && error.contains("colour") && error.contains("`minimum`"), "{error}");
    }
    assert!(!host.path("control.sock").exists() && !host.path("a.vsock_7670").exists());
    assert_eq!(host.bridge("dance").output().unwrap().status.code(), Some(2));
}

#[test]
fn a_slip_in_a_key_is_answered_with_the_key_that_was_meant() {
    for (extra, meant) in
        [("share = 5\n", "did you mean `shares`?"), ("[policy]\nplaner = 'static'\n", "did you mean planner?")]
    {
        let host = Host::new(extra);
        let output = host.bridge("check").output().unwrap();
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains("bridge.toml") && error.contains(meant), "{error}");
    }
}

#[test]
fn a_configuration_that_everybody_may_write_is_refused() {
    let host = Host::new("");
    let folder = host.path("conf.d");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    for verb in ["check", "run"] {
        let output = host.bridge(verb).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("conf.d: everybody may write to it (mode 0777); `chmod o-w`"), "{error}");
    }
    assert!(!host.path("control.sock").exists());
}

#[test]
fn the_configuration_is_shown_with_the_line_of_each_value() {
    let host = Host::new("");
    let mut show = Command::new(env!("CARGO_BIN_EXE_vmtide-bridge"));
    show.args(["config", "show", "--effective", "--origin", "--config"]).arg(host.path("bridge.toml"));
    let output = show.output().unwrap();
    let shown = text(&output.stdout);
    let file = host.path("bridge.toml").display().to_string();
    for line in [
        &*format!("host.capacity = '1GiB'  # {file}:2\n"),
        "intervals.quiet_ms = 10000  # built in\n",
        "\n[[vm]]\nname = 'a'",
    ] {
        assert!(output.status.success() && shown.contains(line), "{line:?} is not in:\n{shown}");
    }
}

#[test]
fn a_hangup_takes_in_the_configuration_or_nothing_of_it() {
    let host = Host::new("");
    let path = host.path("bridge.toml");
    let first = std::fs::read_to_string(&path).unwrap();
    let bridge = host.start();
    let hang_up =
        || assert!(Command::new("kill").args(["-HUP", &bridge.0.id().to_string()]).status().unwrap().success());
    let reloaded = |expected: &dyn Fn(&Value) -> bool| {
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            let status = host.json(&["status"]);
            if expected(&status["reload"]) {
                return status;
            }
            assert!(Instant::now() < patience, "{status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let names = || host.json(&["list"]).as_array().unwrap().iter().map(|vm| vm["name"].to_string()).collect::<String>();

    // Other limits, another VM, and a socket that only the next start can move.
    let b = format!(
        "[[vm]]\nname = 'b'\nminimum = '64MiB'\nmaximum = '128MiB'\nqmp = '{0}'\nvsock = '{0}.vsock'\n",
        host.path("b").display()
    );
    let changed = first.replace("maximum = '512MiB'", "maximum = '256MiB'").replace("control.sock", "other.sock");
    std::fs::write(&path, changed + &b).unwrap();
    hang_up();
    let status = reloaded(&|reload| reload["error"].is_null() && !reload.is_null());
    assert_eq!(status["reload"]["at_next_start"], json!(["control.socket"]));
    assert_eq!(names(), "\"a\"\"b\"");
    assert_eq!(host.json(&["explain", "a"])["vm"]["maximum_bytes"], 256 << 20);
    assert!(host.path("b.vsock_7670").exists() && host.path("control.sock").exists());

    // Garbage changes nothing.
    std::fs::write(&path, "[[vm]\n").unwrap();
    hang_up();
    let status = reloaded(&|reload| reload["error"].as_str().is_some_and(|error| error.contains("bridge.toml")));
    assert_eq!((names(), &status["vms"]), ("\"a\"\"b\"".to_owned(), &json!(2)));
    let shown = text(&host.vmtide(&["status"]).stdout);
    assert!(shown.contains("config     NOT taken in at"), "{shown}");

    // Who is gone from the files is not listened to any more, and its name is free.
    std::fs::write(&path, first).unwrap();
    hang_up();
    reloaded(&|reload| reload["error"].is_null());
    assert_eq!(names(), "\"a\"");
    assert!(!host.path("b.vsock_7670").exists());
    let shown = text(&host.vmtide(&["events"]).stdout);
    assert!(shown.contains("b  it is no longer in the configuration; its balloon stays where it is"), "{shown}");
    assert!(bridge.terminate());
}

#[test]
fn init_writes_one_file_and_never_over_another() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc/7")).unwrap();
    let arguments = "qemu-system-x86_64\0-name\0web\0-m\x001G\0-qmp\0unix:/run/web.qmp,server=on\0-device\0vhost-vsock-pci,guest-cid=5\0";
    std::fs::write(root.path().join("proc/7/cmdline"), arguments).unwrap();
    let output = root.path().join("bridge.toml");
    let init = |extra: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmtide"));
        command.args(["init", "--root"]).arg(root.path()).arg("--output").arg(&output).args(extra).output().unwrap()
    };
    let first = init(&[]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let written = std::fs::read_to_string(&output).unwrap();
    assert!(written.contains("[[vm]]\nname = \"web\"\nminimum = \"512MiB\"\nmaximum = \"1024MiB\""), "{written}");
    let mut check = Command::new(env!("CARGO_BIN_EXE_vmtide-bridge"));
    assert!(check.args(["config", "check", "--config"]).arg(&output).output().unwrap().status.success());
    std::fs::write(&output, "mine").unwrap();
    let again = init(&[]);
    assert_eq!((again.status.code(), std::fs::read_to_string(&output).unwrap().as_str()), (Some(1), "mine"));
    assert!(text(&again.stderr).contains("is there already; --force overwrites it"), "{}", text(&again.stderr));
    assert!(init(&["--force"]).status.success());
    assert_eq!(std::fs::read_to_string(&output).unwrap(), written);
}

#[test]
fn check_finds_what_run_finds() {
    for (capacity, key) in [("512TiB", "host.capacity"), ("64MiB", "host.reserve")] {
        let host = Host::new("");
        let config = std::fs::read_to_string(host.path("bridge.toml")).unwrap();
        std::fs::write(
            host.path("bridge.toml"),
            config.replace("capacity = '1GiB'", &format!("capacity = '{capacity}'")),
        )
        .unwrap();
        for verb in ["check", "run"] {
            let output = host.bridge(verb).output().unwrap();
            let error = text(&output.stderr);
            assert!(output.status.code() == Some(2) && error.contains(key), "{verb}: {error}");
        }
    }
}

#[test]
fn minimums_beyond_the_capacity_are_warned_of() {
    let host = Host::new("[[vm]]\nname = 'b'\nminimum = '1GiB'\nmaximum = '1GiB'\nqmp = '/q'\ncid = 3\n");
    let output = host.bridge("check").output().unwrap();
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("warning: the minimums of all VMs are 1152 MiB together"));
}

#[test]
fn a_vm_without_its_qemu_is_unreachable_and_everything_else_works() {
    let host = Host::new("");
    let bridge = host.start();
    let vms = host.json(&["list"]);
    assert_eq!((&vms[0]["name"], &vms[0]["state"]), (&json!("a"), &json!("unreachable")));
    assert!(text(&host.vmtide(&["list"]).stdout).contains("unreachable"));
    assert!(text(&host.vmtide(&["explain", "a"]).stdout).contains("no VM listens there"));
    assert_eq!(host.json(&["status"])["committed_bytes"], 0);

    assert!(bridge.terminate(), "a clean stop");
    assert!(!host.path("control.sock").exists() && !host.path("a.vsock_7670").exists(), "nothing left behind");
}

#[test]
fn a_bridge_records_and_the_next_goes_on_behind_it() {
    let host = Host::new("");
    let mut runs = Vec::new();
    for _ in 0..2 {
        let bridge = host.start();
        std::thread::sleep(Duration::from_millis(1_200));
        assert!(bridge.terminate());
        runs.clear();
        read(&host.path("record"), |entry| {
            let Entry::Tick(header, tick) = entry else { panic!("nothing was decided: {entry:?}") };
            assert_eq!((header.vms.as_slice(), tick.host.capacity_bytes), (&["a".to_owned()][..], 1 << 30));
            runs.push(header.run_unix_ms);
        })
        .unwrap();
    }
    assert!(runs.is_sorted(), "{runs:?}");
    runs.dedup();
    assert_eq!(runs.len(), 2);
    assert_eq!(host.path("record").metadata().unwrap().permissions().mode() & 0o777, 0o750);
}

/// A limit on the size of files stands for a disk that is full: writing fails, the rest works.
#[test]
fn a_bridge_goes_on_without_history_when_the_disk_is_full_and_says_so_once() {
    let host = Host::new("");
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" run --config \"$1\""]);
    shell.arg(env!("CARGO_BIN_EXE_vmtide-bridge")).arg(host.path("bridge.toml"));
    let log = goes_on_without_history(&host, shell);
    assert!(log.contains("File too large"), "{log}");
    let left: u64 =
        std::fs::read_dir(host.path("record")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(left, 0, "no half record stays behind");
}

#[test]
fn a_bridge_goes_on_without_history_when_its_folder_cannot_be_made() {
    let host = Host::new("");
    std::fs::write(host.path("record"), "a file").unwrap();
    let log = goes_on_without_history(&host, host.bridge("run"));
    assert!(log.contains("/record: "), "{log}");
}

/// The bridge that `command` starts answers after some plans, stops cleanly, and said once what is wrong. Its log.
fn goes_on_without_history(host: &Host, mut command: Command) -> String {
    let mut bridge = Bridge(command.stderr(Stdio::piped()).spawn().unwrap());
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(host.json(&["status"])["state"], "calm");
    let mut stderr = bridge.0.stderr.take().unwrap();
    assert!(bridge.terminate());
    let mut log = String::new();
    stderr.read_to_string(&mut log).unwrap();
    assert_eq!(log.matches("the history is not recorded, and tried again each minute").count(), 1, "{log}");
    log
}

#[test]
fn sockets_have_their_modes_whatever_the_umask() {
    for umask in ["000", "077"] {
        let host = Host::new("");
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("umask {umask}; exec \"$0\" run --config \"$1\"")]);
        shell.arg(env!("CARGO_BIN_EXE_vmtide-bridge")).arg(host.path("bridge.toml"));
        let _bridge = host.answering(shell);
        let mode = |name: &str| host.path(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("control.sock"), mode("a.vsock_7670")), (0o600, 0o660), "umask {umask}");
    }
}

#[test]
fn a_control_socket_that_names_a_file_by_mistake_leaves_it_alone() {
    let host = Host::new("");
    let typo = std::fs::read_to_string(host.path("bridge.toml")).unwrap().replace("control.sock", "bridge.toml");
    std::fs::write(host.path("bridge.toml"), &typo).unwrap();
    let output = host.bridge("run").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("exists and is no socket"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(host.path("bridge.toml")).unwrap(), typo);
}

#[test]
fn a_second_bridge_is_refused_and_does_not_harm_the_first() {
    let host = Host::new("");
    let _bridge = host.start();
    let output = host.bridge("run").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another vmtide-bridge serves this socket"), "{}", text(&output.stderr));
    assert!(host.vmtide(&["status"]).status.success());
}

#[test]
fn a_killed_bridge_leaves_sockets_that_the_next_one_replaces() {
    let host = Host::new("");
    drop(host.start());
    assert!(host.path("control.sock").exists(), "SIGKILL leaves it");
    host.start();
}

#[test]
fn limits_are_set_and_impossible_ones_refused() {
    let host = Host::new("");
    let _bridge = host.start();
    let said = text(&host.vmtide(&["set", "a", "shares=2000", "minimum=256MiB"]).stdout);
    assert_eq!(said, "a: 256 MiB to 512 MiB, 2000 shares, until the bridge restarts\n");
    for (arguments, code, part) in [
        (&["set", "a", "minimum=1GiB"][..], 1, "maximum: 512 MiB is less than the minimum of 1024 MiB"),
        (&["set", "b", "shares=1"], 1, "there is no VM \"b\"; there are: a"),
        (&["set", "a", "shares=0"], 1, "allowed is 1 to 1000000"),
        (&["set", "a", "colour=blue"], 2, "allowed are minimum, reservation, maximum and shares"),
        (&["set", "a", "minimum=7 apples"], 2, "allowed is a number with B, KiB"),
        (&["set", "a"], 2, "KEY=VALUE"),
        (&["explain", "../x y"], 1, "there is no VM"),
    ] {
        let output = host.vmtide(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    assert_eq!(host.json(&["list"])[0]["minimum_bytes"], 256 << 20, "refusals changed nothing");
}

#[test]
fn pausing_is_seen_and_ended() {
    let host = Host::new("");
    let _bridge = host.start();
    assert!(host.vmtide(&["pause"]).status.success());
    assert_eq!(host.json(&["status"])["paused"], true);
    assert!(host.vmtide(&["resume"]).status.success());
    assert!(host.vmtide(&["pause", "a"]).status.success());
    assert_eq!(host.json(&["list"])[0]["paused"], true);
    let events = text(&host.vmtide(&["events"]).stdout);
    assert!(events.contains("an operator paused all planning") && events.contains("an operator paused its planning"));
}

#[test]
fn pausing_says_what_it_did() {
    let host = Host::new("");
    let _bridge = host.start();
    let said = |arguments: &[&str]| text(&host.vmtide(arguments).stdout);
    assert_eq!(said(&["pause"]), "all VMs: paused: no memory is moved until resumed\n");
    assert_eq!(said(&["resume", "a"]), "a: resumed: memory is moved again\n");
    assert_eq!(host.json(&["pause"]), json!({ "vm": null, "paused": true }));
    assert_eq!(host.json(&["resume", "a"]), json!({ "vm": "a", "paused": false }));
}

#[test]
fn events_are_followed_across_a_restart_of_the_bridge() {
    let host = Host::new("");
    let bridge = host.start();
    let mut vmtide = Command::new(env!("CARGO_BIN_EXE_vmtide"))
        .args(["events", "--follow", "--socket"])
        .arg(host.path("control.sock"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = BufReader::new(vmtide.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = BufReader::new(vmtide.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(host.vmtide(&["pause"]).status.success());
    assert!(events.any(|event| event.contains("Z  host  an operator paused all planning")), "with the time in UTC");
    assert!(bridge.terminate());
    assert!(said.next().unwrap().ends_with("waiting for it"));

    let _bridge = host.start();
    assert_eq!(said.next().unwrap(), "vmtide: the bridge restarted");
    assert!(events.next().unwrap().contains("unreachable"), "from the first event on");
    assert!(host.vmtide(&["resume"]).status.success());
    assert!(events.any(|event| event.ends_with("an operator resumed all planning")));
    vmtide.kill().unwrap();
    vmtide.wait().unwrap();
}

#[test]
fn every_refusal_of_the_api_is_in_its_own_form() {
    let host = Host::new("");
    let _bridge = host.start();
    for (request, status) in [
        ("GET /v1/decisions?last=many", 400),
        ("GET /v1/events?after=-1", 400),
        ("GET /v1/events?aftre=1", 400),
        ("GET /v1/vms/a/events?last=-1", 400),
        ("GET /v1/vms/b/events", 404),
        ("GET /v1/vms/%ff", 400),
        ("POST /v1/pause?vm=b", 404),
        ("GET /v1/pause", 405),
        ("PATCH /v1/vms/a", 400),
        ("GET /", 404),
    ] {
        let mut stream = UnixStream::connect(host.path("control.sock")).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: vmtide\r\nConnection: close\r\n\r\n").unwrap();
        let answer = std::io::read_to_string(stream).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
        let refusal: Value = serde_json::from_str(body).unwrap();
        assert_eq!(refusal["not_found"], status == 404, "{request}: {body}");
        assert!(!refusal["message"].as_str().unwrap().is_empty(), "{request}");
    }
}

#[test]
fn without_a_bridge_the_command_says_so_and_exits_with_1() {
    let host = Host::new("");
    let output = host.vmtide(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("control.sock: no vmtide-bridge answers there"));
}

#[test]
fn a_reader_that_hangs_up_is_no_failure() {
    let host = Host::new("");
    let _bridge = host.start();
    let mut vmtide = Command::new(env!("CARGO_BIN_EXE_vmtide"))
        .args(["events", "--follow", "--socket"])
        .arg(host.path("control.sock"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(vmtide.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("unreachable"), "{first}");
    // Its next line finds nobody who reads.
    assert!(host.vmtide(&["pause"]).status.success());
    assert!(vmtide.wait().unwrap().success());
}

#[test]
fn a_guest_is_heard_through_its_own_socket_and_shown() {
    let host = Host::new("");
    let _bridge = host.start();
    let mut guest = UnixStream::connect(host.path("a.vsock_7670")).unwrap();
    let hello = json!({ "kind": "hello", "protocol": { "min": 1, "max": 1 }, "agent": "t", "kernel": "6.12",
        "boot_id": "b", "capabilities": [] });
    let report = json!({ "kind": "report", "sequence": 1, "demand": { "cpu": "not_yet", "io": "not_yet", "memory": {
        "known": { "need_bytes": u64::MAX, "floor_bytes": -1, "urgency": "critical", "reason": "stalled",
        "waiting_ms": 3, "signals": {} } } } });
    writeln!(guest, "{hello}\n{report}").unwrap();
    let mut welcome = String::new();
    BufReader::new(guest.try_clone().unwrap()).read_line(&mut welcome).unwrap();
    assert!(welcome.contains("\"kind\":\"welcome\"") && welcome.contains("\"vm\":\"a\""), "{welcome}");
    let patience = Instant::now() + Duration::from_secs(10);
    let agent = loop {
        let agent = host.json(&["list"])[0]["agent"].clone();
        if agent["tally"]["reports"] == 1 {
            break agent;
        }
        assert!(Instant::now() < patience, "{agent}");
    };
    assert_eq!(agent["demand"]["memory"]["need_bytes"], 512 << 20, "held to the maximum");
    assert_eq!(agent["tally"]["clamps"], json!({ "count": 2, "last_field": "floor_bytes" }));
}

#[test]
fn what_was_tuned_in_a_guest_is_explained_in_the_order_of_time() {
    let host = Host::new("");
    let _bridge = host.start();
    let mut guest = UnixStream::connect(host.path("a.vsock_7670")).unwrap();
    let hello = json!({ "kind": "hello", "protocol": { "min": 1, "max": 1 }, "agent": "t", "kernel": "6.12",
        "boot_id": "b", "capabilities": [] });
    let tuned = |message: &str| json!({ "kind": "event", "event": "tuning", "message": message });
    let long = "set a=1, ".repeat(100);
    writeln!(guest, "{hello}\n{}\n{}", tuned("set ksm=0"), tuned(&long)).unwrap();
    let patience = Instant::now() + Duration::from_secs(10);
    while host.json(&["explain", "a"])["events"]
        .as_array()
        .unwrap()
        .iter()
        .all(|event| !event["message"].as_str().unwrap().contains("set a=1"))
    {
        assert!(Instant::now() < patience, "{}", host.json(&["explain", "a"]));
    }
    assert!(host.vmtide(&["pause"]).status.success());

    let explained = text(&host.vmtide(&["explain", "a"]).stdout);
    let places = [
        "Z  a  its agent t reports, on Linux 6.12\n",
        "Z  a  tuning in its guest: set ksm=0\n",
        "Z  a  tuning in its guest: set a=1, set a=1",
        "Z  host  an operator paused all planning\n",
    ]
    .map(|part| explained.find(part).unwrap_or_else(|| panic!("{part:?} is not in {explained}")));
    assert!(places.is_sorted(), "{explained}");
    assert!(explained.contains('…') && !explained.contains(&long), "cut");
    let last = host.json(&["explain", "a", "--last", "1"]);
    let messages: Vec<&str> =
        last["events"].as_array().unwrap().iter().map(|event| event["message"].as_str().unwrap()).collect();
    assert!(messages.len() == 2 && messages[0].starts_with("tuning"), "one of the VM, one of the host: {messages:?}");
    assert_eq!(last["decisions"], json!([]));
}

#[test]
fn what_the_host_is_short_of_is_in_the_status() {
    let host = Host::new("");
    let _bridge = host.start();
    let status = host.json(&["status"]);
    assert!(status["short_of"]["cpu_short"].is_boolean() && status["short_of"]["io_short"].is_boolean(), "{status}");
    assert!(status["cpu_stall_permille"].as_u64().unwrap() <= 1000, "{status}");
    assert!(text(&host.vmtide(&["status"]).stdout).contains("\nshort of   "));
}

#[test]
fn nothing_that_a_guest_wrote_steers_the_terminal() {
    const EVIL: &str = "\u{1b}[2J\u{9b}2J\r\n\u{202e}evil";
    let host = Host::new("");
    let _bridge = host.start();
    let hello = json!({ "kind": "hello", "protocol": { "min": 1, "max": 1 }, "agent": EVIL, "kernel": EVIL,
        "boot_id": EVIL, "capabilities": [EVIL], EVIL: 1 });
    let event = json!({ "kind": "event", "event": EVIL, "message": EVIL });
    let reply = json!({ "kind": "reply", "id": 1, "status": "refused", "amount": 0, "detail": EVIL });
    let report = json!({ "kind": "report", "sequence": 1, "demand": { "cpu": "not_yet", "io": "not_yet", "memory": {
        "known": { "need_bytes": -1, "floor_bytes": 0, "urgency": "idle", "reason": EVIL,
        "waiting_ms": 3, "signals": {} } } } });
    let malformed = json!({ "kind": "report", "sequence": EVIL });
    let mut guest = UnixStream::connect(host.path("a.vsock_7670")).unwrap();
    writeln!(guest, "{hello}\n{event}\n{reply}\n{report}\n{malformed}").unwrap();
    let patience = Instant::now() + Duration::from_secs(10);
    while host.json(&["list"])[0]["agent"]["violations"] != 1 {
        assert!(Instant::now() < patience);
    }
    let explained = text(&host.vmtide(&["explain", "a"]).stdout);
    let agent = explained.lines().nth(2).unwrap();
    assert!(agent.starts_with("Agent \\u{1b}[2J\\u{9b}2J\\u{d}\\u{a}\\u{202e}evil on Linux "), "{agent}");
    assert!(
        agent.contains("not connected; last report 0 s ago; 1 of its numbers could not be, need_bytes the last"),
        "{agent}"
    );
    assert!(agent.contains("; broke the protocol 1 times, its last connection ended: malformed report"), "{agent}");
    for arguments in [&["list"][..], &["explain", "a"], &["events"], &["list", "--json"], &["events", "--json"]] {
        let output = text(&host.vmtide(arguments).stdout);
        assert!(output.contains("evil") || arguments == ["list"], "{output}");
        let steers = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!output.contains(steers), "{arguments:?}: {output:?}");
    }
}

#[test]
fn optimize_goes_on_for_its_time_and_tells_in_json() {
    let host = Host::new("");
    let _bridge = host.start();
    host.json(&["pause"]);
    let begun = Instant::now();
    let told = host.json(&["optimize", "--vm", "a", "--duration", "2s"]);
    assert!((2..10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!((&told["seconds"], &told["vms"][0]["name"]), (&json!(2), &json!("a")));
    assert_eq!(
        (&told["vms"][0]["p_before"], &told["vms"][0]["changes"]),
        (&json!(null), &json!([])),
        "no VM, no index"
    );
    assert_eq!(host.json(&["status"])["paused"], true, "as it was");
    let tried = host.json(&["optimize", "--vm", "a", "--dry-run"]);
    assert_eq!((&tried["dry_run"], &tried["seconds"]), (&json!(true), &json!(0)));
}

#[test]
fn an_interrupt_ends_optimizing_early_with_the_same_summary() {
    let host = Host::new("");
    let _bridge = host.start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmtide"));
    command.arg("--socket").arg(host.path("control.sock")).args(["optimize", "--vm", "a", "--json"]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let events = || text(&host.vmtide(&["events"]).stdout);
    let patience = Instant::now() + Duration::from_secs(10);
    while !events().contains("is optimized for 3600 s") {
        assert!(Instant::now() < patience);
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["ended"], &told["vms"][0]["name"]), (&json!("it was ended early"), &json!("a")));
    assert!(events().contains("is not optimized any more: it was ended early"), "{}", events());
}

#[test]
fn optimize_names_what_is_allowed() {
    let host = Host::new("");
    let _bridge = host.start();
    for (arguments, status, part) in [
        (&["--vm", "a", "--duration", "0s"][..], 2, "0s cannot be; allowed is 1s to 24h"),
        (&["--vm", "a", "--duration", "25h"], 2, "allowed is 1s to 24h"),
        (&["--vm", "a", "--resource", "memory,luck"], 2, "\"luck\" is no resource; allowed are memory, cpu and io"),
        (&["--vm", "a,b"], 1, "there is no VM \"b\"; there are: a"),
        (&[], 2, "--vm"),
    ] {
        let output = host.vmtide(&[&["optimize"], arguments].concat());
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(status) && error.contains(part), "{arguments:?}: {error}");
    }
}

#[test]
fn the_host_is_shown_without_a_bridge() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_vmtide")).arg("host").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let path = folder.path().to_str().unwrap();
    let report: Value = serde_json::from_str(&run(&["--json", "--path", path])).unwrap();
    assert!(report["window_ms"].as_u64().unwrap() >= 1_000 && report["absent"].is_array(), "{report}");
    assert!(report["memory"]["total_bytes"].as_u64().unwrap() > 0 && report["cpu"]["cpus"].as_u64().unwrap() > 0);
    assert!(report["storage"].to_string().contains(path), "{report}");
    assert!(run(&[]).starts_with("CPU         "));
}
