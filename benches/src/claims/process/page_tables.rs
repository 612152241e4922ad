//! Page-table arithmetic: section 4, which speaks of processes.

use tine_forkbench::rows::{Density, TablesRow};

use crate::claims::{Judgement, Row, Subject};
use crate::plan::Section;
use crate::report::Report;

const PAGE: u64 = 4096;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new(
            Subject::Process,
            "a dense gigabyte takes 256 pages of PTE",
            Section::ProcessSpawn,
            last_level,
        ),
        Row::new(
            Subject::Process,
            "a dense gigabyte takes 2 to 4 pages of PMD and 1 to 2 of PUD",
            Section::ProcessSpawn,
            upper_levels,
        ),
    ]
}

fn dense(report: &Report) -> Option<&TablesRow> {
    report.process_spawn.as_ref()?.tables.iter().find(|row| row.density == Density::Dense)
}

/// Pages of tables that filling the region took.
fn counted(row: &TablesRow) -> u64 {
    row.after_bytes.saturating_sub(row.before_bytes) / PAGE
}

fn last_level(report: &Report) -> Option<Judgement> {
    let row = dense(report)?;
    Some(Judgement::when(
        counted(row).abs_diff(256) <= row.pmd_pages + row.pud_pages,
        "256, and the pages of the upper levels; 262,144 pages of 4 KiB by 512 a table are 512",
        format!("{} by arithmetic, {} counted with all levels", row.pte_pages, counted(row)),
    ))
}

fn upper_levels(report: &Report) -> Option<Judgement> {
    let row = dense(report)?;
    let new = counted(row).checked_sub(row.pte_pages)?;
    Some(Judgement::when(
        (2..=4).contains(&row.pmd_pages)
            && (1..=2).contains(&row.pud_pages)
            && new <= row.pmd_pages + row.pud_pages,
        "by arithmetic from the region's address; the kernel counts no more",
        format!(
            "{} of PMD and {} of PUD by arithmetic at this address, {new} of them new",
            row.pmd_pages, row.pud_pages
        ),
    ))
}
