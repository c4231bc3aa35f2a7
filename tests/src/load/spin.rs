//! Work that only takes CPU time, in several threads.

use std::{
    hint::black_box,
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Rounds of one operation: about a millisecond where the CPU is emulated.
const ROUNDS: u64 = 100_000;

/// Keeps `threads` CPUs busy until `end`, and calls `report` with the operations done so far, at once and each `every`.
pub(super) fn spin(
    threads: u64,
    end: Instant,
    every: Duration,
    mut report: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<u64> {
    let (done, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for seed in 1..=threads {
            let (done, is_over) = (&done, &is_over);
            scope.spawn(move || {
                let mut word = seed;
                while !is_over.load(Ordering::Relaxed) {
                    for _ in 0..ROUNDS {
                        word ^= word << 13;
                        word ^= word >> 7;
                        word ^= word << 17;
                    }
                    black_box(word);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut reported = Ok(());
        while reported.is_ok() && Instant::now() < end {
            reported = report(done.load(Ordering::Relaxed));
            thread::sleep(every.min(end.saturating_duration_since(Instant::now())));
        }
        is_over.store(true, Ordering::Relaxed);
        reported
    })?;
    Ok(done.into_inner())
}
