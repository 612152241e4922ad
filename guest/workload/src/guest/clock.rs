//! Monotonic and wall-clock time as KVM's paravirtual clock gives them
//! (Linux Documentation/virt/kvm/x86/msr.rst, `MSR_KVM_SYSTEM_TIME_NEW`).

use core::sync::atomic::{Ordering, fence};

use tine_abi::layout::{CLOCK_OFFSET, WALL_CLOCK_OFFSET, vcpu_area};

use crate::cpu;

/// Nanoseconds since the virtual machine's clock started, read on vCPU `area`'s page.
pub fn monotonic_ns(area: u64) -> u64 {
    let page = (area + CLOCK_OFFSET) as *const u8;
    loop {
        // SAFETY: the page is mapped, and KVM writes a `pvclock_vcpu_time_info` of 32
        // bytes there: version at 0, TSC at 8, time at 16, multiplier at 24, shift at 28.
        let (version, tsc, time, multiplier, shift, after) = unsafe {
            let version = page.cast::<u32>().read_volatile();
            fence(Ordering::SeqCst);
            let fields = (
                version,
                page.add(8).cast::<u64>().read_volatile(),
                page.add(16).cast::<u64>().read_volatile(),
                page.add(24).cast::<u32>().read_volatile(),
                page.add(28).cast::<i8>().read_volatile(),
            );
            fence(Ordering::SeqCst);
            let after = page.cast::<u32>().read_volatile();
            (fields.0, fields.1, fields.2, fields.3, fields.4, after)
        };
        if version & 1 == 0 && version == after {
            let delta = cpu::tsc().wrapping_sub(tsc);
            let delta = if shift >= 0 { delta << shift } else { delta >> -shift };
            let scaled = (u128::from(delta) * u128::from(multiplier)) >> 32;
            return time.wrapping_add(scaled as u64);
        }
        cpu::relax();
    }
}

/// Nanoseconds since the epoch, for a monotonic time of `monotonic` nanoseconds.
pub fn wall_ns(monotonic: u64) -> u64 {
    let page = (vcpu_area(0) + WALL_CLOCK_OFFSET) as *const u32;
    // SAFETY: the page is mapped; KVM wrote a `pvclock_wall_clock` of three words there
    // (version, seconds, nanoseconds) when the machine was built, and never again.
    let (seconds, nanoseconds) =
        unsafe { (page.add(1).read_volatile(), page.add(2).read_volatile()) };
    u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds) + monotonic
}
