//! A machine of the daemon's, wherever it is.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use tine_abi::command::{Command, Reply};
use tine_cell::{Cell, Fault, Kind};
use tine_vmm::kvm::stats::KvmCounters;
use tine_vmm::memory::{HotSet, Ledger};
use tine_vmm::{Ladder, Machine, Status};

/// A machine of the daemon's.
#[derive(Debug)]
pub enum Vm {
    /// In a cell.
    Cell(Box<Cell>),
    /// In this process.
    Here(Box<Machine>),
}

/// Calls the method of that name in whatever the machine is in.
macro_rules! either {
    ($self:expr, $machine:ident => $call:expr) => {
        match $self {
            Vm::Cell($machine) => Ok($call?),
            Vm::Here($machine) => Ok($call?),
        }
    };
}

impl Vm {
    /// What it is doing.
    pub fn status(&self) -> Status {
        match self {
            Self::Cell(cell) => cell.status(),
            Self::Here(machine) => machine.status(),
        }
    }

    /// Whether the guest is at work.
    pub fn busy(&self) -> bool {
        match self {
            Self::Cell(cell) => cell.busy(),
            Self::Here(machine) => machine.busy(),
        }
    }

    /// Number of the process that it has for itself.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Cell(cell) => Some(cell.pid()),
            Self::Here(_) => None,
        }
    }

    /// Size of its RAM, bytes.
    pub fn ram_bytes(&self) -> u64 {
        match self {
            Self::Cell(cell) => cell.ram_bytes(),
            Self::Here(machine) => machine.ram_bytes(),
        }
    }

    /// Number of its vCPUs.
    pub fn vcpus(&self) -> u8 {
        match self {
            Self::Cell(cell) => cell.vcpus(),
            Self::Here(machine) => machine.vcpus(),
        }
    }

    /// Frequency of its TSC, kHz.
    pub fn tsc_khz(&self) -> u32 {
        match self {
            Self::Cell(cell) => cell.tsc_khz(),
            Self::Here(machine) => machine.tsc_khz(),
        }
    }

    /// What its making took.
    pub fn ladder(&self) -> Ladder {
        match self {
            Self::Cell(cell) => cell.ladder(),
            Self::Here(machine) => machine.ladder(),
        }
    }

    /// Stops its vCPUs.
    pub fn pause(&self) -> Result<(), Fault> {
        either!(self, machine => machine.pause())
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<(), Fault> {
        either!(self, machine => machine.resume())
    }

    /// Puts it back to the state it was spawned from.
    pub fn reset(&self) -> Result<Ladder, Fault> {
        either!(self, machine => machine.reset())
    }

    /// Gives vCPU `vcpu` a command and waits for the answer, at most `limit`.
    pub fn work(&self, vcpu: u8, command: &Command, limit: Duration) -> Result<Reply, Fault> {
        match self {
            Self::Cell(cell) => cell.work(vcpu, command, limit),
            Self::Here(machine) => Ok(machine.run(vcpu, command, limit)?),
        }
    }

    /// Types on its console.
    pub fn console_input(&self, bytes: &[u8]) -> Result<usize, Fault> {
        either!(self, machine => machine.console_input(bytes))
    }

    /// Connects to a port of a Linux guest.
    pub fn connect(&self, port: u32) -> Result<UnixStream, Fault> {
        either!(self, machine => machine.connect(port))
    }

    /// The memory account.
    pub fn ledger(&self) -> Result<Ledger, Fault> {
        either!(self, machine => machine.ledger())
    }

    /// What KVM counted.
    pub fn counters(&self) -> Result<KvmCounters, Fault> {
        either!(self, machine => machine.counters())
    }

    /// The pages that it has of its own.
    pub fn hot_set(&self) -> Result<HotSet, Fault> {
        match self {
            // Only the runs are read, and checked: nothing of a guest is mapped here.
            Self::Cell(cell) => {
                HotSet::from_file(cell.hot_set()?).map_err(|error| Fault::of(Kind::Gone, &error))
            }
            Self::Here(machine) => Ok(machine.hot_set()?),
        }
    }

    /// Ends it.
    pub fn kill(&self) {
        match self {
            Self::Cell(cell) => cell.kill(),
            Self::Here(machine) => machine.kill(),
        }
    }
}
