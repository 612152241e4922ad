//! What can go wrong with a machine.

use std::io;
use std::time::Duration;

use thiserror::Error;
use tine_abi::agent::Failure;

use super::{End, Loud};
use crate::boot::BootError;
use crate::devices::DeviceError;
use crate::kvm::KvmError;
use crate::memory::MemoryError;

/// What can go wrong with a machine.
#[derive(Debug, Error)]
pub enum MachineError {
    /// KVM refused something.
    #[error("KVM refused")]
    Kvm(#[from] KvmError),
    /// Guest memory could not be made, copied or examined.
    #[error("guest memory")]
    Memory(#[from] MemoryError),
    /// The guest could not be put into memory.
    #[error("booting the guest")]
    Boot(#[from] BootError),
    /// A device could not be made or used.
    #[error("a device")]
    Device(#[from] DeviceError),
    /// A thread could not be started.
    #[error("starting the thread of vCPU {vcpu} failed; check the limits on processes and memory")]
    Thread {
        /// The vCPU.
        vcpu: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The signal that stops vCPUs could not be set up.
    #[error("setting up the signal that parks vCPUs failed")]
    Signal(#[source] io::Error),
    /// KVM's counters could not be read.
    #[error("reading KVM's counters failed")]
    Counters(#[source] io::Error),
    /// The device thread could not be started.
    #[error("starting the device thread failed; check the limits on processes and memory")]
    DeviceThread(#[source] io::Error),
    /// A descriptor that wakes the device thread could not be made.
    #[error("making an event descriptor failed; check the limit on open files")]
    Bell(#[source] io::Error),
    /// A vCPU or the devices did not stop.
    #[error("{who} did not park within {limit:?}; the machine runs on")]
    Park {
        /// Who did not.
        who: Loud,
        /// How long was waited.
        limit: Duration,
    },
    /// The vCPU is at work on another command.
    #[error("vCPU {vcpu} is at work on another command; wait for it or cancel it")]
    Busy {
        /// The vCPU.
        vcpu: u8,
    },
    /// There is no such vCPU.
    #[error("there is no vCPU {vcpu}: the machine has {vcpus}")]
    NoVcpu {
        /// The vCPU asked for.
        vcpu: u8,
        /// How many there are.
        vcpus: u8,
    },
    /// A command took too long. It goes on.
    #[error("no answer of vCPU {vcpu} within {limit:?}; the command goes on")]
    Timeout {
        /// The vCPU.
        vcpu: u8,
        /// How long was waited.
        limit: Duration,
    },
    /// The command that was waited for is gone: the machine was reset.
    #[error("the command was lost when the machine was reset")]
    Lost,
    /// The guest did not understand the command, or it lies outside of its memory.
    #[error(
        "the guest refused the command: it lies outside of the {data_bytes} bytes of data memory"
    )]
    Refused {
        /// Size of the data region.
        data_bytes: u64,
    },
    /// The guest wrote nonsense where an answer should be.
    #[error("the guest's answer makes no sense")]
    Nonsense,
    /// The machine was killed.
    #[error("the machine was killed")]
    Killed,
    /// Only the embedded workload takes commands.
    #[error("a Linux guest takes no commands of the workload: run a program in it")]
    NoWorkload,
    /// Only Linux guests have an agent.
    #[error("the embedded workload has no agent: boot a Linux image for that")]
    NoAgent,
    /// The agent did not answer in time.
    #[error("no answer of the guest's agent within {0:?}; is the guest's kernel up?")]
    AgentSilent(Duration),
    /// The connection to the agent broke.
    #[error("{action} the guest's agent failed")]
    Agent {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The agent refused.
    #[error("the guest's agent could not {action}: {failure}")]
    AgentRefused {
        /// What it was to do.
        action: &'static str,
        /// Why it could not.
        failure: Failure,
    },
    /// The guest ended by itself.
    #[error("the guest {0}")]
    Ended(End),
    /// The machine failed before.
    #[error("the machine failed: {0}")]
    Failed(String),
    /// There is nothing to reset to.
    #[error(
        "there is no snapshot to go back to: the machine booted, or its memory was copied straight \
         from a running parent; spawn it from a snapshot to be able to reset it"
    )]
    NoOrigin,
    /// A snapshot does not fit this host or itself.
    #[error("the snapshot can't be used: {0}")]
    Snapshot(String),
}
