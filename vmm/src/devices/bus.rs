//! Ports and registers in memory, and who answers at them.

use std::sync::Arc;

use vm_device::bus::{MmioAddress, MmioRange, PioAddress, PioRange};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};
use vm_device::{DeviceMmio, DevicePio};

use super::DeviceError;

/// The buses of one machine.
#[derive(Default)]
pub struct Bus {
    manager: IoManager,
}

impl Bus {
    /// Puts `device` at `count` ports from `first`.
    pub fn attach_ports(
        &mut self,
        name: &'static str,
        first: u16,
        count: u16,
        device: Arc<dyn DevicePio + Send + Sync>,
    ) -> Result<(), DeviceError> {
        let refused = |error: vm_device::bus::Error| {
            let last = first.saturating_add(count.saturating_sub(1));
            DeviceError::place(name, format!("ports {first:#x} to {last:#x}"), error)
        };
        let range = PioRange::new(PioAddress(first), count).map_err(refused)?;
        self.manager.register_pio(range, device).map_err(refused)
    }

    /// Puts `device` at `bytes` of guest-physical memory from `first`.
    pub fn attach_memory(
        &mut self,
        name: &'static str,
        first: u64,
        bytes: u64,
        device: Arc<dyn DeviceMmio + Send + Sync>,
    ) -> Result<(), DeviceError> {
        let refused = |error: vm_device::bus::Error| {
            DeviceError::place(name, format!("{bytes:#x} bytes at {first:#x}"), error)
        };
        let range = MmioRange::new(MmioAddress(first), bytes).map_err(refused)?;
        self.manager.register_mmio(range, device).map_err(refused)
    }

    /// The guest reads `data.len()` bytes from `port`. Where nobody answers it reads ones,
    /// as on a bus that floats.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        if self.manager.pio_read(PioAddress(port), data).is_err() {
            data.fill(0xff);
        }
    }

    /// The guest writes `data` to `port`. Where nobody answers it is lost.
    pub fn write_port(&self, port: u16, data: &[u8]) {
        if self.manager.pio_write(PioAddress(port), data).is_err() {
            tracing::trace!(port, "write to an empty port");
        }
    }

    /// The guest reads registers at `address`. Where nobody answers it reads ones. Whether
    /// somebody did.
    pub fn read_memory(&self, address: u64, data: &mut [u8]) -> bool {
        let answered = self.manager.mmio_read(MmioAddress(address), data).is_ok();
        if !answered {
            data.fill(0xff);
        }
        answered
    }

    /// The guest writes registers at `address`. Where nobody answers it is lost. Whether
    /// somebody did.
    pub fn write_memory(&self, address: u64, data: &[u8]) -> bool {
        self.manager.mmio_write(MmioAddress(address), data).is_ok()
    }
}
