//! What is in memory and registers when a guest starts.
//!
//! `embedded` is for the workload; `linux` for a Linux kernel, on the `platform` that
//! `acpi` describes to it.

pub mod acpi;
pub mod embedded;
pub mod linux;
mod paging;
pub mod platform;

use std::io;
use std::path::PathBuf;

use kvm_bindings::kvm_segment;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

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
    /// A Linux guest can't have such a size.
    #[error("a Linux guest has {min} to {max} bytes of RAM, in whole pages, not {bytes}")]
    LinuxRam {
        /// Size asked for.
        bytes: u64,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A Linux guest can't have so many vCPUs.
    #[error("a Linux guest has 1 to {max} vCPUs, not {vcpus}")]
    LinuxVcpus {
        /// Number asked for.
        vcpus: u8,
        /// Most.
        max: u8,
    },
    /// A file that the guest boots from can't be read.
    #[error("{path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel is none that can be loaded, or does not fit into RAM.
    #[error("{path} is no kernel that can be loaded into this guest (a vmlinux or a bzImage)")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: linux_loader::loader::Error,
    },
    /// The initramfs does not fit behind the kernel.
    #[error(
        "no room for an initramfs of {bytes} bytes between {:#x} and {:#x}: give the guest more RAM",
        between.0, between.1
    )]
    NoRoom {
        /// Its size.
        bytes: u64,
        /// End of the kernel, and end of the RAM that can be used.
        between: (u64, u64),
    },
    /// The command line is too long or holds what is not printable ASCII.
    #[error("a kernel command line of {bytes} bytes: at most {max}, and printable ASCII only")]
    CommandLine {
        /// Its length.
        bytes: usize,
        /// Longest.
        max: usize,
    },
    /// The boot parameters could not be written.
    #[error("writing the boot parameters failed")]
    Parameters(#[source] linux_loader::configurator::Error),
    /// The ACPI tables are too large.
    #[error("ACPI tables of {0} bytes don't fit: fewer vCPUs need less")]
    Tables(u64),
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

/// Puts `bytes`, which are `what`, into guest memory at `address`.
fn put(
    memory: &GuestMemoryMmap,
    what: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), BootError> {
    let written = memory.write_slice(bytes, GuestAddress(address));
    written.map_err(|source| BootError::Write { what, address, source })
}

/// The same for words of 64 bits.
fn put_words(
    memory: &GuestMemoryMmap,
    what: &'static str,
    address: u64,
    words: &[u64],
) -> Result<(), BootError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    put(memory, what, address, &bytes)
}

/// The first eight bytes of a segment's descriptor (Intel SDM volume 3, 3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = match segment.g {
        0 => u64::from(segment.limit),
        _ => u64::from(segment.limit) >> 12,
    };
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.l) << 1 | u64::from(segment.db) << 2 | u64::from(segment.g) << 3;
    limit & 0xffff
        | (segment.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (segment.base >> 24 & 0xff) << 56
}
