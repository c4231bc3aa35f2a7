//! Every way in which a file can stand.

use super::*;
use crate::Catalogue;
use crate::catalogue::Signal;
use crate::example::DOMAIN;
use crate::trial::{Finding, Verdict};
use std::collections::BTreeMap;

const PATH: &str = "/proc/sys/vm/swappiness";

/// What differs from a knob that waits to be set to 140.
struct Given {
    mode: Mode,
    current: io::Result<Value>,
    owned: Option<Owned>,
    taken: Option<Outcome>,
    tried: Option<Tried>,
    held: bool,
    swap_kind: &'static str,
}

impl Default for Given {
    fn default() -> Self {
        let current = Ok(Value::Number(60));
        Self { mode: Mode::Adaptive, current, owned: None, taken: None, tried: None, held: false, swap_kind: "zram" }
    }
}

fn owned(written: &str) -> Owned {
    Owned {
        at_ms: 0,
        knob: "swappiness".into(),
        path: PATH.into(),
        original: "60".into(),
        written: written.into(),
        replaced: None,
        twin: None,
        why: "why".into(),
        facts: BTreeMap::new(),
    }
}

fn assessed(given: &Given) -> Assessment {
    let (catalogue, _) = Catalogue::load(&DOMAIN, Path::new("/no/such/folder"));
    let knob = catalogue.knobs.iter().find(|knob| knob.id == "swappiness").unwrap();
    let mut facts = Facts::default();
    facts.set("swap_kind", given.swap_kind);
    facts.set("kernel", Value::Number(6_012));
    facts.set("present_bytes", Value::Number(2));
    assess(&Situation {
        knob,
        mode: given.mode,
        current: &given.current,
        twin: None,
        owned: given.owned.as_ref(),
        taken: given.taken,
        claim: None,
        tried: given.tried.as_ref(),
        held: given.held,
        domain: &DOMAIN,
        facts: &facts,
        root: Path::new("/no/such/root"),
        path: PATH,
        now_ms: 1_000,
    })
}

fn stands(given: &Given) -> (Standing, Action) {
    let assessment = assessed(given);
    (assessment.standing, assessment.action)
}

fn tried(keep: bool, retry_at_ms: Option<u64>) -> Tried {
    let finding = if keep { Finding::Better } else { Finding::Worse };
    let verdict = Verdict { finding, keep, signal: Signal::Refaults, before: 1, after: 2, bound: 0, windows: 6 };
    Tried { at_ms: 0, unit: "swappiness".into(), verdict, written: vec!["140".into()], retry_at_ms, reverts: 1 }
}

#[test]
fn what_is_not_ours() {
    let write = Action::Write(Value::Number(140));
    let denied = || Err(io::ErrorKind::PermissionDenied.into());
    let unplugged = || Err(io::Error::from_raw_os_error(nix::errno::Errno::ENODEV as i32));
    let is = |number| Ok(Value::Number(number));
    for (given, standing, action) in [
        (Given::default(), Standing::Pending, write.clone()),
        (Given { mode: Mode::Static, ..Given::default() }, Standing::Pending, write.clone()),
        (Given { mode: Mode::Observe, ..Given::default() }, Standing::WouldApply, Action::Leave),
        (Given { mode: Mode::Off, ..Given::default() }, Standing::Off, Action::Leave),
        (Given { swap_kind: "none", ..Given::default() }, Standing::NotApplicable, Action::Leave),
        (Given { current: is(140), ..Given::default() }, Standing::RightAlready, Action::Leave),
        (Given { current: is(10), ..Given::default() }, Standing::OtherOwner, Action::Leave),
        (Given { current: denied(), ..Given::default() }, Standing::NotPermitted, Action::Leave),
        (Given { current: unplugged(), ..Given::default() }, Standing::Absent, Action::Leave),
        (Given { held: true, ..Given::default() }, Standing::Held, Action::Leave),
        (Given { taken: Some(Outcome::Taken), ..Given::default() }, Standing::TakenBySomeoneElse, Action::Leave),
        (Given { tried: Some(tried(false, Some(1_001))), ..Given::default() }, Standing::BackingOff, Action::Leave),
        (Given { tried: Some(tried(false, Some(1_000))), ..Given::default() }, Standing::Pending, write.clone()),
        (Given { tried: Some(tried(true, None)), ..Given::default() }, Standing::Pending, write),
    ] {
        assert_eq!(stands(&given), (standing, action), "{:?}", given.current);
    }
}

#[test]
fn what_is_ours() {
    let is = |number| Ok(Value::Number(number));
    let ours = |written: &str, current| Given { owned: Some(owned(written)), current, ..Given::default() };
    for (given, standing, action) in [
        (ours("140", is(140)), Standing::Applied, Action::Leave),
        (ours("100", is(100)), Standing::Applied, Action::Write(Value::Number(140))),
        (Given { mode: Mode::Static, ..ours("100", is(100)) }, Standing::Applied, Action::Leave),
        (Given { mode: Mode::Observe, ..ours("140", is(140)) }, Standing::Off, Action::Restore),
        (Given { held: true, ..ours("140", is(140)) }, Standing::Held, Action::Restore),
        (Given { swap_kind: "none", ..ours("140", is(140)) }, Standing::NotApplicable, Action::Restore),
        (ours("140", is(77)), Standing::TakenBySomeoneElse, Action::Close(Outcome::Taken)),
        (ours("140", is(60)), Standing::TakenBySomeoneElse, Action::Close(Outcome::PutBack)),
        (ours("140", Err(io::ErrorKind::NotFound.into())), Standing::Absent, Action::Close(Outcome::Gone)),
        (ours("140", Err(io::ErrorKind::PermissionDenied.into())), Standing::NotPermitted, Action::Leave),
    ] {
        assert_eq!(stands(&given), (standing, action), "{:?}", given.current);
    }
}

#[test]
fn a_value_between_two_writes_is_ours_still() {
    let between = Owned { replaced: Some("120".into()), ..owned("140") };
    let given = Given { owned: Some(between), current: Ok(Value::Number(120)), ..Given::default() };
    assert_eq!(stands(&given).1, Action::Write(Value::Number(140)));
}

#[test]
fn what_the_kernel_computes_anew_is_nobody_s() {
    for (present, expected) in [("1", Outcome::KernelReset), ("2", Outcome::Taken)] {
        let facts = BTreeMap::from([("present_bytes".to_owned(), present.to_owned())]);
        let owned = Owned { facts, ..owned("140") };
        let given = Given { owned: Some(owned), current: Ok(Value::Number(77)), ..Given::default() };
        assert_eq!(stands(&given).1, Action::Close(expected), "{present}");
    }
}

#[test]
fn says_why() {
    assert_eq!(assessed(&Given { swap_kind: "none", ..Given::default() }).detail, "applies when swap_kind != \"none\"");
    let taken = Given { taken: Some(Outcome::Taken), ..Given::default() };
    assert_eq!(assessed(&taken).detail, "taken by someone else");
    assert_eq!(assessed(&Given { mode: Mode::Observe, ..Given::default() }).detail, "mode observe, risk low");
}
