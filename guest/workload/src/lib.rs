//! The embedded guest, ready to boot.

#![warn(missing_docs)]

/// The program as an ELF file: statically linked at
/// `tine_abi::layout::PROGRAM`, one segment, no relocations.
pub const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload.elf"));
