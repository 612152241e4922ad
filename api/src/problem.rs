//! Errors as RFC 9457 problem documents.

use std::error::Error;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tine_abi::agent::Failure;
use tine_images::ImageError;
use tine_vmm::MachineError;
use tine_vmm::boot::BootError;
use tine_vmm::kvm::KvmError;
use utoipa::ToSchema;

use crate::agent::AgentError;
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
}

impl From<MachineError> for Problem {
    fn from(error: MachineError) -> Self {
        let detail = with_causes(&error);
        match error {
            MachineError::Busy { .. }
            | MachineError::Killed
            | MachineError::Failed(_)
            | MachineError::Lost
            | MachineError::Ended(_)
            | MachineError::NoAgent
            | MachineError::NoOrigin => Self::conflict(detail),
            MachineError::NoVcpu { .. } => Self::value("vcpu", detail),
            MachineError::Refused { .. } => Self::value("bytes", detail),
            MachineError::Boot(BootError::Vcpus { .. } | BootError::LinuxVcpus { .. }) => {
                Self::value("vcpus", detail)
            }
            MachineError::Boot(BootError::Ram { .. } | BootError::LinuxRam { .. }) => {
                Self::value("memory_mib", detail)
            }
            MachineError::Timeout { .. } | MachineError::AgentSilent(_) => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, detail)
            }
            MachineError::Memory(_) | MachineError::Thread { .. } => Self::unavailable(detail),
            // The host is full; a few sandboxes less, and it would have worked.
            MachineError::Kvm(KvmError::Call { source, .. })
                if [libc::ENOMEM, libc::EMFILE, libc::ENFILE].contains(&source.errno()) =>
            {
                Self::unavailable(detail)
            }
            _ => Self::internal(detail),
        }
    }
}

impl From<AgentError> for Problem {
    fn from(error: AgentError) -> Self {
        let detail = with_causes(&error);
        match error {
            AgentError::Machine(error) => error.into(),
            AgentError::Refused(failure) => Self::of_failure(&failure, detail),
            AgentError::Silent => Self::new(StatusCode::GATEWAY_TIMEOUT, detail),
            AgentError::Closed | AgentError::Broken(_) => Self::conflict(detail),
            AgentError::Nonsense => Self::new(StatusCode::BAD_GATEWAY, detail),
        }
    }
}

impl Problem {
    fn of_failure(failure: &Failure, detail: String) -> Self {
        let status = match failure {
            Failure::Version(_) => StatusCode::BAD_GATEWAY,
            Failure::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Failure::NotFound(_) => StatusCode::NOT_FOUND,
            Failure::Os { errno, .. } => match *errno {
                libc::ENOENT => StatusCode::NOT_FOUND,
                libc::EACCES | libc::EPERM | libc::EROFS => StatusCode::FORBIDDEN,
                libc::ENOSPC | libc::EDQUOT => StatusCode::INSUFFICIENT_STORAGE,
                libc::EISDIR | libc::ENOTDIR | libc::ENOTEMPTY | libc::EEXIST | libc::EBUSY => {
                    StatusCode::CONFLICT
                }
                libc::ENAMETOOLONG | libc::EINVAL | libc::ENOEXEC => {
                    StatusCode::UNPROCESSABLE_ENTITY
                }
                _ => StatusCode::BAD_GATEWAY,
            },
        };
        Self::new(status, detail)
    }
}

impl From<TemplateError> for Problem {
    fn from(error: TemplateError) -> Self {
        let detail = with_causes(&error);
        match error {
            TemplateError::Image(ImageError::NotFound(_) | ImageError::Name(_)) => {
                Self::new(StatusCode::NOT_FOUND, detail).at("image")
            }
            TemplateError::Boot { source, .. } => {
                let status = Self::from(*source);
                Self { detail, ..status }
            }
            _ => Self::internal(detail),
        }
    }
}

/// An error and what caused it, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
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
        response
    }
}
