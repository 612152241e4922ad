//! Processes killed at every moment: what they were is reported failed, with the reason, others
//! go on unchanged, and nothing is left.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use tine_abi::pattern::Selection;
use tine_cell::{Cell, CellSnapshot, Fault, Kind, Nursery};
use tine_vmm::Status;

/// A parent with something in its memory.
fn parent(nursery: &Nursery, snapshot: &Arc<CellSnapshot>) -> Tracked {
    let mut parent = Tracked::new(spawn(nursery, snapshot));
    parent.write(1000, 1);
    parent
}

/// Waits until the machine of `cell` has failed. Returns why.
fn why_failed(cell: &Cell) -> String {
    wait_until("the failure is noticed", || matches!(cell.status(), Status::Failed(_)));
    match cell.status() {
        Status::Failed(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cell_killed_at_work_fails_with_the_reason_and_others_go_on() {
    let nursery = nursery(0);
    let snapshot = template(&nursery, 64, 1);
    let (victim, other) = (parent(&nursery, &snapshot), parent(&nursery, &snapshot));
    let child = other.fork(&nursery, 1).remove(0);
    let warden = warden_of(&other.cell);
    let fault = thread::scope(|scope| {
        let work = scope.spawn(|| victim.cell.work(0, &endless(), PATIENCE * 60));
        wait_until("the guest is at work", || victim.cell.busy());
        Process::find(victim.cell.pid()).kill();
        work.join().unwrap().unwrap_err()
    });
    assert!(fault.text.contains("SIGKILL"), "{fault:?}");
    assert!(why_failed(&victim.cell).contains("SIGKILL"), "{:?}", victim.cell.status());
    assert!(!victim.cell.busy());
    // Whatever it is asked now, it says the same.
    for fault in [victim.cell.pause().unwrap_err(), victim.cell.reset().unwrap_err()] {
        assert_eq!(fault.kind, Kind::State);
        assert!(fault.text.contains("SIGKILL"), "{fault:?}");
    }
    assert!(nursery.fork(&victim.cell, wishes(2)).is_err());
    other.check("the other");
    child.check("its child");
    let more = other.fork(&nursery, 1).remove(0);
    more.check("another child");
    wait_for_only(warden, &[&other.cell, &child.cell, &more.cell]);
    // The end of a machine that failed is no other failure.
    victim.cell.kill();
    assert!(matches!(victim.cell.status(), Status::Failed(_)));
}

#[test]
fn children_killed_before_they_start_are_told_of_and_their_siblings_live() {
    let nursery = nursery(0);
    let parent = parent(&nursery, &template(&nursery, 16, 1));
    let warden = warden_of(&parent.cell);
    let pages = parent.memory.pages();
    let (all, sum) = (Selection::sequential(0, pages), parent.memory.checksum(0, pages));
    for killed in [vec![0], vec![1], vec![3], vec![0, 2], vec![0, 1, 2, 3]] {
        let wishes = (0..4).map(|number| {
            let dies = killed.contains(&number);
            wish_with(move |pid| {
                let process = Process::find(pid);
                if dies {
                    process.kill();
                    process.wait_gone();
                }
                Ok(())
            })
        });
        let (children, _) = nursery.fork(&parent.cell, wishes.collect()).unwrap();
        for (number, child) in children.iter().enumerate() {
            match child {
                Ok(cell) => {
                    assert!(!killed.contains(&number), "child {number} lives after its death");
                    assert_eq!(checksum(cell, all), sum, "child {number}");
                }
                Err(fault) => {
                    assert!(killed.contains(&number), "child {number}: {fault}");
                    assert!(!fault.text.is_empty());
                }
            }
        }
        let alive: Vec<&Cell> = children.iter().flatten().collect();
        let family: Vec<&Cell> = alive.into_iter().chain([&parent.cell]).collect();
        wait_for_only(warden, &family);
    }
    parent.check("the parent");
}

#[test]
fn a_wish_that_can_not_be_kept_leaves_no_process() {
    let nursery = nursery(0);
    let snapshot = template(&nursery, 64, 1);
    let parent = parent(&nursery, &snapshot);
    let refuse = || wish_with(|_| Err(Fault::new(Kind::Room, "no limits here")));
    let (children, _) = nursery.fork(&parent.cell, vec![refuse(), refuse(), refuse()]).unwrap();
    assert!(children.iter().all(|child| child.as_ref().is_err_and(|f| f.kind == Kind::Room)));
    let (wish, console) = refuse();
    assert_eq!(nursery.spawn(&snapshot, wish, console).unwrap_err().kind, Kind::Room);
    wait_for_only(warden_of(&parent.cell), &[&parent.cell]);
    parent.check("the parent");
}

/// Does `operation` again and again, while whatever process appears below `warden` is killed,
/// each time a little later. Returns how often it failed.
fn under_fire(parent: &Cell, rounds: u32, mut operation: impl FnMut() -> Result<(), Fault>) -> u32 {
    let (warden, own) = (warden_of(parent), parent.pid());
    let mut failed = 0;
    for round in 0..rounds {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let path = format!("/proc/{warden}/task/{warden}/children");
                    let text = std::fs::read_to_string(path).unwrap();
                    let pids = text.split_whitespace().map(|pid| pid.parse::<u32>().unwrap());
                    for child in pids.filter(|&pid| pid != own).filter_map(Process::look) {
                        // No sleep: the kernel's would be longer than a step.
                        let begun = Instant::now();
                        let later = Duration::from_micros(150) * (round / 2);
                        while begun.elapsed() < later && !child.is_gone() {
                            std::hint::spin_loop();
                        }
                        child.kill();
                    }
                }
            });
            match operation() {
                Ok(()) => {}
                Err(fault) => {
                    println!("round {round}: {fault}");
                    failed += 1;
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(parent.status(), Status::Running, "round {round}");
        wait_for_only(warden, &[parent]);
    }
    failed
}

#[test]
fn a_frozen_child_killed_at_any_step_costs_its_parent_nothing() {
    const ROUNDS: u32 = 24;
    let nursery = nursery(0);
    let mut parent = parent(&nursery, &template(&nursery, 64, 1));
    let fork = under_fire(&parent.cell, ROUNDS, || {
        let (children, _) = nursery.fork(&parent.cell, wishes(3))?;
        children.into_iter().try_for_each(|child| child.map(drop))
    });
    parent.check("the parent, after forks");
    let snapshot = under_fire(&parent.cell, ROUNDS, || nursery.snapshot(&parent.cell).map(drop));
    parent.check("the parent, after snapshots");
    let save = under_fire(&parent.cell, ROUNDS, || {
        let file = tempfile::tempfile().unwrap();
        nursery.save(&parent.cell, &file, &mut |_, _| true).map(drop)
    });
    parent.check("the parent, after saves");
    println!("failed: {fork} forks, {snapshot} snapshots, {save} saves, of {ROUNDS} each");
    assert!(fork > 0 && snapshot > 0 && save > 0, "none was hit");
    // And nothing has been lost on the way.
    parent.write(100, 2);
    let child = parent.fork(&nursery, 1).remove(0);
    child.check("a child");
}

#[test]
fn a_save_that_is_given_up_leaves_no_process() {
    let nursery = nursery(0);
    let parent = parent(&nursery, &template(&nursery, 64, 1));
    let file = tempfile::tempfile().unwrap();
    let fault = nursery.save(&parent.cell, &file, &mut |_, _| false);
    assert_eq!(fault.unwrap_err().kind, Kind::State);
    wait_for_only(warden_of(&parent.cell), &[&parent.cell]);
    parent.check("the parent");
}

#[test]
fn children_outlive_a_parent_that_is_killed_right_after_or_during_the_fork() {
    let nursery = nursery(0);
    let snapshot = template(&nursery, 64, 1);
    let right_after = parent(&nursery, &snapshot);
    let mut children = right_after.fork(&nursery, 4);
    Process::find(right_after.cell.pid()).kill();
    // Before any of the children has started.
    let during = parent(&nursery, &snapshot);
    let pid = during.cell.pid();
    let mut wishes = wishes(3);
    wishes[0] = wish_with(move |_| {
        let process = Process::find(pid);
        process.kill();
        process.wait_gone();
        Ok(())
    });
    let (more, _) = nursery.fork(&during.cell, wishes).unwrap();
    let more = more.into_iter().map(Result::unwrap);
    children.extend(more.map(|cell| Tracked { cell, memory: during.memory.clone() }));
    for (number, child) in children.iter_mut().enumerate() {
        child.write(100, 10 + number as u64);
    }
    check_all(&children);
    for dead in [&right_after, &during] {
        assert!(why_failed(&dead.cell).contains("SIGKILL"), "{:?}", dead.cell.status());
    }
}

#[test]
fn when_the_warden_is_killed_all_cells_have_failed_and_are_gone() {
    // The process that was started, and the one whose children all cells are.
    for outer in [false, true] {
        let nursery = nursery(1);
        let snapshot = template(&nursery, 64, 1);
        let parent = parent(&nursery, &snapshot);
        let mut cells: Vec<Cell> =
            parent.fork(&nursery, 3).into_iter().map(|child| child.cell).collect();
        let warden = warden_of(&parent.cell);
        let all: Vec<Process> = children_of(warden).into_iter().filter_map(Process::look).collect();
        cells.push(parent.cell);
        assert!(all.len() >= cells.len());
        let target = if outer { parent_of(warden).unwrap() } else { warden };
        let (warden, target) = (Process::find(warden), Process::find(target));
        thread::scope(|scope| {
            let work = scope.spawn(|| cells[0].work(0, &endless(), PATIENCE * 60));
            wait_until("the guest is at work", || cells[0].busy());
            target.kill();
            // Who waits for an answer hears of it, too.
            println!("{}", work.join().unwrap().unwrap_err());
        });
        for cell in &cells {
            println!("{}", why_failed(cell));
            assert!(cell.ledger().is_err() && !cell.busy());
        }
        assert!(nursery.fork(&cells[0], wishes(1)).is_err());
        let (wish, console) = wishes(1).remove(0);
        assert!(nursery.spawn(&snapshot, wish, console).is_err(), "there is nobody to make it");
        warden.wait_gone();
        all.iter().for_each(Process::wait_gone);
    }
}

#[test]
fn when_the_nursery_is_dropped_no_process_is_left() {
    let nursery = nursery(2);
    let snapshot = template(&nursery, 64, 1);
    let parent = parent(&nursery, &snapshot);
    let children = parent.fork(&nursery, 2);
    assert!(nursery.wait_full(PATIENCE));
    let warden = warden_of(&parent.cell);
    let outer = parent_of(warden).unwrap();
    assert_eq!(parent_of(outer), Some(std::process::id()));
    let mut all = children_of(warden);
    assert_eq!(all.len(), 5, "parent, two children, two dormant: {all:?}");
    all.extend([warden, outer]);
    let all: Vec<Process> = all.into_iter().map(Process::find).collect();
    drop(nursery);
    all.iter().for_each(Process::wait_gone);
    // Whoever still holds a cell is told.
    for cell in [&parent.cell, &children[0].cell] {
        why_failed(cell);
        assert!(cell.pause().is_err());
    }
}

/// Not a test: what the next one runs as a daemon, and kills.
#[test]
#[ignore = "the next test runs it as a process of its own"]
fn a_daemon_with_cells() {
    let nursery = nursery(1);
    let snapshot = template(&nursery, 16, 1);
    let parent = parent(&nursery, &snapshot);
    let _children = parent.fork(&nursery, 2);
    assert!(nursery.wait_full(PATIENCE));
    let warden = warden_of(&parent.cell);
    let pids: Vec<String> = children_of(warden)
        .into_iter()
        .chain([warden, parent_of(warden).unwrap()])
        .map(|pid| pid.to_string())
        .collect();
    println!("\npids {}", pids.join(" "));
    let _ = parent.cell.work(0, &endless(), PATIENCE);
}

#[test]
fn when_the_daemon_is_killed_no_process_is_left() {
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_daemon_with_cells", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let pids: Vec<String> = lines
        .map(Result::unwrap)
        .find_map(|line| Some(line.strip_prefix("pids ")?.split(' ').map(str::to_owned).collect()))
        .expect("the daemon ended");
    let all: Vec<Process> = pids.iter().map(|pid| Process::find(pid.parse().unwrap())).collect();
    assert_eq!(all.len(), 6, "parent, two children, a dormant one, both wardens");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    all.iter().for_each(Process::wait_gone);
}

#[test]
fn what_is_no_snapshot_is_refused_and_no_process_is_left() {
    let nursery = nursery(0);
    let cell = spawn(&nursery, &template(&nursery, 16, 1));
    let warden = warden_of(&cell);
    let file = tempfile::tempfile().unwrap();
    nursery.save(&cell, &file, &mut |_, _| true).unwrap();
    let cut = file.metadata().unwrap().len() / 2;
    file.set_len(cut).unwrap();
    let empty = tempfile::tempfile().unwrap();
    let nothing: File = File::open("/dev/null").unwrap();
    for (name, file) in [("cut", file), ("empty", empty), ("nothing", nothing)] {
        let fault = nursery.open(&file, name.as_ref(), &[]).unwrap_err();
        assert!(fault.text.contains(name), "{fault:?}");
        wait_for_only(warden, &[&cell]);
    }
}
