//! Page-table arithmetic: section 4 of the source text.

use tine_abi::layout::PAGE_SIZE;

use super::{Judgement, Row, Said, Subject, both, process};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, short};

/// What is said.
pub fn said() -> Said {
    Said {
        section: 4,
        title: "Page-table arithmetic",
        claim: "On x86-64 with four levels a dense gigabyte takes 1 page of PGD, 1 to 2 of PUD, 2 to 4 of PMD and 256 of PTE.",
        rows: both(process::page_tables::rows(), vm_rows()),
        by_hand: &["tine bench --only process-spawn,vm-copied"],
    }
}

fn vm_rows() -> Vec<Row> {
    vec![
        Row::new(
            Subject::Vm,
            "a clone whose memory is all written has 256 pages of page tables for each GB",
            Section::VmCopied,
            |report| host_tables(report, 256.0),
        ),
        Row::new(
            Subject::Vm,
            "it has 512 of them, as 262,144 pages of 4 KiB need",
            Section::VmCopied,
            |report| host_tables(report, 512.0),
        ),
        Row::new(
            Subject::Vm,
            "upper levels take 4 to 7 pages (1 of PGD, 1 to 2 of PUD, 2 to 4 of PMD)",
            Section::VmCopied,
            upper_levels,
        ),
        Row::new(
            Subject::Vm,
            "KVM's own tables of the clone take as many pages again",
            Section::VmCopied,
            kvm_tables,
        ),
    ]
}

/// Within a tenth: it is arithmetic.
fn host_tables(report: &Report, claimed: f64) -> Option<Judgement> {
    let tables = report.vm_page_tables.as_ref()?;
    let per_gib = tables.tables_per_gib();
    Some(Judgement::when(
        (claimed * 0.9..=claimed * 1.1).contains(&per_gib),
        "within a tenth, as VmPTE of the clone's process grew",
        format!(
            "{per_gib:.0} pages for a GiB ({} to {} for {} written)",
            bytes(tables.new_bytes as f64),
            bytes(tables.written_bytes as f64),
            bytes((tables.written_pages * PAGE_SIZE) as f64)
        ),
    ))
}

fn upper_levels(report: &Report) -> Option<Judgement> {
    let tables = report.vm_page_tables.as_ref()?;
    // Of the ledger's pages, those that are not page tables proper are directories (PMD): the
    // levels above are shared with the rest of the process.
    let proper = tables.guest_bytes.div_ceil(2 << 20);
    let pages = tables.ledger_bytes / PAGE_SIZE;
    let directories = pages.saturating_sub(proper);
    Some(Judgement::when(
        directories <= 4,
        "4 directories (PMD) or less; PGD and PUD are those of the process",
        format!(
            "{directories} beside {proper} page tables for {}",
            bytes(tables.guest_bytes as f64)
        ),
    ))
}

fn kvm_tables(report: &Report) -> Option<Judgement> {
    let tables = report.vm_page_tables.as_ref()?;
    let Some(kvm) = tables.kvm_bytes else {
        return Some(Judgement::missing("this kernel does not count KVM's tables (SecPageTables)"));
    };
    let host = tables.written_bytes.saturating_sub(tables.new_bytes) as f64;
    let words = format!(
        "{} for {}: {} times the host's",
        bytes(kvm),
        bytes(tables.guest_bytes as f64),
        short(kvm / host)
    );
    Some(Judgement::within_twice(kvm, host, words))
}
