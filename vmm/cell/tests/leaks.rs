//! Three hundred rounds of all that cells do: no descriptor, no process and no file is left, in
//! the daemon, in the warden, or on disk.
//!
//! One test, in a process of its own, because it counts what the process holds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::fs;
use std::sync::Arc;
use std::thread;

use common::*;
use tine_cell::{CellSnapshot, Nursery};

/// What can be lost.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    memfds: usize,
    threads: usize,
    mappings_of_images: usize,
    of_the_warden: usize,
    files: usize,
}

fn held(warden: u32, directory: &tempfile::TempDir) -> Held {
    let open = |pid: u32| -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let links = entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        links.map(|link| link.display().to_string()).collect()
    };
    let own = open(std::process::id());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    Held {
        descriptors: own.len(),
        memfds: own.iter().filter(|link| link.starts_with("/memfd:")).count(),
        threads: fs::read_dir("/proc/self/task").unwrap().count(),
        mappings_of_images: maps.lines().filter(|line| line.contains("memfd:")).count(),
        of_the_warden: open(warden).len(),
        files: fs::read_dir(directory.path()).unwrap().count(),
    }
}

fn round(
    nursery: &Nursery,
    clean_one: &Arc<CellSnapshot>,
    directory: &tempfile::TempDir,
    number: u64,
) {
    let mut parent = Tracked::new(spawn(nursery, clean_one));
    let clean = parent.memory.clone();
    parent.write(20, number);
    let children = parent.fork(nursery, if number.is_multiple_of(4) { 3 } else { 1 });
    let later = Arc::new(snapshot(nursery, &parent.cell).unwrap());
    let path = directory.path().join(number.to_string());
    let file = fs::File::create_new(&path).unwrap();
    save(nursery, &children[0].cell, &file).unwrap();
    let file = fs::File::open(&path).unwrap();
    let read = Arc::new(nursery.open(&file, &path, &[]).unwrap());
    fs::remove_file(path).unwrap();
    parent.cell.reset().unwrap();
    if number.is_multiple_of(50) {
        let reset = Tracked { cell: parent.cell, memory: clean };
        reset.check("the parent, reset");
        for snapshot in [&later, &read] {
            let cell = spawn(nursery, snapshot);
            Tracked { cell, memory: parent.memory.clone() }.check("a clone");
        }
    }
    // Some are killed, some only dropped, in any order.
    if number.is_multiple_of(2) {
        children[0].cell.kill();
    }
}

#[test]
fn three_hundred_rounds_leave_nothing_behind() {
    let nursery = nursery(0);
    let snapshot = template(&nursery, 8, 1);
    let directory = tempfile::tempdir().unwrap();
    let witness = spawn(&nursery, &snapshot);
    let warden = warden_of(&witness);
    let settled = || {
        wait_for_only(warden, &[&witness]);
        // The switchboard closes a channel a moment after its process has gone.
        held(warden, &directory)
    };
    round(&nursery, &snapshot, &directory, 0);
    let before = settled();
    // Side by side: much of a round is waiting for the kernel to take machines apart.
    thread::scope(|scope| {
        for first in 1..=4 {
            let (nursery, snapshot, directory) = (&nursery, &snapshot, &directory);
            let numbers = (first..=300).step_by(4);
            scope.spawn(move || {
                numbers.for_each(|number| round(nursery, snapshot, directory, number))
            });
        }
    });
    let mut after = settled();
    wait_until("what is held is what was", || {
        after = held(warden, &directory);
        println!("{after:?}, before {before:?}");
        after == before
    });
    // The witness holds what it held.
    let names = fs::read_dir(format!("/proc/{}/fd", witness.pid())).unwrap().count();
    assert!(names < 12, "{names} descriptors");
}
