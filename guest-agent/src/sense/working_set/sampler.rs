//! Takes the samples that are due, from the best source that there is now.

use super::ages::Ages;
use super::cycle::{Cycle, LONG_MS, Mark, rest_ms};
use super::{Leisure, Source, Wanted, WorkingSet, damon, mglru};
use crate::said::Said;
use crate::sense::{MemorySample, SenseError};
use nix::time::{ClockId, clock_gettime};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use tracing::{info, warn};

/// Whether there is a better source by now is asked this often; after one failed, ten times less.
const CHOOSE_MS: u64 = 60_000;
/// A sample that could not be renewed for this long says nothing any more.
const EXPIRY_MS: u64 = 900_000;
/// A quiet guest whose active file pages grew by this much since the last sample is looked at again.
const STIRRED_BYTES: u64 = 32 * 1024 * 1024;
/// DAMON takes seconds to answer.
const ANSWER_MS: u64 = 1_000;
/// It is asked this long before its look is due: late enough that nobody waits long, and well before it looks.
const EARLY_MS: u64 = 5_000;

/// DAMON's answer, and the CPU time that its monitor took until then.
type Answer = Result<(damon::Used, u64), SenseError>;

/// Knows the guest's working set.
#[derive(Debug)]
pub struct Sampler {
    root: PathBuf,
    wanted: Wanted,
    source: Source,
    choose_ms: u64,
    cycle: Cycle,
    /// CPU time of this cycle so far, and of the last one.
    cost_us: u64,
    cycle_cost_us: u64,
    /// Active(file) after the last sample; `None` until it was read.
    settled_bytes: Option<u64>,
    ages: Ages,
    /// DAMON's answer that is awaited.
    asked: Option<JoinHandle<Answer>>,
    damon_cost_us: u64,
    seen: Option<WorkingSet>,
    /// When refaults were counted, and how many: the latest, and the one before it.
    refaults: [Option<(u64, u64)>; 2],
    next_ms: u64,
    said: Said,
}

impl Sampler {
    /// A sampler of the guest below `root`; ends what an agent that was killed left behind.
    pub fn new(root: &Path, wanted: Wanted) -> Self {
        let mut sampler = Self {
            root: root.to_owned(),
            wanted,
            source: Source::Counters,
            choose_ms: 0,
            cycle: Cycle::default(),
            cost_us: 0,
            cycle_cost_us: 0,
            settled_bytes: None,
            ages: Ages::default(),
            asked: None,
            damon_cost_us: 0,
            seen: None,
            refaults: [None; 2],
            next_ms: u64::MAX,
            said: Said::default(),
        };
        sampler.complain(0, damon::end(root));
        sampler
    }

    /// Takes what sample is due; returns the latest.
    pub fn tend(&mut self, now_ms: u64, leisure: Leisure, memory: &MemorySample) -> Option<WorkingSet> {
        if self.wanted == Wanted::Off {
            return None;
        }
        self.next_ms = u64::MAX;
        if self.source != Source::Mglru && now_ms >= self.choose_ms {
            self.choose(now_ms);
        }
        let tended = match self.source {
            Source::Mglru => self.tend_mglru(now_ms, leisure, memory),
            Source::Damon => self.tend_damon(now_ms, leisure, memory),
            Source::Counters => Ok(()),
        };
        self.complain(now_ms, tended);
        self.count_refaults(now_ms, memory);
        let seen =
            self.seen.filter(|seen| now_ms.saturating_sub(seen.at_ms) < EXPIRY_MS + self.rest_ms(leisure, memory));
        Some(seen.unwrap_or_else(|| self.counted(now_ms, memory)))
    }

    /// When to tend it again at the latest; what is due already waits for leisure.
    pub fn next_ms(&self) -> u64 {
        self.next_ms
    }

    /// Ends what it began.
    pub fn stop(&mut self) {
        if self.source == Source::Damon {
            self.complain(0, damon::end(&self.root));
        }
    }

