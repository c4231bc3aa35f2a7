//! How a guest is shrunk while nobody stalls: asked first, and taken at its word. Pure: time is an argument.
//!
//! ```text
//!  calm shrink --> what it says is free is enough: inflate
//!      |
//!      +--> ask --> answer: inflate by what is spare ---> reached: word kept
//!             |        |  less than asked: rest               not reached in time, or its balloon
//!             |        v                                      stalled: word broken; for 10 min it
//!             |     wait, ask again                           is not asked any more
//!             +--> no answer, nobody to ask: a slice, rest
//! ```
//!
//! Where others are short of their shares, a guest that has nothing spare gives a slice all the same: no answer keeps what
//! its shares do not.

#[cfg(test)]
mod tests;
mod told;

pub use told::{Asked, Yields};

use super::progress::Progress;
use super::{Direction, Millis, Pace, Policy, Rule, Step, Verdict};

/// For the way there and back, and for the guest to look.
const ANSWER_MS: u64 = 500;
/// What a guest is given to answer.
const DEADLINE_MS: std::ops::RangeInclusive<u64> = 1_000..=10_000;
/// An answer that is this late does not come.
const GRACE_MS: Millis = 1_000;
/// What is spare changes: an answer is used by then or not at all.
const ANSWER_HOLDS_MS: Millis = 3_000;
/// Requests in a row without an answer that break a word.
const MOST_SILENT: u32 = 2;
/// A broken word is forgotten after so long …
const FORGIVEN_AFTER_MS: Millis = 600_000;
/// … each; more than this many are not remembered.
const MOST_BROKEN: u64 = 6;
/// How long a balloon may take to begin.
const BEGINS_MS: Millis = 5_000;

/// A calm shrink that the planner wants.
#[derive(Clone, Copy, Debug)]
pub struct Shrink {
    /// By how much.
    pub bytes: u64,
    /// What its guest's last report says a balloon can take without anybody having to reclaim.
    pub spare_bytes: u64,
    /// What is taken at a time from a guest that does not agree to it.
    pub slice_bytes: u64,
    /// Less is not worth a move.
    pub least_bytes: u64,
    /// Whether others are short; else it only goes to the pool.
    pub for_others: bool,
    /// Whether there is somebody to ask.
    pub can_ask: bool,
    /// How fast its memory leaves it.
    pub leaves: Progress,
}

/// Whether a guest is asked before `step` is carried out, of a VM that may have `maximum_bytes`. An urgent shrink has somebody
/// stalled behind it, and a deadline is time that he does not have; the planner takes first what its guest says that it does
/// not need, so little of it comes out of what is used. What an operator orders, by a lower maximum, is carried out, and a
/// peer's rules know nothing of asking.
pub fn is_asked_about(step: &Step, verdict: &Verdict, maximum_bytes: u64) -> bool {
    step.direction() == Direction::Shrink
        && step.pace == Pace::Calm
        && verdict.rule != Rule::Peer
        && step.from_bytes <= maximum_bytes
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Inflate by this much.
    Inflate {
        /// Bytes.
        bytes: u64,
        /// What came of asking; `None` where that was not necessary.
        asked: Option<Asked>,
    },
    /// Ask for this much first.
    Ask {
        /// Bytes.
        bytes: u64,
        /// What it is given to answer.
        deadline_ms: u64,
    },
    /// Nothing yet.
    Wait,
}

/// What was asked of a guest, what it answered, and what its word is worth.
#[derive(Clone, Debug, Default)]
pub struct Asking {
    ask: Ask,
    /// Until when the balloon is to reach what the guest said is spare.
    promised_ms: Option<Millis>,
    /// When it gave less than was wanted.
    fell_short_ms: Option<Millis>,
    /// Its agent does not know the request, whatever its hello says.
    is_unable: bool,
    silent: u32,
    /// Broken words at `broken_ms`.
    broken: u64,
    broken_ms: Millis,
    told: Yields,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ask {
    #[default]
    None,
    /// On its way. `void`: the VM was moved meanwhile, so whatever comes is not used.
    Open {
        id: u64,
        bytes: u64,
        since_ms: Millis,
        due_ms: Millis,
        void: bool,
    },
    Answered {
        bytes: u64,
        spare_bytes: u64,
        after_ms: u64,
        at_ms: Millis,
    },
    Missed {
        bytes: u64,
        after_ms: u64,
    },
}

impl Asking {
    /// What to do about `shrink` at `now_ms`.
    pub fn way(&mut self, now_ms: Millis, shrink: &Shrink, policy: &Policy) -> Way {
        let promised_ms = self.promised_ms.take();
        let way = self.choose(now_ms, shrink, policy);
        if !matches!(way, Way::Inflate { .. }) {
            self.promised_ms = promised_ms;
        }
        way
    }

