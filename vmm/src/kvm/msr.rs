//! Model-specific registers: which ones make up a machine's state.

use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::{KvmError, Shell, failed};

/// Time-stamp counter.
pub const TSC: u32 = 0x10;
/// Deadline of the local APIC's timer. Set last: it depends on the timer's mode and the TSC.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// Address of the wall clock in guest memory; setting it writes the clock there.
pub const KVM_WALL_CLOCK: u32 = 0x4b56_4d00;
/// Address and enable bit of a vCPU's paravirtual clock.
pub const KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;

/// KVM's list of registers, sorted by what can be done with them.
#[derive(Clone, Debug, Default)]
pub struct MsrLists {
    /// Saved and restored.
    pub state: Vec<u32>,
    /// Can be read but not set: the same on every machine of this host.
    pub constant: Vec<u32>,
    /// Named by KVM but can't be read on such a machine: not part of its state.
    pub absent: Vec<u32>,
}

impl MsrLists {
    /// Sorts KVM's list `indices` by trying each register on `shell`, which never ran.
    pub(super) fn probe(shell: &Shell, indices: &[u32]) -> Result<Self, KvmError> {
        let vcpu = &shell.vcpus[0];
        let mut lists = Self::default();
        for &index in indices {
            match read(vcpu, index)? {
                None => lists.absent.push(index),
                Some(value) if write(vcpu, index, value)? => lists.state.push(index),
                Some(_) => lists.constant.push(index),
            }
        }
        // The deadline goes last; the order of the others is KVM's.
        lists.state.sort_by_key(|&index| index == TSC_DEADLINE);
        Ok(lists)
    }
}

fn one(index: u32, data: u64) -> Result<Msrs, KvmError> {
    let entry = kvm_msr_entry { index, data, ..Default::default() };
    entries(&[entry])
}

fn entries(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries).map_err(|_| KvmError::Shape {
        what: "MSRs",
        found: entries.len(),
        expected: KVM_MAX_MSR_ENTRIES,
    })
}

fn read(vcpu: &VcpuFd, index: u32) -> Result<Option<u64>, KvmError> {
    let mut msrs = one(index, 0)?;
    let read = vcpu.get_msrs(&mut msrs).map_err(failed("KVM_GET_MSRS", ""))?;
    Ok((read == 1).then(|| msrs.as_slice()[0].data))
}

fn write(vcpu: &VcpuFd, index: u32, data: u64) -> Result<bool, KvmError> {
    let written = vcpu.set_msrs(&one(index, data)?).map_err(failed("KVM_SET_MSRS", ""))?;
    Ok(written == 1)
}

/// Reads the registers `indices`.
pub(super) fn get(
    vcpu: &VcpuFd,
    number: usize,
    indices: &[u32],
) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let wanted: Vec<kvm_msr_entry> =
        indices.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
    let mut values = Vec::with_capacity(wanted.len());
    for chunk in wanted.chunks(KVM_MAX_MSR_ENTRIES) {
        let mut msrs = entries(chunk)?;
        let on = format!(" on vCPU {number}");
        let read = vcpu.get_msrs(&mut msrs).map_err(failed("KVM_GET_MSRS", on))?;
        if read != chunk.len() {
            let index = chunk[read].index;
            let on = format!(" on vCPU {number}: MSR {index:#x} can't be read");
            return Err(failed("KVM_GET_MSRS", on)(kvm_ioctls::Error::new(libc::EIO)));
        }
        values.extend_from_slice(msrs.as_slice());
    }
    Ok(values)
}

/// Sets registers, in order.
pub(crate) fn set(vcpu: &VcpuFd, number: usize, values: &[kvm_msr_entry]) -> Result<(), KvmError> {
    for chunk in values.chunks(KVM_MAX_MSR_ENTRIES) {
        let on = format!(" on vCPU {number}");
        let written = vcpu.set_msrs(&entries(chunk)?).map_err(failed("KVM_SET_MSRS", on))?;
        if let Some(refused) = chunk.get(written) {
            return Err(KvmError::MsrRefused {
                index: refused.index,
                value: refused.data,
                vcpu: number,
            });
        }
    }
    Ok(())
}
