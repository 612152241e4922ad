//! The IDT, and handlers that run in ring 3 like everything else.
//!
//! A gate may lead to a code segment of the interrupted privilege level: the
//! processor then pushes its frame on the current stack, which has no red zone here.

use core::arch::global_asm;

use tine_abi::layout::{
    CODE_SELECTOR, IDT, LOCAL_APIC, MAILBOX_OFFSET, PORT_FAULT, VCPU_STRIDE, mailbox,
};

/// Vector of the local APIC's timer.
const TIMER_VECTOR: u8 = 0x40;
/// Vector of its spurious interrupts.
const SPURIOUS_VECTOR: u8 = 0xff;

global_asm!(
    // The vCPU's area is found by masking the stack pointer.
    "timer_handler:",
    "push rax",
    "push rcx",
    "mov rax, rsp",
    "and rax, {area_mask}",
    "inc qword ptr [rax + {ticks}]",
    "mov ecx, {end_of_interrupt}",
    "mov dword ptr [rcx], 0",
    "pop rcx",
    "pop rax",
    "iretq",
    "spurious_handler:",
    "iretq",
    // Exceptions: 32 stubs of 16 bytes. Those without an error code push a zero.
    ".balign 16",
    "exception_handlers:",
    ".set vector, 0",
    ".rept 32",
    ".balign 16",
    ".if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)",
    "push 0",
    ".endif",
    "push vector",
    "jmp exception",
    ".set vector, vector + 1",
    ".endr",
    "exception:",
    "mov rax, rsp",
    "and rax, {area_mask}",
    "mov rcx, [rsp]",
    "mov [rax + {fault}], rcx",
    "mov rdx, [rsp + 8]",
    "mov [rax + {fault} + 8], rdx",
    "mov rdx, [rsp + 16]",
    "mov [rax + {fault} + 16], rdx",
    "mov eax, ecx",
    "mov dx, {port}",
    "2: out dx, eax",
    "jmp 2b",
    area_mask = const -(VCPU_STRIDE as i64),
    ticks = const MAILBOX_OFFSET as usize + mailbox::TICKS * 8,
    fault = const MAILBOX_OFFSET as usize + mailbox::FAULT * 8,
    end_of_interrupt = const LOCAL_APIC + 0xb0,
    port = const PORT_FAULT,
);

unsafe extern "C" {
    static timer_handler: u8;
    static spurious_handler: u8;
    static exception_handlers: u8;
}

/// Fills the IDT. Every vCPU does, with the same contents.
pub fn install() {
    let exceptions = (&raw const exception_handlers) as u64;
    for vector in 0..32 {
        gate(vector, exceptions + u64::from(vector) * 16);
    }
    gate(TIMER_VECTOR, (&raw const timer_handler) as u64);
    gate(SPURIOUS_VECTOR, (&raw const spurious_handler) as u64);
}

/// A 64-bit trap gate (Intel SDM volume 3, 7.14.1) for ring 3. An interrupt gate would
/// clear the interrupt flag, and IRET in ring 3 can't set it again.
fn gate(vector: u8, handler: u64) {
    const PRESENT_RING3_TRAP: u64 = 0xef << 40;
    let low = (handler & 0xffff)
        | u64::from(CODE_SELECTOR) << 16
        | PRESENT_RING3_TRAP
        | (handler >> 16 & 0xffff) << 48;
    let entry = (IDT as *mut u64).wrapping_add(usize::from(vector) * 2);
    // SAFETY: the IDT's page is mapped for writing and has room for 256 gates.
    unsafe {
        entry.write_volatile(low);
        entry.add(1).write_volatile(handler >> 32);
    }
}

/// The local APIC's timer (Intel SDM volume 3, 12.5.4), in periodic mode.
pub struct Timer;

impl Timer {
    const SPURIOUS: u64 = 0xf0;
    const LVT_TIMER: u64 = 0x320;
    const INITIAL_COUNT: u64 = 0x380;
    const DIVIDE: u64 = 0x3e0;

    /// Starts it with an interrupt each `period` ticks of its clock.
    pub fn start(period: u32) -> Self {
        const ENABLED: u32 = 1 << 8;
        const PERIODIC: u32 = 1 << 17;
        const DIVIDE_BY_1: u32 = 0b1011;
        Self::write(Self::SPURIOUS, ENABLED | u32::from(SPURIOUS_VECTOR));
        Self::write(Self::DIVIDE, DIVIDE_BY_1);
        Self::write(Self::LVT_TIMER, PERIODIC | u32::from(TIMER_VECTOR));
        Self::write(Self::INITIAL_COUNT, period);
        Self
    }

    fn write(register: u64, value: u32) {
        // SAFETY: the local APIC's page is mapped for ring 3, uncached.
        unsafe { ((LOCAL_APIC + register) as *mut u32).write_volatile(value) }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        Self::write(Self::INITIAL_COUNT, 0);
    }
}
