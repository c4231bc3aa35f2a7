//! The control API from the other side: what `vmtide` and the lab use.

use super::metrics::Format;
use super::optimize::{Progress, Wish};
use super::trims::Trim;
use super::types::{Change, Refusal, Status, Vm};
use crate::record::{Decision, Event, LeverChange};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// How long an answer may take; the bridge loop answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody serves the socket, or it may not be opened.
    #[error("{}: no vmtide-bridge answers there ({source})", path.display())]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bridge would not.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The answer broke off, came too late or made no sense.
    #[error("{}: {message}", path.display())]
    Answer {
        /// The control socket.
        path: PathBuf,
        /// What happened.
        message: String,
    },
}

/// Speaks to the bridge at one control socket; a connection for each request.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A client for the bridge at `path`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }

    /// The host and the bridge at a glance.
    ///
    /// # Errors
    /// [`Error`], as all methods here.
    pub async fn status(&self) -> Result<Status, Error> {
        self.request(Method::GET, "/v1/status", None).await
    }

    /// All VMs.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn vms(&self) -> Result<Vec<Vm>, Error> {
        self.request(Method::GET, "/v1/vms", None).await
    }

    /// One VM.
    ///
    /// # Errors
    /// [`Error`]; an unknown name is [`Error::Refused`].
    pub async fn vm(&self, name: &str) -> Result<Vm, Error> {
        self.request(Method::GET, &format!("/v1/vms/{}", escaped(name)), None).await
    }

    /// The last `count` decisions of a VM, or of all VMs together, oldest first.
    ///
    /// # Errors
    /// [`Error`]; an unknown name is [`Error::Refused`].
    pub async fn decisions(&self, vm: Option<&str>, count: usize) -> Result<Vec<Decision>, Error> {
        let vm = vm.map(|name| format!("&vm={}", escaped(name))).unwrap_or_default();
        self.request(Method::GET, &format!("/v1/decisions?last={count}{vm}"), None).await
    }

    /// The events that came after the one with this sequence.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn events(&self, after: u64) -> Result<Vec<Event>, Error> {
        self.request(Method::GET, &format!("/v1/events?after={after}"), None).await
    }

    /// The last `count` events of a VM and the last `count` of the host, together, oldest first.
    ///
    /// # Errors
    /// [`Error`]; an unknown name is [`Error::Refused`].
    pub async fn events_about(&self, vm: &str, count: usize) -> Result<Vec<Event>, Error> {
        self.request(Method::GET, &format!("/v1/vms/{}/events?last={count}", escaped(vm)), None).await
    }

    /// The last `count` changes of a VM's CPU time and disks, oldest first.
    ///
    /// # Errors
    /// [`Error`]; an unknown name is [`Error::Refused`].
    pub async fn levers(&self, vm: &str, count: usize) -> Result<Vec<LeverChange>, Error> {
        self.request(Method::GET, &format!("/v1/vms/{}/levers?last={count}", escaped(vm)), None).await
    }

    /// Changes a VM's limits until the bridge restarts.
    ///
    /// # Errors
    /// [`Error`]; impossible limits are [`Error::Refused`] and change nothing.
    pub async fn set(&self, vm: &str, change: Change) -> Result<Vm, Error> {
        let body = serde_json::to_string(&change).map_err(|error| self.broken(&error))?;
        self.request(Method::PATCH, &format!("/v1/vms/{}", escaped(vm)), Some(body)).await
    }

    /// Asks the guest of a VM to give unused blocks back; [`Self::vm`] tells how it goes.
    ///
    /// # Errors
    /// [`Error`]; an unknown name, no agent, and somebody at it already are [`Error::Refused`].
    pub async fn trim(&self, vm: &str) -> Result<Trim, Error> {
        self.request(Method::POST, &format!("/v1/vms/{}/trim", escaped(vm)), None).await
    }

    /// Pauses or resumes the planning of one VM, or of all.
    ///
    /// # Errors
    /// [`Error`]; an unknown name is [`Error::Refused`].
    pub async fn pause(&self, vm: Option<&str>, paused: bool) -> Result<(), Error> {
        let verb = if paused { "pause" } else { "resume" };
        let vm = vm.map(|name| format!("?vm={}", escaped(name))).unwrap_or_default();
        self.request(Method::POST, &format!("/v1/{verb}{vm}"), None).await
    }

    /// Begins to optimize VMs for a while, or asks what that would do now.
    ///
    /// # Errors
    /// [`Error`]; an unknown name or an impossible time is [`Error::Refused`].
    pub async fn optimize(&self, wish: &Wish) -> Result<Progress, Error> {
        let body = serde_json::to_string(wish).map_err(|error| self.broken(&error))?;
        self.request(Method::POST, "/v1/optimize", Some(body)).await
    }

    /// How that goes; asked at least each [`super::optimize::RENEW_WITHIN_MS`], or it ends.
    ///
    /// # Errors
    /// [`Error`]; an unknown id is [`Error::Refused`].
    pub async fn optimizing(&self, id: u64) -> Result<Progress, Error> {
        self.request(Method::GET, &format!("/v1/optimize/{id}"), None).await
    }

    /// Ends it.
    ///
    /// # Errors
    /// [`Error`]; an unknown id is [`Error::Refused`].
    pub async fn end_optimizing(&self, id: u64) -> Result<Progress, Error> {
        self.request(Method::DELETE, &format!("/v1/optimize/{id}"), None).await
    }

    /// All of it as metrics, in this format.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn metrics(&self, format: Format) -> Result<String, Error> {
        let page = self.fetch(Method::GET, "/metrics", format.content_type(), None).await?;
        String::from_utf8(page.into()).map_err(|error| self.broken(&error))
    }

    async fn request<T: DeserializeOwned>(&self, method: Method, uri: &str, body: Option<String>) -> Result<T, Error> {
        let answer = self.fetch(method, uri, "application/json", body).await?;
        serde_json::from_slice(&answer).map_err(|error| self.broken(&error))
    }

    async fn fetch(&self, method: Method, uri: &str, accept: &str, body: Option<String>) -> Result<Bytes, Error> {
        match tokio::time::timeout(TIMEOUT, self.exchange(method, uri, accept, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.broken(&format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }

    async fn exchange(&self, method: Method, uri: &str, accept: &str, body: Option<String>) -> Result<Bytes, Error> {
        let connected = UnixStream::connect(&self.path).await;
        let stream = connected.map_err(|source| Error::Connect { path: self.path.clone(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::HOST, "vmtide")
            .header(header::ACCEPT, accept)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.broken(&error))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => Err(Error::Refused(refusal)),
            Err(_) => Err(self.broken(&format!("answered {status}"))),
        }
    }

    fn broken(&self, what: &dyn std::fmt::Display) -> Error {
        Error::Answer { path: self.path.clone(), message: what.to_string() }
    }
}

/// A name as a part of a URI. Names of VMs need no escapes; what else a person types is refused by the bridge.
fn escaped(name: &str) -> String {
    name.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
        escaped
    })
}
