//! The embedded workload: a freestanding ring-3 program.
//!
//! The VMM starts every vCPU at [`start`] with its own stack. There is no kernel:
//! the page tables, the GDT and the TSS are the VMM's, the IDT is filled here, and
//! everything else is a loop that waits for commands in the vCPU's mailbox.

#![no_std]
#![no_main]

mod clock;
mod console;
mod cpu;
mod interrupts;
mod mailbox;
mod work;

use tine_abi::ABI_VERSION;
use tine_abi::layout::{PORT_FAULT, PORT_IDLE, boot};

use crate::console::Console;
use crate::mailbox::{Mailbox, boot_word};

core::arch::global_asm!(
    ".section .text.start, \"ax\"",
    ".globl start",
    "start:",
    "xor ebp, ebp",
    "call {run}",
    "ud2",
    run = sym run,
);

/// Serves the commands of vCPU `index` for ever.
extern "C" fn run(index: u64) -> ! {
    interrupts::install();
    let mailbox = Mailbox::of_vcpu(index);
    if boot_word(boot::ABI) != ABI_VERSION {
        cpu::out(PORT_FAULT, u32::MAX);
    }
    if index == 0 {
        greet();
    }
    loop {
        cpu::out(PORT_IDLE, index as u32);
        if let Some(number) = mailbox.new_command() {
            let reply = work::perform(mailbox, number);
            mailbox.answer(number, reply);
        }
    }
}

fn greet() {
    let mut console = Console;
    console.text("tine workload: ");
    console.number(boot_word(boot::VCPUS));
    console.text(" vCPU, ");
    console.number(boot_word(boot::RAM_BYTES) >> 20);
    console.text(" MiB, TSC ");
    console.number(boot_word(boot::TSC_KHZ) / 1000);
    console.text(" MHz\r\n");
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        cpu::out(PORT_FAULT, u32::MAX);
    }
}

/// Precompiled `core` names it, though nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
