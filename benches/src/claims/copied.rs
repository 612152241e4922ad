//! What a fork copies and what it shares: section 3 of the source text.

use tine_abi::layout::PAGE_SIZE;

use super::{Judgement, Row, Said, Subject, both, process};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::bytes;

/// What is said.
pub fn said() -> Said {
    Said {
        section: 3,
        title: "What a fork copies and what it shares",
        claim: "Copied: process control block, memory descriptor and VMA list, page tables, descriptor table, signal handlers, credentials, limits. Shared: page frames, open file structures, working directory.",
        rows: both(
            process::copied::rows(),
            vec![Row::new(
                Subject::Vm,
                "a clone's own memory is what it has written",
                Section::Ledger,
                private_follows_writes,
            )],
        ),
        by_hand: &["tine bench --only process-copied,ledger", "tine memory ID   # of a sandbox"],
    }
}

fn private_follows_writes(report: &Report) -> Option<Judgement> {
    let find =
        |moment: &str| report.ledger.iter().find(|row| row.memory == "cow" && row.moment == moment);
    let (before, after) = (find("before")?, find("after")?);
    let grown = after.ledger.private_bytes.saturating_sub(before.ledger.private_bytes);
    let written = after.written_pages * PAGE_SIZE;
    Some(Judgement::when(
        grown.abs_diff(written) <= written / 100,
        "within a hundredth",
        format!("{} private for {} written", bytes(grown as f64), bytes(written as f64)),
    ))
}
