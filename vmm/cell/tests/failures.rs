//! Processes killed at every moment: what they were is reported failed, with the reason, others
//! go on unchanged, and nothing is left.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
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

/// Does `operation` again and again, while the first, second or third process that appears below
/// the warden is killed, each time a little later. `operation` is told which it was, when it
/// asks. Returns how often it failed.
fn under_fire(
    parent: &Cell,
    rounds: u32,
    operation: impl Fn(&dyn Fn() -> Option<u32>) -> Result<(), Fault>,
) -> u32 {
    let (warden, own) = (warden_of(parent), parent.pid());
    let mut failed = 0;
    for round in 0..rounds {
        let over = AtomicBool::new(false);
        let fire = || {
            let mut seen = vec![own];
            while !over.load(Ordering::Relaxed) {
                let child = children_of(warden).into_iter().find(|pid| !seen.contains(pid));
                let Some(child) = child else {
                    thread::yield_now();
                    continue;
                };
                seen.push(child);
                let Some(process) = Process::look(child) else { continue };
                if seen.len() as u32 != 2 + round % 3 {
                    continue;
                }
                // No sleep: the kernel's would be longer than a step.
                let begun = Instant::now();
                let later = Duration::from_micros(200) * (round / 3);
                while begun.elapsed() < later && !process.is_gone() {
                    std::hint::spin_loop();
                }
                process.kill();
                return Some(child);
            }
            None
        };
        thread::scope(|scope| {
            let shot = Mutex::new(Some(scope.spawn(fire)));
            let who = || {
                over.store(true, Ordering::Relaxed);
                shot.lock().unwrap().take().and_then(|thread| thread.join().unwrap())
            };
            if let Err(fault) = operation(&who) {
                println!("round {round}: {fault}");
                failed += 1;
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(parent.status(), Status::Running, "round {round}");
        wait_for_only(warden, &[parent]);
    }
    failed
}

#[test]
fn a_frozen_child_killed_at_any_step_costs_its_parent_and_its_siblings_nothing() {
    const ROUNDS: u32 = 24;
    let nursery = nursery(0);
    let mut parent = parent(&nursery, &template(&nursery, 16, 1));
    let pages = parent.memory.pages();
    let (all, sum) = (Selection::sequential(0, pages), parent.memory.checksum(0, pages));
    let fork = under_fire(&parent.cell, ROUNDS, |who| {
        let (children, _) = nursery.fork(&parent.cell, wishes(3))?;
        let killed = who();
        for child in children.iter().flatten().filter(|child| Some(child.pid()) != killed) {
            assert_eq!(checksum(child, all), sum, "a sibling");
        }
        children.into_iter().try_for_each(|child| child.map(drop))
    });
    parent.check("the parent, after forks");
    let snapshots =
        under_fire(&parent.cell, ROUNDS, |_| snapshot(&nursery, &parent.cell).map(drop));
    parent.check("the parent, after snapshots");
    let saves = under_fire(&parent.cell, ROUNDS, |_| save(&nursery, &parent.cell, &memory_file()));
    parent.check("the parent, after saves");
    println!("failed: {fork} forks, {snapshots} snapshots, {saves} saves, of {ROUNDS} each");
    assert!(fork > 0 && snapshots > 0 && saves > 0, "one kind was never hit");
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
    let fault = nursery.freeze(&parent.cell).unwrap().0.save(&file, &mut |_, _| false);
    assert_eq!(fault.unwrap_err().kind, Kind::State);
    wait_for_only(warden_of(&parent.cell), &[&parent.cell]);
    parent.check("the parent");
}

#[test]
fn children_outlive_a_parent_that_is_killed_right_after_or_during_the_fork() {
    let nursery = nursery(0);
    let snapshot = template(&nursery, 16, 1);
    let right_after = parent(&nursery, &snapshot);
    let mut children = right_after.fork(&nursery, 4);
    Process::find(right_after.cell.pid()).kill();
    // As soon as a first process has been forked from it.
    let mut dead = vec![right_after];
    for _ in 0..6 {
        let during = parent(&nursery, &snapshot);
        let (warden, pid) = (warden_of(&during.cell), during.cell.pid());
        let before = children_of(warden);
        let forked = thread::scope(|scope| {
            scope.spawn(move || {
                let process = Process::find(pid);
                while children_of(warden).iter().all(|pid| before.contains(pid)) {
                    std::hint::spin_loop();
                }
                process.kill();
            });
            nursery.fork(&during.cell, wishes(3))
        });
        // The parent may not have had the time to say that it was forked.
        if let Ok((more, _)) = forked {
            let more = more.into_iter().map(Result::unwrap);
            children.extend(more.map(|cell| Tracked { cell, memory: during.memory.clone() }));
        }
        dead.push(during);
    }
    for (number, child) in children.iter_mut().enumerate() {
        child.write(100, 10 + number as u64);
    }
    check_all(&children);
    for dead in &dead {
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
    save(&nursery, &cell, &file).unwrap();
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

#[test]
fn when_memory_runs_out_children_go_before_parents_and_what_is_not_there_yet_first() {
    let rank = |pid: u32| -> i32 {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse().unwrap()
    };
    let own = rank(std::process::id());
    let nursery = nursery(1);
    let snapshot = template(&nursery, 16, 1);
    let parent = spawn(&nursery, &snapshot);
    assert!(nursery.wait_full(PATIENCE));
    let dormant = children_of(warden_of(&parent));
    let dormant = dormant.into_iter().find(|pid| *pid != parent.pid()).unwrap();
    assert_eq!(rank(dormant), 1000, "a clone that nobody has");
    let child = fork(&nursery, &parent, 1).remove(0);
    let grandchildren = fork(&nursery, &child, 2);
    let ranks = [own, rank(parent.pid()), rank(child.pid()), rank(grandchildren[0].pid()), 1000];
    assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]), "{ranks:?}");
    assert_eq!(rank(grandchildren[0].pid()), rank(grandchildren[1].pid()), "siblings are equal");
    let (frozen, _) = nursery.freeze(&parent).unwrap();
    let known = [parent.pid(), child.pid(), grandchildren[0].pid(), grandchildren[1].pid()];
    let others = children_of(warden_of(&parent)).into_iter().filter(|pid| !known.contains(pid));
    assert!(others.into_iter().all(|pid| rank(pid) == 1000), "what is to be written down");
    drop(frozen);
    // One that was dormant and serves is as any other.
    let woken = spawn(&nursery, &snapshot);
    assert_eq!(rank(woken.pid()), rank(parent.pid()));
}
