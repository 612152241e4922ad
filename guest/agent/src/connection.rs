//! A connection of the host: a stream socket, vsock in a machine, Unix in tests.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{Shutdown, setsockopt, shutdown};
use nix::sys::time::{TimeVal, TimeValLike};
use tine_abi::agent::{self, AgentMessage, Failure, HostMessage};

use crate::failure::os;

/// A connection. Reading and writing a socket is reading and writing a file.
pub struct Connection(File);

impl Connection {
    /// A connection over the stream socket `socket`.
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket.into())
    }

    /// Waits for the host's next message. None when it has closed.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or brings what is no message.
    pub fn receive(&mut self) -> io::Result<Option<HostMessage>> {
        agent::receive(&mut self.0)
    }

    /// Sends the host a message.
    ///
    /// # Errors
    ///
    /// `Os` when the connection breaks.
    pub fn send(&mut self, message: &AgentMessage) -> Result<(), Failure> {
        agent::send(&mut self.0, message).map_err(broken)
    }

    /// Says that nothing more will be sent, and waits until the host has closed too, so has
    /// all that was: at most `patience`.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or the host takes its time.
    pub fn finish(&mut self, patience: Duration) -> io::Result<()> {
        shutdown(self.0.as_raw_fd(), Shutdown::Write)?;
        setsockopt(&self.0, ReceiveTimeout, &TimeVal::milliseconds(patience.as_millis() as i64))?;
        io::copy(&mut self.0, &mut io::sink()).map(drop)
    }

    /// Whether reading and writing wait. They do at first.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, which it has no reason to.
    pub fn set_blocking(&self, blocking: bool) -> io::Result<()> {
        set_blocking(&self.0, blocking)
    }

    /// The socket, to wait for and to read and write by hand.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether reading and writing `file` wait.
///
/// # Errors
///
/// When the kernel refuses, which it has no reason to.
pub fn set_blocking(file: &File, blocking: bool) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    let flags = if blocking { flags - OFlag::O_NONBLOCK } else { flags | OFlag::O_NONBLOCK };
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// The connection broke. Nobody will read this.
pub fn broken(error: io::Error) -> Failure {
    os("speaking with the host", error)
}
