use super::*;
use crate::config::LogLevel;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;
use vmtide_tuning::Mode;

/// A guest's folders: `usr/*.toml` are the vendor's, `agent.toml` and `agent.conf.d/*.toml` the operator's.
fn guest(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["usr", "agent.conf.d", "conf.d"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
    }
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn loaded(dir: &TempDir) -> Result<Layered, String> {
    let shorten = |error| crate::full_text(&error).replace(&format!("{}/", dir.path().display()), "");
    read(Some(&dir.path().join("usr")), &dir.path().join("agent.toml"), false).map_err(shorten)
}

#[test]
fn later_files_override_single_keys_and_each_value_has_its_origin() {
    let dir = guest(&[
        ("usr/50-image.toml", "grant_ms = 3000\nlog_level = 'warn'\n[tuning]\nmode = 'off'\n"),
        ("agent.toml", "log_level = 'debug'\n[tuning.zram]\nsize_percent = 20\n"),
        ("agent.conf.d/20.toml", "[tuning.zram]\nalgorithm = 'lz4'\n"),
        ("agent.conf.d/10.toml", "[tuning]\nmode = 'static'\njournal = '/run/j'\n[tuning.zram]\nalgorithm = 'zstd'\n"),
        ("agent.conf.d/notes.txt", "not TOML"),
        ("conf.d/bridge-s.toml", "[[vm]]\nname = 'a'\n"),
    ]);
    let layered = loaded(&dir).unwrap();
    let config = &layered.config;
    assert_eq!((config.grant_ms, config.log_level), (3000, LogLevel::Debug));
    let zram = config.tuning.zram.as_ref().unwrap();
    assert_eq!((config.tuning.mode, zram.size_percent, zram.algorithm.as_deref()), (Mode::Static, 20, Some("lz4")));
    let names: Vec<_> = layered.files.iter().map(|file| file.strip_prefix(dir.path()).unwrap()).collect();
    assert_eq!(
        names,
        ["usr/50-image.toml", "agent.toml", "agent.conf.d/10.toml", "agent.conf.d/20.toml"].map(Path::new)
    );

    let shown = layered.text(true, true).replace(&format!("{}/", dir.path().display()), "");
    for line in [
        "bridge = \"vsock://2:7670\"  # built in",
        "grant_ms = 3000  # usr/50-image.toml",
        "log_level = \"debug\"  # agent.toml",
        "tuning.mode = \"static\"  # agent.conf.d/10.toml",
        "tuning.zram.algorithm = \"lz4\"  # agent.conf.d/20.toml",
        "tuning.zram.size_percent = 20  # agent.toml",
        "working_set.source = \"auto\"  # built in",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line:?} is not in:\n{shown}");
    }
    assert_eq!(toml::from_str::<Config>(&layered.text(true, true)).unwrap(), *config);
    let given = layered.text(false, false);
    assert!(!given.contains("working_set") && given.contains("tuning.mode = \"static\"\n"), "{given}");
    assert_eq!(toml::from_str::<Config>(&given).unwrap(), *config);
}

#[test]
fn nothing_at_all_is_the_default_and_a_named_file_stands_alone() {
    assert_eq!(loaded(&guest(&[])).unwrap().config, Config::default());
    let dir = guest(&[("other.toml", "grant_ms = 500"), ("usr/a.toml", "grant_ms = 600"), ("agent.toml", "x = 1")]);
    fs::create_dir(dir.path().join("other.conf.d")).unwrap();
    fs::write(dir.path().join("other.conf.d/a.toml"), "log_level = 'trace'").unwrap();
    let layered = load(Some(&dir.path().join("other.toml"))).unwrap();
    assert_eq!((layered.config.grant_ms, layered.config.log_level), (500, LogLevel::Trace));
    assert_eq!(Layered::default().text(false, true), "");
}

#[test]
fn what_is_wrong_in_a_drop_in_is_told_with_its_file_and_line() {
    for (text, expected) in [
        ("\u{1}\u{2}garbage", &["line 1"][..]),
        ("\n\ngrant_sm = 7", &["line 3", "grant_sm", "did you mean `grant_ms`?"]),
        ("[tuning]\nmode = 'adaptiv'", &["line 2", "did you mean `adaptive`?"]),
        ("[tuning.zram]\nalgorithm = 'lz4'", &["line 1", "missing field `size_percent`"]),
        ("tuning = 3", &["line 1", "tuning"]),
        ("[[vm]]\nname = 'a'", &["line 1", "vm", "expected one of `bridge`"]),
    ] {
        let error = loaded(&guest(&[("agent.toml", "grant_ms = 900"), ("agent.conf.d/1.toml", text)])).unwrap_err();
        for part in expected.iter().chain(&["agent.conf.d/1.toml is not a valid configuration"]) {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
    let dir = guest(&[]);
    fs::write(dir.path().join("agent.conf.d/1.toml"), [0xff, 0xfe]).unwrap();
    let error = loaded(&dir).unwrap_err();
    assert!(error.starts_with("cannot read agent.conf.d/1.toml"), "{error}");
    let dir = guest(&[]);
    fs::remove_dir(dir.path().join("agent.conf.d")).unwrap();
    fs::write(dir.path().join("agent.conf.d"), "a file").unwrap();
    let error = loaded(&dir).unwrap_err();
    assert!(error.starts_with("cannot read agent.conf.d"), "{error}");
}

#[test]
fn what_others_can_write_is_refused_with_the_reason() {
    for (name, mode, allowed) in [
        ("agent.toml", 0o666, false),
        ("agent.conf.d/1.toml", 0o602, false),
        ("usr/1.toml", 0o646, false),
        ("agent.conf.d", 0o777, false),
        ("agent.conf.d", 0o1777, false),
        ("agent.toml", 0o664, true),
        ("agent.conf.d", 0o775, true),
    ] {
        let dir = guest(&[("agent.toml", ""), ("agent.conf.d/1.toml", ""), ("usr/1.toml", "")]);
        fs::set_permissions(dir.path().join(name), Permissions::from_mode(mode)).unwrap();
        let found = loaded(&dir);
        assert_eq!(found.is_ok(), allowed, "{name} {mode:o}");
        if let Err(error) = found {
            let expected = format!("{name} is not trusted: everybody may write to it (mode {mode:04o}); `chmod o-w`");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
