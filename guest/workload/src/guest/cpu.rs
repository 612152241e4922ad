//! Single instructions.

use core::arch::asm;

/// Writes `value` to `port`; the vCPU leaves the guest.
#[inline(always)]
pub fn out(port: u16, value: u32) {
    // SAFETY: a port write changes no memory of this program; the host may, which
    // the absence of `nomem` tells the compiler.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) }
}

/// Writes one byte to `port`.
#[inline(always)]
pub fn out_byte(port: u16, value: u8) {
    // SAFETY: as in `out`.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) }
}

/// Reads one byte from `port`.
#[inline(always)]
pub fn in_byte(port: u16) -> u8 {
    let value;
    // SAFETY: a port read changes nothing but the register named.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) }
    value
}

/// The time-stamp counter, read after everything before it is done.
#[inline(always)]
pub fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: RDTSC is allowed in ring 3 (CR4.TSD is clear) and changes only EDX:EAX.
    unsafe { asm!("lfence", "rdtsc", "lfence", out("eax") low, out("edx") high, options(nostack)) }
    u64::from(high) << 32 | u64::from(low)
}

/// Tells the processor that this is a waiting loop.
#[inline(always)]
pub fn relax() {
    core::hint::spin_loop();
}
