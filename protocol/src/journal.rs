//! Log lines for systemd's journal, with their fields as the journal's own: `journalctl VMTIDE_VM=web-1 -p warning`.
//!
//! In: the events of `tracing`. Out: one datagram each, as systemd's journal export format has it, with `MESSAGE` (the text that
//! standard error would have had), `PRIORITY`, `SYSLOG_IDENTIFIER` and a `VMTIDE_…` for each field. Only where standard
//! error is the journal's already: elsewhere nobody expects lines to go another way.

use std::ffi::OsStr;
use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

const SOCKET: &str = "/run/systemd/journal/socket";
/// The longest name that the journal takes.
const MOST_NAME_BYTES: usize = 64;

/// Takes events to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    identifier: &'static str,
}

impl Journal {
    /// The journal, under the name of this program, where standard error goes to it.
    pub fn of_stderr(identifier: &'static str) -> Option<Self> {
        is_stderr().then(|| Self::at(Path::new(SOCKET), identifier).ok()).flatten()
    }

    fn at(path: &Path, identifier: &'static str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // A journal that does not keep up must not hold up who writes to it.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path: path.to_owned(), identifier })
    }
}

/// Whether standard error goes to the journal.
fn is_stderr() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    stderr.and_then(|file| file.metadata()).is_ok_and(|seen| names(&stream, seen.dev(), seen.ino()))
}

/// Whether `JOURNAL_STREAM` is of this file; a program may have inherited the variable and not the stream.
fn names(stream: &OsStr, device: u64, inode: u64) -> bool {
    stream.to_str().is_some_and(|stream| stream == format!("{device}:{inode}"))
}

/// What begins a line on standard error that is an error, so that the journal ranks it as one; empty elsewhere.
pub fn error_mark() -> &'static str {
    if is_stderr() { "<3>" } else { "" }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let priority = match *event.metadata().level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            _ => "7",
        };
        let message = line.message.clone() + &line.shown;
        let mut datagram = Vec::with_capacity(256);
        put(&mut datagram, "MESSAGE", &message);
        put(&mut datagram, "PRIORITY", priority);
        put(&mut datagram, "SYSLOG_IDENTIFIER", self.identifier);
        for (name, value) in &line.fields {
            put(&mut datagram, name, value);
        }
        if self.socket.send_to(&datagram, &self.path).is_err() {
            // It is the journal's, too.
            writeln!(io::stderr(), "<{priority}>{message}").ok();
        }
    }
}

/// An event, as far as it was seen.
#[derive(Default)]
struct Line {
    message: String,
    /// The fields, as they follow the message.
    shown: String,
    fields: Vec<(String, String)>,
}

impl Line {
    fn add(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
            return;
        }
        write!(self.shown, " {}={value}", field.name()).ok();
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name = "VMTIDE_".chars().chain(field.name().chars().map(plain)).take(MOST_NAME_BYTES).collect();
        self.fields.push((name, value));
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }
}

/// A field: a value with line breaks comes with its length before it.
fn put(datagram: &mut Vec<u8>, name: &str, value: &str) {
    datagram.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test

    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    /// What the journal gets of what `log` says.
    fn sent(log: impl FnOnce()) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_nonblocking(true).unwrap();
        let lines = tracing_subscriber::registry().with(Journal::at(&path, "vmtide-test").unwrap());
        tracing::subscriber::with_default(lines, log);
        let mut datagram = vec![0; 4096];
        let length = journal.recv(&mut datagram).unwrap();
        datagram.truncate(length);
        datagram
    }

    #[test]
    fn a_line_has_its_fields_its_rank_and_the_text_that_people_read() {
        let (vm, at) = ("web-1", Path::new("/proc/a"));
        let told = sent(|| tracing::warn!(vm, retry_ms = 250, path = %at.display(), "no session: {}", "refused"));
        let expected = "MESSAGE=no session: refused vm=web-1 retry_ms=250 path=/proc/a\nPRIORITY=4\n\
                        SYSLOG_IDENTIFIER=vmtide-test\nVMTIDE_VM=web-1\nVMTIDE_RETRY_MS=250\nVMTIDE_PATH=/proc/a\n";
        assert_eq!(String::from_utf8(told).unwrap(), expected);
    }

    #[test]
    fn what_others_say_makes_no_fields_of_its_own() {
        let told = sent(|| tracing::info!(detail = "a\nPRIORITY=0", "said"));
        let mut field = b"VMTIDE_DETAIL\n".to_vec();
        field.extend_from_slice(&12_u64.to_le_bytes());
        field.extend_from_slice(b"a\nPRIORITY=0\n");
        assert!(told.ends_with(&field), "{}", String::from_utf8_lossy(&told));
    }

    #[test]
    fn ranks_are_those_of_syslog() {
        let rank = |told: Vec<u8>| String::from_utf8(told).unwrap().lines().nth(1).unwrap().to_owned();
        assert_eq!(rank(sent(|| tracing::error!("said"))), "PRIORITY=3");
        assert_eq!(rank(sent(|| tracing::info!("said"))), "PRIORITY=6");
        assert_eq!(rank(sent(|| tracing::debug!("said"))), "PRIORITY=7");
    }

    #[test]
    fn a_stream_is_the_journal_s_by_device_and_inode() {
        assert!(names(OsStr::new("8:4711"), 8, 4711));
        for other in ["8:4712", "9:4711", "4711", "", "8:4711:1"] {
            assert!(!names(OsStr::new(other), 8, 4711), "{other}");
        }
    }
}
