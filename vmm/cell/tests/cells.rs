//! Cells with real guests: made, forked, reset, snapshotted, killed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tine_abi::command::{Command, Op};
use tine_abi::pattern::Selection;
use tine_cell::protocol::{Request, Start};
use tine_cell::{Cell, CellSnapshot, Nursery, NurseryConfig, SpawnWish};
use tine_vmm::memory::ImageKind;

const PATIENCE: Duration = Duration::from_secs(20);

fn nursery(dormant: usize) -> Nursery {
    let program = env!("CARGO_BIN_EXE_tine-warden").into();
    Nursery::start(NurseryConfig { program, dormant, ..NurseryConfig::default() }).unwrap()
}

fn template(nursery: &Nursery, mib: u64, vcpus: u8) -> Arc<CellSnapshot> {
    let request = Request::BootWorkload { ram_bytes: mib << 20, vcpus, image: ImageKind::Small };
    Arc::new(nursery.boot(request, &[], PATIENCE).unwrap().snapshot().unwrap())
}

fn start() -> Start {
    Start { requested: Instant::now().into(), hostname: None, wait: Duration::from_secs(2) }
}

fn spawn(nursery: &Nursery, snapshot: &Arc<CellSnapshot>) -> Cell {
    nursery.spawn(snapshot, SpawnWish::new(start()), Box::new(|_| {})).unwrap().0
}

fn run(cell: &Cell, op: Op, pages: u64, seed: u64) -> u64 {
    let command = Command::new(op, Selection::sequential(0, pages)).seed(seed);
    cell.work(0, &command, PATIENCE).unwrap().value
}

#[test]
fn a_clone_in_a_cell_works_and_is_forked() {
    let nursery = nursery(1);
    let snapshot = template(&nursery, 64, 1);
    let cell = spawn(&nursery, &snapshot);
    println!("{:?}", cell.ladder());
    run(&cell, Op::Dirty, 1000, 5);
    let sum = run(&cell, Op::Checksum, 1000, 0);
    let wishes = (0..4).map(|_| (SpawnWish::new(start()), Box::new(|_: &[u8]| {}) as _)).collect();
    let (children, pause) = nursery.fork(&cell, wishes).unwrap();
    println!("pause {pause:?}");
    let children: Vec<Cell> = children.into_iter().map(Result::unwrap).collect();
    for (number, child) in children.iter().enumerate() {
        println!("{:?}", child.ladder());
        assert_eq!(run(child, Op::Checksum, 1000, 0), sum);
        run(child, Op::Dirty, 500, 100 + number as u64);
    }
    assert_eq!(run(&cell, Op::Checksum, 1000, 0), sum);
    println!("{:?}", children[0].ledger().unwrap());
    assert!(nursery.wait_full(PATIENCE));
    for _ in 0..5 {
        assert!(nursery.wait_full(PATIENCE));
        let dormant = spawn(&nursery, &snapshot);
        println!("dormant {:?}", dormant.ladder());
    }
}
