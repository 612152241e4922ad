//! Seeing it: section 10, for processes.

use tine_forkbench::rows::{Backing, Way};

use crate::claims::{Judgement, Row, Subject};
use crate::plan::Section;
use crate::report::Report;
use crate::sections::process::faults::ProcessFaultRow;

const PAGE: u64 = 4096;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new(
            Subject::Process,
            "every shared page that is written costs one minor fault, and no major one",
            Section::ProcessFaults,
            faults,
        ),
        Row::new(
            Subject::Process,
            "Private_Dirty in smaps grows by the pages that are written, and Shared falls by them",
            Section::ProcessFaults,
            smaps,
        ),
    ]
}

/// All writes to pages of 4 KiB after a fork.
fn written(report: &Report) -> Option<Vec<&ProcessFaultRow>> {
    let rows: Vec<_> = report
        .process_faults
        .as_ref()?
        .children
        .iter()
        .filter(|row| row.way == Way::Fork && row.backing == Backing::Small && row.pages > 0)
        .collect();
    (!rows.is_empty()).then_some(rows)
}

fn faults(report: &Report) -> Option<Judgement> {
    let rows = written(report)?;
    let each = |row: &&ProcessFaultRow| row.minor_faults / row.pages as f64;
    let low = rows.iter().map(each).fold(f64::INFINITY, f64::min);
    let high = rows.iter().map(each).fold(0.0, f64::max);
    let major: f64 = rows.iter().map(|row| row.major_faults).sum();
    Some(Judgement::when(
        low >= 0.99 && high <= 1.05 && major == 0.0,
        "0.99 to 1.05 minor faults for each page",
        format!("{low:.2} to {high:.2} minor faults for each page, {major} major ones"),
    ))
}

fn smaps(report: &Report) -> Option<Judgement> {
    let rows = written(report)?;
    let agrees = |row: &&&ProcessFaultRow| {
        let bytes = row.pages * PAGE;
        row.after.private_dirty_bytes == row.before.private_dirty_bytes + bytes
            && row.before.shared_bytes == row.after.shared_bytes + bytes
    };
    let agreeing = rows.iter().filter(agrees).count();
    Some(Judgement::when(
        agreeing == rows.len(),
        "to the page, in every row",
        format!("in {agreeing} of {} rows to the page", rows.len()),
    ))
}
