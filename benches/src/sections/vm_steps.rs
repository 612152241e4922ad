//! What a clone is made of, each step by itself: as a spawn takes them, but one at a time.

use std::io;
use std::time::Instant;

use tine_vmm::devices::Board;
use tine_vmm::kvm::{ClockPolicy, Shell, ShellConfig, Slot};
use tine_vmm::memory::GuestRam;
use tine_vmm::{MachineError, Snapshot};

use crate::BenchError;
use crate::error::Doing;
use crate::rig::Rig;
use crate::stats::microseconds;

/// Times of each step, microseconds, one a round.
#[derive(Debug, Default)]
pub struct Steps {
    /// `KVM_CREATE_VM`.
    pub vm: Vec<f64>,
    /// `KVM_CREATE_IRQCHIP`.
    pub irqchip: Vec<f64>,
    /// `KVM_CREATE_VCPU`.
    pub vcpu: Vec<f64>,
    /// `KVM_SET_USER_MEMORY_REGION`.
    pub memslot: Vec<f64>,
    /// The mapping of the memory.
    pub map: Vec<f64>,
    /// The state of interrupt chips and clock, given to a VM.
    pub vm_state: Vec<f64>,
    /// The state of a vCPU, given to one.
    pub vcpu_state: Vec<f64>,
    /// The devices, made with their state.
    pub devices: Vec<f64>,
}

/// Takes the steps `rounds` times.
pub fn take(rig: &Rig, snapshot: &Snapshot, rounds: usize) -> Result<Steps, BenchError> {
    let mut steps = Steps::default();
    for _ in 0..rounds {
        empty(rig, &mut steps)?;
        filled(rig, snapshot, &mut steps)?;
    }
    Ok(steps)
}

/// A VM with an interrupt chip and a vCPU, and nothing in them.
fn empty(rig: &Rig, steps: &mut Steps) -> Result<(), BenchError> {
    let failed = |call: &'static str, error: i32| BenchError::Call {
        call,
        source: io::Error::from_raw_os_error(error),
    };
    let vm = timed(&mut steps.vm, || rig.host().kvm().create_vm());
    let vm = vm.map_err(|error| failed("KVM_CREATE_VM", error.errno()))?;
    timed(&mut steps.irqchip, || vm.create_irq_chip())
        .map_err(|error| failed("KVM_CREATE_IRQCHIP", error.errno()))?;
    timed(&mut steps.vcpu, || vm.create_vcpu(0))
        .map_err(|error| failed("KVM_CREATE_VCPU", error.errno()))?;
    Ok(())
}

/// A whole clone, but for its threads.
fn filled(rig: &Rig, snapshot: &Snapshot, steps: &mut Steps) -> Result<(), BenchError> {
    const DOING: &str = "making a clone step by step";
    let Snapshot { image, state, .. } = snapshot;
    let Some(record) = state.vcpus.first() else {
        return Err(BenchError::Incomplete { doing: DOING.into(), done: 0, asked: 1 });
    };
    let ram = timed(&mut steps.map, || GuestRam::copy_on_write(image, state.ram.clone()));
    let ram = ram.map_err(MachineError::from).doing(DOING)?;
    let config = ShellConfig { vcpus: 1, slots: Slot::of(&ram), pit: state.vm.pit.is_some() };
    // Closed before the memory goes: it was made after it.
    let shell = Shell::new(rig.host(), &config)?;
    steps.memslot.push(microseconds(shell.memslot_time));
    let console = Box::new(io::sink());
    let board = timed(&mut steps.devices, || {
        Board::for_state(&shell.vm, console, ram.access(), &state.board)
    });
    let board = board.map_err(MachineError::from).doing(DOING)?;
    timed(&mut steps.vm_state, || state.vm.restore(&shell.vm, ClockPolicy::CatchUp))?;
    timed(&mut steps.vcpu_state, || record.state.restore(&shell.vcpus[0], 0))?;
    drop(board);
    Ok(())
}

/// Does `work`, and adds its time to `samples`.
fn timed<T>(samples: &mut Vec<f64>, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    samples.push(microseconds(begun.elapsed()));
    result
}
