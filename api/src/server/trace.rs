//! What is noted of every request: its id, a line in the log, and an entry in the audit log.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::{App, idempotency};
use crate::audit::{Audit, Entry, Event};
use crate::model::CloneResult;
use crate::registry::{is_id, new_id};

/// The header with a request's id.
const REQUEST_ID: &str = "x-request-id";
/// Longest id that is taken from a client.
const MAX_REQUEST_ID: usize = 128;

/// The entry in the audit log that a request will have, if any. Handlers add to it what they alone
/// know. It is written once: with the answer, or when nobody can add to it any more.
#[derive(Clone, Default)]
pub(super) struct Notes(Arc<Noted>);

#[derive(Default)]
struct Noted {
    audit: Audit,
    entry: Mutex<Option<Entry>>,
}

impl Drop for Noted {
    fn drop(&mut self) {
        let entry = self.entry.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(entry) = entry {
            self.audit.write(&entry);
        }
    }
}

impl Notes {
    fn new(audit: Audit, entry: Option<Entry>) -> Self {
        Self(Arc::new(Noted { audit, entry: Mutex::new(entry) }))
    }

    fn entry(&self) -> MutexGuard<'_, Option<Entry>> {
        self.0.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These were made.
    pub fn made(&self, results: &[CloneResult]) {
        if let Some(entry) = &mut *self.entry() {
            entry.sandboxes = results.iter().filter_map(id_of).collect();
            entry.count = Some(entry.sandboxes.len());
        }
    }

    /// This program is to run: the first word of a command.
    pub fn program(&self, argv: &[String]) {
        if let Some(entry) = &mut *self.entry() {
            entry.program = argv.first().cloned();
        }
    }

    /// Nothing will be added: it is written.
    pub fn write(&self) {
        let entry = self.entry().take();
        if let Some(entry) = entry {
            self.0.audit.write(&entry);
        }
    }
}

fn id_of(result: &CloneResult) -> Option<String> {
    match result {
        CloneResult::Sandbox(sandbox) => Some(sandbox.id.clone()),
        CloneResult::Error(_) => None,
    }
}

impl<S: Sync> FromRequestParts<S> for Notes {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// Notes every request.
pub(super) async fn trace(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let id = request_id(request.headers());
    // At a Unix socket all have the same.
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or("unix".to_owned(), |ConnectInfo(address)| address.to_string());
    let new = |event| {
        let about = path.split('/').nth(3).filter(|part| is_id(part)).map(str::to_owned);
        let (sandbox, parent) = if event == Event::Fork { (None, about) } else { (about, None) };
        let (request, peer) = (Some(id.clone()), Some(peer.clone()));
        Entry { request, peer, sandbox, parent, ..Entry::new(event) }
    };
    let event = route.as_deref().and_then(|route| event(&method, route));
    // Only if it is refused.
    let refused = new(Event::Refused);
    let notes = Notes::new(app.audit.clone(), event.map(new));
    request.extensions_mut().insert(notes.clone());
    let mut response = next.run(request).await;
    let (status, us) = (response.status(), begun.elapsed().as_micros() as u64);
    tracing::info!(%method, path, route, status = status.as_u16(), us, request = id, "request");
    finish(&notes, refused, &response, us);
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Notes the answer.
fn finish(notes: &Notes, refused: Entry, response: &Response, us: u64) {
    let status = response.status();
    {
        let mut entry = notes.entry();
        let full = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if status == StatusCode::UNAUTHORIZED || (entry.is_some() && full.contains(&status)) {
            *entry = Some(refused);
        }
        if let Some(entry) = &mut *entry {
            entry.outcome = Some(status.as_u16());
            entry.duration_us = Some(us);
            entry.replayed = response.headers().contains_key(idempotency::REPLAYED);
        }
    }
    // Which program it is comes over the WebSocket.
    if status != StatusCode::SWITCHING_PROTOCOLS {
        notes.write();
    }
}

/// What a request to a route is in the audit log; none, and it only looks.
fn event(method: &Method, route: &str) -> Option<Event> {
    let of_sandbox = route.strip_prefix("/v1/sandboxes")?;
    Some(match (method.as_str(), of_sandbox) {
        ("POST", "") => Event::Spawn,
        ("DELETE", "/{id}") => Event::Kill,
        ("POST", "/{id}/fork") => Event::Fork,
        ("POST", "/{id}/snapshot") => Event::Snapshot,
        ("POST", "/{id}/reset") => Event::Reset,
        ("POST", "/{id}/pause") => Event::Pause,
        ("POST", "/{id}/resume") => Event::Resume,
        (_, "/{id}/exec") => Event::Exec,
        ("GET" | "HEAD", "/{id}/files") => Event::FileRead,
        (_, "/{id}/files" | "/{id}/files/mkdir" | "/{id}/files/rename") => Event::FileWrite,
        _ => return None,
    })
}

/// The id that the client gave its request, if it is sane, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(letter)
    };
    match given.filter(sane) {
        Some(id) => id.to_owned(),
        // Without random numbers nothing can be made either; an answer can do without an id.
        None => new_id().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sane_ids_are_taken_over() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            request_id(&headers)
        };
        assert_eq!(of("a-b_c.d:1"), "a-b_c.d:1");
        for wrong in ["", "a b", "a\"b", "é", &"x".repeat(129)] {
            assert!(is_id(&of(wrong)), "{wrong}");
        }
        assert!(is_id(&request_id(&HeaderMap::new())));
    }

    #[test]
    fn an_entry_is_written_once_whatever_happens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        let audit = Audit::open(Some(&path)).unwrap();
        let notes = || Notes::new(audit.clone(), Some(Entry::new(Event::Exec)));
        let lines = || std::fs::read_to_string(&path).unwrap().lines().count();
        // The client hung up: nobody comes to the end of its request.
        drop(notes());
        assert_eq!(lines(), 1);
        // A WebSocket goes on after the answer.
        let socket = notes();
        let mut response = Response::default();
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        finish(&socket.clone(), Entry::new(Event::Refused), &response, 7);
        assert_eq!(lines(), 1, "its program is not known yet");
        socket.program(&["sh".to_owned(), "-c".to_owned()]);
        socket.write();
        drop(socket);
        let text = std::fs::read_to_string(&path).unwrap();
        let last = text.lines().nth(1).unwrap();
        assert!(last.ends_with(r#""program":"sh","outcome":101,"duration_us":7}"#), "{last}");
        assert_eq!(lines(), 2);
    }

    #[test]
    fn what_changes_something_is_an_event() {
        let of = |method: &str, route: &str| event(&method.parse().unwrap(), route);
        assert_eq!(of("POST", "/v1/sandboxes"), Some(Event::Spawn));
        assert_eq!(of("DELETE", "/v1/sandboxes/{id}"), Some(Event::Kill));
        assert_eq!(of("GET", "/v1/sandboxes/{id}/exec"), Some(Event::Exec));
        assert_eq!(of("GET", "/v1/sandboxes/{id}/files"), Some(Event::FileRead));
        assert_eq!(of("DELETE", "/v1/sandboxes/{id}/files"), Some(Event::FileWrite));
        assert_eq!(of("POST", "/v1/sandboxes/{id}/files/rename"), Some(Event::FileWrite));
        for looks in ["/v1/sandboxes", "/v1/sandboxes/{id}", "/v1/sandboxes/{id}/memory", "/"] {
            assert_eq!(of("GET", looks), None, "{looks}");
        }
    }
}
