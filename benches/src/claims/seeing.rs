//! Seeing it: section 10 of the source text.

use tine_abi::layout::PAGE_SIZE;

use super::{Judgement, Row, Said, Subject, both, process};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::bytes;

/// What is said.
pub fn said() -> Said {
    Said {
        section: 10,
        title: "Seeing it",
        claim: "Minor and major faults show in `perf stat` and getrusage, and `Private_Dirty` against `Shared` in smaps: what is counted is what was written.",
        rows: both(process::seeing::rows(), vm_rows()),
        by_hand: &[
            "tine bench --only process-faults,cow-faults,vm-copied",
            "cat /sys/kernel/debug/kvm/pf_taken   # faults that KVM took, of all guests",
        ],
    }
}

fn vm_rows() -> Vec<Row> {
    vec![
        Row::new(
            Subject::Vm,
            "every shared page that is written costs one fault, and no other page any",
            Section::CowFaults,
            only_written_pages,
        ),
        Row::new(
            Subject::Vm,
            "the ledger's private bytes are the pages written, to the byte",
            Section::VmCopied,
            ledger_is_exact,
        ),
        Row::new(
            Subject::Vm,
            "`Private_Dirty` in smaps is what was written",
            Section::VmCopied,
            smaps_agrees,
        ),
        Row::new(
            Subject::Vm,
            "minor faults of the process are the faults of its guest",
            Section::VmCopied,
            minor_faults,
        ),
        Row::new(
            Subject::Vm,
            "none of them is a major fault: nothing is read from a disk",
            Section::VmCopied,
            no_major_faults,
        ),
    ]
}

fn ledger_is_exact(report: &Report) -> Option<Judgement> {
    let seen = report.vm_seen.as_ref()?;
    let written = seen.written_pages * PAGE_SIZE;
    Some(Judgement::when(
        seen.ledger_private_bytes == written,
        "exactly",
        format!("{} for {written} bytes written", seen.ledger_private_bytes),
    ))
}

fn smaps_agrees(report: &Report) -> Option<Judgement> {
    let seen = report.vm_seen.as_ref()?;
    let written = (seen.written_pages * PAGE_SIZE) as f64;
    Some(Judgement::when(
        (seen.smaps_private_dirty_bytes - written).abs() <= written / 100.0,
        "within a hundredth, in the mappings that are the guest's memory",
        format!("{} for {}", bytes(seen.smaps_private_dirty_bytes), bytes(written)),
    ))
}

fn minor_faults(report: &Report) -> Option<Judgement> {
    let seen = report.vm_seen.as_ref()?;
    let ratio = seen.minor_faults as f64 / seen.written_pages as f64;
    Some(Judgement::when(
        (0.9..1.2).contains(&ratio),
        "0.9 to 1.2 for each page written",
        format!(
            "{} minor faults of the process, {} of KVM, for {} pages",
            seen.minor_faults, seen.kvm_faults, seen.written_pages
        ),
    ))
}

fn no_major_faults(report: &Report) -> Option<Judgement> {
    let seen = report.vm_seen.as_ref()?;
    let words = format!("{} major faults", seen.major_faults);
    Some(Judgement::when(seen.major_faults == 0, "none", words))
}

fn only_written_pages(report: &Report) -> Option<Judgement> {
    let row = report.fault("scattered", "cow", 0.1)?;
    let each = row.page_faults / row.pages as f64;
    Some(Judgement::when(
        (0.9..1.2).contains(&each),
        "0.9 to 1.2 faults for each page",
        format!("{:.2} faults of KVM for each of {} scattered pages", each, row.pages),
    ))
}
