//! Errors as RFC 9457 problem documents.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tine_abi::agent::Failure;
use tine_cell::fault::with_causes;
use tine_cell::{Fault, Kind};
use tine_images::ImageError;
use tine_vmm::MachineError;
use utoipa::ToSchema;

use crate::template::TemplateError;

/// Why a request was not served.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Kind of problem: `about:blank`, the status says it all.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong, and what to do about it.
    pub detail: String,
    /// The field of the request that was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Seconds after which it may be worth another try; told as a header.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

impl Problem {
    /// A problem with `status`.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            retry_after: None,
        }
    }

    /// The request can't be understood.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The value of `field` is understood, but can't be.
    pub fn value(field: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail).at(field)
    }

    /// There is no such thing.
    pub fn missing(what: &str, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {what} {id:?}"))
    }

    /// The thing is in no state for that.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// The daemon has no room for that now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// The daemon failed.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    /// The same, naming the field at fault.
    #[must_use]
    pub fn at(mut self, field: &str) -> Self {
        self.field = Some(field.to_owned());
        self
    }

    /// The same, to be tried again in `seconds`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let Fault { kind, text } = fault;
        match kind {
            Kind::State | Kind::Gone => Self::conflict(text),
            Kind::Value(field) => Self::value(&field, text),
            Kind::Timeout => Self::new(StatusCode::GATEWAY_TIMEOUT, text),
            Kind::Guest => Self::new(StatusCode::BAD_GATEWAY, text),
            Kind::Agent(failure) => Self { detail: text, ..Self::from(failure) },
            Kind::Room => Self::unavailable(text),
            Kind::Internal => Self::internal(text),
        }
    }
}

impl From<MachineError> for Problem {
    fn from(error: MachineError) -> Self {
        Fault::from(error).into()
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let status = match &failure {
            Failure::Version(_) => StatusCode::BAD_GATEWAY,
            Failure::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Failure::NotFound(_) => StatusCode::NOT_FOUND,
            Failure::Os { errno, .. } => status_of(*errno),
        };
        Self::new(status, failure.to_string())
    }
}

/// What the guest's kernel refused, as a status: at fault are the request, the state of the
/// guest's files, or the guest.
fn status_of(errno: i32) -> StatusCode {
    match errno {
        libc::ENOENT => StatusCode::NOT_FOUND,
        libc::EACCES | libc::EPERM | libc::EROFS => StatusCode::FORBIDDEN,
        libc::EISDIR | libc::ENOTDIR | libc::ENOTEMPTY | libc::EEXIST => StatusCode::CONFLICT,
        libc::EBUSY | libc::ETXTBSY | libc::EXDEV => StatusCode::CONFLICT,
        libc::EINVAL | libc::ELOOP | libc::ENAMETOOLONG | libc::ENOEXEC => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        libc::E2BIG | libc::EFBIG => StatusCode::PAYLOAD_TOO_LARGE,
        libc::ENOSPC | libc::EDQUOT => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::BAD_GATEWAY,
    }
}

impl From<TemplateError> for Problem {
    fn from(error: TemplateError) -> Self {
        let detail = with_causes(&error);
        match error {
            TemplateError::Image(ImageError::NotFound { .. } | ImageError::Name { .. }) => {
                Self::new(StatusCode::NOT_FOUND, detail).at("image")
            }
            TemplateError::Boot { source, .. } => Self { detail, ..Self::from(*source) },
            TemplateError::Cell { source, .. } => Self { detail, ..Self::from(source) },
            _ => Self::internal(detail),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // A structure of strings and numbers always becomes JSON.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let kind = HeaderValue::from_static("application/problem+json");
        let mut response = (status, [(header::CONTENT_TYPE, kind)], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_refuses_is_told_apart_from_what_it_breaks() {
        let refused = |errno| {
            let failure = Failure::Os { action: "opening /a".into(), errno };
            Problem::from(failure).status
        };
        assert_eq!(refused(libc::ENOENT), 404);
        assert_eq!(refused(libc::EACCES), 403);
        for conflict in [libc::EISDIR, libc::ENOTEMPTY, libc::EEXIST] {
            assert_eq!(refused(conflict), 409);
        }
        assert_eq!(refused(libc::ENOSPC), 507);
        assert_eq!(refused(libc::EIO), 502);
        let missing = Problem::from(Failure::NotFound("/no/such".into()));
        assert_eq!((missing.status, missing.detail.contains("/no/such")), (404, true));
        assert_eq!(Problem::from(Failure::Version(9)).status, 502);
        assert_eq!(Problem::from(Failure::Invalid("no".into())).status, 422);
    }

    #[test]
    fn a_machine_without_an_agent_is_in_no_state_for_one() {
        assert_eq!(Problem::from(MachineError::NoAgent).status, 409);
        assert_eq!(Problem::from(MachineError::Ended(tine_vmm::End::PowerOff)).status, 409);
        let limit = std::time::Duration::from_secs(1);
        assert_eq!(Problem::from(MachineError::AgentSilent(limit)).status, 504);
        let failure = Failure::NotFound("nobody".into());
        let refused = MachineError::AgentRefused { action: "adopt", failure };
        assert_eq!(Problem::from(refused).status, 404);
    }
}
