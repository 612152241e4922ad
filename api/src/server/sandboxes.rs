//! Sandboxes: made, listed, stopped, forked, looked into.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tine_cell::Fault;

use super::App;
use super::body::{Body, Id, Parameters, Raw};
use super::drain::Endless;
use super::trace::Notes;
use crate::console::ConsoleReader;
use crate::engine::Vm;
use crate::model::{
    CloneResults, ConsoleInputAnswer, ConsoleQuery, ForkRequest, ListQuery, LostList, MemoryAnswer,
    SandboxAnswer, SandboxList, SpawnRequest,
};
use crate::problem::Problem;
use crate::registry::Registry;
use crate::stream::Channel;

/// What a client must know of the header.
const KEY_RULE: &str = "1 to 255 printable ASCII characters. The same key with the same request \
    within 24 hours gets the first answer again, with Idempotent-Replayed: true, and nothing is \
    made; answers 429 and 5xx are not kept. With another request it is refused.";

/// Make sandboxes from an image or a snapshot.
///
/// One result for each, in order; some may fail and the rest stand.
#[utoipa::path(post, path = "/v1/sandboxes", request_body = SpawnRequest, params(
    ("Idempotency-Key" = Option<String>, Header, description = KEY_RULE)), responses(
    (status = 201, body = CloneResults), (status = 400, body = Problem),
    (status = 404, body = Problem), (status = 413, body = Problem),
    (status = 422, body = Problem), (status = 429, body = Problem),
    (status = 503, body = Problem)))]
pub(super) async fn spawn(
    State(app): State<App>,
    notes: Notes,
    Body(request): Body<SpawnRequest>,
) -> Result<(StatusCode, Json<CloneResults>), Problem> {
    let requested = Instant::now();
    app.drain.check()?;
    let key = request.snapshot.as_ref().or(request.image.as_ref()).cloned().unwrap_or_default();
    let request = Arc::new(request);
    let asked = Arc::clone(&request);
    let quick = move |registry: &Registry| registry.is_quick(&asked);
    let spawn = move |registry: &Registry| registry.spawn(&request, requested);
    let results = app.quickly(&key, quick, spawn).await?;
    notes.made(&results);
    Ok((StatusCode::CREATED, Json(CloneResults { results })))
}

/// List sandboxes.
#[utoipa::path(get, path = "/v1/sandboxes", params(ListQuery), responses(
    (status = 200, body = SandboxList), (status = 400, body = Problem),
    (status = 422, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Parameters(pairs): Parameters<Vec<(String, String)>>,
) -> Result<Json<SandboxList>, Problem> {
    let labels = ListQuery::read(pairs)?.labels()?;
    let sandboxes = app.at_once(move |registry| Ok(registry.list(&labels))).await?;
    Ok(Json(SandboxList { sandboxes }))
}

/// List sandboxes that were lost when a daemon died before this one began.
#[utoipa::path(get, path = "/v1/sandboxes/lost", responses((status = 200, body = LostList)))]
pub(super) async fn lost(State(app): State<App>) -> Json<LostList> {
    Json(LostList { lost: app.lost.to_vec() })
}

/// Describe a sandbox.
#[utoipa::path(get, path = "/v1/sandboxes/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = SandboxAnswer), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Id(id): Id,
) -> Result<Json<SandboxAnswer>, Problem> {
    let described = app.at_once(move |registry| Ok(registry.find(&id)?.describe()));
    described.await.map(Json)
}

/// Kill a sandbox.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}", params(("id" = String, Path)), responses(
    (status = 204), (status = 404, body = Problem)))]
pub(super) async fn remove(State(app): State<App>, Id(id): Id) -> Result<StatusCode, Problem> {
    app.at_once(move |registry| registry.remove(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Fork a running sandbox, which goes on.
///
/// One result for each child, in order; some may fail and the rest stand.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/fork", params(("id" = String, Path),
    ("Idempotency-Key" = Option<String>, Header, description = KEY_RULE)),
    request_body = ForkRequest, responses(
    (status = 201, body = CloneResults), (status = 400, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem),
    (status = 422, body = Problem), (status = 429, body = Problem),
    (status = 503, body = Problem)))]
pub(super) async fn fork(
    State(app): State<App>,
    Id(id): Id,
    notes: Notes,
    Body(request): Body<ForkRequest>,
) -> Result<(StatusCode, Json<CloneResults>), Problem> {
    let requested = Instant::now();
    app.drain.check()?;
    let key = id.clone();
    let forked = app.blocking(&key, move |registry| registry.fork(&id, &request, requested));
    let results = forked.await?;
    notes.made(&results);
    Ok((StatusCode::CREATED, Json(CloneResults { results })))
}

