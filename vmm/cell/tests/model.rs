//! Random operations on sandboxes in cells, against a model that knows what each must hold.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::cell::RefCell;
use std::sync::Arc;

use common::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tine_abi::command::{Command, Op};
use tine_abi::pattern::Selection;
use tine_cell::{Cell, CellSnapshot, Kind, Nursery};
use tine_vmm::Status;

/// Ranges of pages that are written and read as one; far apart, near, and next to each other.
const RANGES: [(u64, u64); 6] = [(0, 1), (1, 3), (4, 60), (700, 8), (1000, 300), (2500, 17)];
/// Most sandboxes at a time.
const MOST: usize = 8;
const CASES: u32 = 12;
const OPERATIONS: usize = 85;

/// Which sandbox, snapshot or range: counted round those that there are.
type Which = usize;

#[derive(Clone, Debug)]
enum Operation {
    Spawn { snapshot: Which, eager: bool },
    Fork { parent: Which, count: usize },
    Reset(Which),
    Pause(Which),
    Resume(Which),
    Dirty { sandbox: Which, range: Which, seed: u64 },
    Check { sandbox: Which, range: Which },
    Snapshot(Which),
    SaveAndOpen(Which),
    Kill(Which),
}

fn operation() -> impl Strategy<Value = Operation> {
    let which = || 0..64usize;
    prop_oneof![
        2 => (which(), any::<bool>())
            .prop_map(|(snapshot, eager)| Operation::Spawn { snapshot, eager }),
        4 => (which(), 1..4usize).prop_map(|(parent, count)| Operation::Fork { parent, count }),
        2 => which().prop_map(Operation::Reset),
        1 => which().prop_map(Operation::Pause),
        2 => which().prop_map(Operation::Resume),
        9 => (which(), which(), any::<u64>())
            .prop_map(|(sandbox, range, seed)| Operation::Dirty { sandbox, range, seed }),
        5 => (which(), which()).prop_map(|(sandbox, range)| Operation::Check { sandbox, range }),
        2 => which().prop_map(Operation::Snapshot),
        1 => which().prop_map(Operation::SaveAndOpen),
        3 => which().prop_map(Operation::Kill),
    ]
}

/// The seeds last written to each range: dirty words of several seeds lie beside each other.
type Seeds = [Vec<u64>; RANGES.len()];

#[derive(Clone)]
struct Snapshot {
    snapshot: Arc<CellSnapshot>,
    seeds: Seeds,
}

struct Sandbox {
    cell: Cell,
    seeds: Seeds,
    /// What a reset brings back; a fork has nothing of that kind.
    origin: Option<Seeds>,
    paused: bool,
}

struct World<'a> {
    nursery: &'a Nursery,
    snapshots: Vec<Snapshot>,
    sandboxes: Vec<Sandbox>,
}

fn selection(range: Which) -> Selection {
    let (first, pages) = RANGES[range % RANGES.len()];
    Selection::sequential(first, pages)
}

/// What the guest must find in a range that was written with `seeds`, in that order.
fn expected(range: Which, seeds: &Seeds) -> u64 {
    let (first, pages) = RANGES[range % RANGES.len()];
    let mut memory = Memory::new(16 << 20);
    for &seed in &seeds[range % RANGES.len()] {
        memory.dirty(Selection::sequential(first, pages), seed);
    }
    memory.checksum(first, pages)
}

