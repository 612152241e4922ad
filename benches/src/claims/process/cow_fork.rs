//! A copy-on-write fork is O(page tables): section 2, for processes.

use tine_forkbench::rows::{Backing, Density, Way};

use super::{SIZES_MIB, why_no_children, words};
use crate::claims::{Judgement, Row, Subject, Test};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, time, times};
use crate::sections::process::spawn::ProcessSpawnRow;

/// Microseconds that are claimed for each size.
const CLAIMED_US: [f64; 5] = [100.0, 100.0, 200.0, 500.0, 2_000.0];
/// Megabytes of page tables that are claimed for each size.
const CLAIMED_MB: [f64; 5] = [0.1, 1.0, 8.0, 80.0, 800.0];

pub fn rows() -> Vec<Row> {
    let row =
        |claim: String, test: Test| Row::new(Subject::Process, claim, Section::ProcessSpawn, test);
    let mut rows = Vec::new();
    for (mib, us) in SIZES_MIB.into_iter().zip(CLAIMED_US) {
        rows.push(row(
            format!("a fork of {} takes {}", words(mib), time(us)),
            Box::new(move |report| takes(report, mib, us)),
        ));
    }
    for (mib, mb) in SIZES_MIB.into_iter().zip(CLAIMED_MB) {
        rows.push(row(
            format!("a fork of {} takes {mb} MB of page tables at once", words(mib)),
            Box::new(move |report| tables(report, mib, mb)),
        ));
    }
    rows.push(row(
        "elsewhere in the text: a fork of 1 GB takes 1 to 2 MB of page tables".to_owned(),
        Box::new(one_to_two),
    ));
    rows.push(row(
        "at 1 GB a fork is 1000 times as fast as an eager copy".to_owned(),
        Box::new(thousand_times),
    ));
    rows.push(row(
        "a dense and a sparse gigabyte with as many page tables fork alike".to_owned(),
        Box::new(dense_and_sparse),
    ));
    rows.push(Row::new(
        Subject::Process,
        "in a Linux guest: a fork of 100 MB takes 100 us",
        Section::ProcessInGuest,
        in_guest,
    ));
    rows
}

fn takes(report: &Report, mib: u64, claimed_us: f64) -> Option<Judgement> {
    let Some(row) = report.process_spawn.as_ref()?.of(Way::Fork, mib) else {
        return why_no_children(report, mib);
    };
    Some(Judgement::within_twice(
        row.call_p50_us,
        claimed_us,
        format!(
            "{} until the call returned, {} until the child ran",
            time(row.call_p50_us),
            time(row.child_p50_us)
        ),
    ))
}

fn tables(report: &Report, mib: u64, claimed_mb: f64) -> Option<Judgement> {
    let Some(row) = report.process_spawn.as_ref()?.of(Way::Fork, mib) else {
        return why_no_children(report, mib);
    };
    let found = row.child_page_table_bytes? as f64;
    Some(Judgement::within_twice(found, claimed_mb * 1e6, format!("{} (VmPTE)", bytes(found))))
}

fn one_to_two(report: &Report) -> Option<Judgement> {
    let row = report.process_spawn.as_ref()?.of(Way::Fork, 1024)?;
    let found = row.child_page_table_bytes? as f64;
    Some(Judgement::when(
        (1e6..2.2e6).contains(&found),
        "1 to 2 MB, and a tenth for the rest of the process",
        format!("{} (VmPTE)", bytes(found)),
    ))
}

fn thousand_times(report: &Report) -> Option<Judgement> {
    let figures = report.process_spawn.as_ref()?;
    let (fork, eager) = (figures.of(Way::Fork, 1024)?, figures.eager(1024)?);
    let ratio = eager.call_p50_us / fork.call_p50_us;
    Some(Judgement::when(
        ratio >= 1000.0,
        "1000 times or more",
        format!(
            "{}: {} against {} ({})",
            times(ratio),
            time(fork.call_p50_us),
            time(eager.call_p50_us),
            eager.way.name()
        ),
    ))
}

fn dense_and_sparse(report: &Report) -> Option<Judgement> {
    let figures = report.process_spawn.as_ref()?;
    let dense = figures.of(Way::Fork, 1024)?;
    let is_sparse = |row: &&ProcessSpawnRow| {
        row.way == Way::Fork
            && row.density == Density::Sparse
            && row.backing == Backing::Small
            && row.size_bytes == dense.size_bytes
    };
    let sparse = figures.children.iter().find(is_sparse)?;
    Some(Judgement::within_twice(
        sparse.call_p50_us,
        dense.call_p50_us,
        format!(
            "dense {} with {} of page tables, sparse {} with {}",
            time(dense.call_p50_us),
            bytes(dense.child_page_table_bytes? as f64),
            time(sparse.call_p50_us),
            bytes(sparse.child_page_table_bytes? as f64)
        ),
    ))
}

fn in_guest(report: &Report) -> Option<Judgement> {
    let rows = &report.process_in_guest.as_ref()?.children;
    let of = |way: Way| rows.iter().find(|row| row.way == way);
    let (fork, eager) = (of(Way::Fork)?, of(Way::Eager)?);
    let words = format!(
        "{} for {}, {} by eager copy",
        time(fork.call_p50_us),
        bytes(fork.size_bytes as f64),
        time(eager.call_p50_us)
    );
    // 100 us are claimed for 10 MB as well.
    Some(Judgement::within_twice(fork.call_p50_us, 100.0, words))
}
