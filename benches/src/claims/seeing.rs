//! Seeing it: section 10 of the source text.

use super::{Judgement, Row, Said, Subject, both, process};
use crate::plan::Section;
use crate::report::Report;

/// What is said.
pub fn said() -> Said {
    Said {
        section: 10,
        title: "Seeing it",
        claim: "Minor and major faults show in `perf stat` and getrusage, and `Private_Dirty` against `Shared` in smaps: what is counted is what was written.",
        rows: both(
            process::seeing::rows(),
            vec![Row::new(
                Subject::Vm,
                "every shared page that is written costs one fault, and no other page any",
                Section::CowFaults,
                only_written_pages,
            )],
        ),
        by_hand: &[
            "tine bench --only process-faults,cow-faults",
            "cat /sys/kernel/debug/kvm/pf_taken   # faults that KVM took, of all guests",
        ],
    }
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
