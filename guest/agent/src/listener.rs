//! Where the host connects, and the one time that the agent connects to it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, connect, getpeername,
    listen, socket,
};
use tine_abi::agent::{self, AgentMessage, PORT, READY_PORT, VERSION};

use crate::connection::Connection;

/// The host's context id (virtio 1.2, 5.10.4).
const HOST: u32 = 2;

/// A socket that waits for connections.
pub struct Listener {
    socket: OwnedFd,
    vsock: bool,
}

impl Listener {
    /// Listens on [`PORT`].
    ///
    /// # Errors
    ///
    /// When the kernel has no vsock, or somebody has the port.
    pub fn vsock() -> io::Result<Self> {
        let socket = vsock_socket()?;
        bind(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, PORT))?;
        listen(&socket, Backlog::MAXCONN)?;
        Ok(Self { socket, vsock: true })
    }

    /// Listens on a Unix socket, which must not exist.
    ///
    /// # Errors
    ///
    /// When it does, or its directory doesn't.
    pub fn unix(path: &Path) -> io::Result<Self> {
        Ok(Self { socket: UnixListener::bind(path)?.into(), vsock: false })
    }

    /// Waits for the next connection. None when it is not one of the host: a user of the
    /// guest may get here through the loopback of vsock, and would be root.
    ///
    /// # Errors
    ///
    /// When there is no descriptor or memory for it.
    pub fn accept(&self) -> io::Result<Option<Connection>> {
        let accepted = accept4(self.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC);
        if accepted == Err(Errno::EINTR) {
            return Ok(None);
        }
        // SAFETY: accept4 made this descriptor just now, and nobody else has it.
        let accepted = unsafe { OwnedFd::from_raw_fd(accepted?) };
        if self.vsock && getpeername::<VsockAddr>(accepted.as_raw_fd())?.cid() != HOST {
            return Ok(None);
        }
        Ok(Some(Connection::new(accepted)))
    }
}

/// Tells the host that the agent is up.
///
/// # Errors
///
/// When nobody there listens.
pub fn ready() -> io::Result<()> {
    let socket = vsock_socket()?;
    connect(socket.as_raw_fd(), &VsockAddr::new(HOST, READY_PORT))?;
    agent::send(&mut std::fs::File::from(socket), &AgentMessage::Ready { version: VERSION })
}

fn vsock_socket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}