    fn choose(&mut self, now_ms: u64) {
        self.choose_ms = now_ms.saturating_add(CHOOSE_MS);
        let may = |source| {
            matches!(
                (self.wanted, source),
                (Wanted::Auto, _) | (Wanted::Mglru, Source::Mglru) | (Wanted::Damon, Source::Damon)
            )
        };
        let best = if may(Source::Mglru) && mglru::is_on(&self.root) {
            Source::Mglru
        } else if may(Source::Damon) && damon::is_free(&self.root) {
            Source::Damon
        } else {
            Source::Counters
        };
        if best == self.source {
            return;
        }
        let changed = match (self.source, best) {
            (Source::Damon, _) => damon::end(&self.root),
            (_, Source::Damon) => damon::begin(&self.root),
            _ => Ok(()),
        };
        info!(source = ?best, "the working set's source");
        self.source = best;
        self.cycle = if best == Source::Mglru { Cycle::New } else { Cycle::Begun { at_ms: now_ms } };
        (self.ages, self.seen, self.asked, self.damon_cost_us) = (Ages::default(), None, None, 0);
        self.complain(now_ms, changed);
    }

    /// Says what went wrong, once, and goes on with counters for a while.
    fn complain(&mut self, now_ms: u64, done: Result<(), SenseError>) {
        let Err(error) = done else { return };
        let text = crate::full_text(&error);
        if self.said.is_new(&text) {
            warn!("the working set is not known from {:?}: {text}", self.source);
        }
        if self.source == Source::Damon {
            damon::end(&self.root).ok();
        }
        self.source = Source::Counters;
        self.seen = None;
        self.choose_ms = now_ms.saturating_add(10 * CHOOSE_MS);
    }

    fn rest_ms(&self, leisure: Leisure, memory: &MemorySample) -> u64 {
        let grown_bytes = self.settled_bytes.map_or(0, |settled| memory.active_file_bytes.saturating_sub(settled));
        rest_ms(leisure == Leisure::Quiet && grown_bytes < STIRRED_BYTES, self.cycle_cost_us)
    }

    fn tend_mglru(&mut self, now_ms: u64, leisure: Leisure, memory: &MemorySample) -> Result<(), SenseError> {
        if let Cycle::Ended { .. } = self.cycle {
            self.settled_bytes.get_or_insert(memory.active_file_bytes);
        }
        let (mark, due_ms) = self.cycle.next(now_ms, self.rest_ms(leisure, memory));
        if now_ms < due_ms {
            self.next_ms = due_ms;
            return Ok(());
        }
        if leisure == Leisure::None {
            return Ok(());
        }
        if !mglru::is_on(&self.root) {
            self.choose(now_ms);
            return Ok(());
        }
        let began_us = cpu_time_us();
        self.mark(now_ms, mark)?;
        self.cost_us += cpu_time_us().saturating_sub(began_us);
        if mark == Mark::End {
            self.cycle_cost_us = std::mem::take(&mut self.cost_us);
            self.settled_bytes = None;
            if let Some(seen) = self.seen.as_mut().filter(|seen| seen.at_ms == now_ms) {
                seen.cost_us = self.cycle_cost_us;
            }
        }
        self.next_ms = self.cycle.next(now_ms, self.rest_ms(leisure, memory)).1;
        Ok(())
    }

    /// Makes a generation, and sees what the ones before it tell.
    fn mark(&mut self, now_ms: u64, mark: Mark) -> Result<(), SenseError> {
        mglru::age(&self.root, &mglru::read(&self.root)?)?;
        let before = std::mem::replace(&mut self.cycle, Cycle::after(mark, now_ms));
        match (mark, before) {
            (Mark::Begin, Cycle::Ended { at_ms }) => self.ages.rested(at_ms, now_ms, &mglru::read(&self.root)?),
            (Mark::End, _) => self.seen = self.ages.sample(now_ms, &mglru::read(&self.root)?).or(self.seen),
            _ => {}
        }
        Ok(())
    }

