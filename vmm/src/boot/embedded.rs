//! The embedded workload: no firmware, no kernel, ring 3 from the first instruction.

use std::io::Cursor;

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, kvm_dtable, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::VcpuFd;
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::Elf;
use tine_abi::ABI_VERSION;
use tine_abi::layout::{
    self, BOOT_PAGE, CLOCK_OFFSET, CODE_SELECTOR, DATA_SELECTOR, GDT, IDT, MAX_VCPUS, MIN_RAM,
    RAM_BASE, STACK_TOP_OFFSET, TSS_LIMIT, TSS_OFFSET, TSS_SELECTOR, WALL_CLOCK_OFFSET, boot,
    vcpu_area,
};
use vm_memory::GuestMemoryMmap;

use super::{BootError, descriptor, paging, put, put_words};
use crate::kvm::{KvmError, failed, msr};

/// Largest RAM of a workload guest, bytes: its page directory pointers fill one table.
pub const MAX_RAM: u64 = 256 << 30;

/// Privilege level of the workload's segments.
const RING3: u8 = 3;

/// Checks that a workload guest can have this shape.
pub fn check(ram_bytes: u64, vcpus: u8) -> Result<(), BootError> {
    if !(MIN_RAM..=MAX_RAM).contains(&ram_bytes) {
        return Err(BootError::Ram { bytes: ram_bytes, min: MIN_RAM, max: MAX_RAM });
    }
    if !(1..=MAX_VCPUS).contains(&u64::from(vcpus)) {
        return Err(BootError::Vcpus { vcpus, max: MAX_VCPUS });
    }
    Ok(())
}

/// Puts program, page tables, descriptor tables and boot page into memory. Returns the
/// state that the vCPUs start from.
pub fn load(
    memory: &GuestMemoryMmap,
    program: &[u8],
    ram_bytes: u64,
    vcpus: u8,
    tsc_khz: u32,
) -> Result<Start, BootError> {
    check(ram_bytes, vcpus)?;
    let loaded =
        Elf::load(memory, None, &mut Cursor::new(program), None).map_err(BootError::Load)?;
    let cr3 = paging::map_everything(memory, ram_bytes)?;
    let mut words = [0; boot::WORDS];
    words[boot::ABI] = ABI_VERSION;
    words[boot::VCPUS] = u64::from(vcpus);
    words[boot::RAM_BYTES] = ram_bytes;
    words[boot::TSC_KHZ] = u64::from(tsc_khz);
    put_words(memory, "the boot page", BOOT_PAGE, &words)?;

    let mut gdt = vec![0, descriptor(&code(RING3)), descriptor(&data(RING3))];
    for vcpu in 0..vcpus {
        let task = task_segment(vcpu);
        gdt.extend([descriptor(&task), task.base >> 32]);
        // A task state segment of zeros allows every port; its last byte must be ones.
        put_words(memory, "a TSS", task.base + 96, &[(104 << 48)])?;
        put(memory, "a TSS", task.base + u64::from(TSS_LIMIT), &[0xff])?;
    }
    put_words(memory, "the GDT", GDT, &gdt)?;
    let gdt_bytes = gdt.len() * 8;
    Ok(Start { entry: loaded.kernel_load.0, cr3, gdt_bytes, ring: RING3 })
}

/// Where and how the vCPUs start.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    entry: u64,
    cr3: u64,
    gdt_bytes: usize,
    ring: u8,
}

impl Start {
    /// The same start, but in ring 0: for measuring what ring 0 costs.
    #[must_use]
    pub fn in_ring0(self) -> Self {
        Self { ring: 0, ..self }
    }

    /// Gives vCPU `index` the state it starts from.
    pub fn set(&self, vcpu: &VcpuFd, index: u8) -> Result<(), BootError> {
        let registers = |source| BootError::Registers { vcpu: usize::from(index), source };
        self.set_registers(vcpu, index).map_err(registers)
    }

