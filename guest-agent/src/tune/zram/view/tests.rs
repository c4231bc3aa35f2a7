//! Every way in which compressed swap can stand.

use super::*;

fn waits() -> Seen {
    let wanted = Some(Ok(Value::Number(384 << 20)));
    Seen { device: None, has_control: true, mode: Mode::Static, held: false, may_swap: true, wanted }
}

fn swapped(seen: Seen) -> Seen {
    Seen { device: Some(Device::Swapped { bytes: 384 << 20, used_bytes: 5 << 20 }), ..seen }
}

fn is(seen: &Seen) -> (Standing, Action) {
    let (standing, action, _) = stands(seen);
    (standing, action)
}

#[test]
fn is_set_up_only_where_it_was_asked_for_and_can_be() {
    let no = |standing, detail: &str| Some(Err((standing, detail.to_owned())));
    let there_is = no(Standing::NotApplicable, "there is swap already");
    let unknown = no(Standing::Failed, "memory");
    for (seen, standing) in [
        (Seen { wanted: None, ..waits() }, Standing::Off),
        (Seen { wanted: None, mode: Mode::Observe, held: true, ..waits() }, Standing::Off),
        (Seen { mode: Mode::Off, ..waits() }, Standing::Off),
        (Seen { has_control: false, ..waits() }, Standing::Absent),
        (Seen { wanted: there_is, ..waits() }, Standing::NotApplicable),
        (Seen { wanted: unknown, ..waits() }, Standing::Failed),
        (Seen { mode: Mode::Observe, may_swap: false, ..waits() }, Standing::WouldApply),
        (Seen { held: true, ..waits() }, Standing::Held),
        (Seen { may_swap: false, ..waits() }, Standing::NotPermitted),
    ] {
        assert_eq!(is(&seen), (standing, Action::Leave));
    }
    assert_eq!(is(&waits()), (Standing::Pending, Action::Write(Value::Number(384 << 20))));
}

#[test]
fn goes_away_when_it_is_not_wanted_and_is_let_go_when_it_is_not_ours() {
    let device = |device| Seen { device: Some(device), ..waits() };
    for (seen, standing, action) in [
        (swapped(waits()), Standing::Applied, Action::Leave),
        // What is swapped to stays, whatever else has become of the guest.
        (swapped(Seen { may_swap: false, has_control: false, ..waits() }), Standing::Applied, Action::Leave),
        (swapped(Seen { held: true, ..waits() }), Standing::Held, Action::Restore),
        (swapped(Seen { mode: Mode::Observe, ..waits() }), Standing::Off, Action::Restore),
        (device(Device::Off), Standing::TakenBySomeoneElse, Action::Restore),
        (device(Device::Theirs), Standing::TakenBySomeoneElse, Action::Close(Outcome::Taken)),
        (device(Device::Gone), Standing::Absent, Action::Close(Outcome::Gone)),
    ] {
        assert_eq!(is(&seen), (standing, action));
    }
}
