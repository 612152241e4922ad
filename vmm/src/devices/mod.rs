//! Devices, and the buses that find them by port and address.
//!
//! The embedded workload has a serial port. A Linux guest has, beside it, the generic
//! event device, the generation id, and the virtio devices of its [`board`].

pub mod board;
pub mod bus;
pub mod disk;
pub mod events;
pub mod generation;
pub mod serial;
pub mod virtio;

pub use board::Board;
pub use bus::Bus;
pub use serial::{ConsoleSink, SerialConsole};

use thiserror::Error;

/// What can go wrong with a device.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// Two devices want the same place, or there is no such place.
    #[error("{place} can't be given to {device}: {reason}")]
    Place {
        /// The device.
        device: &'static str,
        /// Ports or addresses.
        place: String,
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

impl DeviceError {
    fn place(device: &'static str, place: String, error: impl std::fmt::Display) -> Self {
        Self::Place { device, place, reason: error.to_string() }
    }

    pub(crate) fn host(
        device: &'static str,
        operation: &str,
        source: impl Into<std::io::Error>,
    ) -> Self {
        Self::Host { device, operation: operation.to_owned(), source: source.into() }
    }
}
