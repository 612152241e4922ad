//! A conversation with the agent of a Linux guest, without blocking a thread.
//!
//! What is between the two sides is bounded: a sender waits when the other does not read, and
//! a receiver holds one message at most.

use std::io;
use std::os::unix::net::UnixStream as BlockingStream;
use std::time::Duration;

use axum::http::StatusCode;
use thiserror::Error;
use tine_abi::agent::{
    AgentMessage, CHUNK, Failure, HostMessage, Request, VERSION, decode, encode, message_length,
};
use tine_cell::fault::with_causes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::problem::Problem;

/// How long the agent may take to say the first word to something that it begins at once.
pub const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to finish what it answers only when done.
pub const DONE_LIMIT: Duration = Duration::from_secs(120);
/// Bytes of a frame before its message.
const HEAD: usize = 4;

/// What can go wrong between the host and an agent.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The connection can't be used.
    #[error("{action} the guest's agent failed")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A message is longer than the protocol allows.
    #[error("the request is too long for the guest's agent")]
    TooLong(#[source] io::Error),
    /// It did not answer in time.
    #[error("no answer of the guest's agent within {0:?}; is the guest's kernel up?")]
    Silent(Duration),
    /// It closed where an answer should be.
    #[error(
        "the guest's agent is gone: it never ran, it died, or the sandbox was reset; \
         its console may say more"
    )]
    Gone,
    /// It sent what can't be there.
    #[error("the guest's agent answered with nonsense: {0}")]
    Nonsense(String),
    /// It refused.
    #[error("{0}")]
    Refused(Failure),
}

impl From<AgentError> for Problem {
    fn from(error: AgentError) -> Self {
        let detail = with_causes(&error);
        let status = match error {
            AgentError::Refused(failure) => return failure.into(),
            AgentError::Silent(_) => StatusCode::GATEWAY_TIMEOUT,
            AgentError::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            AgentError::Io { .. } | AgentError::Gone | AgentError::Nonsense(_) => {
                StatusCode::BAD_GATEWAY
            }
        };
        Self::new(status, detail)
    }
}

fn broken(action: &'static str) -> impl FnOnce(io::Error) -> AgentError {
    move |source| AgentError::Io { action, source }
}

/// A connection to the agent, for one request. The agent drops the request when it is dropped.
#[derive(Debug)]
pub struct AgentConnection {
    sender: AgentSender,
    receiver: AgentReceiver,
}

impl AgentConnection {
    /// Asks the agent at the other end of `stream` for something. Within a runtime only.
    pub async fn open(stream: BlockingStream, request: Request) -> Result<Self, AgentError> {
        stream.set_nonblocking(true).map_err(broken("connecting to"))?;
        let stream = UnixStream::from_std(stream).map_err(broken("connecting to"))?;
        let (from, to) = stream.into_split();
        let mut sender = AgentSender { to };
        let open = HostMessage::Open { version: VERSION, request };
        let sent = timeout(FIRST_ANSWER_LIMIT, sender.send(open)).await;
        sent.map_err(|_| AgentError::Silent(FIRST_ANSWER_LIMIT))??;
        Ok(Self { sender, receiver: AgentReceiver { from, frame: Vec::new() } })
    }

    /// Sends a message that belongs to the request.
    pub async fn send(&mut self, message: HostMessage) -> Result<(), AgentError> {
        self.sender.send(message).await
    }

    /// Waits for the next message; none when the agent has closed.
    pub async fn receive(&mut self) -> Result<Option<AgentMessage>, AgentError> {
        self.receiver.receive().await
    }

    /// Waits for the first answer, at most [`FIRST_ANSWER_LIMIT`]; it is no refusal.
    pub async fn answer(&mut self) -> Result<AgentMessage, AgentError> {
        self.receiver.answer(FIRST_ANSWER_LIMIT).await
    }

    /// Waits until it is done, at most [`DONE_LIMIT`].
    pub async fn done(&mut self) -> Result<(), AgentError> {
        self.receiver.done().await
    }

