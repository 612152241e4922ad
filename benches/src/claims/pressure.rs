//! Under memory pressure: section 11 of the source text.

use super::{Judgement, Row, Said, Subject};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, percent};

/// What is said.
pub fn said() -> Said {
    Said {
        section: 11,
        title: "Under memory pressure",
        claim: "With a limit just above the size of one guest eager cloning fails, and copy-on-write cloning goes on until private pages fill it; what then fails is one clone, with a clear error, never the parent.",
        rows: vec![
            Row::new(
                Subject::Vm,
                "clones take a small part of the memory of copies",
                Section::Density,
                sharing,
            ),
            Row::new(
                Subject::Vm,
                "a guest in a process of its own takes a small part of its memory",
                Section::Cells,
                cells_are_small,
            ),
        ],
        by_hand: &["tine bench --only density,cells"],
    }
}

fn sharing(report: &Report) -> Option<Judgement> {
    let density = report.density.as_ref()?;
    let eager = density.guest_bytes as f64 * density.clones as f64;
    let cow = density.guest_bytes as f64 + density.bytes_per_clone * density.clones as f64;
    Some(Judgement::when(
        cow < eager / 10.0,
        "a tenth of the memory of copies or less",
        format!(
            "{} clones of {} in {}, where copies take {}: {} each",
            density.clones,
            bytes(density.guest_bytes as f64),
            bytes(cow),
            bytes(eager),
            bytes(density.bytes_per_clone)
        ),
    ))
}

fn cells_are_small(report: &Report) -> Option<Judgement> {
    let cells = report.cells.as_ref()?;
    let part = cells.bytes_per_cell / cells.guest_bytes as f64;
    Some(Judgement::when(
        part < 0.02,
        "less than a fiftieth of the guest",
        format!(
            "{} each of {}, {}",
            bytes(cells.bytes_per_cell),
            bytes(cells.guest_bytes as f64),
            percent(part)
        ),
    ))
}
