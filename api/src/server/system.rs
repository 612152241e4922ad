//! What concerns the daemon rather than a sandbox.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;

use super::App;
use crate::problem::Problem;

/// What a daemon that is stopping says of its health.
#[derive(Serialize, ToSchema)]
struct Draining {
    /// `draining`.
    status: &'static str,
}

/// Whether the daemon is well, and is to go on.
#[utoipa::path(get, path = "/healthz", security(()), responses((status = 200, body = String),
    (status = 503, body = Draining, description = "It is stopping")))]
pub(super) async fn health(State(app): State<App>) -> Response {
    if app.drain.has_begun() {
        let draining = Json(Draining { status: "draining" });
        return (StatusCode::SERVICE_UNAVAILABLE, draining).into_response();
    }
    "ok\n".into_response()
}

/// The daemon's counters, for Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    let (sandboxes, snapshots) = app.registry.counts();
    if let Some(nursery) = app.registry.engine().nursery() {
        app.registry.metrics.fill(nursery.fill());
    }
    let text = app
        .registry
        .metrics
        .text(sandboxes, snapshots)
        .map_err(|error| Problem::internal(format!("the metrics can't be written: {error}")))?;
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// The routes that need no token: the API's description, and the page.
pub(super) fn described(description: &OpenApi) -> Router<App> {
    // A description is made of strings and maps, which always become JSON.
    let text = serde_json::to_string_pretty(description).unwrap_or_default();
    let json = HeaderValue::from_static("application/json");
    // The page holds the token: nothing of others may run in it, or put it into a frame.
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    );
    let page = Html(include_str!("../page.html"));
    Router::new()
        .route("/openapi.json", get(|| async move { ([(header::CONTENT_TYPE, json)], text) }))
        .route("/", get(move || async move { ([(header::CONTENT_SECURITY_POLICY, policy)], page) }))
}