/// Stop a sandbox's vCPUs until it is resumed.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/pause", params(("id" = String, Path)), responses(
    (status = 200, body = SandboxAnswer), (status = 404, body = Problem), (status = 409, body = Problem),
    (status = 429, body = Problem)))]
pub(super) async fn pause(state: State<App>, id: Id) -> Result<Json<SandboxAnswer>, Problem> {
    change(state, id, Vm::pause).await
}

/// Let a paused sandbox go on.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/resume", params(("id" = String, Path)), responses(
    (status = 200, body = SandboxAnswer), (status = 404, body = Problem), (status = 409, body = Problem),
    (status = 429, body = Problem)))]
pub(super) async fn resume(state: State<App>, id: Id) -> Result<Json<SandboxAnswer>, Problem> {
    change(state, id, Vm::resume).await
}

/// Put a sandbox back to the state it was spawned from.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/reset", params(("id" = String, Path)), responses(
    (status = 200, body = SandboxAnswer), (status = 404, body = Problem), (status = 409, body = Problem),
    (status = 429, body = Problem)))]
pub(super) async fn reset(state: State<App>, id: Id) -> Result<Json<SandboxAnswer>, Problem> {
    change(state, id, |vm| vm.reset().map(drop)).await
}

async fn change(
    State(app): State<App>,
    Id(id): Id,
    how: impl FnOnce(&Vm) -> Result<(), Fault> + Send + 'static,
) -> Result<Json<SandboxAnswer>, Problem> {
    let key = id.clone();
    let changed = app.blocking(&key, move |registry| {
        let sandbox = registry.find(&id)?;
        how(&sandbox.vm)?;
        Ok(sandbox.describe())
    });
    changed.await.map(Json)
}

/// A sandbox's memory account.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/memory", params(("id" = String, Path)), responses(
    (status = 200, body = MemoryAnswer), (status = 404, body = Problem), (status = 409, body = Problem),
    (status = 429, body = Problem)))]
pub(super) async fn memory(
    State(app): State<App>,
    Id(id): Id,
) -> Result<Json<MemoryAnswer>, Problem> {
    let key = id.clone();
    let account = app.blocking(&key, move |registry| {
        let sandbox = registry.find(&id)?;
        let ledger = sandbox.vm.ledger()?;
        let counters = sandbox.vm.counters()?;
        Ok(MemoryAnswer::new(&ledger, &counters))
    });
    account.await.map(Json)
}

/// What a sandbox has printed.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/console", params(("id" = String, Path), ConsoleQuery),
    responses((status = 200, body = String, content_type = "application/octet-stream"),
    (status = 404, body = Problem)))]
pub(super) async fn console(
    State(app): State<App>,
    Id(id): Id,
    Parameters(query): Parameters<ConsoleQuery>,
) -> Result<Response, Problem> {
    let mut reader = app.registry.console(&id)?;
    let body = match query.follow {
        true => follow(reader),
        false => HttpBody::from(reader.read()),
    };
    let kind = HeaderValue::from_static("application/octet-stream");
    let mut response = ([(header::CONTENT_TYPE, kind)], body).into_response();
    if query.follow {
        response.extensions_mut().insert(Endless);
    }
    Ok(response)
}

/// Type on a sandbox's console.
///
/// The console takes as many of the bytes as fit, and says how many.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/console", params(("id" = String, Path)),
    request_body(content = String, content_type = "application/octet-stream"),
    responses((status = 200, body = ConsoleInputAnswer), (status = 404, body = Problem),
    (status = 413, body = Problem)))]
pub(super) async fn console_input(
    State(app): State<App>,
    Id(id): Id,
    Raw(input): Raw,
) -> Result<Json<ConsoleInputAnswer>, Problem> {
    let typed = app.at_once(move |registry| {
        let bytes = registry.find(&id)?.vm.console_input(&input)?;
        Ok(ConsoleInputAnswer { bytes })
    });
    typed.await.map(Json)
}

/// A body that goes on as long as there can be more.
fn follow(mut reader: ConsoleReader) -> HttpBody {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(1);
    tokio::spawn(async move {
        loop {
            let text = reader.read();
            // A client that went away needs no more.
            if sender.is_closed()
                || (!text.is_empty() && sender.send(Ok(text.into())).await.is_err())
            {
                return;
            }
            tokio::select! {
                more = reader.more() => {
                    if !more {
                        return;
                    }
                }
                () = sender.closed() => return,
            }
        }
    });
    HttpBody::new(Channel(receiver))
}