    fn tend_damon(&mut self, now_ms: u64, leisure: Leisure, memory: &MemorySample) -> Result<(), SenseError> {
        if let Some(asked) = self.asked.take() {
            if !asked.is_finished() {
                self.asked = Some(asked);
                self.next_ms = now_ms + ANSWER_MS;
                return Ok(());
            }
            // One that panicked has no answer.
            if let Ok(answer) = asked.join() {
                let ([used_60_s, used_300_s], cost_us) = answer?;
                let cached_bytes = memory.active_file_bytes.saturating_add(memory.inactive_file_bytes);
                let total_bytes = memory.anon_bytes.saturating_add(cached_bytes);
                self.seen = Some(WorkingSet {
                    source: Source::Damon,
                    at_ms: now_ms,
                    // Not known: no more than that.
                    used_10_s_bytes: used_60_s.min(total_bytes),
                    used_60_s_bytes: used_60_s.min(total_bytes),
                    used_300_s_bytes: used_300_s.min(total_bytes),
                    total_bytes,
                    file_60_s_bytes: None,
                    cost_us: cost_us.saturating_sub(self.damon_cost_us),
                });
                self.damon_cost_us = cost_us;
            }
            self.cycle = Cycle::Ended { at_ms: now_ms };
        }
        let due_ms = match self.cycle {
            Cycle::Begun { at_ms } => at_ms + LONG_MS - EARLY_MS,
            Cycle::Ended { at_ms } => at_ms + LONG_MS - EARLY_MS + self.rest_ms(leisure, memory),
            Cycle::New | Cycle::Split { .. } => return Ok(()),
        };
        if now_ms < due_ms {
            self.next_ms = due_ms;
        } else if leisure != Leisure::None {
            let root = self.root.clone();
            let ask = move || Ok((damon::read(&root)?, damon::cost_us(&root).unwrap_or(0)));
            let asked = thread::Builder::new().name("damon".into()).stack_size(64 * 1024).spawn(ask);
            self.asked = asked.inspect_err(|error| warn!("cannot ask DAMON: {error}")).ok();
            self.next_ms = now_ms + ANSWER_MS;
        }
        Ok(())
    }

    fn count_refaults(&mut self, now_ms: u64, memory: &MemorySample) {
        if self.refaults[0].is_none_or(|(at_ms, _)| now_ms.saturating_sub(at_ms) >= LONG_MS / 2) {
            self.refaults = [Some((now_ms, memory.refault_file_bytes)), self.refaults[0]];
        }
    }

    /// What sizes and counters tell: nothing of ages.
    fn counted(&self, now_ms: u64, memory: &MemorySample) -> WorkingSet {
        let before = self.refaults[1].or(self.refaults[0]).map_or(memory.refault_file_bytes, |(_, bytes)| bytes);
        let came_back_bytes = memory.refault_file_bytes.saturating_sub(before).min(memory.inactive_file_bytes);
        let used_bytes = memory.anon_bytes.saturating_add(memory.active_file_bytes).saturating_add(came_back_bytes);
        WorkingSet {
            source: Source::Counters,
            at_ms: now_ms,
            used_10_s_bytes: used_bytes,
            used_60_s_bytes: used_bytes,
            used_300_s_bytes: used_bytes,
            total_bytes: used_bytes.saturating_add(memory.inactive_file_bytes - came_back_bytes),
            file_60_s_bytes: None,
            cost_us: 0,
        }
    }
}

