//! The descriptors that the device waits for.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::devices::DeviceError;

/// Names something that is watched. Never used twice, so an event that comes late finds
/// nobody instead of somebody else.
pub type Token = u64;

/// An epoll instance that tells of changes, not of states: what the guest leaves unread
/// wakes nobody again and again.
#[derive(Debug)]
pub struct Watch {
    epoll: Epoll,
    next: Token,
}

impl Watch {
    /// One that watches nothing.
    pub fn new() -> Result<Self, DeviceError> {
        let epoll = Epoll::new().map_err(|source| DeviceError::Host {
            device: "vsock",
            operation: "making an epoll instance".into(),
            source,
        })?;
        Ok(Self { epoll, next: 0 })
    }

    /// Watches `source` for `events` beside errors and hang-ups.
    pub fn add(&mut self, source: &impl AsRawFd, events: EventSet) -> io::Result<Token> {
        let token = self.next;
        self.control(ControlOperation::Add, source, token, events)?;
        self.next += 1;
        Ok(token)
    }

    /// Watches `source` for other events; tells at once if there is one.
    pub fn change(&self, source: &impl AsRawFd, token: Token, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Modify, source, token, events)
    }

    /// Watches `source` no more.
    pub fn remove(&self, source: &impl AsRawFd) {
        let removed = self.control(ControlOperation::Delete, source, 0, EventSet::empty());
        if let Err(error) = removed {
            tracing::warn!(%error, "a descriptor of vsock was not watched");
        }
    }

    fn control(
        &self,
        operation: ControlOperation,
        source: &impl AsRawFd,
        token: Token,
        events: EventSet,
    ) -> io::Result<()> {
        let event = EpollEvent::new(events | EventSet::EDGE_TRIGGERED, token);
        self.epoll.ctl(operation, source.as_raw_fd(), event)
    }

    /// Puts what happened since into `events`; never waits. Returns how many.
    pub fn poll(&self, events: &mut [EpollEvent]) -> usize {
        match self.epoll.wait(0, events) {
            Ok(count) => count,
            Err(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    tracing::warn!(%error, "vsock can't see what happens on the host");
                }
                0
            }
        }
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}
