//! A two-way channel of messages with descriptors: a `SOCK_SEQPACKET` pair.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair, sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

/// Longest message, bytes. Whatever may be longer goes as a file.
pub const MAX_BYTES: usize = 8 << 10;
/// Most descriptors of one message.
pub const MAX_FILES: usize = 16;

/// What can go wrong on a channel.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The socket failed.
    #[error("{0} a message failed")]
    Io(&'static str, #[source] io::Error),
    /// The other end is gone.
    #[error("the other end is gone")]
    Closed,
    /// A message is too long to be sent.
    #[error("a message of {0} bytes, and {MAX_BYTES} are the most")]
    TooLong(usize),
    /// What came is no message.
    #[error("the other end speaks nonsense: {0}")]
    Nonsense(String),
}

/// The descriptor of `event`, to wait for beside channels.
pub(crate) fn descriptor(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the event descriptor is open as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// A message, what came with it, and which process sent it.
#[derive(Debug)]
pub struct Packet<T> {
    /// What it says.
    pub message: T,
    /// Descriptors.
    pub files: Vec<OwnedFd>,
    /// The sender, as the kernel knows it, in this process's own PID namespace; none unless the
    /// channel [tells senders](Channel::tell_senders).
    pub sender: Option<u32>,
}

/// One end.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.socket
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Channel {
    /// Both ends of a new channel.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((one.into(), other.into()))
    }

    /// From now on every packet says who sent it.
    pub fn tell_senders(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_passcred(&self.socket, true)?)
    }

    /// Sends `message` with `files`. Waits while the other end does not read.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        files: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        self.send_with(message, files, SendFlags::NOSIGNAL)
    }

    /// The same, but fails with `WouldBlock` where it would wait.
    pub fn try_send<T: Serialize>(
        &self,
        message: &T,
        files: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        self.send_with(message, files, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    }

    fn send_with<T: Serialize>(
        &self,
        message: &T,
        files: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> Result<(), ChannelError> {
        let mut buffer = [0; MAX_BYTES];
        let bytes = match postcard::to_slice(message, &mut buffer) {
            Ok(bytes) => &*bytes,
            Err(_) => {
                let length = postcard::to_stdvec(message).map_or(0, |bytes| bytes.len());
                return Err(ChannelError::TooLong(length));
            }
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(ChannelError::TooLong(files.len()));
        }
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(error) => return Err(ChannelError::Io("sending", error.into())),
            }
        }
    }

    /// Waits for a message.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Packet<T>, ChannelError> {
        match self.receive_with(RecvFlags::empty())? {
            Some(packet) => Ok(packet),
            None => Err(ChannelError::Io("receiving", io::ErrorKind::WouldBlock.into())),
        }
    }

    /// The message that is there, if any.
    pub fn try_receive<T: DeserializeOwned>(&self) -> Result<Option<Packet<T>>, ChannelError> {
        self.receive_with(RecvFlags::DONTWAIT)
    }

    fn receive_with<T: DeserializeOwned>(
        &self,
        flags: RecvFlags,
    ) -> Result<Option<Packet<T>>, ChannelError> {
        let mut buffer = [0; MAX_BYTES];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            let slices = &mut [IoSliceMut::new(&mut buffer)];
            match recvmsg(&self.socket, slices, &mut control, flags) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(error) => return Err(ChannelError::Io("receiving", error.into())),
            }
        };
        let (mut files, mut sender) = (Vec::new(), None);
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(rights) => files.extend(rights),
                RecvAncillaryMessage::ScmCredentials(credentials) => {
                    sender = u32::try_from(credentials.pid.as_raw_nonzero().get()).ok();
                }
                _ => {}
            }
        }
        if received.bytes == 0 {
            return Err(ChannelError::Closed);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ChannelError::Nonsense("a message that is too long".into()));
        }
        let message = postcard::from_bytes(&buffer[..received.bytes])
            .map_err(|error| ChannelError::Nonsense(error.to_string()))?;
        Ok(Some(Packet { message, files, sender }))
    }
}
