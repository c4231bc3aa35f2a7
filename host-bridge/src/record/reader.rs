//! From a recording to the ticks and outcomes in it. What is damaged is skipped and counted.

use super::entry::{Ended, FORMAT, Header, Line, Tick, Used};
use super::frame::{Frames, Piece};
use super::{patch, store};
use crate::plan::{HostView, Millis, Plan, Policy, Verdict, VmView};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file or folder cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing in it is a recording.
    #[error("{}: holds no recording", path.display())]
    Nothing {
        /// The file or folder.
        path: PathBuf,
    },
    /// A newer version wrote it.
    #[error(
        "{}: format {format}, written by vmtide-bridge {bridge}; this is {}, which reads formats up to {FORMAT}",
        path.display(), env!("CARGO_PKG_VERSION")
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u64,
        /// Who wrote it.
        bridge: String,
    },
}

/// Something in a recording.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// A plan.
    Tick(&'a Header, &'a Tick),
    /// What came of a decision.
    Ended(&'a Header, &'a Ended),
}

/// What could not be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Losses {
    /// Stretches that are no records, or not as they were written.
    pub damaged_stretches: u64,
    /// Their bytes.
    pub damaged_bytes: u64,
    /// Good records that build on a lost one, or that this version does not understand.
    pub unusable_records: u64,
    /// Time between the last tick before a loss and the first after it, within one run of the bridge, milliseconds.
    pub lost_ms: Millis,
}

