//! KVM's own counters (KVM API 4.133, `KVM_GET_STATS_FD`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

mod ioctl {
    vmm_sys_util::ioctl_io_nr!(KVM_GET_STATS_FD, 0xae, 0xce);
}

/// What happened to one machine so far. A counter that this KVM lacks is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmCounters {
    /// Times that a vCPU left the guest.
    pub exits: u64,
    /// Page faults that KVM handled.
    pub page_faults: u64,
    /// Those of them that it fixed by mapping a page.
    pub page_faults_fixed: u64,
    /// Port accesses.
    pub io_exits: u64,
    /// Interrupts injected.
    pub interrupts: u64,
}

impl KvmCounters {
    /// Reads the counters of `vcpus`.
    pub fn read<'a>(vcpus: impl IntoIterator<Item = &'a VcpuFd>) -> io::Result<Self> {
        let mut sum = Self::default();
        for vcpu in vcpus {
            for (name, value) in read(vcpu)? {
                match name.as_str() {
                    "exits" => sum.exits += value,
                    "pf_taken" => sum.page_faults += value,
                    "pf_fixed" => sum.page_faults_fixed += value,
                    "io_exits" => sum.io_exits += value,
                    "irq_injections" => sum.interrupts += value,
                    _ => {}
                }
            }
        }
        Ok(sum)
    }
}

/// Every counter of the VM or vCPU `fd`, by name: the first value of each.
pub fn read(fd: &impl AsRawFd) -> io::Result<Vec<(String, u64)>> {
    // SAFETY: makes a descriptor.
    let stats = unsafe { libc::ioctl(fd.as_raw_fd(), ioctl::KVM_GET_STATS_FD() as libc::Ioctl) };
    if stats < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    let stats = unsafe { File::from_raw_fd(stats) };
    // struct kvm_stats_header: flags, name_size, num_desc, id_offset, desc_offset, data_offset.
    let mut header = [0; 24];
    stats.read_exact_at(&mut header, 0)?;
    let field = |bytes: &[u8], at: usize| {
        let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_ne_bytes).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    };
    let name_size = field(&header, 4)? as usize;
    let descriptors = field(&header, 8)? as usize;
    let (descriptors_at, data_at) = (field(&header, 16)?, field(&header, 20)?);
    // struct kvm_stats_desc: flags, exponent and size, offset, bucket size, name.
    let size = 16 + name_size;
    let mut table = vec![0; size * descriptors];
    stats.read_exact_at(&mut table, u64::from(descriptors_at))?;
    let mut counters = Vec::with_capacity(descriptors);
    for descriptor in table.chunks_exact(size) {
        let offset = field(descriptor, 8)?;
        let name = descriptor[16..].split(|&byte| byte == 0).next().unwrap_or_default();
        let mut value = [0; 8];
        stats.read_exact_at(&mut value, u64::from(data_at) + u64::from(offset))?;
        counters.push((String::from_utf8_lossy(name).into_owned(), u64::from_ne_bytes(value)));
    }
    Ok(counters)
}
