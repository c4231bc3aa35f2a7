//! HTTP in, calls to the bridge loop out.

use super::metrics::{self, Format};
use super::optimize::Wish;
use super::types::{Change, Refusal};
use super::{Call, Control};
use crate::socket::{self, Claim};
use axum::extract::{FromRequestParts, Path, Query, State, rejection::JsonRejection};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

/// Who can open the socket can steer the VMs.
const SOCKET_MODE: u32 = 0o600;
/// Decisions, and events of one VM, returned unless the request says how many.
const LAST: usize = 10;

type Calls = mpsc::Sender<Call>;

/// Why the control socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another bridge answers there.
    #[error("{}: another vmtide-bridge serves this socket", .0.display())]
    Taken(PathBuf),
    /// Something else is in the way.
    #[error("control.socket: {}: exists and is no socket; move it away, or give another path", .0.display())]
    NotASocket(PathBuf),
    /// The socket or its folder cannot be made.
    #[error("{}: the control socket cannot be made", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A bound control socket; removed when dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    claim: Claim,
    path: PathBuf,
}

impl Server {
    /// Binds `path`, mode 0600. What a dead bridge left there is replaced, a live one or another file is not.
    ///
    /// # Errors
    /// [`Error`], with nothing changed.
    pub async fn bind(path: PathBuf) -> Result<Self, Error> {
        if let Some(folder) = path.parent()
            && let Err(source) = std::fs::create_dir_all(folder)
        {
            return Err(Error::Socket { path, source });
        }
        match socket::listen(&path, SOCKET_MODE).await {
            Ok((listener, claim)) => Ok(Self { listener, claim, path }),
            Err(socket::Error::InUse) => Err(Error::Taken(path)),
            Err(socket::Error::NotASocket) => Err(Error::NotASocket(path)),
            Err(socket::Error::System(source)) => Err(Error::Socket { path, source }),
        }
    }

    /// Serves until the bridge loop is gone or the future is dropped.
    pub async fn serve(self, calls: Calls) {
        let Self { listener, claim: _claim, path } = self;
        let app = Router::new()
            .route("/v1/status", get(async |State(calls): State<Calls>| ask(calls, |c| Ok(c.status())).await))
            .route("/v1/vms", get(async |State(calls): State<Calls>| ask(calls, |c| Ok(c.vms())).await))
            .route("/v1/vms/{name}", get(vm).patch(set))
            .route("/v1/vms/{name}/events", get(events_about))
            .route("/v1/vms/{name}/levers", get(levers))
            .route("/v1/vms/{name}/trim", post(trim))
            .route("/v1/decisions", get(decisions))
            .route("/v1/optimize", post(optimize))
            .route("/v1/optimize/{id}", get(optimizing).delete(end_optimizing))
            .route("/v1/events", get(events))
            .route("/v1/pause", post(async |calls, query| pause(calls, query, true).await))
            .route("/v1/resume", post(async |calls, query| pause(calls, query, false).await))
            .route("/metrics", get(metrics))
            .fallback(async || refuse(StatusCode::NOT_FOUND, "no such resource; all but /metrics begin with /v1/"))
            .method_not_allowed_fallback(async || {
                refuse(StatusCode::METHOD_NOT_ALLOWED, "the resource does not have this method")
            })
            .with_state(calls);
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(path = %path.display(), %error, "the control socket stopped");
        }
    }
}

/// A part of the request, refused in the API's own form where it makes no sense.
struct Asked<E>(E);

