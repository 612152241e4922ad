//! Request bodies: JSON, bounded, and refused with the field at fault.

use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::App;
use crate::model::parse;
use crate::problem::Problem;

/// A JSON body. Where it may be absent, `T` is what an empty object means.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).cloned();
        let bytes = read(request, app).await?;
        if bytes.is_empty() {
            return parse(b"{}").map(Self);
        }
        let is_json =
            kind.and_then(|kind| kind.to_str().ok().map(str::to_ascii_lowercase)).is_some_and(
                |kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json"),
            );
        if !is_json {
            let detail = "the body must have content type application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        parse(&bytes).map(Self)
    }
}

/// The body as it is.
pub(super) struct Raw(pub Bytes);

impl FromRequest<App> for Raw {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        read(request, app).await.map(Self)
    }
}

/// The whole body, unless it is too large.
pub(super) async fn read(request: Request, app: &App) -> Result<Bytes, Problem> {
    let most = app.registry.limits().body_bytes;
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {most} bytes"));
    if declared.is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    to_bytes(request.into_body(), most).await.map_err(|error| {
        let is_limit = std::error::Error::source(&error)
            .is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>());
        if is_limit {
            too_large()
        } else {
            Problem::malformed(format!("the body broke off: {error}"))
        }
    })
}

/// The id or name in the path.
pub(super) struct Id(pub String);

impl FromRequestParts<App> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, app).await;
        path.map(|Path(id)| Self(id)).map_err(|error| Problem::malformed(error.body_text()))
    }
}

/// The query.
pub(super) struct Parameters<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, app).await;
        query.map(|Query(value)| Self(value)).map_err(|error| Problem::malformed(error.body_text()))
    }
}
