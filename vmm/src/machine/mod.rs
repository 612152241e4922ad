//! A machine: memory, vCPUs and devices that run together.
//!
//! `gate` decides when vCPUs run; `vcpu` is the thread of one; `workload` gives the
//! embedded guest its commands; `lifecycle` holds what is done to a machine as a whole.

mod agent;
mod boot;
mod config;
mod device_thread;
mod error;
mod exits;
mod gate;
mod herald;
mod lifecycle;
mod parts;
mod vcpu;
mod workload;

pub use agent::Agent;
pub use config::{Identity, LinuxConfig, MachineConfig, MemoryMode, SpawnOptions};
pub use error::MachineError;
pub use herald::Herald;
pub use workload::Ticket;

pub use gate::Loud;

pub(crate) use gate::Gate;
pub(crate) use lifecycle::Parked;
pub(crate) use parts::MachineParts;

use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::Board;
use crate::fork::Ladder;
use crate::kvm::KvmHost;
use crate::lock;
use crate::memory::GuestRam;
use crate::snapshot::Snapshot;
use device_thread::DeviceThread;
use lifecycle::Control;
use vcpu::Vcpu;

/// What a machine is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Its vCPUs run, or wait for commands.
    Running,
    /// Its vCPUs are parked until it is resumed.
    Paused,
    /// A vCPU can't go on, and none does; why.
    Failed(String),
    /// The guest ended by itself.
    Ended(End),
    /// It was killed.
    Killed,
}

/// How a guest ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It switched the machine off.
    PowerOff,
    /// It reset the machine: it would boot again, and all that it was is gone.
    Reset,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "switched its machine off",
            Self::Reset => "reset its machine",
        })
    }
}

/// A microVM that exists.
///
/// All methods may be called from any thread; those that change the machine as a whole
/// wait for each other. Dropping it kills it.
pub struct Machine {
    // The fields are dropped in this order: threads are joined by `Drop`, then the vCPUs
    // and the VM are closed, and the memory that they used goes last.
    vcpus: Vec<Vcpu>,
    device_thread: Option<DeviceThread>,
    board: Arc<Board>,
    vm: Arc<VmFd>,
    pit: bool,
    ram: RwLock<GuestRam>,
    gate: Arc<Gate>,
    control: Mutex<Control>,
    ladder: Mutex<Ladder>,
    /// Where the agent of a Linux guest that boots will say that it is up.
    ready: Mutex<Option<Receiver<UnixStream>>>,
    /// What `reset` goes back to.
    origin: Option<Snapshot>,
    host: Arc<KvmHost>,
    tsc_khz: u32,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("ram_bytes", &self.ram_bytes())
            .field("vcpus", &self.vcpus.len())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// What it is doing.
    pub fn status(&self) -> Status {
        self.gate.status()
    }

    /// The steps that its making took. The last two are filled in when its first
    /// instruction is seen.
    pub fn ladder(&self) -> Ladder {
        let mut ladder = lock(&self.ladder).clone();
        if let Some(seen) = self.gate.first_exit() {
            seen.complete(&mut ladder);
        }
        ladder
    }

    /// Size of its RAM, bytes.
    pub fn ram_bytes(&self) -> u64 {
        self.ram().mapping().bytes() as u64
    }

    /// Number of its vCPUs.
    pub fn vcpus(&self) -> u8 {
        self.vcpus.len() as u8
    }

    /// Frequency of its TSC, kHz, as KVM tells it.
    pub fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }

    /// Rings `bell` whenever the status, or what the vCPUs do, has changed: for an owner that
    /// waits for several things at once. Only the first bell counts.
    pub fn ring_on_change(&self, bell: EventFd) {
        self.gate.tell_owner(bell);
    }

    /// Gives the guest console input; as many bytes as fit. Returns how many.
    pub fn console_input(&self, bytes: &[u8]) -> Result<usize, MachineError> {
        Ok(self.board.console_input(bytes)?)
    }

    pub(crate) fn host(&self) -> &Arc<KvmHost> {
        &self.host
    }

    pub(crate) fn has_pit(&self) -> bool {
        self.pit
    }

    pub(crate) fn amend_ladder(&self, amend: impl FnOnce(&mut Ladder)) {
        amend(&mut lock(&self.ladder));
    }

    pub(crate) fn ram_mut(&self) -> RwLockWriteGuard<'_, GuestRam> {
        self.ram.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ram(&self) -> RwLockReadGuard<'_, GuestRam> {
        self.ram.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}
