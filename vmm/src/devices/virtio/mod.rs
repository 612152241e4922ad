//! Virtio devices (Virtual I/O Device specification 1.2), over the MMIO transport.
//!
//! A device is what stands behind the queues: it implements [`VirtioDevice`] and knows
//! nothing of registers, interrupts and threads. [`Rings`] are its queues and the guest's
//! memory; a driver that breaks the rules of the ring makes the device [`Broken`] until the
//! driver resets it, and never more than that.

pub mod balloon;
pub mod block;
pub mod entropy;
pub mod mmio;
pub mod rings;
#[cfg(test)]
mod tests;
pub mod vsock;

pub use rings::{Broken, Chain, Rings};

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

/// What kind of device it is (virtio 1.2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceId {
    /// A disk (5.2).
    Block = 2,
    /// Random numbers (5.4).
    Entropy = 4,
    /// Memory given back (5.5).
    Balloon = 5,
    /// Sockets between host and guest (5.10).
    Vsock = 19,
}

/// What stands behind the queues.
///
/// Calls never overlap, and are made on the machine's device thread, but for configuration
/// space, which is read and written on the thread of a vCPU. No call may wait for the
/// guest or for a peer; disks may be waited for.
pub trait VirtioDevice: Send {
    /// What kind of device it is.
    fn id(&self) -> DeviceId;

    /// Feature bits beyond those of the transport (`VIRTIO_F_VERSION_1` and
    /// `VIRTIO_F_RING_EVENT_IDX`, which all devices have).
    fn features(&self) -> u64;

    /// Largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// Its configuration space, as it is now.
    fn config(&self) -> Vec<u8>;

    /// The driver writes `data` at `offset` of configuration space.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        tracing::trace!(offset, ?data, "write to configuration space without effect");
    }

    /// The driver is ready, and took `features` of those offered.
    fn activate(&mut self, features: u64);

    /// The driver resets the device: what it was at work on is forgotten.
    fn reset(&mut self);

    /// The driver put something into queue `queue`: serve what is there.
    fn serve(&mut self, queue: usize, rings: &mut Rings<'_>) -> Result<(), Broken>;

    /// A descriptor that is readable when something happened on the host's side: an epoll
    /// instance of its own, for a device that waits for several things.
    fn host_events(&self) -> Option<RawFd> {
        None
    }

    /// Something happened on the host's side.
    fn serve_host(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let _ = rings;
        Ok(())
    }

    /// What to save. The device stands still.
    fn state(&self) -> DeviceState;

    /// The guest goes on as a clone, or after a reset to its snapshot, on the state that this
    /// device was made from: called once, before anything else is served. What must not be
    /// shared with the parent, as connections, is ended here.
    fn resume(&mut self, rings: &mut Rings<'_>) -> Result<(), Broken> {
        let _ = rings;
        Ok(())
    }
}

/// What is saved of a device beside its queues.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum DeviceState {
    /// A disk.
    Block(block::BlockState),
    /// Random numbers: nothing.
    Entropy,
    /// Memory given back.
    Balloon(balloon::BalloonState),
    /// Sockets between host and guest.
    Vsock(vsock::VsockState),
}