/// Reads `path`, a segment or a folder of segments, and gives every entry to `visit`, oldest first.
///
/// # Errors
/// [`ReadError`] when there is nothing to read; damage is no error.
pub fn read(path: &Path, mut visit: impl FnMut(Entry<'_>)) -> Result<Losses, ReadError> {
    let mut reader = Reader::default();
    let read_error = |path: &Path| {
        let path = path.to_owned();
        move |source| ReadError::Read { path, source }
    };
    let is_folder = std::fs::metadata(path).map_err(read_error(path))?.is_dir();
    let files = if is_folder { store::segments(path).map_err(read_error(path))? } else { vec![path.to_owned()] };
    for file in &files {
        let bytes = std::fs::read(file).map_err(read_error(file))?;
        reader.segment(file, &bytes, &mut visit)?;
    }
    if reader.entries == 0 {
        return Err(ReadError::Nothing { path: path.to_owned() });
    }
    Ok(reader.losses)
}

#[derive(Default)]
struct Reader {
    now: Option<State>,
    losses: Losses,
    entries: u64,
    /// The run and the time of the last tick before a loss.
    lost_since: Option<(u64, Millis)>,
}

/// The state after the last usable line.
struct State {
    header: Header,
    numbers: HashMap<String, usize>,
    number: u64,
    /// Whether the next change can build on it.
    is_whole: bool,
    host: Value,
    plan: Value,
    vms: BTreeMap<usize, Vm>,
    tick: Tick,
}

struct Vm {
    json: Value,
    view: VmView,
    verdict: Verdict,
}

/// The members of a state, or of a change of it.
#[derive(Deserialize)]
struct Members {
    ms: Millis,
    unix_ms: u64,
    #[serde(default)]
    host: Option<Value>,
    #[serde(default)]
    plan: Option<Value>,
    #[serde(default)]
    vms: BTreeMap<String, Value>,
    #[serde(default)]
    used: BTreeMap<String, Used>,
    #[serde(default)]
    levers: Vec<Value>,
}

impl Reader {
    fn segment(&mut self, file: &Path, bytes: &[u8], visit: &mut impl FnMut(Entry<'_>)) -> Result<(), ReadError> {
        let mut was_damaged = false;
        for piece in Frames::new(bytes) {
            match piece {
                Piece::Damaged(bytes) => {
                    self.losses.damaged_stretches += u64::from(!was_damaged);
                    self.losses.damaged_bytes += bytes as u64;
                    self.lose();
                }
                Piece::Good(json) => self.line(file, json, visit)?,
            }
            was_damaged = matches!(piece, Piece::Damaged(_));
        }
        Ok(())
    }

    fn line(&mut self, file: &Path, json: &[u8], visit: &mut impl FnMut(Entry<'_>)) -> Result<(), ReadError> {
        let line = serde_json::from_slice(json).ok();
        if let (Some(Line::Ended(ended)), Some(state)) = (&line, &self.now) {
            self.entries += 1;
            visit(Entry::Ended(&state.header, ended));
            return Ok(());
        }
        let is_used = match line {
            Some(Line::Full { number, header, state }) => {
                check_format(file, &header)?;
                self.full(number, header, state)
            }
            Some(Line::Change { number, state }) => self.change(number, state),
            Some(Line::Ended(_)) | None => None,
        };
        let Some(state) = self.now.as_ref().filter(|_| is_used.is_some()) else {
            self.unusable();
            return Ok(());
        };
        if let Some((run, since_ms)) = self.lost_since.take()
            && run == state.header.run_unix_ms
        {
            self.losses.lost_ms += state.tick.ms.saturating_sub(since_ms);
        }
        self.entries += 1;
        visit(Entry::Tick(&state.header, &state.tick));
        Ok(())
    }

    /// What follows cannot build on what is known.
    fn lose(&mut self) {
        if let Some(state) = &mut self.now {
            state.is_whole = false;
            self.lost_since.get_or_insert((state.header.run_unix_ms, state.tick.ms));
        }
    }

    fn unusable(&mut self) {
        self.losses.unusable_records += 1;
        self.lose();
    }

    /// `None` when it cannot be understood.
    fn full(&mut self, number: u64, header: Value, state: Value) -> Option<()> {
        let header = lenient_header(header)?;
        let numbers = header.vms.iter().cloned().enumerate().map(|(number, name)| (name, number)).collect();
        let members = Members::deserialize(state).ok()?;
        let (host, plan) = (members.host.clone()?, members.plan.clone()?);
        let tick = Tick {
            ms: members.ms,
            unix_ms: members.unix_ms,
            host: parse(&host)?,
            numbers: Vec::new(),
            views: Vec::new(),
            plan: parse(&plan)?,
            used: BTreeMap::new(),
            levers: Vec::new(),
        };
        let vms = BTreeMap::new();
        let mut state = State { header, numbers, number, is_whole: true, host, plan, vms, tick };
        state.apply(members)?;
        self.now = Some(state);
        Some(())
    }

    fn change(&mut self, number: u64, state: Value) -> Option<()> {
        let members = Members::deserialize(state).ok()?;
        let state = self.now.as_mut().filter(|state| state.is_whole && state.number + 1 == number)?;
        state.number = number;
        state.apply(members)
    }
}

impl State {
    /// `None` when it cannot be understood; nothing can build on the state then.
    fn apply(&mut self, members: Members) -> Option<()> {
        (self.tick.ms, self.tick.unix_ms) = (members.ms, members.unix_ms);
        let used = members.used.into_iter().filter_map(|(name, used)| Some((*self.numbers.get(&name)?, used)));
        self.tick.used = used.collect();
        // One of a lever that this version does not know is left out.
        self.tick.levers = members.levers.iter().filter_map(parse).collect();
        if let Some(host) = members.host {
            patch::merge(&mut self.host, host);
            self.tick.host = parse::<HostView>(&self.host)?;
        }
        if let Some(plan) = members.plan {
            patch::merge(&mut self.plan, plan);
        }
        for (name, change) in members.vms {
            let number = *self.numbers.get(&name)?;
            if change.is_null() {
                self.vms.remove(&number);
                continue;
            }
            let mut json = self.vms.remove(&number).map_or(Value::Null, |vm| vm.json);
            patch::merge(&mut json, change);
            let (view, verdict) = (parse(json.get("view")?)?, parse(json.get("verdict")?)?);
            self.vms.insert(number, Vm { json, view, verdict });
        }
        self.tick.numbers = self.vms.keys().copied().collect();
        self.tick.views = self.vms.values().map(|vm| vm.view.clone()).collect();
        let verdicts = self.vms.values().map(|vm| vm.verdict).collect();
        self.tick.plan = Plan { verdicts, ..parse::<Plan>(&self.plan)? };
        Some(())
    }
}

fn parse<T: DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}

fn check_format(file: &Path, header: &Value) -> Result<(), ReadError> {
    let format = header.get("format").and_then(Value::as_u64).unwrap_or(u64::MAX);
    if format <= u64::from(FORMAT) {
        return Ok(());
    }
    let bridge = header.get("bridge").and_then(Value::as_str).unwrap_or("?").to_owned();
    Err(ReadError::Format { path: file.to_owned(), format, bridge })
}

/// A header whose policy may have numbers that this version does not know: they are left out.
fn lenient_header(mut header: Value) -> Option<Header> {
    let known = serde_json::to_value(Policy::default()).ok()?;
    if let Some(Value::Object(policy)) = header.get_mut("policy") {
        policy.retain(|key, _| known.get(key).is_some());
    }
    Header::deserialize(header).ok()
}
