//! The last step of making a machine: its parts are put together and its threads started.

use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use super::device_thread::DeviceThread;
use super::gate::{Gate, Want};
use super::herald::Herald;
use super::lifecycle::Control;
use super::vcpu::Vcpu;
use super::{Machine, MachineError, Status};
use crate::devices::Board;
use crate::fork::Ladder;
use crate::kvm::{KvmHost, Shell};
use crate::lock;
use crate::memory::GuestRam;
use crate::snapshot::Snapshot;

/// Everything that a machine is made of, with its state in place.
pub(crate) struct MachineParts {
    // A shell is closed before the memory that it uses goes.
    pub(crate) shell: Shell,
    pub(crate) board: Board,
    pub(crate) ram: GuestRam,
    pub(crate) gate: Gate,
    pub(crate) origin: Option<Snapshot>,
    pub(crate) tsc_khz: u32,
}

impl MachineParts {
    /// Puts the machine together, starts its threads and opens the gate; it was asked for when
    /// `requested`.
    pub(crate) fn start(
        self,
        host: &Arc<KvmHost>,
        ladder: Ladder,
        requested: Instant,
    ) -> Result<Machine, MachineError> {
        self.gate.expect_debut(requested);
        let machine = self.assemble(host, ladder)?;
        machine.open();
        Ok(machine)
    }

    /// Puts the machine together and starts its threads, which wait at the gate.
    pub(crate) fn assemble(
        self,
        host: &Arc<KvmHost>,
        ladder: Ladder,
    ) -> Result<Machine, MachineError> {
        let Self { shell, board, ram, gate, origin, tsc_khz } = self;
        let Shell { vcpus: fds, vm, pit, .. } = shell;
        let bus = Arc::new(board.bus()?);
        let gate = match board.is_linux() {
            true => gate.with_devices(EventFd::new(EFD_CLOEXEC).map_err(MachineError::Bell)?),
            false => gate,
        };
        // Threads that were started before another could not be are joined by `Drop`.
        let mut machine = Machine {
            vcpus: Vec::with_capacity(fds.len()),
            device_thread: None,
            board: Arc::new(board),
            vm,
            pit,
            ram: RwLock::new(ram),
            gate: Arc::new(gate),
            control: Mutex::new(Control::default()),
            ladder: Mutex::new(ladder),
            ready: Mutex::default(),
            origin,
            host: Arc::clone(host),
            tsc_khz,
        };
        for (index, fd) in fds.into_iter().enumerate() {
            let vcpu = Vcpu::start(fd, index, &machine.gate, &machine.board, &bus)?;
            machine.vcpus.push(vcpu);
        }
        if machine.board.is_linux() {
            machine.device_thread = Some(DeviceThread::start(&machine.board, &machine.gate)?);
        }
        Ok(machine)
    }
}

impl Machine {
    /// Lets the vCPUs run.
    pub(crate) fn open(&self) {
        self.gate.want(Want::Run);
    }

    /// Lets a machine that is complete run, and waits until it has shown itself, at most
    /// `limit`; it was asked for when `requested`.
    pub(crate) fn debut(&self, requested: Instant, limit: Duration) -> Result<(), MachineError> {
        // An idle guest shows that it runs by looking at its mailbox and going idle again.
        self.gate.wake_all();
        self.gate.expect_debut(requested);
        self.open();
        self.wait_first_instruction(limit)
    }

    /// Has vCPUs that wait for commands look for some, once, and stand still again, within
    /// `limit`. All must be idle.
    pub(crate) fn walk_once(&self, limit: Duration) -> Result<(), MachineError> {
        self.gate.wake_all();
        self.open();
        for vcpu in 0..self.vcpus.len() {
            if !self.gate.wait_idle(vcpu, 0, limit) {
                return Err(MachineError::Timeout { vcpu: vcpu as u8, limit });
            }
        }
        self.alive()?;
        self.gate.want(Want::Pause);
        Ok(())
    }

    /// See [`Gate::set_herald`].
    pub(crate) fn set_herald(&self, herald: Herald) -> Result<(), MachineError> {
        self.gate.set_herald(herald).map_err(MachineError::Bell)
    }

    /// Whether it is a Linux guest.
    pub fn is_linux(&self) -> bool {
        self.board.is_linux()
    }

    /// Waits for the first instruction, at most `limit`, and completes the ladder.
    pub(crate) fn wait_first_instruction(&self, limit: Duration) -> Result<(), MachineError> {
        self.gate.wait_first_exit(limit);
        lock(&self.ladder).first_run = self.gate.first_run();
        match self.status() {
            Status::Failed(reason) => Err(MachineError::Failed(reason)),
            _ => Ok(()),
        }
    }

    /// Waits until all vCPUs wait for commands, at most `limit` for each.
    pub(crate) fn settle(&self, limit: Duration) -> Result<(), MachineError> {
        self.wait_first_instruction(limit)?;
        for vcpu in 0..self.vcpus.len() {
            if !self.gate.wait_idle(vcpu, 0, limit) {
                return Err(MachineError::Timeout { vcpu: vcpu as u8, limit });
            }
        }
        self.alive()
    }
}
