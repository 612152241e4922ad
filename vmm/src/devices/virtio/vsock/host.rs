//! The host's end of the device.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::muxer::MOST_CONNECTIONS;
use crate::devices::DeviceError;
use crate::lock;

/// Streams that wait for one listener to take them; more are refused, as by `listen(2)`.
const MOST_UNTAKEN: usize = 128;

/// Who listens at the host's ports; none when the device is gone.
type Listeners = Mutex<Option<HashMap<u32, SyncSender<UnixStream>>>>;

/// The host's end of a vsock device: cheap to clone, works from any thread.
#[derive(Clone, Debug)]
pub struct VsockHost {
    calls: SyncSender<Call>,
    wake: Arc<EventFd>,
    listeners: Arc<Listeners>,
}

/// The host wants a connection.
#[derive(Debug)]
pub struct Call {
    /// To this port of the guest.
    pub port: u32,
    /// The device's end, non-blocking.
    pub socket: UnixStream,
}

/// The device's side of [`VsockHost`]. Its descriptor tells of each call by an edge; it is
/// never read.
#[derive(Debug)]
pub struct Desk {
    calls: Receiver<Call>,
    wake: Arc<EventFd>,
    listeners: Arc<Listeners>,
}

/// Two ends of a stream: the host's, and the device's, which is non-blocking.
fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (host, device) = UnixStream::pair()?;
    device.set_nonblocking(true)?;
    Ok((host, device))
}

/// A device's side and a host's end of it.
pub fn open() -> Result<(Desk, VsockHost), DeviceError> {
    let wake = EventFd::new(EFD_NONBLOCK).map_err(|source| DeviceError::Host {
        device: "vsock",
        operation: "making an event descriptor".into(),
        source,
    })?;
    let (wake, listeners) = (Arc::new(wake), Arc::new(Mutex::new(Some(HashMap::new()))));
    let (caller, calls) = mpsc::sync_channel(MOST_CONNECTIONS);
    let host =
        VsockHost { calls: caller, wake: Arc::clone(&wake), listeners: Arc::clone(&listeners) };
    Ok((Desk { calls, wake, listeners }, host))
}

impl VsockHost {
    /// Opens a stream to `port` of the guest. Returns at once: when the guest refuses, or
    /// the connection ends, as by a fork or a reset, reading gives end of file or
    /// `ECONNRESET`. A guest that is not up yet is asked when it is.
    ///
    /// # Errors
    /// When there are no descriptors left; `WouldBlock` when more calls wait than there may
    /// be connections; `NotConnected` when the machine is gone.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let (host, device) = pair()?;
        self.calls.try_send(Call { port, socket: device }).map_err(|error| match error {
            TrySendError::Full(_) => io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("{MOST_CONNECTIONS} connections wait for the device already"),
            ),
            TrySendError::Disconnected(_) => {
                io::Error::new(io::ErrorKind::NotConnected, "the machine is gone")
            }
        })?;
        self.wake.write(1)?;
        Ok(host)
    }

    /// Streams that the guest opens to `port` of the host from now on go to the receiver,
    /// and no more to an earlier one; dropping it ends that. When the machine is gone, so
    /// is the other end of the receiver.
    pub fn listen(&self, port: u32) -> Receiver<UnixStream> {
        let (sender, receiver) = mpsc::sync_channel(MOST_UNTAKEN);
        if let Some(listeners) = lock(&self.listeners).as_mut() {
            listeners.insert(port, sender);
        }
        receiver
    }
}

/// How a port of the host answers.
#[derive(Debug)]
pub enum Answer {
    /// With this stream.
    Stream(UnixStream),
    /// Somebody listens, but can't take a stream now.
    Busy,
    /// Nobody listens.
    Nobody,
}

impl Desk {
    /// The next connection that the host wants.
    pub fn call(&self) -> Option<Call> {
        self.calls.try_recv().ok()
    }

    /// Gives the listener at `port` a stream, whose other end is returned.
    pub fn answer(&self, port: u32) -> Answer {
        let mut guard = lock(&self.listeners);
        let Some(listeners) = guard.as_mut() else { return Answer::Nobody };
        let Some(listener) = listeners.get(&port) else { return Answer::Nobody };
        let (host, device) = match pair() {
            Ok(ends) => ends,
            Err(error) => {
                tracing::warn!(port, %error, "no stream for a connection of the guest");
                return Answer::Busy;
            }
        };
        match listener.try_send(host) {
            Ok(()) => Answer::Stream(device),
            Err(TrySendError::Full(_)) => Answer::Busy,
            Err(TrySendError::Disconnected(_)) => {
                listeners.remove(&port);
                Answer::Nobody
            }
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        *lock(&self.listeners) = None;
    }
}

impl AsRawFd for Desk {
    fn as_raw_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}
