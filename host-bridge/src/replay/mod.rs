//! A recording, played again: is the planner still the same, and what would another have done?
//!
//! ```text
//!  record::read --> Verify   the recorded inputs again: the same verdicts, to the byte?
//!               --> Ledger   what the recorded run came to
//!               --> Pace     how fast the recorded balloons moved
//!               --> Changes  what was decided about CPU time and disks, which is not planned again
//!  again        --> Twin     demand as recorded, memory as this planner moves it: once as recorded, once as asked
//!                      `---> Ledger
//! ```
//!
//! Pure but for the reading. The same recording and the same wishes give the same [`Report`], to the byte.
//!
//! A twin takes need, floor, urgency, limits and reach from the recording, and moves memory by its own plans.
//! What it cannot know is what a guest would have said had it been given other memory: an urgency that its shortage
//! caused stays where it was recorded, one that another plan would have caused does not come. So the recorded run is
//! also shown as its own twin plays it: what differs between *these* two is the model's error.

mod levers;
mod report;
mod text;
mod twin;
mod verify;

pub use levers::{LeverCounts, LeverFigures, lever_changes};
pub use report::{Column, Report, Span};
pub use text::lever_text;
pub use verify::{Difference, Verification};

use crate::config::assign;
use crate::model::{Ledger, Speed, Speeds};
use crate::plan::{Planner, Policy};
use crate::record::{Ended, Entry, Header, Losses, Outcome, ReadError, Tick, read};
use levers::Changes;
use report::Books;
use std::collections::BTreeMap;
use std::path::Path;
use twin::Twin;
use verify::Verify;

/// Why nothing can be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The recording cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A key of the policy cannot be set so.
    #[error("{0}")]
    Wish(String),
}

/// What to do otherwise.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    planner: Option<Planner>,
    set: Vec<(String, String)>,
}

impl Wish {
    /// With this planner, or the recorded one; and these keys of the policy set, as `[policy]` of the configuration has
    /// them. What a key may be depends on the recorded policy too, so it is checked there.
    pub fn new(planner: Option<Planner>, set: Vec<(String, String)>) -> Self {
        Self { planner, set }
    }

    /// The recorded policy with the keys of this wish.
    fn policy(&self, recorded: &Policy) -> Result<Policy, String> {
        assign(recorded, &self.set)
    }

    fn label(&self) -> String {
        let planner = self.planner.map(|planner| planner.name().to_owned());
        let set = self.set.iter().map(|(key, value)| format!("{key}={value}"));
        planner.into_iter().chain(set).collect::<Vec<_>>().join(" ")
    }
}

/// Replays the recording at `path`, a segment or a folder of them; with `wish`, also as that would have gone.
///
/// # Errors
/// [`Error::Read`] when there is nothing to read; damage is counted in the report.
pub fn replay(path: &Path, wish: Option<&Wish>) -> Result<Report, Error> {
    let mut verify = Verify::default();
    let mut span = Span::default();
    let mut recorded = Books::new("recorded");
    let mut pace = Pace::default();
    let mut changes = Changes::default();
    let losses = read(path, |entry| {
        changes.entry(&entry);
        match entry {
            Entry::Tick(header, tick) => {
                span.tick(header, tick);
                verify.tick(header, tick);
                recorded.tick(header, tick, tick);
            }
            Entry::Ended(header, ended) => {
                span.header(header);
                pace.ended(ended);
            }
        }
    })?;
    let mut columns = vec![recorded.close()];
    if let Some(wish) = wish {
        let as_recorded = Wish::default();
        let mut twins = [Twin::new(&as_recorded, &pace), Twin::new(wish, &pace)];
        let mut books = [Books::new("as recorded, modelled"), Books::new(&wish.label())];
        let mut wrong = None;
        read(path, |entry| {
            let Entry::Tick(header, tick) = entry else { return };
            for (twin, books) in twins.iter_mut().zip(&mut books) {
                match twin.tick(header, tick) {
                    Ok(planned) => books.tick(header, tick, &planned),
                    Err(message) => wrong = Some(message),
                }
            }
        })?;
        if let Some(message) = wrong {
            return Err(Error::Wish(message));
        }
        columns.extend(books.map(Books::close));
    }
    let levers = levers::counted(&changes.all);
    Ok(Report { span: span.close(), losses, verification: verify.close(), levers, columns })
}

/// How fast the recorded balloons moved: those of a VM where it moved, else those of all, else as measured elsewhere.
#[derive(Debug, Default)]
struct Pace {
    all: [Speed; 2],
    vms: BTreeMap<String, [Speed; 2]>,
}

impl Pace {
    fn ended(&mut self, ended: &Ended) {
        let Outcome::Confirmed { after_ms } = ended.outcome else { return };
        let direction = usize::from(ended.to_bytes > ended.from_bytes);
        let bytes = ended.to_bytes.abs_diff(ended.from_bytes);
        self.all[direction].saw(bytes, after_ms);
        self.vms.entry(ended.vm.clone()).or_default()[direction].saw(bytes, after_ms);
    }

    fn of(&self, vm: &str) -> Speeds {
        let own = self.vms.get(vm);
        let speed = |direction: usize, default: u64| {
            let own = own.and_then(|own| own[direction].bytes_per_s());
            own.or(self.all[direction].bytes_per_s()).unwrap_or(default)
        };
        let Speeds { inflate_bytes_per_s, deflate_bytes_per_s } = Speeds::default();
        Speeds {
            inflate_bytes_per_s: speed(0, inflate_bytes_per_s),
            deflate_bytes_per_s: speed(1, deflate_bytes_per_s),
        }
    }
}
