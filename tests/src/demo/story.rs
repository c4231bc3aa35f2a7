//! Who is busy when.

/// Anonymous memory of a busy VM, which fits only when the others give theirs.
const BUSY_MIB: u64 = 448;

/// Each VM's phases for `vmtide-load`: one after the other they are busy for a turn, the rest idles, and for the
/// last part all do, so that the last one's memory ebbs too.
pub(super) fn story(vms: u8, seconds: u64) -> Vec<String> {
    let turn_ms = seconds * 1000 * 9 / 10 / u64::from(vms.max(1));
    (0..u64::from(vms))
        .map(|index| {
            let before_ms = 1000 + index * turn_ms;
            let anon_ms = turn_ms * 3 / 5;
            let file_ms = turn_ms / 5;
            let after_ms = (seconds * 1000).saturating_sub(before_ms + anon_ms + file_ms);
            format!("idle:{before_ms}ms,anon={BUSY_MIB}M:{anon_ms}ms,anon=64M+file=128M:{file_ms}ms,idle:{after_ms}ms")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::parse_phases;

    #[test]
    fn each_story_lasts_as_long_as_asked_and_turns_do_not_overlap() {
        for (vms, seconds) in [(1, 30), (3, 120), (5, 60)] {
            let stories: Vec<_> = story(vms, seconds).iter().map(|phases| parse_phases(phases).unwrap()).collect();
            let mut free_ms = 0;
            for phases in &stories {
                let total: u128 = phases.iter().map(|phase| phase.duration.as_millis()).sum();
                assert_eq!(total, u128::from(seconds) * 1000);
                let begin = phases[0].duration.as_millis();
                assert!(begin >= free_ms);
                free_ms = begin + phases[1].duration.as_millis() + phases[2].duration.as_millis();
            }
        }
    }
}
