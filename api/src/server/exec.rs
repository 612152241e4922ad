//! Programs in a guest, their output as lines of JSON.

use std::convert::Infallible;
use std::os::unix::net::UnixStream;

use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use tine_abi::agent::{AgentMessage, Exec, HostMessage, Request};
use tokio::sync::mpsc::{Sender, channel};

use super::App;
use super::body::{Body, Id};
use super::trace::Notes;
use crate::agent::{AgentConnection, AgentError, AgentReceiver, AgentSender, unexpected};
use crate::model::{ExecEvent, ExecRequest, Text};
use crate::problem::Problem;
use crate::stream::Channel;

/// Run a program in a Linux guest.
///
/// The answer is a stream of events, one JSON object a line; the last is `exited`, `timed_out`
/// or `error`. Closing the connection kills the program.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/exec", params(("id" = String, Path)),
    request_body = ExecRequest, responses(
    (status = 200, body = ExecEvent, content_type = "application/x-ndjson"),
    (status = 400, body = Problem), (status = 403, body = Problem),
    (status = 404, body = Problem), (status = 409, body = Problem),
    (status = 413, body = Problem), (status = 422, body = Problem),
    (status = 502, body = Problem), (status = 504, body = Problem)))]
pub(super) async fn run(
    State(app): State<App>,
    Id(id): Id,
    notes: Notes,
    Body(request): Body<ExecRequest>,
) -> Result<Response, Problem> {
    notes.program(&request.argv);
    if request.interactive {
        let detail = "input can be sent over the WebSocket only: GET this path with an upgrade";
        return Err(Problem::value("interactive", detail));
    }
    let exec = request.program()?;
    let program = Program::start(app.connect(id).await?, exec).await?;
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, kind)], events(program, request.stdin)).into_response())
}

/// What happens to `program`, as a body. Dropping it kills the program.
fn events(program: Program, input: Option<String>) -> HttpBody {
    let (lines, receiver) = channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = lines.closed() => {}
            () = tell(program, input, &lines) => {}
        }
    });
    HttpBody::new(Channel::<Infallible>(receiver))
}

/// A program that runs. It is killed when its sender is dropped.
pub(super) struct Program {
    pub pid: u32,
    pub sender: AgentSender,
    pub receiver: AgentReceiver,
}

impl Program {
    /// Has the agent at the other end of `stream` start it.
    pub async fn start(stream: UnixStream, exec: Exec) -> Result<Self, AgentError> {
        let mut connection = AgentConnection::open(stream, Request::Exec(exec)).await?;
        let pid = match connection.answer().await? {
            AgentMessage::Started { pid } => pid,
            other => return Err(unexpected(&other)),
        };
        let (sender, receiver) = connection.into_split();
        Ok(Self { pid, sender, receiver })
    }
}

/// What comes from a program.
pub(super) enum Output {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// Nothing comes after it.
    Last(ExecEvent),
}

impl Output {
    /// Waits for what comes next. The waiting may be given up, and nothing is lost.
    pub async fn of(receiver: &mut AgentReceiver) -> Self {
        let failed = |problem| Self::Last(ExecEvent::Error { problem });
        match receiver.receive().await {
            Ok(Some(AgentMessage::Stdout(bytes))) => Self::Stdout(bytes),
            Ok(Some(AgentMessage::Stderr(bytes))) => Self::Stderr(bytes),
            Ok(Some(AgentMessage::Exited(exit))) => Self::Last(exit.into()),
            Ok(Some(AgentMessage::Failed(failure))) => failed(failure.into()),
            Ok(Some(other)) => failed(unexpected(&other).into()),
            Ok(None) => failed(AgentError::Gone.into()),
            Err(error) => failed(error.into()),
        }
    }
}

/// Gives a program all of its `input`. It may end without reading it, and say how.
pub(super) async fn feed(sender: &mut AgentSender, input: &str) {
    let fed = async {
        sender.send_data(input.as_bytes()).await?;
        sender.send(HostMessage::End).await
    };
    if let Err(error) = fed.await {
        tracing::debug!(%error, "a program did not take all of its input");
    }
}

type Lines = Sender<Result<Bytes, Infallible>>;

/// Sends what happens to `program` until it ends, or until nobody listens.
async fn tell(program: Program, input: Option<String>, lines: &Lines) {
    let Program { pid, mut sender, mut receiver } = program;
    // The program may wait for its output to be taken before it reads on: both at once.
    let feeding = async {
        if let Some(input) = input {
            feed(&mut sender, &input).await;
        }
        std::future::pending::<()>().await;
    };
    let telling = async {
        let (mut stdout, mut stderr) = (Text::default(), Text::default());
        let mut events = vec![ExecEvent::Started { pid }];
        let mut ended = false;
        loop {
            for event in events.drain(..) {
                if lines.send(Ok(event.line().into())).await.is_err() {
                    return;
                }
            }
            if ended {
                return;
            }
            match Output::of(&mut receiver).await {
                Output::Stdout(bytes) => events.extend(stdout.push(&bytes).map(ExecEvent::Stdout)),
                Output::Stderr(bytes) => events.extend(stderr.push(&bytes).map(ExecEvent::Stderr)),
                Output::Last(event) => {
                    events.extend(stdout.finish().map(ExecEvent::Stdout));
                    events.extend(stderr.finish().map(ExecEvent::Stderr));
                    events.push(event);
                    ended = true;
                }
            }
        }
    };
    tokio::select! {
        () = feeding => {}
        () = telling => {}
    }
}

#[cfg(test)]
pub(in crate::server) mod tests;
