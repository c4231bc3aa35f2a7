//! A VM's disks in words: whether they are held, and to what.

use vmtide_bridge::api::types::{Disks, IoLever, Vm};
use vmtide_bridge::config::{Bytes, Rate};
use vmtide_bridge::plan::storage::{IoRule, IoVerdict};

/// A cell of the list: what its disks are held to, bytes per second; `-` for who is free.
pub(super) fn cell(io: Option<IoVerdict>) -> String {
    let throttle = io.and_then(|verdict| verdict.throttle);
    throttle.map_or("-".to_owned(), |throttle| Rate(throttle.bytes_per_s).to_string())
}

/// A line of `explain`; nothing of disks that have no limits of their own while nobody waits and they are not held.
pub(super) fn line(vm: &Vm) -> String {
    let Disks { shares, minimum_bytes_per_s, maximum_bytes_per_s, .. } = vm.disks;
    let has_limits = shares != vm.shares || minimum_bytes_per_s > 0 || maximum_bytes_per_s.is_some();
    sentence(vm.io, &vm.disks, has_limits)
}

/// What an operator set.
pub(super) fn limit_words(disks: &Disks) -> String {
    let least = Some(disks.minimum_bytes_per_s).filter(|least| *least > 0);
    let least = least.map(|least| format!(", at least {}", Rate(least)));
    let most = disks.maximum_bytes_per_s.map(|most| format!(", at most {}", Rate(most)));
    format!("{} shares", disks.shares) + &least.unwrap_or_default() + &most.unwrap_or_default()
}

fn sentence(io: Option<IoVerdict>, disks: &Disks, has_limits: bool) -> String {
    let limits = if has_limits { limit_words(disks) + "; " } else { String::new() };
    let calm = |limits: String| if has_limits { format!("Disks: {limits}not held.\n") } else { String::new() };
    let Some(verdict) = io else { return calm(limits) };
    let why = match verdict.rule {
        IoRule::Free if verdict.throttle.is_none() => return calm(limits),
        IoRule::Free => "nobody waits",
        IoRule::WithinShare => "others wait, and it keeps to its share",
        IoRule::OverShare => "others wait, and it takes more than its share",
        IoRule::Resting => "nobody waits any more, which has to last",
        IoRule::Easing => "nobody waits any more: it is let go step by step",
        IoRule::Capped => "nobody waits: its maximum holds",
    };
    let by = if disks.lever == Some(IoLever::Group) { " by its cgroup, reads and writes each," } else { "" };
    let held = match verdict.throttle {
        Some(throttle) => format!("held{by} to {} and {} operations/s", Rate(throttle.bytes_per_s), throttle.ops_per_s),
        None => "not held".to_owned(),
    };
    let (rate, share) = (Bytes(verdict.rate), Bytes(verdict.share));
    format!("Disks: {limits}{held}, take {rate}/s (an operation counts as 16 KiB), its share is {share}/s; {why}.\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmtide_bridge::plan::storage::Throttle;

    const MIB: u64 = 1024 * 1024;

    fn verdict(rule: IoRule, throttle: Option<Throttle>) -> IoVerdict {
        IoVerdict { throttle, rate: 8 * MIB, share: 4 * MIB, rule }
    }

    fn told(io: Option<IoVerdict>, disks: &Disks) -> String {
        sentence(io, disks, *disks != Disks::default())
    }

    #[test]
    fn who_is_held_is_told_to_what_by_what_and_why() {
        let held = Some(verdict(IoRule::OverShare, Some(Throttle { bytes_per_s: 6 * MIB, ops_per_s: 384 })));
        assert_eq!(cell(held), "6 MiB/s");
        assert_eq!(
            told(held, &Disks::default()),
            "Disks: held to 6 MiB/s and 384 operations/s, take 8 MiB/s (an operation counts as 16 KiB), its share is 4 MiB/s; \
             others wait, and it takes more than its share.\n"
        );
        let by_group = Disks { lever: Some(IoLever::Group), shares: 500, ..Disks::default() };
        assert!(
            told(held, &by_group)
                .starts_with("Disks: 500 shares; held by its cgroup, reads and writes each, to 6 MiB/s")
        );
    }

    #[test]
    fn who_is_free_is_not_talked_about_unless_others_wait_or_it_has_limits() {
        for free in [None, Some(verdict(IoRule::Free, None))] {
            assert_eq!((cell(free), told(free, &Disks::default())), ("-".to_owned(), String::new()));
            let limited = Disks {
                shares: 5,
                minimum_bytes_per_s: 2 * MIB,
                maximum_bytes_per_s: Some(9 * MIB),
                ..Disks::default()
            };
            assert_eq!(told(free, &limited), "Disks: 5 shares, at least 2 MiB/s, at most 9 MiB/s; not held.\n");
        }
        assert!(told(Some(verdict(IoRule::WithinShare, None)), &Disks::default()).starts_with("Disks: not held, "));
    }
}
