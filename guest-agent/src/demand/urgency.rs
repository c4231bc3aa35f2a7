//! An urgency that rises at once and falls only after a calm while, and since when it is urgent.

use vmtide_protocol::demand::Urgency;

/// A lower urgency has to last this long before it counts.
const CALM_MS: u64 = 3_000;

/// An urgency with its memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    urgency: Urgency,
    /// When the measurement first was under what is held.
    lower_since_ms: Option<u64>,
    /// When the stall began or was predicted that makes it urgent.
    waiting_since_ms: Option<u64>,
}

impl Held {
    /// Takes in what was measured now; `began_ms` is when a stall began or was predicted,
    /// if one is there.
    pub(super) fn measured(&mut self, now_ms: u64, measured: Urgency, began_ms: Option<u64>) {
        if measured >= self.urgency {
            self.lower_since_ms = None;
            self.urgency = measured;
        } else if self.urgency < Urgency::Pressed {
            self.urgency = measured;
        } else {
            let since_ms = *self.lower_since_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since_ms) >= CALM_MS {
                self.urgency = measured;
                self.lower_since_ms = None;
            }
        }
        let urgent = self.urgency >= Urgency::Pressed;
        self.waiting_since_ms = if urgent { self.waiting_since_ms.or(began_ms) } else { None };
    }

    pub(super) fn urgency(&self) -> Urgency {
        self.urgency
    }

    /// How long ago the stall began or was predicted that made it urgent; 0 without one.
    pub(super) fn waiting_ms(&self, now_ms: u64) -> u64 {
        self.waiting_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_at_once_and_falls_after_a_calm_while() {
        let mut held = Held::default();
        for (now_ms, measured, expected, waiting_ms) in [
            (0, Urgency::Idle, Urgency::Idle, 0),
            (1_000, Urgency::Pressed, Urgency::Pressed, 200),
            (1_100, Urgency::Critical, Urgency::Critical, 300),
            (2_000, Urgency::Idle, Urgency::Critical, 1_200),
            (3_000, Urgency::Critical, Urgency::Critical, 2_200),
            (4_000, Urgency::Normal, Urgency::Critical, 3_200),
            (6_999, Urgency::Pressed, Urgency::Critical, 6_199),
            (7_000, Urgency::Pressed, Urgency::Pressed, 6_200),
            (8_000, Urgency::Normal, Urgency::Pressed, 7_200),
            (11_000, Urgency::Normal, Urgency::Normal, 0),
            (12_000, Urgency::Pressed, Urgency::Pressed, 200),
        ] {
            let began_ms = (measured >= Urgency::Pressed).then(|| now_ms - 200);
            held.measured(now_ms, measured, began_ms);
            assert_eq!((held.urgency(), held.waiting_ms(now_ms)), (expected, waiting_ms), "at {now_ms}");
        }
    }
}
