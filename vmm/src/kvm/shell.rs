//! A virtual machine with nothing in it yet: VM, memslots, irqchip, vCPUs.
//!
//! The order is not free. A memslot that is set soon after the irqchip waits several
//! milliseconds for an SRCU grace period (the in-kernel irqchip registers its I/O
//! buses); set before it, it takes its own time only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_bindings::{kvm_pit_config, kvm_run, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};

use super::{KvmError, KvmHost, cpuid, failed};
use crate::memory::GuestRam;
use crate::memory::layout::Region;

/// Where KVM may put three pages of its own on Intel hosts (KVM API 4.42,
/// `KVM_SET_TSS_ADDR`): just below 4 GiB, where no guest of tine has memory.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// A range of guest-physical memory backed by a range of this process's memory, which
/// need not be mapped yet.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// First guest-physical address.
    pub guest_address: u64,
    /// First address in this process.
    pub host_address: u64,
    /// Size in bytes.
    pub bytes: u64,
}

impl Slot {
    /// The slots of `ram`: one for each piece of it.
    pub fn of(ram: &GuestRam) -> Vec<Self> {
        let mut host_address = ram.mapping().address() as u64;
        let mut slots = Vec::with_capacity(ram.layout().regions().len());
        for region in ram.layout().regions() {
            let Region { guest_address, bytes } = *region;
            slots.push(Self { guest_address, host_address, bytes });
            host_address += bytes;
        }
        slots
    }
}

/// What a shell is to have.
#[derive(Clone, Debug)]
pub struct ShellConfig {
    /// Number of vCPUs, at least 1.
    pub vcpus: u8,
    /// Guest memory.
    pub slots: Vec<Slot>,
    /// Whether the guest needs a PIT. It makes closing the VM cost 13 ms and more.
    pub pit: bool,
}

/// A virtual machine ready to be given memory contents and state.
#[derive(Debug)]
pub struct Shell {
    /// vCPUs, in order of their ids.
    pub vcpus: Vec<VcpuFd>,
    /// The VM.
    pub vm: Arc<VmFd>,
    /// Whether it has a PIT.
    pub pit: bool,
    /// Time that setting the memslots took: it grows with guest memory, and is therefore
    /// told apart from the rest.
    pub memslot_time: Duration,
}

impl Shell {
    /// Makes a shell.
    pub fn new(host: &KvmHost, config: &ShellConfig) -> Result<Self, KvmError> {
        let vm = host.kvm().create_vm().map_err(failed("KVM_CREATE_VM", ""))?;
        vm.set_tss_address(TSS_ADDRESS).map_err(failed("KVM_SET_TSS_ADDR", ""))?;
        let begun = Instant::now();
        for (number, slot) in config.slots.iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: number as u32,
                flags: 0,
                guest_phys_addr: slot.guest_address,
                memory_size: slot.bytes,
                userspace_addr: slot.host_address,
            };
            let on = format!(" of {} bytes", slot.bytes);
            // SAFETY: the range belongs to guest RAM alone, and whoever owns the shell
            // keeps it mapped or empty, and closes the VM before it goes to other use.
            unsafe { vm.set_user_memory_region(region) }
                .map_err(failed("KVM_SET_USER_MEMORY_REGION", on))?;
        }
        let memslot_time = begun.elapsed();
        vm.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP", ""))?;
        if config.pit {
            let pit = kvm_pit_config::default();
            vm.create_pit2(pit).map_err(failed("KVM_CREATE_PIT2", ""))?;
        }
        let mut vcpus = Vec::with_capacity(usize::from(config.vcpus));
        for id in 0..config.vcpus {
            let mut vcpu = vm
                .create_vcpu(u64::from(id))
                .map_err(failed("KVM_CREATE_VCPU", format!(" of vCPU {id}")))?;
            keep_from_children(host, &mut vcpu)
                .map_err(failed("madvise", format!(" on kvm_run of vCPU {id}")))?;
            vcpu.set_cpuid2(&cpuid::for_vcpu(host.cpuid(), id, config.vcpus))
                .map_err(failed("KVM_SET_CPUID2", format!(" on vCPU {id}")))?;
            vcpus.push(vcpu);
        }
        Ok(Self { vcpus, vm: Arc::new(vm), pit: config.pit, memslot_time })
    }
}

/// Keeps a child process of this one from having `kvm_run` of `vcpu` mapped: it has no use for
/// it, and would hold the VM.
fn keep_from_children(host: &KvmHost, vcpu: &mut VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let bytes = host.kvm().get_vcpu_mmap_size()?;
    let address: *mut kvm_run = vcpu.get_kvm_run();
    // SAFETY: the advice is for the mapping of `kvm_run`, as large as KVM says, and changes
    // nothing in this process.
    match unsafe { libc::madvise(address.cast(), bytes, libc::MADV_DONTFORK) } {
        0 => Ok(()),
        _ => Err(kvm_ioctls::Error::last()),
    }
}
