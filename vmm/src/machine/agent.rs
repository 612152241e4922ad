//! The agent of a Linux guest, by its protocol ([`tine_abi::agent`]).

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, SystemTime};

use tine_abi::agent::{
    Adopt, AgentMessage, Failure, HostMessage, PORT, Request, VERSION, receive, send,
};

use super::{Identity, Machine, MachineError};
use crate::lock;

/// How long a clone may take to become another machine than its parent.
const ADOPT_LIMIT: Duration = Duration::from_secs(20);
/// How often the machine is looked at while it boots.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes for the guest's random number generator: twice the state of it.
const ENTROPY_BYTES: usize = 64;

/// A connection to the agent, for one request.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
}

impl Agent {
    /// Sends a message that belongs to the request.
    pub fn send(&mut self, message: &HostMessage) -> Result<(), MachineError> {
        send(&mut self.stream, message).map_err(broken("sending to"))
    }

    /// Waits for the next message; none when the agent has closed. A limit for each is set by
    /// [`set_limit`](Self::set_limit).
    pub fn receive(&mut self) -> Result<Option<AgentMessage>, MachineError> {
        receive(&mut self.stream).map_err(broken("hearing"))
    }

    /// Waits for each message this long at most; for ever when none.
    pub fn set_limit(&self, limit: Option<Duration>) -> Result<(), MachineError> {
        self.stream.set_read_timeout(limit).map_err(broken("waiting for"))
    }

    /// The stream of messages.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Waits for the answer to `action`, at most `limit`.
    fn done(mut self, action: &'static str, limit: Duration) -> Result<(), MachineError> {
        self.set_limit(Some(limit))?;
        match self.receive() {
            Ok(Some(AgentMessage::Done)) => Ok(()),
            Ok(Some(AgentMessage::Failed(failure))) => {
                Err(MachineError::AgentRefused { action, failure })
            }
            Ok(Some(_)) => Err(MachineError::Nonsense),
            Ok(None) => Err(broken("hearing")(io::ErrorKind::UnexpectedEof.into())),
            Err(MachineError::Agent { source, .. })
                if source.kind() == io::ErrorKind::WouldBlock =>
            {
                Err(MachineError::AgentSilent(limit))
            }
            Err(error) => Err(error),
        }
    }
}

fn broken(action: &'static str) -> impl FnOnce(io::Error) -> MachineError {
    move |source| MachineError::Agent { action, source }
}

impl Machine {
    /// Opens a stream to vsock port `port` of a Linux guest. When nobody listens there, it
    /// ends at once. It ends, too, when the machine is reset; a fork does not touch it, but the
    /// child has no part in it.
    pub fn connect(&self, port: u32) -> Result<UnixStream, MachineError> {
        self.alive()?;
        let vsock = self.board.vsock().ok_or(MachineError::NoAgent)?;
        vsock.connect(port).map_err(broken("connecting to"))
    }

    /// Asks the agent for something.
    pub fn agent(&self, request: Request) -> Result<Agent, MachineError> {
        let mut agent = Agent { stream: self.connect(PORT)? };
        agent.send(&HostMessage::Open { version: VERSION, request })?;
        Ok(agent)
    }

    /// Waits until the agent of a guest that boots is up, at most `limit`.
    ///
    /// # Errors
    /// When the guest ended or failed before, with the reason.
    pub fn wait_ready(&self, limit: Duration) -> Result<(), MachineError> {
        let begun = Instant::now();
        let Some(ready) = lock(&self.ready).take() else { return Err(MachineError::NoAgent) };
        let mut stream = loop {
            match ready.recv_timeout(LOOK) {
                Ok(stream) => break stream,
                Err(RecvTimeoutError::Timeout) if begun.elapsed() < limit => self.alive()?,
                Err(RecvTimeoutError::Timeout) => return Err(MachineError::AgentSilent(limit)),
                Err(RecvTimeoutError::Disconnected) => {
                    self.alive()?;
                    return Err(MachineError::AgentSilent(begun.elapsed()));
                }
            }
        };
        stream.set_read_timeout(Some(limit)).map_err(broken("waiting for"))?;
        match receive(&mut stream).map_err(broken("hearing"))? {
            Some(AgentMessage::Ready { version: VERSION }) => {}
            Some(AgentMessage::Ready { version }) => {
                let failure = Failure::Version(version);
                return Err(MachineError::AgentRefused { action: "be spoken with", failure });
            }
            _ => return Err(MachineError::Nonsense),
        }
        // It need not wait for its host to close first.
        stream.shutdown(Shutdown::Both).map_err(broken("leaving"))
    }

    /// Has the guest become another machine than the one it was forked from: its clock is
    /// set, its random numbers are new, and it calls itself `identity`. It has said so when
    /// this returns.
    pub(crate) fn adopt(&self, identity: &Identity) -> Result<(), MachineError> {
        let mut entropy = vec![0; ENTROPY_BYTES];
        let mut id = [0; 16];
        random(&mut entropy)?;
        random(&mut id)?;
        let machine_id = identity.machine_id.clone();
        let hostname = identity.hostname.clone();
        let machine_id = machine_id.unwrap_or_else(|| format!("{:032x}", u128::from_le_bytes(id)));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let adopt = Adopt {
            realtime_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            entropy,
            hostname,
            machine_id: Some(machine_id),
        };
        self.agent(Request::Adopt(adopt))?.done("become another machine", ADOPT_LIMIT)
    }

    /// Presses the power button: a Linux guest switches itself off in good order.
    pub fn press_power(&self) -> Result<(), MachineError> {
        self.alive()?;
        Ok(self.board.press_power()?)
    }
}

fn random(bytes: &mut [u8]) -> Result<(), MachineError> {
    getrandom::fill(bytes).map_err(|error| broken("drawing random numbers for")(error.into()))
}