    fn choose(&mut self, now_ms: Millis, shrink: &Shrink, policy: &Policy) -> Way {
        let Shrink { bytes, spare_bytes, slice_bytes, least_bytes, for_others, leaves, .. } = *shrink;
        let inflate = |bytes, asked| Way::Inflate { bytes, asked };
        self.expire(now_ms);
        if bytes <= spare_bytes {
            return inflate(bytes, None);
        }
        if self.broken(now_ms) > 0 {
            return inflate(bytes, Some(Asked::Untrusted));
        }
        let can_ask = shrink.can_ask && !self.is_unable;
        let slice_bytes = slice_bytes.max(spare_bytes).min(bytes);
        match self.ask {
            Ask::Open { .. } if can_ask => Way::Wait,
            Ask::Answered { bytes: asked_bytes, spare_bytes: said_bytes, after_ms, .. } => {
                self.ask = Ask::None;
                let said = said_bytes.min(bytes);
                if said < bytes {
                    self.fell_short_ms = Some(now_ms);
                }
                let taken = if for_others { said.max(slice_bytes) } else { said.max(spare_bytes) };
                if taken < least_bytes {
                    return Way::Wait;
                }
                // What it did not agree to is no promise of its.
                self.promised_ms = (taken <= said).then(|| now_ms + promise_ms(taken, &leaves, policy));
                inflate(taken, Some(Asked::Answered { bytes: asked_bytes, spare_bytes: said_bytes, after_ms }))
            }
            Ask::Missed { bytes, after_ms } => {
                self.ask = Ask::None;
                self.fell_short_ms = Some(now_ms);
                inflate(slice_bytes, Some(Asked::Silent { bytes, after_ms }))
            }
            Ask::None | Ask::Open { .. } if self.rests(now_ms, for_others, policy) => {
                if spare_bytes >= least_bytes {
                    inflate(spare_bytes, None)
                } else {
                    Way::Wait
                }
            }
            Ask::None if can_ask => Way::Ask { bytes, deadline_ms: deadline_ms(bytes, &leaves) },
            Ask::None | Ask::Open { .. } => {
                self.ask = Ask::None;
                self.fell_short_ms = Some(now_ms);
                inflate(slice_bytes, Some(Asked::Unable))
            }
        }
    }

    /// It was asked for `bytes`.
    pub fn on_asked(&mut self, now_ms: Millis, id: u64, bytes: u64, deadline_ms: u64) {
        let due_ms = now_ms.saturating_add(deadline_ms).saturating_add(GRACE_MS);
        self.ask = Ask::Open { id, bytes, since_ms: now_ms, due_ms, void: false };
        self.told.asked += 1;
    }

    /// It answered that `spare_bytes` are spare; `None` that it does not know the request. Whether that is news: an answer
    /// to nothing that is open is none.
    pub fn on_answer(&mut self, now_ms: Millis, id: u64, spare_bytes: Option<u64>) -> bool {
        self.expire(now_ms);
        let Ask::Open { id: open_id, bytes, since_ms, void, .. } = self.ask else { return false };
        if id != open_id {
            return false;
        }
        self.told.answered += 1;
        self.silent = 0;
        self.is_unable = spare_bytes.is_none();
        self.ask = match spare_bytes {
            Some(spare_bytes) if !void => {
                let spare_bytes = spare_bytes.min(bytes);
                Ask::Answered { bytes, spare_bytes, after_ms: now_ms.saturating_sub(since_ms), at_ms: now_ms }
            }
            _ => Ask::None,
        };
        true
    }

