//! One clock for all processes of the machine: `CLOCK_MONOTONIC`, nanoseconds since its start.

use nix::time::{ClockId, clock_gettime};

/// Now, in nanoseconds. 0 if the kernel has no such clock, which who reads the stamp takes for none.
pub fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        (time.tv_sec() as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec() as u64)
    })
}

/// The microseconds from one moment to another.
pub fn microseconds(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_sleep_takes_its_time() {
        let before = now();
        thread::sleep(Duration::from_millis(30));
        let slept = microseconds(before, now());
        assert!((30_000.0..10e6).contains(&slept), "{slept} us");
        assert_eq!(microseconds(5_500, 2_000), -3.5);
    }
}
