//! Cells with real guests: made, forked, reset, snapshotted, killed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use common::*;
use tine_abi::pattern::Selection;

#[test]
fn a_clone_in_a_cell_works_and_is_forked() {
    let nursery = nursery(1);
    let snapshot = template(&nursery, 64, 1);
    let cell = spawn(&nursery, &snapshot);
    println!("{:?}", cell.ladder());
    let pages = Selection::sequential(0, 1000);
    dirty(&cell, pages, 5);
    let sum = checksum(&cell, pages);
    let (children, pause) = nursery.fork(&cell, wishes(4)).unwrap();
    println!("pause {pause:?}");
    let children: Vec<_> = children.into_iter().map(Result::unwrap).collect();
    for (number, child) in children.iter().enumerate() {
        println!("{:?}", child.ladder());
        assert_eq!(checksum(child, pages), sum);
        dirty(child, Selection::sequential(0, 500), 100 + number as u64);
    }
    assert_eq!(checksum(&cell, pages), sum);
    println!("{:?}", children[0].ledger().unwrap());
    for _ in 0..5 {
        assert!(nursery.wait_full(PATIENCE));
        let dormant = spawn(&nursery, &snapshot);
        println!("dormant {:?}", dormant.ladder());
    }
}
