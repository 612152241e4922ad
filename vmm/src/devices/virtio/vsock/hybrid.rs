//! Unix sockets, through which other programs of the host reach the guest and are reached.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use socket2::{Domain, SockAddr, Socket, Type};
use vmm_sys_util::epoll::EventSet;

use super::watch::{Token, Watch};
use crate::devices::DeviceError;

/// Programs of the host that have not yet said where they want to go. When there are more,
/// the oldest has to go.
const MOST_GREETINGS: usize = 64;
/// Longest first line, bytes: `CONNECT 4294967295` and what ends it.
const LONGEST_LINE: usize = 19;
/// Programs that are let in before others have their turn.
const TURN: usize = 16;

/// A program of the host that has not yet said where it wants to go.
#[derive(Debug)]
struct Greeting {
    stream: UnixStream,
    line: Vec<u8>,
}

impl Greeting {
    /// Reads on, a byte at a time, for what follows the line is not for us. The port, when
    /// the line is complete; an error when it will never be right.
    fn read(&mut self) -> io::Result<Option<u32>> {
        let mut byte = [0];
        while self.line.len() < LONGEST_LINE {
            match self.stream.read(&mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte == *b"\n" => return self.port().map(Some),
                Ok(_) => self.line.extend(byte),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        self.port().map(Some)
    }

    fn port(&self) -> io::Result<u32> {
        let line = str::from_utf8(&self.line).ok();
        let port = line.and_then(|line| line.strip_prefix("CONNECT "));
        port.and_then(|port| port.parse().ok()).ok_or_else(|| {
            let line = self.line.escape_ascii();
            io::Error::other(format!("expected \"CONNECT <port>\", got \"{line}\""))
        })
    }
}

/// The Unix sockets of one machine.
#[derive(Debug)]
pub struct Hybrid {
    path: PathBuf,
    listener: UnixListener,
    token: Token,
    greetings: BTreeMap<Token, Greeting>,
}

impl Hybrid {
    /// Listens at `path`, which must not exist, and no longer does when this is dropped.
    pub fn new(path: PathBuf, watch: &mut Watch) -> Result<Self, DeviceError> {
        let failed = |source| DeviceError::Host {
            device: "vsock",
            operation: format!("listening at {}", path.display()),
            source,
        };
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let watched = listener
            .set_nonblocking(true)
            .and_then(|()| watch.add(&listener, EventSet::IN))
            .map_err(failed);
        match watched {
            Ok(token) => Ok(Self { path, listener, token, greetings: BTreeMap::new() }),
            Err(error) => {
                remove(&path);
                Err(error)
            }
        }
    }

    /// Something happened to what `token` names. A stream and the port of the guest that
    /// it wants, if that is known now.
    pub fn host_event(&mut self, watch: &mut Watch, token: Token) -> Option<(UnixStream, u32)> {
        if token == self.token {
            self.let_in(watch);
            return None;
        }
        let greeting = self.greetings.get_mut(&token)?;
        let port = match greeting.read() {
            Ok(None) => return None,
            Ok(Some(port)) => Some(port),
            Err(error) => {
                tracing::debug!(%error, "a program of the host asked for no port");
                None
            }
        };
        let Greeting { stream, .. } = self.greetings.remove(&token)?;
        watch.remove(&stream);
        Some((stream, port?))
    }

    fn let_in(&mut self, watch: &mut Watch) {
        for _ in 0..TURN {
            match self.greet(watch) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It is tried again when the next program comes.
                Err(error) => return tracing::warn!(%error, "a program of the host waits"),
            }
        }
        if let Err(error) = watch.change(&self.listener, self.token, EventSet::IN) {
            tracing::warn!(%error, "programs of the host wait");
        }
    }

    fn greet(&mut self, watch: &mut Watch) -> io::Result<()> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        let token = watch.add(&stream, EventSet::IN | EventSet::READ_HANG_UP)?;
        self.greetings.insert(token, Greeting { stream, line: Vec::new() });
        if self.greetings.len() > MOST_GREETINGS
            && let Some((_, oldest)) = self.greetings.pop_first()
        {
            watch.remove(&oldest.stream);
        }
        Ok(())
    }

    /// Connects to the Unix socket for `port` of the host, without waiting.
    pub fn answer(&self, port: u32) -> Option<UnixStream> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // The standard library's connect would wait where the backlog is full.
            socket.set_nonblocking(true)?;
            socket.connect(&SockAddr::unix(&path)?)?;
            Ok(UnixStream::from(OwnedFd::from(socket)))
        };
        let refused = |error: &io::Error| tracing::debug!(port, %error, "nobody listens");
        connect().inspect_err(refused).ok()
    }
}

fn remove(path: &std::path::Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a socket's file was left behind");
    }
}

impl Drop for Hybrid {
    fn drop(&mut self) {
        remove(&self.path);
    }
}
