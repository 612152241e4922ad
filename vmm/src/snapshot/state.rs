//! What is saved of a machine beside its memory.

use serde::{Deserialize, Serialize};

use crate::devices::board::BoardState;
use crate::kvm::cpuid::Leaf;
use crate::kvm::{ClockPolicy, VcpuState, VmState};
use crate::memory::RamLayout;

/// State of the machine at the moment of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    /// Where guest RAM lies.
    pub ram: RamLayout,
    /// CPU features that the guest was offered.
    pub cpuid: Vec<Leaf>,
    /// Clock, interrupt chips, PIT.
    pub vm: VmState,
    /// The vCPUs.
    pub vcpus: Vec<VcpuRecord>,
    /// The devices.
    pub board: BoardState,
}

impl MachineState {
    /// What the clock of a clone shows, when `asked` was asked for: a Linux guest's timers go on
    /// where they stood, and its agent sets the wall clock.
    pub fn clock(&self, asked: ClockPolicy) -> ClockPolicy {
        if self.board.is_linux() { ClockPolicy::Continue } else { asked }
    }
}

/// One vCPU of a saved machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuRecord {
    /// Whether the guest had nothing to do and waited for a command.
    pub idle: bool,
    /// What KVM knows of it.
    pub state: VcpuState,
}
