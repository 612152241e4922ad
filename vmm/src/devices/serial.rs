//! The console: a 16550 at COM1.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};
use vm_device::MutDevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use super::DeviceError;
use crate::lock;

/// Interrupt line of COM1.
const IRQ: u32 = 4;
/// Number of its ports.
pub const PORTS: u16 = 8;

/// Where a guest's console output goes. It is called on the vCPU's thread: it must be
/// quick and never wait for the sandbox.
pub type ConsoleSink = Box<dyn Write + Send>;

/// The interrupt line of a device: an edge, as COM1 has it.
struct Line(Arc<VmFd>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.set_irq_line(IRQ, true).map_err(io::Error::from)?;
        self.0.set_irq_line(IRQ, false).map_err(io::Error::from)
    }
}

/// Serial port with the guest's output going to a [`ConsoleSink`].
pub struct SerialConsole {
    serial: Serial<Line, NoEvents, ConsoleSink>,
    vm: Arc<VmFd>,
}

impl std::fmt::Debug for SerialConsole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SerialConsole").finish_non_exhaustive()
    }
}

/// The registers and the input not yet read of a serial port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    registers: [u8; 9],
    input: Vec<u8>,
}

impl SerialState {
    fn unpack(&self) -> vm_superio::SerialState {
        let [low, high, enable, identification, line, line_status, modem, modem_status, scratch] =
            self.registers;
        vm_superio::SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control: line,
            line_status,
            modem_control: modem,
            modem_status,
            scratch,
            in_buffer: self.input.clone(),
        }
    }
}

fn damaged<E: std::fmt::Debug>(error: vm_superio::serial::Error<E>) -> DeviceError {
    DeviceError::State { device: "the serial console", reason: format!("{error:?}") }
}

impl SerialConsole {
    /// A port after power-on.
    pub fn new(vm: Arc<VmFd>, sink: ConsoleSink) -> Self {
        Self { serial: Serial::new(Line(Arc::clone(&vm)), sink), vm }
    }

    /// A port in a saved state.
    pub fn restored(
        vm: Arc<VmFd>,
        sink: ConsoleSink,
        state: &SerialState,
    ) -> Result<Self, DeviceError> {
        let serial = Serial::from_state(&state.unpack(), Line(Arc::clone(&vm)), NoEvents, sink)
            .map_err(damaged)?;
        Ok(Self { serial, vm })
    }

    /// Goes back to a saved state; the output goes where it went.
    pub fn restore(&mut self, state: &SerialState) -> Result<(), DeviceError> {
        // Checked before the sink is moved: it can't be had back from a failure.
        let line = Line(Arc::clone(&self.vm));
        Serial::from_state(&state.unpack(), line, NoEvents, io::sink()).map_err(damaged)?;
        let sink = std::mem::replace(self.serial.writer_mut(), Box::new(io::sink()));
        let line = Line(Arc::clone(&self.vm));
        self.serial = Serial::from_state(&state.unpack(), line, NoEvents, sink).map_err(damaged)?;
        Ok(())
    }

    /// What to save.
    pub fn state(&self) -> SerialState {
        let state = self.serial.state();
        SerialState {
            registers: [
                state.baud_divisor_low,
                state.baud_divisor_high,
                state.interrupt_enable,
                state.interrupt_identification,
                state.line_control,
                state.line_status,
                state.modem_control,
                state.modem_status,
                state.scratch,
            ],
            input: state.in_buffer,
        }
    }

    /// Gives the guest `bytes` to read; as many as fit. Returns how many.
    pub fn input(&mut self, bytes: &[u8]) -> Result<usize, DeviceError> {
        self.serial.enqueue_raw_bytes(bytes).map_err(|error| DeviceError::Input {
            device: "the serial console",
            reason: format!("{error:?}"),
        })
    }
}

impl MutDevicePio for SerialConsole {
    fn pio_read(&mut self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        // The registers are a byte wide.
        data.fill(0xff);
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = self.serial.read(offset);
        }
    }

    fn pio_write(&mut self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if let (&[byte], Ok(offset)) = (data, u8::try_from(offset)) {
            // A sink that fails loses output; the guest must not notice.
            if let Err(error) = self.serial.write(offset, byte) {
                tracing::debug!(?error, "console output lost");
            }
        }
    }
}

/// A memory of console output, for those who look later: the last bytes of it.
#[derive(Clone, Debug)]
pub struct ConsoleLog {
    bytes: Arc<Mutex<Vec<u8>>>,
    limit: usize,
}

impl ConsoleLog {
    /// A log of the last `limit` bytes at least, and twice that at most.
    pub fn new(limit: usize) -> Self {
        Self { bytes: Arc::default(), limit }
    }

    /// What it holds.
    pub fn contents(&self) -> Vec<u8> {
        lock(&self.bytes).clone()
    }
}

impl Write for ConsoleLog {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut bytes = lock(&self.bytes);
        bytes.extend_from_slice(data);
        if bytes.len() > 2 * self.limit {
            let cut = bytes.len() - self.limit;
            bytes.drain(..cut);
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
