//! What the VMM does when a vCPU leaves the guest.

use kvm_ioctls::VcpuExit;
use tine_abi::layout::{PORT_BEAT, PORT_FAULT, PORT_IDLE};

use crate::devices::PortBus;

/// What follows from an exit.
pub(super) enum After {
    /// Back into the guest.
    Continue,
    /// The guest did something on purpose; back into it.
    Purpose,
    /// The guest has nothing to do.
    Idle,
    /// The guest can't go on.
    Fail(String),
}

/// Serves `exit` of a vCPU.
pub(super) fn handle(exit: VcpuExit<'_>, ports: &PortBus) -> After {
    match exit {
        VcpuExit::IoOut(PORT_IDLE, _) => After::Idle,
        VcpuExit::IoOut(PORT_BEAT, _) => After::Purpose,
        VcpuExit::IoOut(PORT_FAULT, data) => After::Fail(fault(data)),
        VcpuExit::IoOut(port, data) => {
            ports.write(port, data);
            After::Purpose
        }
        VcpuExit::IoIn(port, data) => {
            ports.read(port, data);
            After::Purpose
        }
        // No device has registers in memory: reads float, writes are lost.
        VcpuExit::MmioRead(_, data) => {
            data.fill(0xff);
            After::Continue
        }
        VcpuExit::MmioWrite(..) | VcpuExit::Intr => After::Continue,
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

fn fault(data: &[u8]) -> String {
    let vector = data.iter().take(4).rev().fold(0u32, |word, &byte| word << 8 | u32::from(byte));
    match vector {
        u32::MAX => "the guest program stopped itself".into(),
        _ => format!("exception {vector} in the guest"),
    }
}