impl<E, S> FromRequestParts<S> for Asked<E>
where
    E: FromRequestParts<S, Rejection: Display>,
    S: Send + Sync,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let rejected = |rejection: E::Rejection| refuse(StatusCode::BAD_REQUEST, &rejection.to_string());
        E::from_request_parts(parts, state).await.map(Self).map_err(rejected)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionsQuery {
    vm: Option<String>,
    last: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    #[serde(default)]
    after: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LastQuery {
    last: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseQuery {
    vm: Option<String>,
}

async fn vm(State(calls): State<Calls>, Asked(Path(name)): Asked<Path<String>>) -> Response {
    ask(calls, move |control| control.vm(&name)).await
}

async fn set(
    State(calls): State<Calls>,
    Asked(Path(name)): Asked<Path<String>>,
    change: Result<Json<Change>, JsonRejection>,
) -> Response {
    match change {
        Ok(Json(change)) => ask(calls, move |control| control.set(&name, change)).await,
        Err(rejection) => refuse(StatusCode::BAD_REQUEST, &rejection.body_text()),
    }
}

async fn trim(State(calls): State<Calls>, Asked(Path(name)): Asked<Path<String>>) -> Response {
    ask(calls, move |control| control.trim(&name)).await
}

async fn optimize(State(calls): State<Calls>, wish: Result<Json<Wish>, JsonRejection>) -> Response {
    match wish {
        Ok(Json(wish)) => ask(calls, move |control| control.optimize(&wish)).await,
        Err(rejection) => refuse(StatusCode::BAD_REQUEST, &rejection.body_text()),
    }
}

async fn optimizing(State(calls): State<Calls>, Asked(Path(id)): Asked<Path<u64>>) -> Response {
    ask(calls, move |control| control.optimizing(id)).await
}

async fn end_optimizing(State(calls): State<Calls>, Asked(Path(id)): Asked<Path<u64>>) -> Response {
    ask(calls, move |control| control.end_optimizing(id)).await
}

async fn decisions(State(calls): State<Calls>, Asked(Query(query)): Asked<Query<DecisionsQuery>>) -> Response {
    ask(calls, move |control| control.decisions(query.vm.as_deref(), query.last.unwrap_or(LAST))).await
}

async fn events(State(calls): State<Calls>, Asked(Query(query)): Asked<Query<EventsQuery>>) -> Response {
    ask(calls, move |control| Ok(control.events(query.after))).await
}

async fn events_about(
    State(calls): State<Calls>,
    Asked(Path(name)): Asked<Path<String>>,
    Asked(Query(query)): Asked<Query<LastQuery>>,
) -> Response {
    ask(calls, move |control| control.events_about(&name, query.last.unwrap_or(LAST))).await
}

async fn levers(
    State(calls): State<Calls>,
    Asked(Path(name)): Asked<Path<String>>,
    Asked(Query(query)): Asked<Query<LastQuery>>,
) -> Response {
    ask(calls, move |control| control.levers(&name, query.last.unwrap_or(LAST))).await
}

async fn pause(State(calls): State<Calls>, Asked(Query(query)): Asked<Query<PauseQuery>>, paused: bool) -> Response {
    ask(calls, move |control| control.pause(query.vm.as_deref(), paused)).await
}

async fn metrics(State(calls): State<Calls>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    match answer(calls, |control| Ok((control.status(), control.vms()))).await {
        Ok((status, vms)) => {
            ([(CONTENT_TYPE, format.content_type())], metrics::render(format, &status, &vms)).into_response()
        }
        Err(refused) => refused,
    }
}

/// Runs `question` in the bridge loop and gives its answer as JSON.
async fn ask<T, Q>(calls: Calls, question: Q) -> Response
where
    T: Serialize + Send + 'static,
    Q: FnOnce(&mut dyn Control) -> Result<T, Refusal> + Send + 'static,
{
    answer(calls, question).await.map_or_else(|refused| refused, |value| Json(value).into_response())
}

/// Runs `question` in the bridge loop; what it refuses is a response already.
async fn answer<T, Q>(calls: Calls, question: Q) -> Result<T, Response>
where
    T: Send + 'static,
    Q: FnOnce(&mut dyn Control) -> Result<T, Refusal> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    let call: Call = Box::new(move |control| {
        // A client that hung up does not need the answer.
        let _ = answer.send(question(control));
    });
    if calls.send(call).await.is_err() {
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, "the bridge is stopping"));
    }
    match answered.await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(refusal)) => {
            let status = if refusal.not_found { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
            Err((status, Json(refusal)).into_response())
        }
        Err(_) => Err(refuse(StatusCode::SERVICE_UNAVAILABLE, "the bridge is stopping")),
    }
}

fn refuse(status: StatusCode, message: &str) -> Response {
    let not_found = status == StatusCode::NOT_FOUND;
    (status, Json(Refusal { not_found, message: message.to_owned() })).into_response()
}
