//! What is in memory and registers when a guest starts.

pub mod embedded;
mod paging;

use thiserror::Error;

/// What can go wrong while a guest's first state is made.
#[derive(Debug, Error)]
pub enum BootError {
    /// The guest program is no ELF file that can be loaded.
    #[error("the guest program can't be loaded")]
    Load(#[source] linux_loader::loader::Error),
    /// A structure does not fit into guest memory.
    #[error("writing {what} at {address:#x} of guest memory failed")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// Guest-physical address.
        address: u64,
        /// Why.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
    /// The guest can't have such a size.
    #[error("a workload guest has {min} to {max} bytes of RAM, not {bytes}")]
    Ram {
        /// Size asked for.
        bytes: u64,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// The guest can't have so many vCPUs.
    #[error("a workload guest has 1 to {max} vCPUs, not {vcpus}")]
    Vcpus {
        /// Number asked for.
        vcpus: u8,
        /// Most.
        max: u64,
    },
    /// A vCPU's registers could not be set.
    #[error("setting the first state of vCPU {vcpu} failed")]
    Registers {
        /// The vCPU.
        vcpu: usize,
        /// Why.
        #[source]
        source: crate::kvm::KvmError,
    },
}
