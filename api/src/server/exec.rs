//! Programs in Linux guests: as a stream of events, and over a WebSocket.

use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use tine_abi::agent::{AgentMessage, CHUNK, HostMessage, Request, WindowSize};

use super::body::{Body, Id};
use super::{App, stream};
use crate::agent::{AgentConnection, AgentError, AgentSender};
use crate::model::{ExecControl, ExecEvent, ExecRequest, Text, parse};
use crate::problem::{Problem, with_causes};

/// Standard output in a binary message of the WebSocket: its first byte.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;

/// Run a program.
///
/// The answer is a stream of events, one JSON object a line: `started`, then `stdout` and
/// `stderr`, and last `exited`, `timed_out` or `error`. A client that goes away ends the program.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/exec", params(("id" = String, Path)),
    request_body = ExecRequest, responses(
    (status = 200, body = ExecEvent, content_type = "application/x-ndjson"),
    (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
    (status = 422, body = Problem), (status = 504, body = Problem)))]
pub(super) async fn exec(
    State(app): State<App>,
    Id(id): Id,
    Body(request): Body<ExecRequest>,
) -> Result<Response, Problem> {
    if request.interactive {
        let detail = "input comes in messages over a WebSocket only: GET this path to upgrade";
        return Err(Problem::value("interactive", detail));
    }
    let (connection, first) = start(&app, &id, &request).await?;
    let (sender, body) = stream::channel();
    tokio::spawn(async move {
        let (mut agent, mut receiver) = connection.split();
        let input = async {
            if let Some(text) = &request.stdin {
                // A program that does not read its input must not keep its output from coming.
                if let Err(error) = feed(&mut agent, text.as_bytes()).await {
                    tracing::debug!(%error, "input was not taken");
                }
            }
            std::future::pending::<()>().await;
        };
        let output = async {
            let mut events = Events::default();
            let mut message = Ok(first);
            loop {
                let last = !matches!(&message, Ok(message) if !is_last(message));
                for event in events.of(message) {
                    if sender.send(Ok(line(&event))).await.is_err() {
                        return;
                    }
                }
                if last {
                    return;
                }
                message = receiver.receive().await;
            }
        };
        tokio::select! {
            () = input => {}
            () = output => {}
            // The connection goes, and the agent kills what it ran for it.
            () = sender.closed() => {}
        }
    });
    Ok(ndjson(body))
}

/// Run a program interactively, over a WebSocket.
///
/// The first message is a request as for POST. After it, binary messages are standard input,
/// and text messages `{"type":"resize"|"signal"|"end"}`. The server sends events as text, but
/// output as binary, whose first byte is 1 for standard output and 2 for standard error.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/exec", params(("id" = String, Path)),
    responses((status = 101, description = "a WebSocket"), (status = 404, body = Problem),
    (status = 409, body = Problem)))]
pub(super) async fn attach(
    State(app): State<App>,
    Id(id): Id,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    // Whoever can't be served learns that by a status.
    app.registry.find(&id)?;
    Ok(upgrade.on_upgrade(move |mut socket| async move {
        if let Err(problem) = converse(&app, &id, &mut socket).await {
            let event = ExecEvent::Error { detail: problem.detail };
            let text = serde_json::to_string(&event).unwrap_or_default();
            // A client that is gone needs no reason.
            let _gone = socket.send(Message::Text(text.into())).await;
        }
    }))
}

/// Starts the program. Returns the first message about it.
async fn start(
    app: &App,
    id: &str,
    request: &ExecRequest,
) -> Result<(AgentConnection, AgentMessage), Problem> {
    let exec = request.exec()?;
    let sandbox = app.registry.find(id)?;
    let mut connection = AgentConnection::open(&sandbox.machine, Request::Exec(exec)).await?;
    let first = connection.first().await?;
    Ok((connection, first))
}

