//! A VM's disks in words: whether they are held, and to what.

use vmtide_bridge::config::Bytes;
use vmtide_bridge::plan::storage::{IoRule, IoVerdict};

/// A cell of the list: what its disks are held to, bytes per second; `-` for who is free.
pub(super) fn cell(io: Option<IoVerdict>) -> String {
    let throttle = io.and_then(|verdict| verdict.throttle);
    throttle.map_or("-".to_owned(), |throttle| format!("{}/s", Bytes(throttle.bytes_per_s)))
}

/// A line of `explain`; nothing while nobody waits for a disk and it is not held.
pub(super) fn line(io: Option<IoVerdict>) -> String {
    let Some(verdict) = io else { return String::new() };
    let why = match verdict.rule {
        IoRule::Free if verdict.throttle.is_none() => return String::new(),
        IoRule::Free => "nobody waits",
        IoRule::WithinShare => "others wait, and it keeps to its share",
        IoRule::OverShare => "others wait, and it takes more than its share",
        IoRule::Resting => "nobody waits any more, which has to last",
        IoRule::Easing => "nobody waits any more: it is let go step by step",
    };
    let held = match verdict.throttle {
        Some(throttle) => format!("held to {}/s and {} operations/s", Bytes(throttle.bytes_per_s), throttle.ops_per_s),
        None => "not held".to_owned(),
    };
    let (rate, share) = (Bytes(verdict.rate), Bytes(verdict.share));
    format!("Disks: {held}, take {rate}/s (an operation counts as 16 KiB), its share is {share}/s; {why}.\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmtide_bridge::plan::storage::Throttle;

    const MIB: u64 = 1024 * 1024;

    fn verdict(rule: IoRule, throttle: Option<Throttle>) -> IoVerdict {
        IoVerdict { throttle, rate: 8 * MIB, share: 4 * MIB, rule }
    }

    #[test]
    fn who_is_held_is_told_to_what_and_why() {
        let held = Some(verdict(IoRule::OverShare, Some(Throttle { bytes_per_s: 6 * MIB, ops_per_s: 384 })));
        assert_eq!(cell(held), "6 MiB/s");
        assert_eq!(
            line(held),
            "Disks: held to 6 MiB/s and 384 operations/s, take 8 MiB/s (an operation counts as 16 KiB), its share is 4 MiB/s; \
             others wait, and it takes more than its share.\n"
        );
    }

    #[test]
    fn who_is_free_is_not_talked_about_unless_others_wait() {
        for free in [None, Some(verdict(IoRule::Free, None))] {
            assert_eq!((cell(free), line(free)), ("-".to_owned(), String::new()));
        }
        assert!(line(Some(verdict(IoRule::WithinShare, None))).starts_with("Disks: not held, "));
    }
}
