//! Files in Linux guests.

use std::io;

use axum::Json;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use tine_abi::agent::{AgentMessage, CHUNK, HostMessage, Request};

use super::body::{Body, Id, Parameters};
use super::{App, stream};
use crate::agent::{AgentConnection, AgentError};
use crate::model::{
    FileAnswer, FileList, MakeDirectoryRequest, ReadQuery, RemoveQuery, RenameRequest, WriteQuery,
    absolute,
};
use crate::problem::{Problem, with_causes};

/// Read a file, or what is in a directory.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files", params(("id" = String, Path), ReadQuery),
    responses((status = 200, body = String, content_type = "application/octet-stream",
        description = "the file; with `list` or `stat`, JSON"),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn read(
    State(app): State<App>,
    Id(id): Id,
    Parameters(query): Parameters<ReadQuery>,
) -> Result<Response, Problem> {
    let path = absolute("path", query.path)?;
    if query.list {
        let connection = ask(&app, &id, Request::List { path }).await?;
        return Ok(Json(FileList { entries: entries(connection).await? }).into_response());
    }
    if query.stat {
        let connection = ask(&app, &id, Request::Stat { path }).await?;
        let found = entries(connection).await?.into_iter().next();
        let found = found.ok_or(AgentError::Nonsense)?;
        return Ok(Json(found).into_response());
    }
    let request = Request::Read { path, offset: query.offset, length: query.length };
    let mut connection = ask(&app, &id, request).await?;
    let first = connection.first().await?;
    let (sender, body) = stream::channel();
    tokio::spawn(async move {
        let mut message = Ok(first);
        loop {
            let piece = match message {
                Ok(AgentMessage::Data(bytes)) => Ok(Bytes::from(bytes)),
                Ok(AgentMessage::End) => return,
                Ok(AgentMessage::Failed(failure)) => Err(io::Error::other(failure.to_string())),
                Ok(_) => Err(io::Error::other(AgentError::Nonsense)),
                Err(error) => Err(io::Error::other(with_causes(&error))),
            };
            let broken = piece.is_err();
            // A client that is gone needs no more.
            if sender.send(piece).await.is_err() || broken {
                return;
            }
            message = connection.receive().await;
        }
    });
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

/// Write a file: it appears whole, or not at all.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files", params(("id" = String, Path), WriteQuery),
    request_body(content = String, content_type = "application/octet-stream"),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem),
    (status = 422, body = Problem), (status = 507, body = Problem)))]
pub(super) async fn write(
    State(app): State<App>,
    Id(id): Id,
    Parameters(query): Parameters<WriteQuery>,
    mut body: HttpBody,
) -> Result<StatusCode, Problem> {
    let mode = query.permissions()?;
    let path = absolute("path", query.path)?;
    let request = Request::Write { path, mode, owner: query.owner, parents: query.parents };
    let mut connection = ask(&app, &id, request).await?;
    while let Some(frame) = body.frame().await {
        // Dropping the connection here leaves no half of a file behind.
        let broken = |error| Problem::malformed(format!("the body broke off: {error}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        for piece in data.chunks(CHUNK) {
            if let Err(error) = connection.send(&HostMessage::Data(piece.to_vec())).await {
                // It has closed because it refuses, and says why, or it is gone.
                tracing::debug!(%error, "a file was not taken");
                connection.done().await?;
                return Err(AgentError::Nonsense.into());
            }
        }
    }
    connection.send(&HostMessage::End).await?;
    connection.done().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove a file or directory.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/files",
    params(("id" = String, Path), RemoveQuery), responses((status = 204),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn remove(
    State(app): State<App>,
    Id(id): Id,
    Parameters(query): Parameters<RemoveQuery>,
) -> Result<StatusCode, Problem> {
    let RemoveQuery { path, recursive } = query;
    let path = absolute("path", path)?;
    done(&app, &id, Request::Remove { path, recursive }).await
}

/// Give a file another name.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/rename", params(("id" = String, Path)),
    request_body = RenameRequest, responses((status = 204), (status = 404, body = Problem),
    (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn rename(
    State(app): State<App>,
    Id(id): Id,
    Body(request): Body<RenameRequest>,
) -> Result<StatusCode, Problem> {
    let from = absolute("from", request.from)?;
    let to = absolute("to", request.to)?;
    done(&app, &id, Request::Rename { from, to }).await
}

/// Make a directory, and those above it.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/mkdir", params(("id" = String, Path)),
    request_body = MakeDirectoryRequest, responses((status = 204), (status = 404, body = Problem),
    (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn make_directory(
    State(app): State<App>,
    Id(id): Id,
    Body(request): Body<MakeDirectoryRequest>,
) -> Result<StatusCode, Problem> {
    let path = absolute("path", request.path)?;
    done(&app, &id, Request::MakeDirectory { path }).await
}

async fn ask(app: &App, id: &str, request: Request) -> Result<AgentConnection, Problem> {
    let sandbox = app.registry.find(id)?;
    Ok(AgentConnection::open(&sandbox.machine, request).await?)
}

async fn done(app: &App, id: &str, request: Request) -> Result<StatusCode, Problem> {
    ask(app, id, request).await?.done().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The files that the agent tells of.
async fn entries(mut connection: AgentConnection) -> Result<Vec<FileAnswer>, Problem> {
    let mut all = Vec::new();
    let mut message = connection.first().await?;
    loop {
        match message {
            AgentMessage::Entries(entries) => all.extend(entries.into_iter().map(FileAnswer::from)),
            AgentMessage::End => return Ok(all),
            AgentMessage::Failed(failure) => return Err(AgentError::Refused(failure).into()),
            _ => return Err(AgentError::Nonsense.into()),
        }
        // Of one file, that is all.
        message = match connection.receive().await {
            Err(AgentError::Closed) => return Ok(all),
            message => message?,
        };
    }
}
