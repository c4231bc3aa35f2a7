//! How an operator's command speaks with the daemon that runs: one line of JSON each way, on a unix socket of root's.

use crate::hand::Undone;
use crate::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, net::Shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// No request is longer, and no request takes longer.
const MOST_REQUEST_BYTES: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(2);
/// A daemon that puts every knob back takes less.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Put a unit back, or all, and leave it alone until the daemon starts again.
    Revert {
        /// A knob or a group; all when `None`.
        name: Option<String>,
    },
    /// Tell what only the daemon knows.
    Status,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// These files were put back, or not.
    Undone {
        /// Each file.
        files: Vec<Undone>,
    },
    /// What only the daemon knows.
    Stands {
        /// Units that an operator had reverted.
        held: BTreeSet<String>,
        /// The machine, as it last looked at it.
        facts: BTreeMap<String, Value>,
    },
    /// It could not be done at all.
    Failed {
        /// Why.
        message: String,
    },
}

/// A request, and where its answer goes.
pub type Asked = (Request, oneshot::Sender<Answer>);

/// The socket that goes with a journal.
pub fn socket_of(journal: &Path) -> PathBuf {
    journal.with_extension("sock")
}

/// Asks the daemon whose journal is `journal`; `None` when none runs.
///
/// # Errors
/// The socket's; `InvalidData` for what is no answer.
pub fn ask(journal: &Path, request: &Request) -> io::Result<Option<Answer>> {
    let mut stream = match UnixStream::connect(socket_of(journal)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    stream.write_all(&serde_json::to_vec(request)?)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(Some(serde_json::from_slice(&answer)?))
}

/// Listens on the socket that goes with `journal`, for root alone, and hands requests to `asked` until nobody takes them.
///
/// # Errors
/// Why the socket cannot be made. The caller has the journal's lock: a socket that is there is of a daemon that is not.
pub fn listen(journal: &Path, asked: mpsc::Sender<Asked>) -> io::Result<Listening> {
    let path = socket_of(journal);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        while !asked.is_closed() {
            let served = serve(&listener, &asked).await;
            if served.is_err() {
                // Out of descriptors, say: do not try again at once.
                tokio::time::sleep(PATIENCE).await;
            }
        }
    });
    Ok(Listening(path))
}

/// A socket that is listened on. Its file goes away with it.
#[derive(Debug)]
pub struct Listening(PathBuf);

impl Drop for Listening {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// One request, one answer; one who is slow or makes no sense gets none.
async fn serve(listener: &UnixListener, asked: &mpsc::Sender<Asked>) -> io::Result<()> {
    let (stream, _) = listener.accept().await?;
    let (reader, mut writer) = stream.into_split();
    let mut text = Vec::new();
    let mut limited = reader.take(MOST_REQUEST_BYTES);
    if !matches!(timeout(PATIENCE, limited.read_to_end(&mut text)).await, Ok(Ok(_))) {
        return Ok(());
    }
    let answer = match serde_json::from_slice(&text) {
        Ok(request) => {
            let (reply, answer) = oneshot::channel();
            if asked.send((request, reply)).await.is_err() {
                return Ok(());
            }
            answer.await.unwrap_or(Answer::Failed { message: "it is stopping".into() })
        }
        Err(error) => Answer::Failed { message: error.to_string() },
    };
    let text = serde_json::to_vec(&answer)?;
    timeout(PATIENCE, writer.write_all(&text)).await.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_gets_its_answer_and_nonsense_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("tuning.journal");
        let request = Request::Revert { name: Some("dirty".into()) };
        assert_eq!(ask(&journal, &request).unwrap(), None);

        let (sender, mut asked) = mpsc::channel(1);
        let listening = listen(&journal, sender).unwrap();
        let (path, sent) = (journal.clone(), request.clone());
        let answer = tokio::task::spawn_blocking(move || ask(&path, &sent).unwrap());
        let (heard, reply) = asked.recv().await.unwrap();
        assert_eq!(heard, request);
        reply.send(Answer::Undone { files: Vec::new() }).unwrap();
        assert_eq!(answer.await.unwrap(), Some(Answer::Undone { files: Vec::new() }));

        let path = socket_of(&journal);
        let nonsense = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(b"{\"request\":\"dance\"}").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        assert!(nonsense.await.unwrap().contains("unknown variant `dance`"));
        drop(listening);
        assert!(!socket_of(&journal).exists());
    }
}
