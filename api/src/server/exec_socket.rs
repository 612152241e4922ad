//! Programs in a guest over a WebSocket, both ways at once.
//!
//! The client's first message is the request, as text. After it, binary messages are standard
//! input, and text is a [`Control`]. The daemon sends output as binary messages, whose first
//! byte says which ([`STDOUT`], [`STDERR`]), and other events as text.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use axum::Error;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tine_abi::agent::HostMessage;
use tokio::time::MissedTickBehavior;

use super::App;
use super::body::Id;
use super::exec::{Output, Program, feed};
use super::trace::Notes;
use crate::agent::{AgentError, AgentReceiver, AgentSender};
use crate::model::{Control, ExecEvent, ExecRequest, parse};
use crate::problem::Problem;

/// First byte of a message of standard output.
const STDOUT: u8 = 1;
/// First byte of a message of standard error.
const STDERR: u8 = 2;
/// How long the client may take to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether the client is still there.
const PING_PERIOD: Duration = Duration::from_secs(5);
/// How long it may take to close when the program has ended.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);
/// Longest message of a client, bytes.
const MAX_CLIENT_MESSAGE: usize = 1 << 20;

type ToClient = SplitSink<WebSocket, Message>;
type FromClient = SplitStream<WebSocket>;

/// Run a program in a Linux guest over a WebSocket.
///
/// The first text message is the request. Then binary messages are standard input, and text
/// messages `{"type":"resize","rows","columns"}`, `{"type":"signal","signal"}` or
/// `{"type":"end"}`. The daemon sends binary messages of a byte, 1 for standard output or 2 for
/// standard error, and the output; and the other events as text. Closing kills the program.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/exec", params(("id" = String, Path)), responses(
    (status = 101), (status = 400, body = Problem), (status = 404, body = Problem),
    (status = 409, body = Problem)))]
pub(super) async fn attach(
    State(app): State<App>,
    Id(id): Id,
    notes: Notes,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|refused| Problem::new(refused.status(), refused.body_text()))?;
    let stream = app.connect(id).await?;
    let limited = upgrade.max_message_size(MAX_CLIENT_MESSAGE).max_frame_size(MAX_CLIENT_MESSAGE);
    Ok(limited.on_upgrade(move |socket| serve(socket, stream, notes)))
}

async fn serve(socket: WebSocket, stream: UnixStream, notes: Notes) {
    let (mut to, mut from) = socket.split();
    let last = match converse(&mut to, &mut from, stream, notes).await {
        Ok(last) => last,
        Err(End::Problem(problem)) => ExecEvent::Error { problem },
        Err(End::Gone) => return,
    };
    if let Err(error) = leave(to, from, &last).await {
        tracing::debug!(%error, "a client left before its program's end was told");
    }
}

/// Tells the last event, and closes. What the client still sends is read until it has closed,
/// too: else its host would forget what it has not read yet.
async fn leave(mut to: ToClient, mut from: FromClient, last: &ExecEvent) -> Result<(), Error> {
    to.send(Message::text(last.line())).await?;
    to.close().await?;
    let closed = async { while let Some(Ok(_)) = from.next().await {} };
    if tokio::time::timeout(LEAVE_LIMIT, closed).await.is_err() {
        tracing::debug!("a client does not close");
    }
    Ok(())
}

/// Why a conversation ended before the program.
enum End {
    /// The client is gone.
    Gone,
    /// It, or the agent, did something wrong.
    Problem(Problem),
}

impl<P: Into<Problem>> From<P> for End {
    fn from(problem: P) -> Self {
        Self::Problem(problem.into())
    }
}

/// Runs what the client asks for; the program's last event.
async fn converse(
    to: &mut ToClient,
    from: &mut FromClient,
    stream: UnixStream,
    notes: Notes,
) -> Result<ExecEvent, End> {
    let request = tokio::time::timeout(REQUEST_LIMIT, request(from)).await;
    let request = request
        .unwrap_or_else(|_| Err(Problem::malformed("no request came as first message").into()))?;
    notes.program(&request.argv);
    notes.write();
    let Program { pid, mut sender, mut receiver } =
        Program::start(stream, request.program()?).await?;
    tell(to, &ExecEvent::Started { pid }).await?;
    // The program may wait for its output to be taken before it reads on: both at once.
    tokio::select! {
        end = hear(from, &mut sender, &request) => Err(end),
        last = pass_output(&mut receiver, to) => last,
    }
}

/// The client's first message.
async fn request(from: &mut FromClient) -> Result<ExecRequest, End> {
    loop {
        match from.next().await {
            Some(Ok(Message::Text(text))) => return Ok(parse(text.as_bytes())?),
            Some(Ok(Message::Binary(_))) => {
                return Err(Problem::malformed("the first message is the request, as text").into());
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(End::Gone),
        }
    }
}

/// Gives the program what the client sends, until the client goes.
async fn hear(from: &mut FromClient, sender: &mut AgentSender, request: &ExecRequest) -> End {
    if let Some(input) = &request.stdin {
        feed(sender, input).await;
    }
    loop {
        let message = match from.next().await {
            Some(Ok(Message::Binary(bytes))) if request.interactive => {
                pass_on(sender.send_data(&bytes).await);
                continue;
            }
            Some(Ok(Message::Binary(_))) => {
                let detail = "input was sent to a program that is not interactive";
                return Problem::value("interactive", detail).into();
            }
            Some(Ok(Message::Text(text))) => match control(text.as_bytes()) {
                Ok(message) => message,
                Err(problem) => return problem.into(),
            },
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Close(_)) | Err(_)) | None => return End::Gone,
        };
        pass_on(sender.send(message).await);
    }
}

/// An agent that takes no more has its last word to say, for which the client waits.
fn pass_on(sent: Result<(), AgentError>) {
    if let Err(error) = sent {
        tracing::debug!(%error, "a program has ended before its input");
    }
}

fn control(text: &[u8]) -> Result<HostMessage, Problem> {
    Ok(match parse::<Control>(text)?.check()? {
        Control::Resize(size) => HostMessage::Resize(size.into()),
        Control::Signal { signal } => HostMessage::Signal(signal),
        Control::End => HostMessage::End,
    })
}

/// Sends the program's output until its last event.
///
/// A client whose input the program does not read is not read from, so its going is only seen
/// when something is sent to it: it is pinged.
async fn pass_output(receiver: &mut AgentReceiver, to: &mut ToClient) -> Result<ExecEvent, End> {
    let mut pings = tokio::time::interval(PING_PERIOD);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let output = tokio::select! {
            output = Output::of(receiver) => output,
            _ = pings.tick() => {
                to.send(Message::Ping(Bytes::new())).await.map_err(|_| End::Gone)?;
                continue;
            }
        };
        let (stream, bytes) = match output {
            Output::Stdout(bytes) => (STDOUT, bytes),
            Output::Stderr(bytes) => (STDERR, bytes),
            Output::Last(event) => return Ok(event),
        };
        let mut message = Vec::with_capacity(1 + bytes.len());
        message.push(stream);
        message.extend(bytes);
        to.send(Message::binary(message)).await.map_err(|_| End::Gone)?;
    }
}

async fn tell(to: &mut ToClient, event: &ExecEvent) -> Result<(), End> {
    to.send(Message::text(event.line())).await.map_err(|_| End::Gone)
}

#[cfg(test)]
mod tests;
