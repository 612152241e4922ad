//! Devices, and the bus that finds them by port.
//!
//! Room is left for the memory-mapped ones: virtio block, vsock, net, rng and balloon,
//! and the VM generation id.

pub mod bus;
pub mod serial;
pub mod virtio;

pub use bus::PortBus;
pub use serial::{ConsoleSink, SerialConsole};

use thiserror::Error;

/// What can go wrong with a device.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// Two devices want the same ports, or there are no such ports.
    #[error("ports {first:#x} to {last:#x} can't be given to {device}: {reason}")]
    Ports {
        /// The device.
        device: &'static str,
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
        /// Why.
        reason: String,
    },
    /// A saved state is not one of this device.
    #[error("the saved state of {device} is damaged: {reason}")]
    State {
        /// The device.
        device: &'static str,
        /// Why.
        reason: String,
    },
    /// Input could not be given to the guest.
    #[error("input for {device} was not taken: {reason}")]
    Input {
        /// The device.
        device: &'static str,
        /// Why.
        reason: String,
    },
    /// Something of the host that the device stands on could not be had.
    #[error("{operation} for {device} failed")]
    Host {
        /// The device.
        device: &'static str,
        /// What was tried, and on what.
        operation: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}
