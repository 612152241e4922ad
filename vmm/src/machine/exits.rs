//! What the VMM does when a vCPU leaves the guest.

use kvm_ioctls::VcpuExit;
use tine_abi::layout::{PORT_BEAT, PORT_FAULT, PORT_IDLE};

use super::End;
use crate::boot::platform::{RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_TYPE_OFF};
use crate::devices::Bus;

/// What follows from an exit.
pub(super) enum After {
    /// Back into the guest.
    Continue,
    /// The guest did something on purpose; back into it.
    Purpose,
    /// The guest has nothing to do.
    Idle,
    /// The guest ends.
    End(End),
    /// The guest can't go on.
    Fail(String),
}

/// Serves `exit` of a vCPU.
pub(super) fn handle(exit: VcpuExit<'_>, bus: &Bus) -> After {
    match exit {
        VcpuExit::IoOut(PORT_IDLE, _) => After::Idle,
        VcpuExit::IoOut(PORT_BEAT, _) => After::Purpose,
        VcpuExit::IoOut(PORT_FAULT, data) => After::Fail(fault(data)),
        VcpuExit::IoOut(SLEEP_CONTROL_PORT, &[value]) if sleeps_for_good(value) => {
            After::End(End::PowerOff)
        }
        VcpuExit::IoOut(RESET_PORT, &[RESET_VALUE]) => After::End(End::Reset),
        VcpuExit::IoOut(port, data) => {
            bus.write_port(port, data);
            After::Purpose
        }
        VcpuExit::IoIn(port, data) => {
            bus.read_port(port, data);
            After::Purpose
        }
        VcpuExit::MmioRead(address, data) => on_purpose(bus.read_memory(address, data)),
        VcpuExit::MmioWrite(address, data) => on_purpose(bus.write_memory(address, data)),
        VcpuExit::Intr => After::Continue,
        VcpuExit::Shutdown => After::Fail("triple fault".into()),
        VcpuExit::FailEntry(reason, cpu) => After::Fail(format!(
            "the processor refused the guest's state: {reason:#x} on CPU {cpu}"
        )),
        VcpuExit::InternalError => {
            After::Fail("KVM could not emulate an instruction of the guest".into())
        }
        VcpuExit::SystemEvent(kind, _) => After::Fail(format!("system event {kind}")),
        VcpuExit::MemoryFault { gpa, .. } => After::Fail(format!(
            "guest memory at {gpa:#x} can't be had; is the host out of memory?"
        )),
        other => After::Fail(format!("unexpected exit {other:?}")),
    }
}

/// An access that somebody answers was meant.
fn on_purpose(answered: bool) -> After {
    match answered {
        true => After::Purpose,
        false => After::Continue,
    }
}

/// Whether a write to the sleep control register switches the machine off: sleep type in
/// bits 2 to 4, and the enable bit (ACPI 6.5, 4.8.3.7).
fn sleeps_for_good(value: u8) -> bool {
    const ENABLE: u8 = 1 << 5;
    value & ENABLE != 0 && value >> 2 & 7 == SLEEP_TYPE_OFF
}

fn fault(data: &[u8]) -> String {
    let vector = data.iter().take(4).rev().fold(0u32, |word, &byte| word << 8 | u32::from(byte));
    match vector {
        u32::MAX => "the guest program stopped itself".into(),
        _ => format!("exception {vector} in the guest"),
    }
}
