//! Where things are in the guest's memory, and which ports it speaks through.
//!
//! RAM starts at 4 GiB: one memslot holds it whatever its size, and the local
//! APIC keeps its page below. Virtual addresses equal physical ones. From
//! [`RAM_BASE`] upwards: boot page, GDT, IDT, one area per vCPU, the program, the
//! page tables, and then data to the end of RAM.

/// Size of a page, bytes.
pub const PAGE_SIZE: u64 = 4096;
/// First byte of guest RAM, physical and virtual.
pub const RAM_BASE: u64 = 1 << 32;
/// The smallest RAM a workload guest can have, bytes.
pub const MIN_RAM: u64 = 8 << 20;

/// Boot page: words indexed by the constants of [`boot`].
pub const BOOT_PAGE: u64 = RAM_BASE;
/// Global descriptor table.
pub const GDT: u64 = RAM_BASE + 0x1000;
/// Interrupt descriptor table: 256 gates of 16 bytes. The guest fills it.
pub const IDT: u64 = RAM_BASE + 0x2000;

/// First vCPU area.
pub const VCPU_AREAS: u64 = RAM_BASE + 0x10_000;
/// Distance between vCPU areas, and their alignment: code finds its own area by
/// masking the stack pointer.
pub const VCPU_STRIDE: u64 = 0x8000;
/// Most vCPUs a workload guest can have.
pub const MAX_VCPUS: u64 = 16;
/// Task state segment with an I/O permission bitmap, at the start of a vCPU's area.
pub const TSS_OFFSET: u64 = 0;
/// Limit of the task state segment: 104 bytes, 8 KiB of bitmap and its final 0xff.
pub const TSS_LIMIT: u32 = 104 + 8192;
/// Top of the stack in a vCPU's area. It shares a page with the mailbox and the
/// clock, so that a clone at work has to copy one page for all three.
pub const STACK_TOP_OFFSET: u64 = 0x7800;
/// The mailbox in a vCPU's area: words indexed by the constants of [`mod@mailbox`].
pub const MAILBOX_OFFSET: u64 = 0x7800;
/// The paravirtual clock (`pvclock_vcpu_time_info`) in a vCPU's area.
pub const CLOCK_OFFSET: u64 = 0x7c00;
/// The wall clock (`pvclock_wall_clock`) in a vCPU's area, used of vCPU 0 only.
pub const WALL_CLOCK_OFFSET: u64 = 0x7c40;

/// Where the program is linked.
pub const PROGRAM: u64 = RAM_BASE + 0x10_0000;
/// First page table; the program ends below.
pub const PAGE_TABLES: u64 = RAM_BASE + 0x20_0000;

/// The local APIC's registers (Intel SDM volume 3, 12.4.1), mapped for ring 3.
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// Code segment selector, ring 3.
pub const CODE_SELECTOR: u16 = 0x08 | 3;
/// Data and stack segment selector, ring 3.
pub const DATA_SELECTOR: u16 = 0x10 | 3;
/// Selector of vCPU 0's task state segment; the others follow, 16 bytes each.
pub const TSS_SELECTOR: u16 = 0x18;

/// The guest writes here when it has nothing to do; its vCPU then sleeps on the
/// host until a command comes.
pub const PORT_IDLE: u16 = 0x580;
/// The guest writes here to be seen at work; it continues at once.
pub const PORT_BEAT: u16 = 0x584;
/// The guest writes the vector of an exception here that it can't survive.
pub const PORT_FAULT: u16 = 0x588;
/// First port of the 16550 console.
pub const PORT_CONSOLE: u16 = 0x3f8;

/// Area of vCPU `index`.
pub const fn vcpu_area(index: u64) -> u64 {
    VCPU_AREAS + index * VCPU_STRIDE
}

/// Mailbox of vCPU `index`.
pub const fn mailbox(index: u64) -> u64 {
    vcpu_area(index) + MAILBOX_OFFSET
}

/// Bytes of page tables that map `ram_bytes` of RAM in 4 KiB pages, and the local APIC.
///
/// One PML4, two page directory pointer tables at the most (RAM ends below 512 GiB
/// in one; [`RAM_BASE`] lies in the same), a directory per GiB and a table per 2 MiB
/// of RAM, and one of each for the local APIC.
pub const fn page_table_bytes(ram_bytes: u64) -> u64 {
    let tables = ram_bytes.div_ceil(2 << 20);
    let directories = ram_bytes.div_ceil(1 << 30);
    (1 + 1 + directories + tables + 2) * PAGE_SIZE
}

/// First byte of the data region for a guest with `ram_bytes` of RAM, on a 2 MiB boundary.
pub const fn data_start(ram_bytes: u64) -> u64 {
    (PAGE_TABLES + page_table_bytes(ram_bytes)).next_multiple_of(2 << 20)
}

/// Size of the data region, bytes.
pub const fn data_bytes(ram_bytes: u64) -> u64 {
    (RAM_BASE + ram_bytes).saturating_sub(data_start(ram_bytes))
}

/// Words of the boot page.
pub mod boot {
    /// [`ABI_VERSION`](crate::ABI_VERSION) of the VMM.
    pub const ABI: usize = 0;
    /// Number of vCPUs.
    pub const VCPUS: usize = 1;
    /// Size of RAM, bytes.
    pub const RAM_BYTES: usize = 2;
    /// Frequency of the TSC, kHz, as `KVM_GET_TSC_KHZ` told it.
    pub const TSC_KHZ: usize = 3;
    /// Number of words.
    pub const WORDS: usize = 4;
}

/// Words of a mailbox.
pub mod mailbox {
    use crate::command::{COMMAND_WORDS, REPLY_WORDS};

    /// Number of the newest command; the host writes it after the command's words.
    pub const COMMAND_NUMBER: usize = 0;
    /// First word of the command.
    pub const COMMAND: usize = 1;
    /// Number of the newest command that was answered; the guest writes it last.
    pub const REPLY_NUMBER: usize = COMMAND + COMMAND_WORDS;
    /// First word of the reply.
    pub const REPLY: usize = REPLY_NUMBER + 1;
    /// Rises with every unit of work that the guest does.
    pub const HEARTBEAT: usize = REPLY + REPLY_WORDS;
    /// Number of a command that is to end early.
    pub const CANCEL: usize = HEARTBEAT + 1;
    /// Interrupts of the local APIC's timer since boot.
    pub const TICKS: usize = CANCEL + 1;
    /// Exception that ended the guest: vector, error code and instruction pointer.
    pub const FAULT: usize = TICKS + 1;
    /// Number of words.
    pub const WORDS: usize = FAULT + 3;
}

const _: () = assert!(mailbox::WORDS as u64 * 8 <= CLOCK_OFFSET - MAILBOX_OFFSET);
const _: () = assert!(TSS_LIMIT as u64 + 1 < STACK_TOP_OFFSET - 0x4000);
const _: () = assert!(vcpu_area(MAX_VCPUS) <= PROGRAM);
const _: () = assert!(data_bytes(MIN_RAM) >= 1 << 20);
