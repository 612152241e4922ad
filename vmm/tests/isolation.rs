//! Memory of parent, children and siblings, after any of them ran on: every page compared.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::sync::Arc;

use common::*;
use tine_abi::command::{Command, Op};
use tine_abi::pattern::{Pattern, Selection};
use tine_vmm::{KvmHost, Machine, MemoryMode, SpawnOptions};

/// A machine and what its data region must hold.
struct Tracked {
    machine: Machine,
    expected: Vec<u8>,
}

impl Tracked {
    fn write(&mut self, pages: u64, seed: u64) {
        let selection = dirty(&self.machine, pages, seed);
        model_dirty(&mut self.expected, selection, seed);
    }

    fn boot(host: &Arc<KvmHost>, vcpus: u8) -> Self {
        let machine = boot(host, 32, vcpus);
        let expected = vec![0; data(&machine).len()];
        Self { machine, expected }
    }

    /// A child, forked by copying.
    fn single(&self) -> Self {
        self.child(fork(&self.machine))
    }

    /// Two children, forked through a delta.
    fn pair(&self) -> Vec<Self> {
        fork_many(&self.machine, 2).into_iter().map(|child| self.child(child)).collect()
    }

    fn child(&self, machine: Machine) -> Self {
        Self { machine, expected: self.expected.clone() }
    }

    fn check(&self, who: &str) {
        let wrong = different_pages(&data(&self.machine), &self.expected);
        assert!(wrong.is_empty(), "{who}: {} pages differ, the first {:?}", wrong.len(), wrong[0]);
    }
}

fn check_all(family: &[Tracked]) {
    for (index, member) in family.iter().enumerate() {
        member.check(&format!("member {index}"));
    }
}

#[test]
fn a_child_has_what_its_parent_had_and_then_each_its_own() {
    let host = host();
    let mut family = vec![Tracked::boot(&host, 1)];
    family[0].write(500, 1);
    let child = family[0].single();
    family.push(child);
    check_all(&family);
    family[0].write(700, 2);
    check_all(&family);
    family[1].write(900, 3);
    check_all(&family);
    assert_ne!(checksum(&family[0].machine), checksum(&family[1].machine));
}

#[test]
fn forks_of_forks_on_all_sides_with_four_vcpus() {
    let host = host();
    let mut family = vec![Tracked::boot(&host, 4)];
    for round in 0..4u64 {
        for (member, one) in family.iter_mut().enumerate() {
            one.write(200 + 40 * round, 100 * round + member as u64);
        }
        // Singles are forked by copying, pairs through a delta that may lie over another.
        let parent = &family[round as usize % family.len()];
        let single = parent.single();
        let pair: Vec<Tracked> = parent.pair();
        family.push(single);
        family.extend(pair);
        check_all(&family);
    }
    for (member, one) in family.iter_mut().enumerate() {
        one.write(300, 7000 + member as u64);
    }
    check_all(&family);
}

#[test]
fn long_runs_are_shared_and_still_private() {
    let host = host();
    let mut family = vec![Tracked::boot(&host, 1)];
    let first = family[0].single();
    family.push(first);
    // A run long enough to be mapped from the delta rather than copied.
    let run_of =
        Selection { first_page: 10, region_pages: 600, pages: 600, pattern: Pattern::Sequential };
    run(&family[1].machine, 0, &Command::new(Op::Dirty, run_of).seed(9));
    model_dirty(&mut family[1].expected, run_of, 9);
    let children: Vec<Tracked> = family[1].pair();
    family.extend(children);
    let ledger = family[2].machine.ledger().unwrap();
    assert_eq!(ledger.delta_bytes % PAGE as u64, 0);
    assert!(ledger.delta_bytes >= 600 * PAGE as u64);
    assert!(ledger.private_bytes < 100 * PAGE as u64, "600 pages should be shared: {ledger:?}");
    check_all(&family);
    for (member, one) in family.iter_mut().enumerate() {
        one.write(400, 50 + member as u64);
    }
    check_all(&family);
    // A delta over a delta: still two layers, still right.
    let grandchildren: Vec<Tracked> = family[2].pair();
    family.extend(grandchildren);
    check_all(&family);
    let last = family.len() - 1;
    family[last].write(400, 99);
    check_all(&family);
}

#[test]
fn an_eager_clone_is_as_private_as_a_shared_one() {
    let host = host();
    let mut family = vec![Tracked::boot(&host, 2)];
    family[0].write(800, 5);
    let (snapshot, _) = family[0].machine.snapshot().unwrap();
    for memory in [MemoryMode::Eager, MemoryMode::Cow, MemoryMode::Eager] {
        let options = SpawnOptions { memory, ..SpawnOptions::new() };
        let child = Machine::spawn(&host, &snapshot, options).unwrap();
        let child = family[0].child(child);
        family.push(child);
    }
    check_all(&family);
    for (member, one) in family.iter_mut().enumerate() {
        one.write(300, 20 + member as u64);
    }
    check_all(&family);
    // An eager clone can be forked too, both ways.
    let single = family[1].single();
    let pair: Vec<Tracked> = family[1].pair();
    family.push(single);
    family.extend(pair);
    check_all(&family);
}

#[test]
fn a_fork_in_the_middle_of_a_command_carries_it_on_in_both() {
    let host = host();
    let parent = boot(&host, 32, 4);
    let _base = fork(&parent);
    let pages = data_pages(&parent);
    // Every vCPU writes over its own quarter again and again while the machine is forked.
    let share = pages / 4;
    for vcpu in 0..4 {
        let selection = Selection::sequential(share * vcpu, share);
        let command = Command::new(Op::Dirty, selection).seed(vcpu + 1);
        parent.submit(vcpu as u8, &command).unwrap();
    }
    let child = fork(&parent);
    let grandchild = fork(&child);
    for machine in [&parent, &child, &grandchild] {
        for vcpu in 0..4u8 {
            let reply = machine.wait(machine.current(vcpu).unwrap(), LIMIT).unwrap();
            assert_eq!(reply.done, share);
        }
    }
    let mut expected = vec![0; data(&parent).len()];
    for vcpu in 0..4 {
        model_dirty(&mut expected, Selection::sequential(share * vcpu, share), vcpu + 1);
    }
    for machine in [&parent, &child, &grandchild] {
        assert!(different_pages(&data(machine), &expected).is_empty());
    }
}
