//! Ports, and who answers at them.

use std::sync::Arc;

use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioRange};
use vm_device::device_manager::{IoManager, PioManager};

use super::DeviceError;

/// The port bus of one machine.
#[derive(Default)]
pub struct PortBus {
    manager: IoManager,
}

impl PortBus {
    /// Puts `device` at `count` ports from `first`.
    pub fn attach(
        &mut self,
        name: &'static str,
        first: u16,
        count: u16,
        device: Arc<dyn DevicePio + Send + Sync>,
    ) -> Result<(), DeviceError> {
        let refused = |reason: String| DeviceError::Ports {
            device: name,
            first,
            last: first.saturating_add(count.saturating_sub(1)),
            reason,
        };
        let range =
            PioRange::new(PioAddress(first), count).map_err(|error| refused(error.to_string()))?;
        self.manager.register_pio(range, device).map_err(|error| refused(error.to_string()))
    }

    /// The guest reads `data.len()` bytes from `port`. Where nobody answers it reads ones,
    /// as on a bus that floats.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        if self.manager.pio_read(PioAddress(port), data).is_err() {
            data.fill(0xff);
        }
    }

    /// The guest writes `data` to `port`. Where nobody answers it is lost.
    pub fn write(&self, port: u16, data: &[u8]) {
        if self.manager.pio_write(PioAddress(port), data).is_err() {
            tracing::trace!(port, "write to an empty port");
        }
    }
}
