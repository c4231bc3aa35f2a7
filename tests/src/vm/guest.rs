//! The host's end of guest control; the guest's end is [`crate::guest`].

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixListener,
    time::timeout,
};

use crate::guest::{Reply, Request};

pub use crate::guest::Reply as Output;

/// Longer than anything a test asks of a starved guest in one line.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The guest keeps one connection waiting here; each carries one request.
#[derive(Debug)]
pub(crate) struct Guest(UnixListener);

impl Guest {
    pub(crate) fn listen(path: &Path) -> Result<Self> {
        UnixListener::bind(path).map(Self).with_context(|| format!("{}: cannot bind", path.display()))
    }

    pub(crate) async fn run(&self, line: &str) -> Result<Output> {
        self.ask(&Request::Run { line: line.to_owned() }, &[]).await
    }

    pub(crate) async fn read(&self, path: &str, from: u64) -> Result<String> {
        let output = self.ask(&Request::Read { path: path.to_owned(), from }, &[]).await?;
        if output.code != 0 {
            bail!("{path}: {}", output.stderr);
        }
        Ok(output.stdout)
    }

    pub(crate) async fn put(&self, path: &str, content: &[u8]) -> Result<()> {
        let request = Request::Put { path: path.to_owned(), bytes: content.len() as u64 };
        let output = self.ask(&request, content).await?;
        if output.code != 0 {
            bail!("{path}: {}", output.stderr);
        }
        Ok(())
    }

    async fn ask(&self, request: &Request, content: &[u8]) -> Result<Reply> {
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(content);
        let asking = async {
            // A connection that was waiting may be dead by now: a starved guest answers its vsock device too late.
            // Until the guest says that the order arrived, the next one may be tried.
            loop {
                let (mut stream, _) = self.0.accept().await?;
                if stream.write_all(&bytes).await.is_err() {
                    continue;
                }
                let mut reader = BufReader::new(stream);
                if reader.read_line(&mut String::new()).await.is_ok_and(|length| length > 0) {
                    let mut answer = String::new();
                    reader.read_line(&mut answer).await?;
                    return serde_json::from_str(&answer).context("the guest ended without an answer");
                }
            }
        };
        timeout(TIMEOUT, asking).await.with_context(|| format!("the guest did not answer {request:?}"))?
    }
}
