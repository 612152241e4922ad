//! A guest's files: read, written, listed, moved, removed.

use std::time::Duration;

use axum::Json;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use tine_abi::agent::{self, AgentMessage, HostMessage, Request};
use tokio::sync::mpsc::channel;
use tokio::time::timeout;

use super::App;
use super::body::{Body, Id, Parameters};
use crate::agent::{
    AgentConnection, AgentError, AgentReceiver, AgentSender, DONE_LIMIT, unexpected,
};
use crate::model::{
    Entry, Listing, MkdirRequest, ReadQuery, RemoveQuery, RenameRequest, WriteQuery,
};
use crate::problem::Problem;
use crate::stream::Channel;

/// Longest listing, bytes of names and of what is beside them; the daemon holds it.
const MAX_LISTING: usize = 16 << 20;
/// How long a client may go on with a body that was refused.
const REST_LIMIT: Duration = Duration::from_secs(2);

/// Read a file of a Linux guest, list a directory, or describe either.
///
/// The contents come as they are; with `list` a `Listing`, with `stat` an `Entry`. A connection
/// that is closed before its end says that the rest could not be read.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files", params(("id" = String, Path), ReadQuery),
    responses((status = 200, content(
        (String = "application/octet-stream"), (Listing = "application/json"))),
    (status = 400, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
    (status = 502, body = Problem), (status = 504, body = Problem)))]
pub(super) async fn read(
    State(app): State<App>,
    Id(id): Id,
    Parameters(query): Parameters<ReadQuery>,
) -> Result<Response, Problem> {
    query.check()?;
    let ReadQuery { path, list, stat } = query;
    if stat {
        let mut connection = app.ask(id, Request::Stat { path }).await?;
        return Ok(Json(described(&mut connection).await?).into_response());
    }
    if list {
        let mut connection = app.ask(id, Request::List { path }).await?;
        return Ok(Json(listed(&mut connection).await?).into_response());
    }
    let connection = app.ask(id, Request::Read { path, offset: 0, length: None }).await?;
    let body = contents(connection).await?;
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

async fn described(connection: &mut AgentConnection) -> Result<Entry, Problem> {
    match connection.answer().await? {
        AgentMessage::Entries(entries) => match <[agent::Entry; 1]>::try_from(entries) {
            Ok([entry]) => Ok(entry.into()),
            Err(_) => Err(AgentError::Nonsense("not one file".to_owned()).into()),
        },
        other => Err(unexpected(&other).into()),
    }
}

async fn listed(connection: &mut AgentConnection) -> Result<Listing, Problem> {
    let mut listing = Listing { entries: Vec::new() };
    let mut bytes = 0;
    loop {
        match connection.answer().await? {
            AgentMessage::Entries(entries) => {
                let size = |entry: &agent::Entry| {
                    let texts = entry.name.len() + entry.target.as_ref().map_or(0, String::len);
                    size_of::<Entry>() + texts
                };
                bytes += entries.iter().map(size).sum::<usize>();
                if bytes > MAX_LISTING {
                    let detail = format!("the directory's listing is over {MAX_LISTING} bytes");
                    return Err(Problem::value("path", detail));
                }
                listing.entries.extend(entries.into_iter().map(Entry::from));
            }
            AgentMessage::End => return Ok(listing),
            other => return Err(unexpected(&other).into()),
        }
    }
}

/// The file that comes over `connection`, as a body. An error before its first byte is told.
async fn contents(mut connection: AgentConnection) -> Result<HttpBody, AgentError> {
    let mut next = match connection.answer().await? {
        AgentMessage::Data(bytes) => bytes,
        AgentMessage::End => return Ok(HttpBody::empty()),
        other => return Err(unexpected(&other)),
    };
    let (pieces, receiver) = channel::<Result<Bytes, AgentError>>(1);
    tokio::spawn(async move {
        loop {
            // A client that went away needs no more.
            if pieces.send(Ok(next.into())).await.is_err() {
                return;
            }
            let piece = tokio::select! {
                piece = connection.receive() => piece,
                () = pieces.closed() => return,
            };
            let error = match piece {
                Ok(Some(AgentMessage::Data(bytes))) => {
                    next = bytes;
                    continue;
                }
                Ok(Some(AgentMessage::End)) => return,
                Ok(Some(AgentMessage::Failed(failure))) => AgentError::Refused(failure),
                Ok(Some(other)) => unexpected(&other),
                Ok(None) => AgentError::Gone,
                Err(error) => error,
            };
            tracing::debug!(%error, "a file could not be read to its end");
            if pieces.send(Err(error)).await.is_err() {
                tracing::debug!("and nobody waits for it");
            }
            return;
        }
    });
    Ok(HttpBody::new(Channel(receiver)))
}

/// Write a file of a Linux guest.
///
/// It appears whole when the body has come to its end, or not at all.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files", params(("id" = String, Path), WriteQuery),
    request_body(content = String, content_type = "application/octet-stream"), responses(
    (status = 204), (status = 400, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
    (status = 502, body = Problem), (status = 504, body = Problem), (status = 507, body = Problem)))]
