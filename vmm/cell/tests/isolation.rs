//! Memory of parents, children and siblings in cells of their own, after any of them ran on:
//! every page compared.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::sync::Arc;
use std::thread;

use common::*;
use tine_abi::command::{Command, Op};
use tine_abi::pattern::Selection;
use tine_cell::Nursery;
use tine_vmm::Status;

fn first(nursery: &Nursery, mib: u64, vcpus: u8) -> Tracked {
    Tracked::new(spawn(nursery, &template(nursery, mib, vcpus)))
}

fn write_all(family: &mut [Tracked], pages: u64, seed: u64) {
    for (index, member) in family.iter_mut().enumerate() {
        member.write(pages, seed + index as u64);
    }
}

#[test]
fn four_children_and_their_children_share_what_was_and_nothing_that_comes() {
    let nursery = nursery(0);
    let mut family = vec![first(&nursery, 32, 2)];
    family[0].write(2000, 1);
    family.extend(family[0].fork(&nursery, 4));
    check_all(&family);
    write_all(&mut family, 500, 10);
    // Each of the five forks again, with what it has written since.
    let grandchildren: Vec<Tracked> =
        family.iter().flat_map(|member| member.fork(&nursery, 1)).collect();
    write_all(&mut family, 300, 100);
    family.extend(grandchildren);
    check_all(&family);
    write_all(&mut family, 400, 1000);
    // Those in the middle go; who was forked from them stays as it is.
    family.drain(1..5);
    write_all(&mut family, 200, 5000);
    check_all(&family);
}

#[test]
fn forty_generations_each_outlive_their_parent() {
    const GENERATIONS: u64 = 44;
    let nursery = nursery(0);
    let mut youngest = first(&nursery, 12, 1);
    let warden = warden_of(&youngest.cell);
    for generation in 1..=GENERATIONS {
        youngest.write(60, generation);
        let mut child = youngest.fork(&nursery, 1).remove(0);
        // Both write before the parent goes: neither may see it.
        youngest.write(40, 1000 + generation);
        child.write(40, 2000 + generation);
        youngest.check(&format!("generation {generation}, forked"));
        youngest.cell.kill();
        child.check(&format!("generation {generation}, born"));
        youngest = child;
    }
    wait_for_only(warden, &[&youngest.cell]);
    // And it is as good as the first: it can be snapshotted and cloned.
    let snapshot = Arc::new(snapshot(&nursery, &youngest.cell).unwrap());
    let mut clone = Tracked { cell: spawn(&nursery, &snapshot), memory: youngest.memory.clone() };
    clone.write(100, 9000);
    clone.check("a clone of the last");
    youngest.check("the last");
}

