//! The catalogue's data, and what operators may do to it.

use super::*;
use crate::example::DOMAIN;
use crate::expression::Expression;
use crate::value::Value;

fn with(text: &str) -> (Catalogue, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("own.toml"), text).unwrap();
    let (catalogue, errors) = Catalogue::load(&DOMAIN, dir.path());
    (catalogue, errors.iter().map(|error| crate::full_text(error)).collect())
}

fn knob<'a>(catalogue: &'a Catalogue, id: &str) -> &'a Knob {
    catalogue.knobs.iter().find(|knob| knob.id == id).unwrap()
}

#[test]
fn a_group_is_known_by_its_name_and_by_those_of_its_knobs() {
    let (catalogue, errors) = with("");
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(catalogue.unit("dirty_bytes").len(), 2);
    assert_eq!(catalogue.unit("dirty").len(), 2);
    assert!(catalogue.unit("nothing").is_empty());
}

#[test]
fn an_operator_changes_what_is_there_and_adds_what_is_not() {
    let (catalogue, errors) = with(
        r#"
[[knob]]
id = "swappiness"
value = '77'
mode = "static"

[[knob]]
id = "hung_task_timeout"
path = "/proc/sys/kernel/hung_task_timeout_secs"
value = 'if virtual then 300 else 120'
risk = "low"
why = "A VM stands still while its host is busy."
source = "Documentation/admin-guide/sysctl/kernel.rst"
"#,
    );
    assert!(errors.is_empty(), "{errors:?}");
    let swappiness = knob(&catalogue, "swappiness");
    assert_eq!(swappiness.value, Some("77".parse::<Expression>().unwrap()));
    assert_eq!((swappiness.mode, swappiness.risk), (Mode::Static, Risk::Low));
    assert!(swappiness.when.is_some() && swappiness.default == [Value::Number(60)]);
    assert_eq!(catalogue.knobs.last().unwrap().mode, Mode::Adaptive);
}

#[test]
fn what_is_wrong_names_file_line_and_knob_and_the_others_go_on() {
    let new = "path = \"/proc/sys/x\"\nrisk = \"low\"\nwhy = \"w\"\nsource = \"s\"";
    for (entry, line, id, what) in [
        ("id = \"swappiness\"\nvalue = 'moon'", 3, "swappiness", "value: unknown fact \"moon\""),
        ("id = \"swappiness\"\n\nvalue = '1 +'", 4, "swappiness", "value: expected a value at \"\""),
        ("id = \"swappiness\"\nvalue = 7", 3, "swappiness", "value: invalid type: integer `7`, expected a string"),
        ("id = \"swappiness\"\nmode = \"on\"", 3, "swappiness", "mode: unknown variant `on`, expected one of `off`"),
        (
            "id = \"swappiness\"\npath = \"/proc/sys/x\"",
            3,
            "swappiness",
            "path of a knob that is there cannot be changed",
        ),
        ("id = \"overcommit_memory\"\nvalue = '1'", 1, "overcommit_memory", "this knob is only told"),
        ("risk = \"low\"", 1, "", "id is missing"),
        (&format!("id = \"device\"\n{new}"), 1, "device", "it is no knob: [device]"),
        (
            "id = \"x\"\npath = \"/etc/passwd\"\nrisk = \"low\"",
            3,
            "x",
            "path: expected a path below /proc/sys/ or /sys/",
        ),
        ("id = \"x\"\nrisk = \"low\"\npath = \"/sys/../etc\"", 4, "x", "path: expected a path below"),
        (&format!("id = \"x\"\nkernel_resets_on = [\"moon\"]\n{new}"), 1, "x", "unknown fact \"moon\""),
        (&format!("id = \"x\"\ncolour = 1\n{new}"), 3, "x", "unknown key \"colour\""),
        (&format!("id = \"x\"\nsignl = 1\n{new}"), 3, "x", "unknown key \"signl\"; did you mean signal?"),
    ] {
        let text = format!("[[knob]]\n{entry}\n\n[[knob]]\nid = \"page_cluster\"\nmode = \"off\"\n");
        let (catalogue, errors) = with(&text);
        let expected = format!("own.toml, line {line}, knob {id:?}: {what}");
        assert!(errors.len() == 1 && errors[0].contains(&expected), "{entry:?}: {errors:?}");
        assert_eq!(knob(&catalogue, "page_cluster").mode, Mode::Off, "{entry:?}");
        assert!(knob(&catalogue, "swappiness").value.is_some(), "{entry:?}");
    }
}

#[test]
fn a_file_that_is_no_toml_costs_itself() {
    let (catalogue, errors) = with("[[knob]\nid = 1");
    assert!(errors[0].contains("own.toml is no list of knobs") && errors[0].contains("line 1"), "{errors:?}");
    assert_eq!(catalogue.knobs.len(), 6);
}

#[test]
fn what_everybody_may_write_changes_no_knob() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("all.toml");
    fs::write(&file, "[[knob]]\nid = \"swappiness\"\nmode = \"off\"\n").unwrap();
    let mode = || {
        let (catalogue, errors) = Catalogue::load(&DOMAIN, dir.path());
        let off = catalogue.knobs.iter().any(|knob| knob.id == "swappiness" && knob.mode == Mode::Off);
        (off, errors.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let chmod = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    assert_eq!(mode(), (true, vec![]));
    for (path, bad, good) in [(file.as_path(), 0o666, 0o644), (dir.path(), 0o777, 0o755)] {
        chmod(path, bad);
        let (off, errors) = mode();
        assert!(!off && errors.len() == 1 && errors[0].contains("everybody may write to it"), "{errors:?}");
        chmod(path, good);
    }
    assert_eq!(mode(), (true, vec![]));
}
