//! The generic event device (ACPI 6.5, 5.6.9): how the platform tells the guest something.
//!
//! An event sets its bit and pulses the device's interrupt; the guest's ACPI method reads
//! the bits, which clears them, and notifies whoever is concerned.

use std::io;
use std::sync::{Arc, Mutex};

use kvm_ioctls::VmFd;
use vm_device::MutDevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};

use crate::boot::platform::EVENTS_LINE;
use crate::lock;

/// Number of its ports.
pub const PORTS: u16 = 4;

/// What the platform can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// The power button was pressed.
    PowerButton = 1,
    /// The machine is another one now: its generation id has changed.
    Generation = 1 << 1,
}

/// The device.
#[derive(Debug)]
pub struct EventDevice {
    pending: u32,
    vm: Arc<VmFd>,
}

impl EventDevice {
    /// A device at which `pending` events wait.
    pub fn new(vm: Arc<VmFd>, pending: u32) -> Self {
        Self { pending, vm }
    }

    /// Events that the guest has not seen yet.
    pub fn pending(&self) -> u32 {
        self.pending
    }

    /// Forgets what waited, for `pending`.
    pub fn set_pending(&mut self, pending: u32) {
        self.pending = pending;
    }
}

/// Tells the guest of `event`.
pub fn raise(device: &Mutex<EventDevice>, event: Event) -> io::Result<()> {
    let mut device = lock(device);
    device.pending |= event as u32;
    device.vm.set_irq_line(EVENTS_LINE, true).map_err(io::Error::from)?;
    device.vm.set_irq_line(EVENTS_LINE, false).map_err(io::Error::from)
}

impl MutDevicePio for EventDevice {
    fn pio_read(&mut self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        let bytes = std::mem::take(&mut self.pending).to_le_bytes();
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = bytes.get(usize::from(offset) + at).copied().unwrap_or(0);
        }
    }

    fn pio_write(&mut self, _: PioAddress, _: PioAddressOffset, _: &[u8]) {}
}
