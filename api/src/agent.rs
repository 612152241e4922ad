//! The agent of a Linux guest, for asynchronous callers: a connection for one request, by the
//! protocol in [`tine_abi::agent`].

use std::io;
use std::time::Duration;

use thiserror::Error;
use tine_abi::agent::{
    AgentMessage, Failure, HostMessage, PORT, Request, VERSION, decode, encode, message_length,
};
use tine_vmm::{Machine, MachineError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// How long the agent may take to say anything at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// What can go wrong between this process and an agent.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The machine has no agent, or is gone.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The connection broke.
    #[error("the connection to the guest's agent broke")]
    Broken(#[source] io::Error),
    /// The agent said nothing.
    #[error("the guest's agent does not answer within {PATIENCE:?}; is the guest busy or dead?")]
    Silent,
    /// The agent closed in the middle.
    #[error("the guest's agent closed the connection; the guest was reset, or has ended")]
    Closed,
    /// The agent said what does not belong there.
    #[error("the guest's agent answered what makes no sense here")]
    Nonsense,
    /// The agent can't do it.
    #[error("{0}")]
    Refused(Failure),
}

/// A connection to the agent, for one request.
#[derive(Debug)]
pub struct AgentConnection {
    receiver: AgentReceiver,
    sender: AgentSender,
}

/// The half that is heard.
#[derive(Debug)]
pub struct AgentReceiver {
    stream: OwnedReadHalf,
    /// What was read and is no whole message yet.
    pending: Vec<u8>,
}

/// The half that is spoken to.
#[derive(Debug)]
pub struct AgentSender {
    stream: OwnedWriteHalf,
}

impl AgentConnection {
    /// Asks the agent of `machine` for something.
    pub async fn open(machine: &Machine, request: Request) -> Result<Self, AgentError> {
        let stream = machine.connect(PORT)?;
        stream.set_nonblocking(true).map_err(AgentError::Broken)?;
        let stream = UnixStream::from_std(stream).map_err(AgentError::Broken)?;
        Self::over(stream, request).await
    }

    /// The same over a stream that exists.
    pub async fn over(stream: UnixStream, request: Request) -> Result<Self, AgentError> {
        let (reader, writer) = stream.into_split();
        let receiver = AgentReceiver { stream: reader, pending: Vec::new() };
        let mut connection = Self { receiver, sender: AgentSender { stream: writer } };
        connection.send(&HostMessage::Open { version: VERSION, request }).await?;
        Ok(connection)
    }

    /// Sends a message that belongs to the request.
    pub async fn send(&mut self, message: &HostMessage) -> Result<(), AgentError> {
        self.sender.send(message).await
    }

    /// The next message; an error when the agent closes before its answer.
    pub async fn receive(&mut self) -> Result<AgentMessage, AgentError> {
        self.receiver.receive().await
    }

    /// The first message, which must come soon; a failure is an error.
    pub async fn first(&mut self) -> Result<AgentMessage, AgentError> {
        let first = tokio::time::timeout(PATIENCE, self.receive());
        match first.await.map_err(|_| AgentError::Silent)?? {
            AgentMessage::Failed(failure) => Err(AgentError::Refused(failure)),
            message => Ok(message),
        }
    }

    /// Waits until the request is done, which is all its answer says.
    pub async fn done(mut self) -> Result<(), AgentError> {
        match self.first().await? {
            AgentMessage::Done => Ok(()),
            _ => Err(AgentError::Nonsense),
        }
    }

    /// Both halves, for tasks of their own.
    pub fn split(self) -> (AgentSender, AgentReceiver) {
        (self.sender, self.receiver)
    }
}

impl AgentSender {
    /// Sends a message.
    pub async fn send(&mut self, message: &HostMessage) -> Result<(), AgentError> {
        let frame = encode(message).map_err(AgentError::Broken)?;
        self.stream.write_all(&frame).await.map_err(AgentError::Broken)
    }
}

impl AgentReceiver {
    /// The next message. Nothing is lost when it is given up before it has come.
    pub async fn receive(&mut self) -> Result<AgentMessage, AgentError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            let read = self.stream.read_buf(&mut self.pending).await;
            if read.map_err(AgentError::Broken)? == 0 {
                return Err(AgentError::Closed);
            }
        }
    }

    /// A whole message of what is pending.
    fn take(&mut self) -> Result<Option<AgentMessage>, AgentError> {
        let Some(length) = self.pending.first_chunk::<4>() else { return Ok(None) };
        let end = 4 + message_length(*length).map_err(AgentError::Broken)?;
        if self.pending.len() < end {
            return Ok(None);
        }
        let message = decode(&self.pending[4..end]).map_err(AgentError::Broken)?;
        self.pending.drain(..end);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tine_abi::agent::{receive, send};

    /// An agent that answers each request with `answers`, in pieces of `piece` bytes.
    fn agent(answers: Vec<AgentMessage>, piece: usize) -> UnixStream {
        let (here, mut there) = std::os::unix::net::UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let opened: Option<HostMessage> = receive(&mut there).unwrap();
            assert!(matches!(opened, Some(HostMessage::Open { version: VERSION, .. })));
            let mut wire = Vec::new();
            answers.iter().for_each(|answer| send(&mut wire, answer).unwrap());
            for piece in wire.chunks(piece) {
                std::io::Write::write_all(&mut there, piece).unwrap();
            }
        });
        here.set_nonblocking(true).unwrap();
        UnixStream::from_std(here).unwrap()
    }

    #[tokio::test]
    async fn messages_come_whole_however_they_are_cut() {
        let answers = vec![
            AgentMessage::Started { pid: 7 },
            AgentMessage::Stdout(vec![1; 1000]),
            AgentMessage::Done,
        ];
        for piece in [1, 3, 1000, 10_000] {
            let stream = agent(answers.clone(), piece);
            let mut connection = AgentConnection::over(stream, Request::Ping).await.unwrap();
            for answer in &answers {
                assert_eq!(connection.receive().await.unwrap(), *answer);
            }
            assert!(matches!(connection.receive().await, Err(AgentError::Closed)));
        }
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_and_nonsense_too() {
        let failed = AgentMessage::Failed(Failure::NotFound("/x".into()));
        let connection = AgentConnection::over(agent(vec![failed], 100), Request::Ping).await;
        assert!(matches!(connection.unwrap().done().await, Err(AgentError::Refused(_))));
        let stream = agent(vec![AgentMessage::End], 100);
        let connection = AgentConnection::over(stream, Request::Ping).await.unwrap();
        assert!(matches!(connection.done().await, Err(AgentError::Nonsense)));
    }
}