#[test]
fn a_parent_is_forked_by_many_at_once() {
    const THREADS: u64 = 24;
    let nursery = nursery(0);
    let mut parent = first(&nursery, 16, 2);
    parent.write(1500, 1);
    let mut family: Vec<Tracked> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let (parent, nursery) = (&parent, &nursery);
                scope.spawn(move || {
                    let mut child = parent.fork(nursery, 1).remove(0);
                    child.write(200, 100 + number);
                    child
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    parent.write(300, 7);
    family.push(parent);
    let pids: std::collections::BTreeSet<u32> =
        family.iter().map(|member| member.cell.pid()).collect();
    assert_eq!(pids.len() as u64, THREADS + 1);
    check_all(&family);
}

#[test]
fn a_fork_of_more_than_fits_into_a_message_brings_all() {
    let nursery = nursery(0);
    let mut family = vec![first(&nursery, 16, 1)];
    family[0].write(300, 1);
    // The first, sixteen of one message, and three of another.
    family.extend(family[0].fork(&nursery, 20));
    assert_eq!(family.len(), 21);
    write_all(&mut family, 50, 100);
    check_all(&family);
}

#[test]
fn a_fork_in_the_middle_of_a_command_carries_it_on_in_both() {
    let nursery = nursery(0);
    let parent = first(&nursery, 32, 2);
    let pages = parent.memory.pages();
    let all = Selection::sequential(0, pages);
    thread::scope(|scope| {
        let long = scope.spawn(|| run(&parent.cell, 1, &endless()));
        wait_until("the guest is at work", || parent.cell.busy());
        let children = fork(&nursery, &parent.cell, 2);
        for child in &children {
            wait_until("its child is, too", || child.busy());
            // The other vCPU is free.
            assert_eq!(checksum(child, all), parent.memory.checksum(0, pages));
            child.cancel(1).unwrap();
            wait_until("the child's command ends", || !child.busy());
            run(child, 1, &Command::new(Op::Dirty, all).seed(4));
        }
        assert!(parent.cell.busy(), "the parent's command is its own");
        parent.cell.cancel(1).unwrap();
        long.join().unwrap();
    });
    parent.check("the parent");
}

#[test]
fn children_of_a_paused_parent_run_and_it_stays_paused() {
    let nursery = nursery(0);
    let mut parent = first(&nursery, 64, 1);
    parent.write(500, 1);
    parent.cell.pause().unwrap();
    let mut children = parent.fork(&nursery, 3);
    for (number, child) in children.iter_mut().enumerate() {
        assert_eq!(child.cell.status(), Status::Running);
        child.write(200, 10 + number as u64);
    }
    check_all(&children);
    let snapshot = Arc::new(snapshot(&nursery, &parent.cell).unwrap());
    assert_eq!(parent.cell.status(), Status::Paused, "neither fork nor snapshot lets it go on");
    let clone = Tracked { cell: spawn(&nursery, &snapshot), memory: parent.memory.clone() };
    clone.check("a clone of the paused");
    parent.cell.resume().unwrap();
    parent.write(100, 2);
    parent.check("the parent");
    check_all(&children);
}

#[test]
fn forks_between_resets_pauses_snapshots_and_the_kill_are_whole() {
    const ROUNDS: u64 = 12;
    let nursery = nursery(0);
    let mut parent = first(&nursery, 16, 1);
    let clean = parent.memory.clone();
    parent.write(400, 1);
    let written = parent.memory.clone();
    // Children come before or after the reset, and are the one or the other, never a mixture.
    let pages = clean.pages();
    let sums = [clean.checksum(0, pages), written.checksum(0, pages)];
    thread::scope(|scope| {
        let (nursery, parent) = (&nursery, &parent);
        let forks = scope.spawn(move || {
            let mut seen = [0; 2];
            for _ in 0..ROUNDS {
                for child in fork(nursery, &parent.cell, 2) {
                    let sum = checksum(&child, Selection::sequential(0, pages));
                    let which = sums.iter().position(|&known| known == sum);
                    seen[which.expect("a child is neither clean nor written")] += 1;
                }
            }
            seen
        });
        let others = scope.spawn(move || {
            for round in 0..ROUNDS {
                parent.cell.pause().unwrap();
                parent.cell.resume().unwrap();
                drop(snapshot(nursery, &parent.cell).unwrap());
                if round == ROUNDS / 2 {
                    parent.cell.reset().unwrap();
                }
            }
        });
        others.join().unwrap();
        println!("clean and written children: {:?}", forks.join().unwrap());
    });
    parent.memory = clean;
    parent.check("the parent, reset");
    // Killed while it is forked: each fork brings a whole child or says why not.
    let warden = warden_of(&parent.cell);
    let children: Vec<Tracked> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (parent, nursery) = (&parent, &nursery);
                scope.spawn(move || nursery.fork(&parent.cell, wishes(1)))
            })
            .collect();
        parent.cell.kill();
        let ends = threads.into_iter().filter_map(|thread| thread.join().unwrap().ok());
        let cells = ends.flat_map(|(cells, _)| cells).filter_map(Result::ok);
        cells.map(|cell| Tracked { cell, memory: parent.memory.clone() }).collect()
    });
    check_all(&children);
    wait_for_only(warden, &children.iter().map(|child| &child.cell).collect::<Vec<_>>());
}
