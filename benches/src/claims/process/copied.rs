//! What a fork copies and what it shares: section 3, for processes.

use tine_forkbench::rows::Fate;

use crate::claims::{Judgement, Row, Subject};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, time};
use crate::sections::process::copied::ProcessCopied;

/// What the text names, and what it says of it. How the rows of the program begin.
const NAMED: [(&str, &str, &str); 10] = [
    ("process control block", "copied", "process control block"),
    ("memory descriptor and VMA list", "copied", "memory descriptor"),
    ("page tables", "copied", "page tables"),
    ("descriptor table", "copied", "descriptor table"),
    ("signal handlers", "copied", "signal handlers"),
    ("credentials", "copied", "credentials"),
    ("limits", "copied", "resource limits"),
    ("page frames", "shared", "page frames"),
    ("open file structures", "shared", "open files"),
    ("working directory", "shared", "working directory"),
];

pub fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = NAMED
        .into_iter()
        .map(|(name, fate, start)| {
            Row::new(
                Subject::Process,
                format!("a fork has the {name} {fate}"),
                Section::ProcessCopied,
                move |report| fate_of(report, start),
            )
        })
        .collect();
    rows.push(Row::new(
        Subject::Process,
        "process control block, memory descriptor and VMA list take kilobytes",
        Section::ProcessCopied,
        kilobytes,
    ));
    rows
}

fn find<'a>(report: &'a Report, start: &str) -> Option<&'a ProcessCopied> {
    report.process_copied.iter().find(|row| row.what.starts_with(start))
}

fn fate_of(report: &Report, start: &str) -> Option<Judgement> {
    let row = find(report, start)?;
    let found = match row.found {
        Fate::Copied => "copied",
        Fate::Shared => "shared",
    };
    let size = row.bytes.map_or_else(String::new, |size| format!(", {} a child", bytes(size)));
    let us = row.us.map_or_else(String::new, |us| format!(", {}", time(us)));
    Some(Judgement::when(
        row.found == row.claimed,
        format!("{}: does the parent see it?", row.test),
        format!("{}: {found}{size}{us}", row.what),
    ))
}

fn kilobytes(report: &Report) -> Option<Judgement> {
    const KB: std::ops::Range<f64> = 1000.0..100_000.0;
    let (block, list) = (find(report, "process control")?, find(report, "memory descriptor")?);
    let Some((block_bytes, list_bytes)) = block.bytes.zip(list.bytes) else {
        return Some(Judgement::missing(block.bytes_how.clone()));
    };
    Some(Judgement::when(
        KB.contains(&block_bytes) && KB.contains(&list_bytes),
        "each between 1 and 100 KB",
        format!("{} and {}", bytes(block_bytes), bytes(list_bytes)),
    ))
}