    /// Its two ways, to be used at once. The agent drops the request when both are dropped, or
    /// the sender alone.
    pub fn into_split(self) -> (AgentSender, AgentReceiver) {
        (self.sender, self.receiver)
    }
}

/// The way to the agent.
#[derive(Debug)]
pub struct AgentSender {
    to: OwnedWriteHalf,
}

impl AgentSender {
    /// Sends a message, and waits while the agent does not read. When the waiting is given
    /// up, the connection can't be used any more.
    pub async fn send(&mut self, message: HostMessage) -> Result<(), AgentError> {
        let frame = encode(&message).map_err(AgentError::TooLong)?;
        self.to.write_all(&frame).await.map_err(broken("sending to"))
    }

    /// Sends `bytes` in messages of the size that suits both sides.
    pub async fn send_data(&mut self, bytes: &[u8]) -> Result<(), AgentError> {
        for chunk in bytes.chunks(CHUNK) {
            self.send(HostMessage::Data(chunk.to_vec())).await?;
        }
        Ok(())
    }
}

/// The way from the agent.
#[derive(Debug)]
pub struct AgentReceiver {
    from: OwnedReadHalf,
    /// As much of the next frame as has come.
    frame: Vec<u8>,
}

impl AgentReceiver {
    /// Waits for the next message; none when the agent has closed between two of them. The
    /// waiting may be given up, and nothing is lost.
    pub async fn receive(&mut self) -> Result<Option<AgentMessage>, AgentError> {
        let nonsense = |error: io::Error| AgentError::Nonsense(error.to_string());
        loop {
            let whole = match self.frame.first_chunk::<HEAD>() {
                Some(announced) => HEAD + message_length(*announced).map_err(nonsense)?,
                None => HEAD,
            };
            if self.frame.len() == whole && whole > HEAD {
                let message = decode(&self.frame[HEAD..]).map_err(nonsense)?;
                self.frame.clear();
                return Ok(Some(message));
            }
            // Never past the frame: this is all that is ever held.
            let missing = whole.saturating_sub(self.frame.len());
            let mut rest = (&mut self.from).take(missing as u64);
            match rest.read_buf(&mut self.frame).await.map_err(broken("hearing"))? {
                0 if self.frame.is_empty() => return Ok(None),
                0 => return Err(AgentError::Nonsense("half a message".to_owned())),
                _ => {}
            }
        }
    }

    /// Waits for an answer, at most `limit`; it is no refusal.
    pub async fn answer(&mut self, limit: Duration) -> Result<AgentMessage, AgentError> {
        match timeout(limit, self.receive()).await {
            Err(_) => Err(AgentError::Silent(limit)),
            Ok(Ok(Some(AgentMessage::Failed(failure)))) => Err(AgentError::Refused(failure)),
            Ok(Ok(Some(message))) => Ok(message),
            Ok(Ok(None)) => Err(AgentError::Gone),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Waits until it is done, at most [`DONE_LIMIT`].
    pub async fn done(&mut self) -> Result<(), AgentError> {
        match self.answer(DONE_LIMIT).await? {
            AgentMessage::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

/// The error of a message that has no place where it came.
pub fn unexpected(message: &AgentMessage) -> AgentError {
    let name = match message {
        AgentMessage::Ready { .. } => "Ready",
        AgentMessage::Started { .. } => "Started",
        AgentMessage::Stdout(_) => "Stdout",
        AgentMessage::Stderr(_) => "Stderr",
        AgentMessage::Exited(_) => "Exited",
        AgentMessage::Data(_) => "Data",
        AgentMessage::Entries(_) => "Entries",
        AgentMessage::End => "End",
        AgentMessage::Done => "Done",
        AgentMessage::Failed(_) => "Failed",
    };
    AgentError::Nonsense(format!("{name} has no place here"))
}

#[cfg(test)]
mod tests;
