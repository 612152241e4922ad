//! A guest without a kernel, entered as one: the beacon.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use common::*;
use tine_vmm::{Machine, MachineConfig, SpawnOptions, Status};

/// Counts what the guest sends.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl Counter {
    fn wait_for(&self, calls: u64) {
        let begun = Instant::now();
        while self.0.load(Ordering::SeqCst) < calls {
            assert!(begun.elapsed() < LIMIT, "the beacon is silent");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

impl Write for Counter {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        assert!(data.iter().all(|byte| tine_beacon::CALL.contains(byte)), "{data:?}");
        let calls = data.iter().filter(|&&byte| byte == tine_beacon::CALL[0]).count();
        self.0.fetch_add(calls as u64, Ordering::SeqCst);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_beacon_fills_its_memory_and_calls_from_every_clone() {
    let host = host();
    let (calls, heard) = (Counter::default(), Counter::default());
    let config = MachineConfig { ram_bytes: 32 << 20, ..MachineConfig::default() };
    let parent =
        Machine::boot_bare(&host, &config, &tine_beacon::elf(), Box::new(calls.clone())).unwrap();
    calls.wait_for(100);
    let (snapshot, _) = parent.snapshot().unwrap();
    let options = SpawnOptions { console: Box::new(heard.clone()), ..SpawnOptions::new() };
    let clone = Machine::spawn(&host, &snapshot, options).unwrap();
    assert!(clone.ladder().total.is_some(), "its first call is its first exit");
    heard.wait_for(100);
    // Its count and little else is its own.
    assert!((1..8).contains(&clone.dirty_pages().unwrap()), "{:?}", clone.dirty_pages());
    // Every page behind the program's holds its own address; in the first of them it counts.
    let word = |address: u64| {
        let mut word = [0; 8];
        clone.read_memory(address as usize, &mut word);
        u64::from_le_bytes(word)
    };
    let first = tine_beacon::ADDRESS + 0x1000;
    assert!((100..1 << 40).contains(&(word(first) - first)), "{:#x}", word(first));
    for page in (first + 0x1000..32 << 20).step_by(PAGE) {
        assert_eq!(word(page), page);
    }
    assert_eq!(parent.status(), Status::Running);
}
