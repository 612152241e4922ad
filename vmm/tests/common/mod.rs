//! What the tests share: real guests on /dev/kvm.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its part"
)]

use std::sync::Arc;
use std::time::Duration;

use tine_abi::command::{Command, Op, Reply, dirty_word};
use tine_abi::layout::{RAM_BASE, data_bytes, data_start};
use tine_abi::pattern::Selection;
use tine_vmm::{KvmHost, Machine, MachineConfig, SpawnOptions};

pub const LIMIT: Duration = Duration::from_secs(60);
pub const PAGE: usize = 4096;

pub fn host() -> Arc<KvmHost> {
    Arc::new(KvmHost::open().expect("tests need a usable /dev/kvm"))
}

pub fn boot(host: &Arc<KvmHost>, mib: u64, vcpus: u8) -> Machine {
    let config = MachineConfig { ram_bytes: mib << 20, vcpus, ..MachineConfig::default() };
    Machine::boot(host, &config, Box::new(std::io::sink())).unwrap()
}

pub fn fork(parent: &Machine) -> Machine {
    parent.fork(vec![SpawnOptions::new()]).unwrap().remove(0).unwrap()
}

pub fn fork_many(parent: &Machine, count: usize) -> Vec<Machine> {
    let options = (0..count).map(|_| SpawnOptions::new()).collect();
    parent.fork(options).unwrap().into_iter().map(Result::unwrap).collect()
}

pub fn run(machine: &Machine, vcpu: u8, command: &Command) -> Reply {
    machine.run(vcpu, command, LIMIT).unwrap()
}

/// Dirties `pages` pages scattered over the data region.
pub fn dirty(machine: &Machine, pages: u64, seed: u64) -> Selection {
    let selection = Selection::scattered(data_pages(machine), pages, seed);
    run(machine, 0, &Command::new(Op::Dirty, selection).seed(seed));
    selection
}

pub fn data_pages(machine: &Machine) -> u64 {
    data_bytes(machine.ram_bytes()) / PAGE as u64
}

pub fn checksum(machine: &Machine) -> u64 {
    let all = Selection::sequential(0, data_pages(machine));
    run(machine, 0, &Command::new(Op::Checksum, all)).value
}

/// Where the data region begins, in bytes of RAM.
pub fn data_offset(machine: &Machine) -> usize {
    (data_start(machine.ram_bytes()) - RAM_BASE) as usize
}

/// The data region, copied from outside.
pub fn data(machine: &Machine) -> Vec<u8> {
    let mut bytes = vec![0; data_bytes(machine.ram_bytes()) as usize];
    machine.read_memory(data_offset(machine), &mut bytes);
    bytes
}

/// What `Op::Dirty` does, on a copy of the data region.
pub fn model_dirty(bytes: &mut [u8], selection: Selection, seed: u64) {
    for page in selection.iter() {
        let (word, place) = dirty_word(seed, page);
        let at = page as usize * PAGE + place as usize * 8;
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
}

/// The pages in which two data regions differ.
pub fn different_pages(a: &[u8], b: &[u8]) -> Vec<usize> {
    assert_eq!(a.len(), b.len());
    (0..a.len() / PAGE)
        .filter(|&page| {
            let range = page * PAGE..(page + 1) * PAGE;
            a[range.clone()] != b[range]
        })
        .collect()
}
