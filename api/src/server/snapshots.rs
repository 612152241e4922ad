//! Snapshots: taken, listed, forgotten.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::App;
use super::body::{Body, Id};
use crate::model::{SnapshotAnswer, SnapshotList, SnapshotRequest};
use crate::problem::Problem;

/// Take a snapshot of a sandbox, which goes on.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/snapshot", params(("id" = String, Path)),
    request_body = SnapshotRequest, responses(
    (status = 201, body = SnapshotAnswer), (status = 400, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
    (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn take(
    State(app): State<App>,
    Id(id): Id,
    Body(request): Body<SnapshotRequest>,
) -> Result<(StatusCode, Json<SnapshotAnswer>), Problem> {
    let key = id.clone();
    let taken = app.blocking(&key, move |registry| registry.take_snapshot(&id, &request));
    Ok((StatusCode::CREATED, Json(taken.await?)))
}

/// List snapshots.
#[utoipa::path(get, path = "/v1/snapshots", responses((status = 200, body = SnapshotList)))]
pub(super) async fn list(State(app): State<App>) -> Json<SnapshotList> {
    Json(SnapshotList { snapshots: app.registry.snapshots() })
}

/// Describe a snapshot, by id or name.
#[utoipa::path(get, path = "/v1/snapshots/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = SnapshotAnswer), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(app): State<App>,
    Id(id): Id,
) -> Result<Json<SnapshotAnswer>, Problem> {
    app.at_once(move |registry| registry.snapshot(&id)).await.map(Json)
}

/// Forget a snapshot. Sandboxes spawned from it go on.
#[utoipa::path(delete, path = "/v1/snapshots/{id}", params(("id" = String, Path)), responses(
    (status = 204), (status = 404, body = Problem)))]
pub(super) async fn remove(State(app): State<App>, Id(id): Id) -> Result<StatusCode, Problem> {
    app.at_once(move |registry| registry.remove_snapshot(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