pub(super) async fn write(
    State(app): State<App>,
    Id(id): Id,
    Parameters(query): Parameters<WriteQuery>,
    body: HttpBody,
) -> Result<StatusCode, Problem> {
    let connection = app.ask(id, query.request()?).await?;
    upload(connection, body).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends `body` as the contents of a file, and waits until it is written.
async fn upload(connection: AgentConnection, mut body: HttpBody) -> Result<(), Problem> {
    let (mut sender, mut receiver) = connection.into_split();
    let sent = tokio::select! {
        sent = send_body(&mut sender, &mut body) => sent,
        refusal = refused(&mut receiver) => Err(refusal.into()),
    };
    let error = match sent {
        Ok(()) => return Ok(receiver.done().await?),
        Err(Upload::Client(problem)) => return Err(problem),
        // The agent closes when it refuses; why, it has said before.
        Err(Upload::Agent(AgentError::Io { .. })) => in_time(refused(&mut receiver)).await?,
        Err(Upload::Agent(error)) => error,
    };
    // A client reads no answer before it has sent its body; one that goes on and on is cut off.
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    if timeout(REST_LIMIT, rest).await.is_err() {
        tracing::debug!("a client goes on sending what is refused");
    }
    Err(error.into())
}

/// Who did not go on with an upload.
enum Upload {
    Client(Problem),
    Agent(AgentError),
}

impl From<AgentError> for Upload {
    fn from(error: AgentError) -> Self {
        Self::Agent(error)
    }
}

async fn send_body(sender: &mut AgentSender, body: &mut HttpBody) -> Result<(), Upload> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Upload::Client(Problem::malformed(format!("the body broke off: {error}")))
        })?;
        if let Some(bytes) = frame.data_ref() {
            in_time(sender.send_data(bytes)).await??;
        }
    }
    Ok(in_time(sender.send(HostMessage::End)).await??)
}

async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, AgentError> {
    timeout(DONE_LIMIT, work).await.map_err(|_| AgentError::Silent(DONE_LIMIT))
}

/// Waits for what can only be a refusal: the agent has not got everything yet.
async fn refused(receiver: &mut AgentReceiver) -> AgentError {
    match receiver.receive().await {
        Ok(Some(AgentMessage::Failed(failure))) => AgentError::Refused(failure),
        Ok(Some(other)) => unexpected(&other),
        Ok(None) => AgentError::Gone,
        Err(error) => error,
    }
}

/// Remove a file or directory of a Linux guest.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/files", params(("id" = String, Path), RemoveQuery),
    responses((status = 204), (status = 400, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
    (status = 502, body = Problem), (status = 504, body = Problem)))]
pub(super) async fn remove(
    State(app): State<App>,
    Id(id): Id,
    Parameters(query): Parameters<RemoveQuery>,
) -> Result<StatusCode, Problem> {
    done(app, id, query.request()?).await
}

/// Give a file of a Linux guest another name.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/rename", params(("id" = String, Path)),
    request_body = RenameRequest, responses(
    (status = 204), (status = 400, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
    (status = 502, body = Problem), (status = 504, body = Problem)))]
pub(super) async fn rename(
    State(app): State<App>,
    Id(id): Id,
    Body(request): Body<RenameRequest>,
) -> Result<StatusCode, Problem> {
    done(app, id, request.request()?).await
}

/// Make a directory in a Linux guest, and those above it.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/mkdir", params(("id" = String, Path)),
    request_body = MkdirRequest, responses(
    (status = 204), (status = 400, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
    (status = 502, body = Problem), (status = 504, body = Problem), (status = 507, body = Problem)))]
pub(super) async fn mkdir(
    State(app): State<App>,
    Id(id): Id,
    Body(request): Body<MkdirRequest>,
) -> Result<StatusCode, Problem> {
    done(app, id, request.request()?).await
}

async fn done(app: App, id: String, request: Request) -> Result<StatusCode, Problem> {
    app.ask(id, request).await?.done().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests;
