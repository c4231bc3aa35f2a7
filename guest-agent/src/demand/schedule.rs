//! What of the demand goes to the bridge, and when.

use super::{Mode, Outlook, memory::MIB};
use vmtide_protocol::bridge::Intervals;
use vmtide_protocol::demand::Urgency;
use vmtide_protocol::{AgentMessage, URGENT_INTERVAL_MS, agent::Report, demand::Demand};

/// How a demand is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Because the interval is over.
    Report,
    /// Because waiting for the interval would mean a stall.
    Urgent,
}

impl Kind {
    /// The message; its sequence is the session's to fill.
    pub fn message(self, demand: Demand) -> AgentMessage {
        let report = Report { sequence: 0, demand };
        match self {
            Self::Report => AgentMessage::Report(report),
            Self::Urgent => AgentMessage::Urgent(report),
        }
    }
}

/// Decides what to send. Begins anew with each session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule {
    sent: Option<Sent>,
    urgent_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at_ms: u64,
    urgency: Urgency,
    need_bytes: u64,
}

impl Schedule {
    /// What is due. `outlook` is `None` while the demand for memory is not known.
    pub fn due(&self, now_ms: u64, outlook: Option<&Outlook>, mode: Mode, intervals: Intervals) -> Option<Kind> {
        let Some(sent) = self.sent else { return Some(Kind::Report) };
        if outlook.is_some_and(|outlook| is_urgent(sent, outlook)) {
            let waited = self.urgent_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= URGENT_INTERVAL_MS);
            return waited.then_some(Kind::Urgent);
        }
        (now_ms >= sent.at_ms.saturating_add(interval_ms(mode, intervals))).then_some(Kind::Report)
    }

    /// Remembers what was sent.
    pub fn sent(&mut self, now_ms: u64, outlook: Option<&Outlook>, kind: Kind) {
        let Outlook { urgency, need_bytes, .. } = outlook.copied().unwrap_or_default();
        self.sent = Some(Sent { at_ms: now_ms, urgency, need_bytes });
        if kind == Kind::Urgent {
            self.urgent_ms = Some(now_ms);
        }
    }

    /// When the next report is due, should nothing happen.
    pub fn next_report_ms(&self, mode: Mode, intervals: Intervals) -> Option<u64> {
        self.sent.map(|sent| sent.at_ms.saturating_add(interval_ms(mode, intervals)))
    }
}

/// How often a bridge wants to hear of an agent that looks in `mode`.
pub fn interval_ms(mode: Mode, intervals: Intervals) -> u64 {
    if mode == Mode::Quiet { intervals.quiet_ms } else { intervals.busy_ms }
}

/// The bridge has to know at once: it became urgent, or much more is needed than it was told.
fn is_urgent(sent: Sent, outlook: &Outlook) -> bool {
    let jump_bytes = (outlook.present_bytes / 16).max(32 * MIB);
    (outlook.urgency >= Urgency::Pressed && outlook.urgency > sent.urgency)
        || outlook.need_bytes > sent.need_bytes.saturating_add(jump_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVALS: Intervals = Intervals { busy_ms: 1_000, quiet_ms: 10_000 };

    fn outlook(urgency: Urgency, need_mib: u64) -> Outlook {
        Outlook { urgency, need_bytes: need_mib * MIB, present_bytes: 768 * MIB, ..Outlook::default() }
    }

    /// A schedule that reported a calm demand at 0.
    fn reported() -> Schedule {
        let mut schedule = Schedule::default();
        schedule.sent(0, Some(&outlook(Urgency::Normal, 400)), Kind::Report);
        schedule
    }

    #[test]
    fn reports_at_the_beginning_and_at_the_mode_s_interval() {
        assert_eq!(Schedule::default().due(0, None, Mode::Quiet, INTERVALS), Some(Kind::Report));
        let calm = outlook(Urgency::Normal, 400);
        for (now_ms, mode, expected) in [
            (999, Mode::Busy, None),
            (1_000, Mode::Busy, Some(Kind::Report)),
            (1_000, Mode::Fast, Some(Kind::Report)),
            (9_999, Mode::Quiet, None),
            (10_000, Mode::Quiet, Some(Kind::Report)),
        ] {
            assert_eq!(reported().due(now_ms, Some(&calm), mode, INTERVALS), expected, "{now_ms} {mode:?}");
        }
    }

    #[test]
    fn a_rise_and_a_jump_are_urgent() {
        for (urgency, need_mib, expected) in [
            (Urgency::Normal, 440, None),
            (Urgency::Normal, 460, Some(Kind::Urgent)),
            (Urgency::Pressed, 400, Some(Kind::Urgent)),
            (Urgency::Critical, 400, Some(Kind::Urgent)),
            (Urgency::Idle, 100, None),
        ] {
            let due = reported().due(10, Some(&outlook(urgency, need_mib)), Mode::Fast, INTERVALS);
            assert_eq!(due, expected, "{urgency:?} {need_mib}");
        }
    }

    #[test]
    fn urgent_at_most_four_times_a_second_however_need_climbs() {
        let mut schedule = reported();
        let mut urgent = 0;
        for now_ms in (0..10_000).step_by(50) {
            let climbing = outlook(Urgency::Critical, 500 + now_ms * 10);
            if let Some(kind) = schedule.due(now_ms, Some(&climbing), Mode::Fast, INTERVALS) {
                schedule.sent(now_ms, Some(&climbing), kind);
                urgent += u32::from(kind == Kind::Urgent);
            }
        }
        assert_eq!(urgent, 40);
    }
}