/// What this thread used so far.
fn cpu_time_us() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(std::time::Duration::from);
    time.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::damon::tests::{text, with_damon};
    use super::*;
    use crate::sense::fixture::{guest, write};

    const MIB: u64 = 1024 * 1024;
    const S: u64 = 1_000;

    fn memory(refaulted_mib: u64) -> MemorySample {
        MemorySample {
            anon_bytes: 100 * MIB,
            active_file_bytes: 40 * MIB,
            inactive_file_bytes: 60 * MIB,
            refault_file_bytes: refaulted_mib * MIB,
            ..MemorySample::default()
        }
    }

    #[test]
    fn counters_take_what_came_back_within_a_minute_for_used() {
        let dir = guest();
        let mut sampler = Sampler::new(dir.path(), Wanted::Auto);
        let mut used_mib = |at_s, refaulted_mib| {
            let seen = sampler.tend(at_s * S, Leisure::Busy, &memory(refaulted_mib)).unwrap();
            assert_eq!((seen.source, seen.total_bytes), (Source::Counters, 200 * MIB));
            assert_eq!(seen.used_10_s_bytes, seen.used_300_s_bytes, "no ages");
            seen.used_60_s_bytes / MIB
        };
        assert_eq!(used_mib(0, 500), 140);
        assert_eq!(used_mib(20, 530), 170);
        assert_eq!(used_mib(29, 9_000), 200, "no more than there is");
        for at_s in [30, 60, 90] {
            used_mib(at_s, 9_000);
        }
        assert_eq!(used_mib(100, 9_000), 140);
    }

    #[test]
    fn what_may_not_be_used_is_not() {
        let dir = with_damon("0\n");
        let mut off = Sampler::new(dir.path(), Wanted::Off);
        assert_eq!(off.tend(0, Leisure::Busy, &memory(0)), None);
        for wanted in [Wanted::Counters, Wanted::Mglru] {
            let seen = Sampler::new(dir.path(), wanted).tend(0, Leisure::Busy, &memory(0)).unwrap();
            assert_eq!(seen.source, Source::Counters);
        }
        assert_eq!(text(dir.path(), "nr_kdamonds"), "0\n");
    }

    #[test]
    fn damon_is_asked_before_its_look_is_due_however_quiet_the_guest_is_and_is_ended() {
        let dir = with_damon("0\n");
        for (scheme, mib) in [(0, 45), (1, 900)] {
            let path =
                format!("sys/kernel/mm/damon/admin/kdamonds/0/contexts/0/schemes/{scheme}/tried_regions/total_bytes");
            write(dir.path(), &path, &(mib * MIB).to_string());
        }
        write(dir.path(), "proc/77/schedstat", "7000000 1 1\n");
        let mut sampler = Sampler::new(dir.path(), Wanted::Auto);
        assert_eq!(sampler.tend(0, Leisure::Busy, &memory(0)).unwrap().source, Source::Counters);
        assert_eq!((text(dir.path(), "nr_kdamonds").as_str(), sampler.next_ms()), ("1", 55 * S));
        let mut now_ms = 55 * S;
        let seen = loop {
            let seen = sampler.tend(now_ms, Leisure::Quiet, &memory(0)).unwrap();
            if seen.source == Source::Damon {
                break seen;
            }
            now_ms += 1;
            thread::yield_now();
        };
        let used = [seen.used_10_s_bytes, seen.used_60_s_bytes, seen.used_300_s_bytes].map(|bytes| bytes / MIB);
        assert_eq!((used, seen.cost_us), ([45, 45, 200], 7_000));
        sampler.stop();
        assert_eq!(text(dir.path(), "nr_kdamonds"), "0");
    }

    #[test]
    fn a_source_that_breaks_gives_way_to_counters_and_comes_back_later() {
        let dir = guest();
        let lru_gen = || write(dir.path(), "sys/kernel/debug/lru_gen", "memcg 1 /\n node 0\n 0 9 1 1\n");
        write(dir.path(), "sys/kernel/mm/lru_gen/enabled", "0x0007\n");
        lru_gen();
        let mut sampler = Sampler::new(dir.path(), Wanted::Auto);
        sampler.tend(0, Leisure::Busy, &memory(0));
        assert_eq!((sampler.source, sampler.next_ms()), (Source::Mglru, 50 * S));
        // A plain file holds the command now, which is no list of generations.
        sampler.tend(50 * S, Leisure::Busy, &memory(0));
        assert_eq!((sampler.source, sampler.next_ms()), (Source::Counters, u64::MAX));
        lru_gen();
        sampler.tend(600 * S, Leisure::Busy, &memory(0));
        assert_eq!(sampler.source, Source::Counters);
        sampler.tend(650 * S, Leisure::Busy, &memory(0));
        assert_eq!(sampler.source, Source::Mglru);
    }

    #[test]
    fn nothing_is_walked_while_memory_runs_out() {
        let dir = guest();
        write(dir.path(), "sys/kernel/mm/lru_gen/enabled", "0x0007\n");
        write(dir.path(), "sys/kernel/debug/lru_gen", "");
        let mut sampler = Sampler::new(dir.path(), Wanted::Auto);
        sampler.tend(0, Leisure::None, &memory(0));
        assert_eq!((sampler.cycle, sampler.next_ms()), (Cycle::New, u64::MAX));

        let dir = with_damon("0\n");
        let mut sampler = Sampler::new(dir.path(), Wanted::Auto);
        sampler.tend(0, Leisure::Busy, &memory(0));
        sampler.tend(70 * S, Leisure::None, &memory(0));
        assert!(sampler.asked.is_none() && sampler.next_ms() == u64::MAX);
    }
}
