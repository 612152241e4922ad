//! What is saved of a machine beside its memory.

use serde::{Deserialize, Serialize};

use crate::devices::serial::SerialState;
use crate::kvm::cpuid::Leaf;
use crate::kvm::{VcpuState, VmState};

/// State of the machine at the moment of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    /// Size of guest RAM, bytes.
    pub ram_bytes: u64,
    /// Guest-physical address of its first byte.
    pub ram_base: u64,
    /// CPU features that the guest was offered.
    pub cpuid: Vec<Leaf>,
    /// Clock, interrupt chips, PIT.
    pub vm: VmState,
    /// The vCPUs.
    pub vcpus: Vec<VcpuRecord>,
    /// The console's port.
    pub serial: SerialState,
}

/// One vCPU of a saved machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuRecord {
    /// Whether the guest had nothing to do and waited for a command.
    pub idle: bool,
    /// What KVM knows of it.
    pub state: VcpuState,
}