    /// A session began: its agent knows nothing of earlier requests, and may know more.
    pub fn on_session(&mut self) {
        self.is_unable = false;
        self.ask = Ask::None;
    }

    /// Its target was set otherwise: what it said before is about another size. Whether that broke its word, which a
    /// balloon does that stalls on the way to what was promised.
    pub fn on_moved(&mut self, now_ms: Millis, is_stalled: bool) -> bool {
        match &mut self.ask {
            Ask::Open { void, .. } => *void = true,
            ask => *ask = Ask::None,
        }
        let was_promised = self.promised_ms.take().is_some();
        was_promised && is_stalled && self.breaks(now_ms)
    }

    /// The balloon is where it was to go.
    pub fn on_reached(&mut self) {
        if self.promised_ms.take().is_some() {
            self.told.kept += 1;
        }
    }

    /// Whether it broke its word since this was called last: nothing came of a promise in time, or it is silent.
    pub fn has_broken(&mut self, now_ms: Millis) -> bool {
        self.expire(now_ms);
        let is_late = self.promised_ms.is_some_and(|due_ms| now_ms >= due_ms);
        if is_late {
            self.promised_ms = None;
        } else if self.silent < MOST_SILENT {
            return false;
        }
        self.silent = 0;
        self.breaks(now_ms)
    }

    /// What an operator sees at `now_ms`.
    pub fn summary(&self, now_ms: Millis) -> Yields {
        let open_bytes = match self.ask {
            Ask::Open { bytes, .. } => Some(bytes),
            _ => None,
        };
        let untrusted_for_ms = match self.broken(now_ms) {
            0 => None,
            _ => Some((self.broken_ms + self.broken * FORGIVEN_AFTER_MS).saturating_sub(now_ms)),
        };
        Yields { open_bytes, untrusted_for_ms, ..self.told.clone() }
    }

    /// Ends what time ends.
    fn expire(&mut self, now_ms: Millis) {
        self.ask = match self.ask {
            Ask::Open { due_ms, void: true, .. } if now_ms >= due_ms => Ask::None,
            Ask::Open { bytes, since_ms, due_ms, .. } if now_ms >= due_ms => {
                self.silent += 1;
                self.told.unanswered += 1;
                Ask::Missed { bytes, after_ms: now_ms.saturating_sub(since_ms) }
            }
            Ask::Answered { at_ms, .. } if now_ms.saturating_sub(at_ms) > ANSWER_HOLDS_MS => Ask::None,
            ask => ask,
        };
    }

    fn rests(&self, now_ms: Millis, for_others: bool, policy: &Policy) -> bool {
        let rest_ms = if for_others { policy.urgent_block_ms } else { policy.calm_block_ms };
        self.fell_short_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < rest_ms)
    }

    /// How many broken words are not forgotten yet.
    fn broken(&self, now_ms: Millis) -> u64 {
        self.broken.saturating_sub(now_ms.saturating_sub(self.broken_ms) / FORGIVEN_AFTER_MS)
    }

    fn breaks(&mut self, now_ms: Millis) -> bool {
        self.ask = Ask::None;
        self.broken = (self.broken(now_ms) + 1).min(MOST_BROKEN);
        self.broken_ms = now_ms;
        self.told.broken += 1;
        true
    }
}

/// What a guest is given to have `bytes` spare: the more the slower it was seen to be, never less than a fast one.
fn deadline_ms(bytes: u64, leaves: &Progress) -> u64 {
    ANSWER_MS.saturating_add(at(leaves.slow_bytes_per_s(), bytes)).clamp(*DEADLINE_MS.start(), *DEADLINE_MS.end())
}

/// By when its balloon is to hold `bytes` that it said are spare: as long as it would take without being called stalled.
fn promise_ms(bytes: u64, leaves: &Progress, policy: &Policy) -> Millis {
    BEGINS_MS.saturating_add(at(leaves.stall_bytes_per_s(policy), bytes))
}

/// How long `bytes` take at this speed, milliseconds.
fn at(bytes_per_s: u64, bytes: u64) -> u64 {
    bytes.saturating_mul(1000) / bytes_per_s.max(1)
}
