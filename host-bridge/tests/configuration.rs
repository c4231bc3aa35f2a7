//! The configuration as an operator meets it: read, refused, shown, written first, read again.

#![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

mod host;

use host::{Host, text};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

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
