//! The program as the suite runs it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use tine_forkbench::rows::{Row, Sharer, Way};

fn forkbench(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tine-forkbench"));
    command.args(words.split_whitespace());
    command
}

fn rows(words: &str) -> Vec<Row> {
    let Output { status, stdout, stderr } = forkbench(words).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let lines = String::from_utf8(stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn fails(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).unwrap()
}

#[test]
fn every_way_makes_children() {
    let rows = rows("spawn --size 8M --rounds 3 --eager-rounds 2");
    assert_eq!(rows.len(), Way::ALL.len());
    for (row, way) in rows.into_iter().zip(Way::ALL) {
        let Row::Spawn(row) = row else { panic!("{row:?}") };
        assert_eq!(row.way, way);
        assert_eq!(row.resident_bytes, 8 << 20);
        let rounds = if way.copies() { 2 } else { 3 };
        for samples in [&row.call_us, &row.child_us, &row.end_us] {
            assert_eq!(samples.len(), rounds);
            assert!(samples.iter().all(|us| *us > 0.0), "{row:?}");
        }
        assert_eq!(row.child_page_table_bytes.is_some(), way.has_region(), "{row:?}");
        // A parent that lends its memory goes on when the child runs, or has become a program.
        if way == Way::Vfork {
            assert!(row.call_us.iter().zip(&row.child_us).all(|(call, child)| call >= child));
        }
    }
}

#[test]
fn a_sparse_region_has_as_many_page_tables_as_a_dense_one() {
    let tables = |density| {
        let rows = rows(&format!("tables --size 64M --density {density}"));
        let [Row::Tables(row)] = &rows[..] else { panic!("{rows:?}") };
        (row.pte_pages, (row.child_after_bytes - row.child_before_bytes) / 4096)
    };
    let (dense, sparse) = (tables("dense"), tables("sparse"));
    assert_eq!((dense.0, sparse.0), (32, 32));
    assert!(dense.1.abs_diff(sparse.1) <= 2, "{dense:?} {sparse:?}");
}

#[test]
fn a_timeline_has_its_steps_in_order() {
    let rows = rows("timeline --size 16M --rounds 2");
    assert_eq!(rows.len(), 15);
    let steps: Vec<_> = rows
        .into_iter()
        .map(|row| match row {
            Row::Step(row) => row,
            row => panic!("{row:?}"),
        })
        .collect();
    for (way, steps) in [Way::Fork, Way::Eager, Way::Populated].into_iter().zip(steps.chunks(5)) {
        assert!(steps.iter().all(|step| step.way == way && step.us.len() == 2));
        for pair in steps[1..].windows(2) {
            assert!(pair[0].us.iter().zip(&pair[1].us).all(|(one, next)| one <= next), "{pair:?}");
        }
        let [_, runs, written, executed, gone] = steps else { panic!("{steps:?}") };
        let memory = |step: &tine_forkbench::rows::StepRow| step.child.unwrap();
        match way {
            way if way.copies() => assert!(memory(runs).private_dirty_bytes >= 16 << 20),
            _ => assert!(memory(runs).shared_bytes >= 16 << 20),
        }
        assert!(memory(written).private_dirty_bytes > 0);
        // The program shares nothing with the parent any more.
        assert!(memory(executed).rss_bytes < 8 << 20, "{executed:?}");
        assert_eq!(gone.child, None);
    }
}

#[test]
fn a_parent_is_measured_alone_and_with_children() {
    let rows = rows("faults --size 4M --orders clustered --fractions 0.5 --ways fork --rounds 1");
    let children: Vec<_> = rows
        .iter()
        .filter_map(|row| match row {
            Row::Parent(row) => Some(row.child),
            _ => None,
        })
        .collect();
    assert_eq!(children, [Sharer::None, Sharer::Alive, Sharer::Gone]);
    assert_eq!(rows.len(), 4);
}

#[test]
fn what_does_not_fit_is_a_row_with_a_reason() {
    for probe in ["spawn", "tables", "faults", "timeline", "tuning"] {
        let rows = rows(&format!("{probe} --size 1000000G"));
        let [Row::NotMeasured(row)] = &rows[..] else { panic!("{probe}: {rows:?}") };
        assert!(row.why.contains("MiB are needed"), "{row:?}");
    }
    let rows = rows("spawn --size 1000000G --backing hugetlb");
    let [Row::NotMeasured(row)] = &rows[..] else { panic!("{rows:?}") };
    assert!(row.why.contains("nr_hugepages"), "{row:?}");
}

#[test]
fn a_broken_probe_fails() {
    assert!(fails(&mut forkbench("spawn --ways spoon")).contains("spoon"));
    assert!(fails(&mut forkbench("dance")).contains("usage: forkbench"));
    assert!(fails(&mut forkbench("copied --size 1M")).contains("--size"));
    // The page of stamps takes the last descriptor there is.
    let mut without_descriptors = forkbench("spawn --size 4M --ways posix_spawn");
    // SAFETY: setrlimit is safe between fork and exec.
    unsafe {
        without_descriptors.pre_exec(|| {
            let few = libc::rlimit { rlim_cur: 4, rlim_max: 4 };
            match libc::setrlimit(libc::RLIMIT_NOFILE, &few) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        })
    };
    let said = fails(&mut without_descriptors);
    assert!(said.contains("Too many open files"), "{said}");
}