impl World<'_> {
    fn pick(&mut self, which: Which) -> Option<&mut Sandbox> {
        let count = self.sandboxes.len();
        if count == 0 { None } else { self.sandboxes.get_mut(which % count) }
    }

    fn check(&mut self, which: Which, range: Which) {
        let Some(sandbox) = self.pick(which) else { return };
        if !sandbox.paused {
            let sum = checksum(&sandbox.cell, selection(range));
            assert_eq!(sum, expected(range, &sandbox.seeds), "sandbox {which}, range {range}");
        }
    }

    fn keep(&mut self, snapshot: CellSnapshot, seeds: Seeds) {
        // A few are enough; the first, which is clean, stays.
        if self.snapshots.len() > 4 {
            self.snapshots.remove(1);
        }
        self.snapshots.push(Snapshot { snapshot: Arc::new(snapshot), seeds });
    }

    fn apply(&mut self, operation: &Operation) {
        let nursery = self.nursery;
        match *operation {
            Operation::Spawn { snapshot, eager } if self.sandboxes.len() < MOST => {
                let Snapshot { snapshot, seeds } =
                    self.snapshots[snapshot % self.snapshots.len()].clone();
                let (mut wish, console) = wishes(1).remove(0);
                wish.eager = eager;
                let cell = nursery.spawn(&snapshot, wish, console).unwrap().0;
                let origin = Some(seeds.clone());
                self.sandboxes.push(Sandbox { cell, seeds, origin, paused: false });
            }
            Operation::Fork { parent, count } => {
                let room = MOST.saturating_sub(self.sandboxes.len());
                let Some(parent) = self.pick(parent).filter(|_| room > 0) else { return };
                let children = fork(nursery, &parent.cell, count.min(room));
                let seeds = parent.seeds.clone();
                self.sandboxes.extend(children.into_iter().map(|cell| Sandbox {
                    cell,
                    seeds: seeds.clone(),
                    origin: None,
                    paused: false,
                }));
            }
            Operation::Reset(which) => {
                let Some(sandbox) = self.pick(which) else { return };
                let result = sandbox.cell.reset();
                match &sandbox.origin {
                    Some(origin) => {
                        result.unwrap();
                        sandbox.seeds = origin.clone();
                    }
                    None => assert_eq!(result.unwrap_err().kind, Kind::State),
                }
            }
            Operation::Pause(which) => {
                let Some(sandbox) = self.pick(which) else { return };
                sandbox.cell.pause().unwrap();
                sandbox.paused = true;
            }
            Operation::Resume(which) => {
                let Some(sandbox) = self.pick(which) else { return };
                sandbox.cell.resume().unwrap();
                sandbox.paused = false;
            }
            Operation::Dirty { sandbox, range, seed } => {
                let Some(sandbox) = self.pick(sandbox).filter(|one| !one.paused) else { return };
                let command = Command::new(Op::Dirty, selection(range)).seed(seed);
                assert_eq!(run(&sandbox.cell, 0, &command).done, selection(range).pages);
                sandbox.seeds[range % RANGES.len()].push(seed);
            }
            Operation::Check { sandbox, range } => self.check(sandbox, range),
            Operation::Snapshot(which) => {
                let Some(sandbox) = self.pick(which) else { return };
                let snapshot = snapshot(nursery, &sandbox.cell).unwrap();
                let seeds = sandbox.seeds.clone();
                self.keep(snapshot, seeds);
            }
            Operation::SaveAndOpen(which) => {
                let Some(sandbox) = self.pick(which) else { return };
                let file = tempfile::tempfile().unwrap();
                save(nursery, &sandbox.cell, &file).unwrap();
                let snapshot = nursery.open(&file, "saved".as_ref(), &[]).unwrap();
                let seeds = sandbox.seeds.clone();
                self.keep(snapshot, seeds);
            }
            Operation::Kill(which) => {
                if self.sandboxes.len() > 1 {
                    let sandbox = self.sandboxes.swap_remove(which % self.sandboxes.len());
                    sandbox.cell.kill();
                    assert_eq!(sandbox.cell.status(), Status::Killed);
                }
            }
            Operation::Spawn { .. } => {}
        }
    }

    /// Everything, of every sandbox.
    fn check_all(&mut self) {
        for which in 0..self.sandboxes.len() {
            let sandbox = &mut self.sandboxes[which];
            // What a sandbox does is told a moment later.
            let status = if sandbox.paused { Status::Paused } else { Status::Running };
            wait_until("its status is right", || sandbox.cell.status() == status);
            sandbox.cell.resume().unwrap();
            sandbox.paused = false;
            for range in 0..RANGES.len() {
                self.check(which, range);
            }
        }
    }
}

#[test]
fn whatever_is_done_to_sandboxes_each_holds_what_it_should() {
    let nursery = nursery(1);
    let first = template(&nursery, 16, 1);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    // Panics of the operations count as failures, and are made as small as they can be.
    let done = RefCell::new(0);
    let cases = proptest::collection::vec(operation(), OPERATIONS);
    let result = TestRunner::new(config).run(&cases, |operations| {
        let clean = Snapshot { snapshot: Arc::clone(&first), seeds: Seeds::default() };
        let (snapshots, sandboxes) = (vec![clean], Vec::new());
        let mut world = World { nursery: &nursery, snapshots, sandboxes };
        world.apply(&Operation::Spawn { snapshot: 0, eager: false });
        for operation in &operations {
            world.apply(operation);
            *done.borrow_mut() += 1;
        }
        world.check_all();
        Ok::<(), TestCaseError>(())
    });
    println!("{} operations", done.borrow());
    result.unwrap();
}
