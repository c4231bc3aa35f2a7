//! A walk over the file systems: which range next, for how long to rest, and when to stop. Pure.

/// What is asked of the kernel at once: some groups of blocks, so that the guest is not held up for long.
const RANGE_BYTES: u64 = 1 << 30;
/// The shortest rest between two ranges: long enough to see whether somebody waits.
const LEAST_REST_MS: u64 = 100;
/// The longest, so that a slow disk does not make the rest of it late.
const MOST_REST_MS: u64 = 2_000;
/// Others that wait for I/O for more of a rest than this are held up.
const BUSY_PERMILLE: u64 = 100;

/// The ranges of a file system of `size_bytes`: start and length, bytes. The last has no end, for a file system knows
/// addresses beyond its size.
pub(super) fn ranges(size_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    let count = size_bytes.div_ceil(RANGE_BYTES).max(1);
    (0..count).map(move |number| {
        let start_bytes = number * RANGE_BYTES;
        (start_bytes, if number + 1 < count { RANGE_BYTES } else { u64::MAX - start_bytes })
    })
}

/// How long to rest after a range that took `took_ms`: the disk is others' for at least half of the time.
pub(super) fn rest_ms(took_ms: u64) -> u64 {
    took_ms.clamp(LEAST_REST_MS, MOST_REST_MS)
}

/// Whether the guest's tasks that waited `stalled_us` for I/O in a rest of `rest_ms` are too many.
pub(super) fn is_busy(stalled_us: u64, rest_ms: u64) -> bool {
    stalled_us > rest_ms.saturating_mul(BUSY_PERMILLE)
}

/// Why a walk ended before all was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Somebody else waits for I/O.
    Busy,
    /// The time is up, or nobody waits for it any more.
    Deadline,
}

impl Stop {
    fn text(self) -> &'static str {
        match self {
            Self::Busy => "stopped, as others in the guest wait for I/O",
            Self::Deadline => "stopped by the deadline",
        }
    }
}

/// What came of the file systems so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Each one's mount point with what it gave, or why it could not.
    pub each: Vec<(String, Result<u64, String>)>,
    pub stop: Option<Stop>,
}

impl Tally {
    /// What all gave, bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.each.iter().filter_map(|(_, given)| given.as_ref().ok()).fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Whether there was nothing to be done, or nothing could be.
    pub(super) fn is_in_vain(&self) -> bool {
        self.stop.is_none() && self.each.iter().all(|(_, given)| given.is_err())
    }

    /// Each file system's part, for a person.
    pub(super) fn text(&self) -> String {
        let each = self.each.iter().map(|(at, given)| match given {
            Ok(bytes) => format!("{at}: {} MiB", bytes >> 20),
            Err(why) => format!("{at}: cannot: {why}"),
        });
        each.chain(self.stop.map(|stop| stop.text().to_owned())).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_each_other_and_the_last_has_no_end() {
        for size_bytes in [0, 1, RANGE_BYTES - 1, RANGE_BYTES, RANGE_BYTES + 1, 10 * RANGE_BYTES, 64 << 40] {
            let mut next = 0;
            let all: Vec<_> = ranges(size_bytes).collect();
            for (start_bytes, length_bytes) in &all {
                assert_eq!(*start_bytes, next);
                // ext4 refuses a range that begins behind the last block.
                assert!(*start_bytes < size_bytes.max(1));
                next = start_bytes + length_bytes;
            }
            assert_eq!(next, u64::MAX, "{size_bytes}");
            assert!(all.iter().rev().skip(1).all(|(_, length_bytes)| *length_bytes == RANGE_BYTES));
        }
    }

    #[test]
    fn the_disk_is_others_for_half_of_the_time_and_no_rest_is_too_short_to_see_them() {
        assert_eq!([0, 99, 500, 90_000].map(rest_ms), [100, 100, 500, 2_000]);
        assert!(!is_busy(10_000, 100) && is_busy(10_001, 100));
    }

    #[test]
    fn it_is_told_which_file_system_gave_what() {
        let mut tally = Tally::default();
        assert!(tally.is_in_vain());
        tally.each = vec![("/".into(), Ok(5 << 20)), ("/data".into(), Err("EIO".into()))];
        tally.stop = Some(Stop::Busy);
        assert_eq!((tally.bytes(), tally.is_in_vain()), (5 << 20, false));
        assert_eq!(tally.text(), "/: 5 MiB; /data: cannot: EIO; stopped, as others in the guest wait for I/O");
    }
}