async fn converse(app: &App, id: &str, socket: &mut WebSocket) -> Result<(), Problem> {
    let request: ExecRequest = match socket.recv().await {
        Some(Ok(Message::Text(text))) => parse(text.as_bytes())?,
        Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
        Some(Ok(_)) => return Err(Problem::malformed("the first message is a request in JSON")),
    };
    let (connection, first) = start(app, id, &request).await?;
    let (mut agent, mut receiver) = connection.split();
    if let Some(text) = &request.stdin {
        feed(&mut agent, text.as_bytes()).await?;
    }
    let mut message = first;
    loop {
        let last = is_last(&message);
        // A client that is gone needs no more; dropping the connection ends the program.
        if socket.send(frame(message)).await.is_err() || last {
            return Ok(());
        }
        message = loop {
            tokio::select! {
                message = receiver.receive() => break message?,
                said = socket.recv() => match said {
                    Some(Ok(said)) => {
                        if !hear(&mut agent, said).await? {
                            return Ok(());
                        }
                    }
                    Some(Err(_)) | None => return Ok(()),
                },
            }
        };
    }
}

/// Passes on what the client said. Whether it is still there.
async fn hear(agent: &mut AgentSender, said: Message) -> Result<bool, Problem> {
    match said {
        Message::Binary(bytes) => {
            for piece in bytes.chunks(CHUNK) {
                agent.send(&HostMessage::Data(piece.to_vec())).await?;
            }
        }
        Message::Text(text) => {
            let message = match parse(text.as_bytes())? {
                ExecControl::Resize { rows, columns } => {
                    HostMessage::Resize(WindowSize { rows, columns })
                }
                ExecControl::Signal { signal } => HostMessage::Signal(signal),
                ExecControl::End => HostMessage::End,
            };
            agent.send(&message).await?;
        }
        Message::Close(_) => return Ok(false),
        Message::Ping(_) | Message::Pong(_) => {}
    }
    Ok(true)
}

/// Gives the program all its input.
async fn feed(agent: &mut AgentSender, input: &[u8]) -> Result<(), AgentError> {
    for piece in input.chunks(CHUNK) {
        agent.send(&HostMessage::Data(piece.to_vec())).await?;
    }
    agent.send(&HostMessage::End).await
}

/// Whether nothing comes after `message`.
fn is_last(message: &AgentMessage) -> bool {
    !matches!(
        message,
        AgentMessage::Started { .. } | AgentMessage::Stdout(_) | AgentMessage::Stderr(_)
    )
}

/// The message of the WebSocket for a message of the agent.
fn frame(message: AgentMessage) -> Message {
    let output = |stream: u8, bytes: &[u8]| {
        let mut frame = vec![stream];
        frame.extend_from_slice(bytes);
        Message::Binary(frame.into())
    };
    let event = match &message {
        AgentMessage::Stdout(bytes) => return output(STDOUT, bytes),
        AgentMessage::Stderr(bytes) => return output(STDERR, bytes),
        AgentMessage::Started { pid } => ExecEvent::Started { pid: *pid },
        AgentMessage::Exited(exit) => ExecEvent::of_exit(*exit),
        AgentMessage::Failed(failure) => ExecEvent::Error { detail: failure.to_string() },
        _ => ExecEvent::Error { detail: AgentError::Nonsense.to_string() },
    };
    Message::Text(serde_json::to_string(&event).unwrap_or_default().into())
}

/// Turns the agent's messages into events.
#[derive(Default)]
struct Events {
    out: Text,
    err: Text,
}

impl Events {
    fn of(&mut self, message: Result<AgentMessage, AgentError>) -> Vec<ExecEvent> {
        let last = match message {
            Ok(AgentMessage::Started { pid }) => return vec![ExecEvent::Started { pid }],
            Ok(AgentMessage::Stdout(bytes)) => {
                return self.out.push(&bytes).map(ExecEvent::Stdout).into_iter().collect();
            }
            Ok(AgentMessage::Stderr(bytes)) => {
                return self.err.push(&bytes).map(ExecEvent::Stderr).into_iter().collect();
            }
            Ok(AgentMessage::Exited(exit)) => ExecEvent::of_exit(exit),
            Ok(AgentMessage::Failed(failure)) => ExecEvent::Error { detail: failure.to_string() },
            Ok(_) => ExecEvent::Error { detail: AgentError::Nonsense.to_string() },
            Err(error) => ExecEvent::Error { detail: with_causes(&error) },
        };
        let out = self.out.finish().map(ExecEvent::Stdout);
        let err = self.err.finish().map(ExecEvent::Stderr);
        out.into_iter().chain(err).chain([last]).collect()
    }
}

fn line(event: &ExecEvent) -> Bytes {
    // Structures of strings and numbers always become JSON.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

fn ndjson(body: HttpBody) -> Response {
    let kind = HeaderValue::from_static("application/x-ndjson");
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}
