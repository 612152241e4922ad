//! Ten thousand clones made and killed: no descriptor, no mapping and no memory is lost.
//!
//! One test, in a process of its own, because it counts what the process holds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::collections::VecDeque;
use std::fs;

use common::*;
use tine_vmm::{Machine, SpawnOptions};

/// Open descriptors, mappings, and resident kilobytes of this process.
fn held() -> (usize, usize, u64) {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    let mappings = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes = resident.trim().split(' ').next().unwrap().parse().unwrap();
    (descriptors, mappings, kilobytes)
}

#[test]
fn ten_thousand_clones_leave_nothing_behind() {
    let host = host();
    let parent = boot(&host, 8, 1);
    dirty(&parent, 50, 1);
    let (snapshot, _) = parent.snapshot().unwrap();
    let cycle = |count: usize| {
        // A VM that is closed right after it was made makes the kernel wait; let it age.
        let mut alive = VecDeque::new();
        for index in 0..count {
            let clone = match index % 50 {
                0 => fork(&parent),
                1 => fork_many(&parent, 2).remove(1),
                _ => Machine::spawn(&host, &snapshot, SpawnOptions::new()).unwrap(),
            };
            alive.push_back(clone);
            if alive.len() > 64 {
                alive.pop_front();
            }
        }
    };
    // The allocator and the kernel's caches settle first.
    cycle(500);
    let before = held();
    cycle(10_000);
    let after = held();
    assert_eq!(after.0, before.0, "descriptors");
    // Freed thread stacks may stay cached, as address space.
    assert!(after.1 <= before.1 + 70, "mappings: {} became {}", before.1, after.1);
    assert!(after.2 <= before.2 + 1024, "resident kB: {} became {}", before.2, after.2);
    assert_eq!(checksum(&fork(&parent)), checksum(&parent));
}