    fn set_registers(&self, vcpu: &VcpuFd, index: u8) -> Result<(), KvmError> {
        const CR0_PE_MP_NE_WP_PG: u64 = 1 | 1 << 1 | 1 << 5 | 1 << 16 | 1 << 31;
        const CR4_PAE_OSFXSR_OSXMMEXCPT: u64 = 1 << 5 | 1 << 9 | 1 << 10;
        const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
        // The I/O privilege level beside the permission bitmap: each is not honoured somewhere,
        // the level under PVM, the bitmap of a busy TSS by an emulated SVM (QEMU's TCG).
        const FLAGS_RESERVED_IF_IOPL3: u64 = 1 << 1 | 1 << 9 | 3 << 12;

        let on = format!(" on vCPU {index}");
        let mut sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS", &on))?;
        sregs.cs = code(self.ring);
        for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
            *segment = data(self.ring);
        }
        sregs.tr = task_segment(index);
        sregs.gdt =
            kvm_dtable { base: GDT, limit: (self.gdt_bytes - 1) as u16, ..Default::default() };
        sregs.idt = kvm_dtable { base: IDT, limit: 256 * 16 - 1, ..Default::default() };
        sregs.cr0 = CR0_PE_MP_NE_WP_PG;
        sregs.cr3 = self.cr3;
        sregs.cr4 = CR4_PAE_OSFXSR_OSXMMEXCPT;
        sregs.efer = EFER_LME_LMA;
        vcpu.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS", &on))?;

        let area = vcpu_area(u64::from(index));
        let regs = kvm_regs {
            rip: self.entry,
            rsp: area + STACK_TOP_OFFSET,
            rdi: u64::from(index),
            rflags: FLAGS_RESERVED_IF_IOPL3,
            ..Default::default()
        };
        vcpu.set_regs(&regs).map_err(failed("KVM_SET_REGS", &on))?;

        let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        let mut msrs = vec![entry(msr::KVM_SYSTEM_TIME, (area + CLOCK_OFFSET) | 1)];
        if index == 0 {
            msrs.push(entry(msr::KVM_WALL_CLOCK, area + WALL_CLOCK_OFFSET));
        }
        msr::set(vcpu, usize::from(index), &msrs)?;
        // There is no firmware to wake the other vCPUs: all start at once.
        vcpu.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE })
            .map_err(failed("KVM_SET_MP_STATE", &on))
    }
}

fn code(ring: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector: CODE_SELECTOR & !3 | u16::from(ring),
        type_: 0b1011,
        present: 1,
        dpl: ring,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    }
}

fn data(ring: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector: DATA_SELECTOR & !3 | u16::from(ring),
        type_: 0b0011,
        present: 1,
        dpl: ring,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

fn task_segment(vcpu: u8) -> kvm_segment {
    kvm_segment {
        base: vcpu_area(u64::from(vcpu)) + TSS_OFFSET,
        limit: TSS_LIMIT,
        selector: TSS_SELECTOR + u16::from(vcpu) * 16,
        // A busy 64-bit task state segment, as VM entry wants it.
        type_: 0b1011,
        present: 1,
        ..Default::default()
    }
}

const _: () = assert!(MAX_RAM + RAM_BASE <= 512 << 30);
const _: () = assert!(layout::data_bytes(MAX_RAM) > 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_the_bits_that_the_manual_gives() {
        // A flat 64-bit code segment of ring 3, accessed; the classic value.
        assert_eq!(descriptor(&code(3)), 0x00af_fb00_0000_ffff);
        assert_eq!(descriptor(&data(3)), 0x00cf_f300_0000_ffff);
    }

    #[test]
    fn shapes_that_can_not_be_are_refused() {
        assert!(matches!(check(MIN_RAM - 4096, 1), Err(BootError::Ram { .. })));
        assert!(matches!(check(MAX_RAM + 4096, 1), Err(BootError::Ram { .. })));
        assert!(matches!(check(MIN_RAM, 0), Err(BootError::Vcpus { .. })));
        assert!(matches!(check(MIN_RAM, 17), Err(BootError::Vcpus { .. })));
        assert!(check(MIN_RAM, 16).is_ok());
    }
}
