//! What goes from the guest to one stream of the host.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, VolatileMemoryError, VolatileSlice, WriteVolatile};

use super::span::Span;

/// A non-blocking stream, and the bytes that it did not take yet. Whoever fills it bounds
/// them, by credit.
#[derive(Debug)]
pub struct Outlet {
    socket: UnixStream,
    backlog: VecDeque<u8>,
}

impl Outlet {
    /// An outlet to `socket`, which must be non-blocking.
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, backlog: VecDeque::new() }
    }

    /// Its stream.
    pub fn socket(&mut self) -> &mut UnixStream {
        &mut self.socket
    }

    /// Whether bytes wait for the stream to take them.
    pub fn waits(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Puts `data` out. Returns how much the stream took; the rest waits.
    ///
    /// # Errors
    /// When the host takes nothing any more; then all that waits is lost.
    pub fn put(&mut self, data: &Span<'_>) -> io::Result<usize> {
        let mut taken = 0;
        for piece in data.pieces() {
            let now = if self.waits() { 0 } else { self.write(piece)? };
            taken += now;
            if now < piece.len() {
                self.keep(piece, now)?;
            }
        }
        Ok(taken)
    }

    fn write(&mut self, piece: &VolatileSlice<'_>) -> io::Result<usize> {
        loop {
            match self.socket.write_volatile(piece).map_err(io_error) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                result => return result,
            }
        }
    }

    /// Keeps what lies from `offset` of `piece`.
    fn keep(&mut self, piece: &VolatileSlice<'_>, offset: usize) -> io::Result<()> {
        let mut copy = vec![0; piece.len() - offset];
        piece.read_slice(&mut copy, offset).map_err(io_error)?;
        self.backlog.extend(copy);
        Ok(())
    }

    /// Offers the stream what waits. Returns how much it took.
    ///
    /// # Errors
    /// When the host takes nothing any more; then all that waits is lost.
    pub fn flush(&mut self) -> io::Result<usize> {
        let mut taken = 0;
        while self.waits() {
            match self.socket.write(self.backlog.as_slices().0) {
                Ok(bytes) => {
                    self.backlog.drain(..bytes);
                    taken += bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(taken),
                Err(error) => return Err(error),
            }
        }
        // Most streams never wait: those that once did give their memory back.
        self.backlog = VecDeque::new();
        Ok(taken)
    }

    /// Forgets what waits.
    pub fn discard(&mut self) {
        self.backlog = VecDeque::new();
    }

    /// Shuts one direction of the stream, or both. That it is shut already is no failure.
    pub fn shut(&self, how: Shutdown) {
        if let Err(error) = self.socket.shutdown(how) {
            tracing::trace!(%error, ?how, "stream was shut already");
        }
    }
}

impl AsRawFd for Outlet {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The error of the system in one of guest memory.
pub fn io_error(error: VolatileMemoryError) -> io::Error {
    match error {
        VolatileMemoryError::IOError(error) => error,
        other => io::Error::other(other),
    }
}
